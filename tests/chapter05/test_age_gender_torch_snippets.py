"""What age_gender_torch_snippets.ipynb defines beyond the last notebook: two versions of one training, and lines."""
import pytest
import torch

from tests.definitions import definitions

NOTEBOOK = "Chapter05/age_gender_torch_snippets.ipynb"
QUICK = {"EPOCHS": 2, "BATCH_SIZE": 8, "WIDTH": 4}
lesson = definitions(NOTEBOOK, "validate", "short_version", "long_version", "captions", "TwoHeads", **QUICK)


def random_data():
    generator = torch.Generator().manual_seed(0)
    part = (torch.rand(20, 1, 28, 28, generator=generator), torch.arange(20) % 10, torch.arange(20) % 9,
            torch.zeros(20))
    return {"train": part, "val": part}


def test_both_versions_record_the_same_numbers_and_end_with_the_same_weights(capsys):
    data = random_data()
    torch.manual_seed(123)
    (one, report), (two, history) = lesson.short_version(data, 0), lesson.long_version(data, 0)
    assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), two.state_dict().values()))
    for name in ("trn_loss", "digit_error", "bins_off"):
        assert list(report.history(name)) == history[name].dropna().tolist()
    assert history["trn_loss"].notna().sum() == 2 * 2 and history["t"].max() == 2
    other, _ = lesson.long_version(data, 1)
    assert not torch.equal(other.class_head.weight, two.class_head.weight)


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
