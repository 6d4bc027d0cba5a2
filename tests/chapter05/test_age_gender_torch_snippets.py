"""What age_gender_torch_snippets.ipynb defines beyond the last notebook: two versions of one training, and lines."""
import copy

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.cells import run_cell
from tests.chapter05.numbered import Numbered
from tests.definitions import definitions

NOTEBOOK = "Chapter05/age_gender_torch_snippets.ipynb"
QUICK = {"EPOCHS": 2, "BATCH_SIZE": 8, "WIDTH": 4}
lesson = definitions(NOTEBOOK, "validate", "short_version", "long_version", "captions", "TwoHeads", "draw_history",
                     "turned_digits", "lines_of", "train_step", **QUICK)


def random_data():
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(30, 1, 28, 28, generator=generator)
    return {"train": (images[:20], torch.arange(20) % 10, torch.arange(20) % 9, torch.zeros(20)),
            "val": (images[20:], torch.full((10,), 7), torch.full((10,), 0), torch.zeros(10))}


def test_both_versions_record_the_same_numbers_and_end_with_the_same_weights(capsys):
    data = random_data()
    torch.manual_seed(123)
    (one, report), (two, history) = lesson.short_version(data, 0), lesson.long_version(data, 0)
    assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), two.state_dict().values()))
    for name in ("trn_loss", "digit_error", "bins_off"):
        assert list(report.history(name)) == history[name].dropna().tolist()
    assert history["trn_loss"].notna().sum() == 2 * 2 and history["t"].max() == 2
    for model in (one, two):  # the last row is of the validation digits
        assert [history[name].iloc[-1] for name in ("digit_error", "bins_off")] == pytest.approx(
            list(lesson.validate(model, *data["val"][:3])))
    other, _ = lesson.long_version(data, 1)
    assert not torch.equal(other.class_head.weight, two.class_head.weight)


def test_a_step_learns_both_answers_in_training_mode_and_moves_the_schedule():
    torch.manual_seed(0)
    model = lesson.TwoHeads(nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.Dropout(0.5)), 3, 10, 9).eval()
    before = copy.deepcopy(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.1)
    images, digits, steps = torch.rand(6, 1, 2, 2), torch.arange(6), torch.arange(6) + 2
    torch.manual_seed(1)
    found = lesson.train_step(model, optimizer, schedule, images, digits, steps)
    torch.manual_seed(1)
    classes, scale = before.train()(images)
    loss = F.cross_entropy(classes, digits) + F.cross_entropy(scale, steps)
    loss.backward()
    assert found == pytest.approx(loss.item()) and optimizer.param_groups[0]["lr"] == pytest.approx(0.05)
    for new, old in zip(model.parameters(), before.parameters()):
        torch.testing.assert_close(new, old - 0.5 * old.grad)


def test_validation_in_percent_and_bins():
    model = lesson.TwoHeads(torch.nn.Flatten(), 784, 10, 9)
    with torch.no_grad():
        for w in model.parameters():
            w.zero_()
        model.class_head.bias[3] = 9  # always a three, always bin 5
        model.scale_head.bias[5] = 99
    digits, steps = torch.tensor([3, 3, 1, 2]), torch.tensor([5, 4, 3, 8])
    error, off = lesson.validate(model, torch.rand(4, 1, 28, 28), digits, steps)
    assert error == pytest.approx(50) and off == pytest.approx((0 + 1 + 2 + 3) / 4)
    assert not model.training


def test_captions_say_answer_and_label():
    class Always(torch.nn.Module):
        def forward(self, x):
            return torch.eye(10)[[7]].expand(len(x), -1), 99 * torch.eye(9)[[5]].expand(len(x), -1)

    data = {"val": (torch.rand(3, 1, 28, 28), torch.tensor([7, 1, 2]), torch.tensor([4, 0, 8]), torch.zeros(3))}
    assert lesson.captions(Always(), data, 2) == ["7 (is 7)\n+10° (is +0°)", "7 (is 1)\n+10° (is -40°)"]


def test_a_logger_that_draws_random_numbers_changes_nothing(monkeypatch):
    """The order of the images has a generator of its own."""
    data, plain = random_data(), lesson.short_version(random_data(), 0)[0]
    report = lesson.short_version.__globals__["Report"]
    record = report.record

    def noisy(self, *args, **kwargs):
        torch.rand(3)
        return record(self, *args, **kwargs)

    monkeypatch.setattr(report, "record", noisy)
    noisy_model = lesson.short_version(data, 0)[0]
    assert all(torch.equal(a, b) for a, b in zip(plain.state_dict().values(), noisy_model.state_dict().values()))


# ---- what figures and results say


def test_bins_follow_from_the_angle_and_parts_share_no_digit(monkeypatch):
    monkeypatch.setitem(lesson.turned_digits.__globals__, "MNIST", Numbered)
    data = lesson.turned_digits(50, 30, 25, 9, 10, torch.device("cpu"))
    numbers = {}
    for name, (images, digits, steps, degrees) in data.items():
        numbers[name] = (images[:, 0, 14, 14] * 255).round().long()
        assert torch.equal(numbers[name] * 7 % 10, digits)
        assert torch.equal(steps, ((degrees + 45) / 10).floor().long().clamp(0, 8))
    assert not set(numbers["train"].tolist()) & set(numbers["val"].tolist())


def history():
    """Two epochs of two steps: losses, and errors at the end of each epoch."""
    return pd.DataFrame([{"t": 0.5, "trn_loss": 3.0}, {"t": 1.0, "trn_loss": 2.0},
                         {"t": 1.0, "digit_error": 40.0, "bins_off": 1.5}, {"t": 1.5, "trn_loss": 1.5},
                         {"t": 2.0, "trn_loss": 1.0}, {"t": 2.0, "digit_error": 20.0, "bins_off": 0.5}])


def test_each_error_is_drawn_on_the_axis_of_its_unit(monkeypatch):
    monkeypatch.setattr(plt, "show", lambda: None)
    lesson.draw_history(history())
    left, right = plt.gcf().axes
    assert left.lines[0].get_xydata().tolist() == [[1, 40], [2, 20]] and "(%)" in left.get_ylabel()
    assert right.lines[0].get_xydata().tolist() == [[1, 1.5], [2, 0.5]] and "bins" in right.get_ylabel()
    assert plt.gcf().get_suptitle() == "At the end: 20.0 % and 0.50 bins"
    plt.close("all")


def test_the_comparison_sees_a_difference_in_numbers_and_in_weights():
    class Kept:
        """Stands for a report that holds other numbers in one column."""

        def history(self, name):
            return list(history()[name].dropna() + (0.25 if name == "bins_off" else 0))

    one, two = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)
    two.load_state_dict(one.state_dict())
    with torch.no_grad():
        two.bias[1] += 0.5
    found = run_cell(NOTEBOOK, "differences = {name", report=Kept(), history=history(), short_model=one, long_model=two)
    assert found["differences"] == {"trn_loss": 0, "digit_error": 0, "bins_off": 0.25}
    assert found["weights"] == pytest.approx(0.5)


def test_the_lines_are_those_of_each_version(monkeypatch):
    import inspect

    def short():
        """One line of code."""
        return 1

    def long():
        """Three lines of code."""
        value = 1
        value += 1
        return value

    expected = {"short_lines": 3 + 2, "long_lines": 5 + 3 * 3}
    found = run_cell(NOTEBOOK, "long_lines = lines_of", short_version=short, long_version=long, draw_history=short,
                     some_last=short, draw_images=short)
    assert {name: found[name] for name in expected} == expected
    assert lesson.lines_of(short) == len(inspect.getsource(short).splitlines())


def test_baselines_are_of_training_digits_and_results_from_where_they_belong():
    data = {"train": (None, torch.tensor([1, 1, 2])),
            "val": (None, torch.tensor([2, 2, 2, 1]), torch.tensor([3, 4, 5, 8]), None)}
    found = run_cell(NOTEBOOK, "frequent = 100 *", validate=lambda *_: (10.0, 0.4), short_model=None, data=data,
                     BINS=9, device=torch.device("cpu"), same=True, differences={"trn_loss": 0.0})
    assert found["frequent"] == 75 and found["middle"] == pytest.approx((1 + 0 + 1 + 4) / 4)
    found = run_cell(NOTEBOOK, '"most_frequent_digit_error_percent"', short_lines=20, long_lines=50, error=10.0,
                     differences={"trn_loss": 0.0, "bins_off": 0.25}, bins_off=0.4, frequent=75.0,
                     middle=1.5)["results"]
    assert found == {"lines_with_torch_snippets": 20, "lines_plain": 50, "largest_difference": 0.25,
                     "digit_error_percent": 10, "bins_off": 0.4, "most_frequent_digit_error_percent": 75,
                     "middle_bin_bins_off": 1.5}
    assert np.isfinite(list(found.values())).all()
