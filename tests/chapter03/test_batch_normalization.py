"""The layers of Batch_normalization.ipynb against torch.nn.BatchNorm1d and 2d, in both modes, forward and backward."""
import math

import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tests.cells import find_cell, loops_over_seeds, run_cell
from tests.definitions import definitions
from tests.notebooks import ROOT, read

NOTEBOOK = "Chapter03/Batch_normalization.ipynb"
NAMES = ("BatchNorm", "BatchNorm2d", "assert_same_layer", "new_model", "train", "evaluate", "accuracy_in_train_mode",
         "signal_sizes")
lesson = definitions(NOTEBOOK, *NAMES)


def pair(units, eps, momentum, generator, ours=lesson.BatchNorm, theirs=nn.BatchNorm1d):
    """The lesson's layer and the library's, with the same random scale and shift, in double precision."""
    ours = ours(units, eps=eps, momentum=momentum).double()
    theirs = theirs(units, eps=eps, momentum=momentum).double()
    with torch.no_grad():
        for mine, other in ((ours.weight, theirs.weight), (ours.bias, theirs.bias)):
            mine.copy_(torch.randn(units, generator=generator, dtype=torch.float64))
            other.copy_(mine)
    return ours, theirs


@settings(deadline=None, derandomize=True, max_examples=40)
@given(b=st.integers(2, 9), units=st.integers(1, 5), scale=st.sampled_from([0.0, 1e-6, 1.0, 1e5]),
       offset=st.sampled_from([0.0, -3.0, 1e4]), momentum=st.sampled_from([0.1, 0.5, 1.0]), seed=st.integers(0, 99))
def test_equal_to_the_library_in_both_modes(b, units, scale, offset, momentum, seed):
    generator = torch.Generator().manual_seed(seed)
    compare(*pair(units, 1e-5, momentum, generator), (b, units), scale, offset, generator)


def compare(ours, theirs, shape, scale, offset, generator):
    """Both layers agree in training and evaluation mode on batches of `shape`: outputs, statistics and gradients."""
    for training in (True, True, False, True):
        ours.train(training), theirs.train(training)
        batch = scale * torch.randn(shape, generator=generator, dtype=torch.float64) + offset
        inputs = [batch.clone().requires_grad_() for _ in range(2)]
        outputs = [layer(x) for layer, x in zip((ours, theirs), inputs)]
        upstream = torch.randn(shape, generator=generator, dtype=torch.float64)
        for output in outputs:
            output.backward(upstream)
        size = max(1.0, float(inputs[1].grad.abs().max()))
        torch.testing.assert_close(*outputs, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(inputs[0].grad, inputs[1].grad, rtol=1e-5, atol=1e-6 * size)
        torch.testing.assert_close(ours.running_mean, theirs.running_mean)
        torch.testing.assert_close(ours.running_var, theirs.running_var)
    torch.testing.assert_close(ours.weight.grad, theirs.weight.grad, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(ours.bias.grad, theirs.bias.grad)


@settings(deadline=None, derandomize=True, max_examples=40)
@given(shape=st.sampled_from([(1, 3, 2, 2), (1, 1, 1, 2), (2, 3, 1, 1), (2, 1, 4, 3), (5, 4, 3, 2)]),
       scale=st.sampled_from([0.0, 1e-6, 1.0, 1e5]), offset=st.sampled_from([0.0, -3.0, 1e4]),
       momentum=st.sampled_from([0.1, 0.5, 1.0]), seed=st.integers(0, 99))
def test_channels_are_equal_to_the_library_in_both_modes(shape, scale, offset, momentum, seed):
    generator = torch.Generator().manual_seed(seed)
    layers = pair(shape[1], 1e-5, momentum, generator, lesson.BatchNorm2d, nn.BatchNorm2d)
    compare(*layers, shape, scale, offset, generator)


HOSTILE = {
    "one image": torch.arange(12.0).reshape(1, 3, 2, 2),
    "one image of two values": torch.tensor([-1.0, 5.0]).reshape(1, 1, 1, 2),
    "a constant channel": torch.stack([torch.full((4, 3, 3), 7.0), torch.arange(36.0).reshape(4, 3, 3)], dim=1),
    "all channels constant": torch.full((2, 3, 4, 4), -2.5),
    "huge values": 1e18 * torch.randn(3, 2, 4, 4, generator=torch.Generator().manual_seed(0)),
    "tiny values": 1e-18 * torch.randn(3, 2, 4, 4, generator=torch.Generator().manual_seed(0)),
    "huge offset": 1e6 + torch.randn(3, 2, 4, 4, generator=torch.Generator().manual_seed(0)),
    "an infinite value": torch.tensor([1.0, math.inf, 2.0, 3.0]).reshape(1, 1, 2, 2),
    "a missing value": torch.tensor([1.0, math.nan, 2.0, 3.0]).reshape(2, 1, 1, 2),
    "channels last": torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(0)).to(
        memory_format=torch.channels_last),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_images(name):
    """One batch in training mode, then evaluation mode with the statistics of that single batch."""
    x = HOSTILE[name].double()
    ours, theirs = lesson.BatchNorm2d(x.shape[1]).double(), nn.BatchNorm2d(x.shape[1]).double()
    for layers in ((ours, theirs), (ours.eval(), theirs.eval())):
        outputs = [layer(x) for layer in layers]
        assert outputs[0].shape == x.shape
        torch.testing.assert_close(*outputs, equal_nan=True, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(ours.running_mean, theirs.running_mean, equal_nan=True)
        torch.testing.assert_close(ours.running_var, theirs.running_var, equal_nan=True)


def test_a_single_value_per_channel_is_refused_in_training_mode_only():
    x, layer = torch.zeros(1, 3, 1, 1), lesson.BatchNorm2d(3)
    for refusing in (layer, nn.BatchNorm2d(3)):
        with pytest.raises(ValueError):
            refusing(x)
    assert torch.equal(layer.running_mean, torch.zeros(3)) and layer.eval()(x).shape == x.shape


def wrong(name):
    """BatchNorm2d with a mistake that authors make."""
    class Wrong(lesson.BatchNorm2d):
        def forward(self, x):
            if name == "statistics per position":
                return lesson.BatchNorm.forward(self, x.flatten(1)[:, : x.shape[1]])[:, :, None, None].expand_as(x)
            if name == "rows and columns swapped":
                return super().forward(x.transpose(2, 3))
            if name == "running variance divided by N":
                y = super().forward(x)
                if self.training:
                    n = x.numel() / x.shape[1]
                    self.running_var -= self.momentum / n * x.var(dim=(0, 2, 3), correction=1)
                return y
            return super().forward(x) if self.training else super().train().forward(x)  # never in evaluation mode
    return Wrong(3).double()


@pytest.mark.parametrize("name", ["statistics per position", "rows and columns swapped",
                                  "running variance divided by N", "never in evaluation mode"])
def test_the_check_of_the_lesson_sees_mistakes(name):
    maps = 3 * torch.randn(4, 2, 3, 4, 4, generator=torch.Generator().manual_seed(0)).double() + 2
    lesson.assert_same_layer(lesson.BatchNorm2d(3).double(), nn.BatchNorm2d(3).double(), maps)
    with pytest.raises((AssertionError, RuntimeError)):
        lesson.assert_same_layer(wrong(name), nn.BatchNorm2d(3).double(), maps)


def test_running_statistics_are_saved_and_get_no_gradient():
    layer = lesson.BatchNorm(3)
    assert set(layer.state_dict()) == {"weight", "bias", "running_mean", "running_var"}
    layer(torch.randn(4, 3, requires_grad=True)).sum().backward()
    assert not layer.running_mean.requires_grad and layer.running_mean.grad_fn is None


def test_a_batch_of_one_is_refused_in_training_mode_only():
    layer = lesson.BatchNorm(3)
    with pytest.raises(ValueError, match="evaluation mode"):
        layer(torch.zeros(1, 3))
    assert torch.equal(layer.running_mean, torch.zeros(3))
    assert layer.eval()(torch.zeros(1, 3)).shape == (1, 3)


@pytest.mark.parametrize("norm", [None, nn.BatchNorm1d, nn.LayerNorm])
def test_the_deep_network(norm):
    model = lesson.new_model(0, "cpu", norm=norm, depth=3, width=16, gain=2.0)
    linears = [layer for layer in model if isinstance(layer, nn.Linear)]
    assert [layer.out_features for layer in linears] == [16, 16, 16, 10]
    assert all((layer.bias is None) == (norm is not None) for layer in linears[:-1]) and linears[-1].bias is not None
    assert linears[1].weight.std().item() == pytest.approx(2 * (2 / 16) ** 0.5, rel=0.2)
    again = lesson.new_model(0, "cpu", norm=norm, depth=3, width=16, gain=2.0)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters()))


IMAGES = torch.randint(0, 256, (21, 28, 28), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(21) % 10


@pytest.mark.parametrize("epochs_in_training_mode, tracked", [(math.inf, 12), (3, 12), (1, 4), (0, 0)])
def test_training_is_in_training_mode_unless_the_bug_is_planted(epochs_in_training_mode, tracked):
    model = lesson.new_model(0, "cpu", norm=nn.BatchNorm1d, depth=1, width=8).eval()  # as an evaluation left it
    before = [p.detach().clone() for p in model.parameters()]
    losses = lesson.train(model, IMAGES, LABELS, 0.1, 5, 3, 0, train_mode_epochs=epochs_in_training_mode)
    assert len(losses) == 12 and int(model[1].num_batches_tracked) == tracked
    assert all(not torch.equal(p, q) for p, q in zip(model.parameters(), before))


def test_the_default_is_training_mode_and_the_seed_decides():
    runs = []
    for seed in (0, 0, 1):
        model = lesson.new_model(0, "cpu", norm=nn.BatchNorm1d, depth=1, width=8).eval()
        runs.append(lesson.train(model, IMAGES, LABELS, 0.1, 5, 2, seed))
        assert int(model[1].num_batches_tracked) == 8
    assert runs[0] == runs[1] != runs[2]


def test_the_rate_falls_linearly_to_zero(monkeypatch):
    rates = []

    class Recorder(torch.optim.SGD):
        def step(self, closure=None):
            rates.append(self.param_groups[0]["lr"])
            return super().step(closure)

    monkeypatch.setattr(torch.optim, "SGD", Recorder)
    lesson.train(lesson.new_model(0, "cpu", depth=1, width=8), IMAGES, LABELS, 0.4, 5, 2, 0)
    assert rates == pytest.approx([0.4 * (1 - k / 8) for k in range(8)])


def test_evaluation_after_the_bug_changes_nothing():
    """The bug is measured on a copy: neither the mode nor the running statistics of the network change."""
    model = lesson.new_model(0, "cpu", norm=nn.BatchNorm1d, depth=2, width=8).eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    accuracies = {size: lesson.accuracy_in_train_mode(model, IMAGES, LABELS, size) for size in (3, 21)}
    assert not model.training and all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert accuracies[21] == pytest.approx((model.train()(IMAGES.flatten(1) / 255).argmax(1) == LABELS).float().mean())
    with pytest.raises(ValueError):
        lesson.accuracy_in_train_mode(model, IMAGES, LABELS, 4)  # 21 = 5 * 4 + 1: the last batch has one image


def test_signal_sizes_are_those_behind_each_relu():
    model, inputs = lesson.new_model(0, "cpu", depth=3, width=8), torch.rand(30, 784)
    found = lesson.signal_sizes(model, inputs)
    assert found == pytest.approx([model[: 2 * k](inputs).std(dim=0).mean().item() for k in (1, 2, 3)])


# ---- what is drawn and reported

BOTH = ("without", "with")


def test_every_run_over_seeds_uses_its_seed():
    calls = [(name, names) for name, names in loops_over_seeds(NOTEBOOK) if name in ("new_model", "train")]
    assert len(calls) >= 4 and all("seed" in names for _, names in calls), calls


def test_the_test_set_is_used_in_its_section_only():
    section = False
    for cell in read(ROOT / NOTEBOOK).cells:
        if cell.cell_type == "markdown" and "## " in cell.source:
            section = "The test set, once" in cell.source.rpartition("## ")[2]
        if cell.cell_type == "code" and 'data["test"]' in cell.source:
            assert section, cell.source
    assert 'data["val"]' not in find_cell(NOTEBOOK, "test = pd.DataFrame")


@pytest.fixture
def grid():
    """Accuracies that all differ: by network, gain and rate."""
    index = pd.MultiIndex.from_product([BOTH, (0.4, 1.0), (0.01, 0.1)], names=["network", "gain", "rate"])
    return pd.Series([0.1, 0.3, 0.85, 0.2, 0.6, 0.82, 0.9, 0.95], index=index)


def test_the_table_of_settings(grid):
    rows = {(name, rate, gain, seed): value + seed / 100 - 0.01 for (name, gain, rate), value in grid.items()
            for seed in (0, 1, 2)}
    space = run_cell(NOTEBOOK, "grid = pd.Series(accuracy)", accuracy=rows, norms=dict.fromkeys(BOTH))
    pd.testing.assert_series_equal(space["grid"].sort_index(), grid.sort_index())
    assert space["learned"] == {"without": 1, "with": 3}


def test_the_picture_of_settings(grid):
    learned = {"without": 1, "with": 3}
    space = run_cell(NOTEBOOK, "# @title Figure: learning rates and starting weights", grid=grid, learned=learned,
                     norms=dict.fromkeys(BOTH), RATES=(0.01, 0.1), GAINS=(0.4, 1.0))
    for ax, name in zip(space["axes"], BOTH):
        assert f"{learned[name]} of 4" in ax.get_title() and ax.get_title().startswith(f"{name}:")
        assert [tick.get_text() for tick in ax.get_xticklabels()] == ["0.01", "0.1"]
        assert [tick.get_text() for tick in ax.get_yticklabels()] == ["× 0.4", "× 1"]
        written = {(text.get_position()[1], text.get_position()[0]): text.get_text() for text in ax.texts}
        assert written == {(i, j): f"{grid[name, gain, rate]:.0%}" for i, gain in enumerate((0.4, 1.0))
                           for j, rate in enumerate((0.01, 0.1))}


def test_the_first_picture():
    space = run_cell(NOTEBOOK, "# @title Figure: training with and without", norms=dict.fromkeys(BOTH),
                     losses={"without": [2.0] * 30, "with": [1.0] * 30}, first={"without": 0.1, "with": 0.9})
    lines = {line.get_label(): line.get_ydata()[-1] for line in space["ax"].lines}
    assert lines["without batch normalization"] == 2.0 and lines["with batch normalization"] == 1.0
    assert "90% with" in space["ax"].get_title() and "10% without" in space["ax"].get_title()


def test_the_picture_of_the_running_mean():
    batch_means, running = torch.arange(12.0).reshape(4, 3), torch.arange(12.0).reshape(4, 3) / 10
    space = run_cell(NOTEBOOK, "# @title Figure: a running mean", batch_means=list(batch_means),
                     running_means=list(running), true_mean=torch.tensor([0.0, 9.0, 1.0]), unit=torch.tensor(1))
    lines = {line.get_label(): list(line.get_ydata()) for line in space["ax"].lines}
    assert lines["mean of one batch of 32"] == batch_means[:, 1].tolist()
    assert lines["running mean"] == running[:, 1].tolist() and lines["mean over 5,000 images"] == [9.0, 9.0]


def test_the_picture_of_the_second_bug():
    table = pd.DataFrame({"shuffled": [0.2, 0.8], "sorted by class": [0.1, 0.3]}, index=[2, 100])
    space = run_cell(NOTEBOOK, "# @title Figure: evaluated in training mode", forgot_eval=table, correct=0.9,
                     TEST_SIZES=(2, 100))
    lines = {line.get_label(): list(line.get_ydata()) for line in space["ax"].lines}
    assert lines["training mode, shuffled"] == [0.2, 0.8] and lines["training mode, sorted by class"] == [0.1, 0.3]
    assert lines["evaluation mode (correct)"] == [0.9, 0.9]


def test_the_test_is_of_the_best_settings_and_paired_by_seed(grid):
    models = {(name, rate, gain, seed): (name, rate, gain, seed) for name, gain, rate in grid.index for seed in (0, 1)}
    scores = {"without": {0: 0.5, 1: 0.7}, "with": {0: 0.8, 1: 0.9}}
    used = []

    def evaluate(model, images, labels):
        assert (images, labels) == ("test images", "test labels")
        used.append(model)
        return 0.0, scores[model[0]][model[3]]

    space = run_cell(NOTEBOOK, "test = pd.DataFrame", grid=grid, models=models, evaluate=evaluate, SEEDS=(0, 1),
                     norms=dict.fromkeys(BOTH), data={"test": ("test images", "test labels")})
    assert set(used) == {(*best, 1.0, seed) for best in (("without", 0.01), ("with", 0.1)) for seed in (0, 1)}
    assert space["gain_points"].tolist() == pytest.approx([30, 20])


def test_the_results(grid):
    test = pd.DataFrame({"without": [0.5, 0.6], "with": [0.8, 0.86]})
    forgot_train = pd.DataFrame({"validation accuracy": [0.31, 0.32, 0.33, 0.34]},
                                index=pd.MultiIndex.from_product([(0.1, 1.0), (0, 1)]))
    space = run_cell(NOTEBOOK, "results = {", test=test, gain_points=pd.Series([30.0, 26.0]), grid=grid,
                     first={"without": 0.1, "with": 0.88}, learned={"without": 1, "with": 3}, forgot_train=forgot_train,
                     forgot_eval=pd.DataFrame({"shuffled": [0.21, 0.22]}, index=[2, 10]), TEST_SIZES=(2, 10),
                     FIRST_RATE=0.1)
    assert space["results"] == pytest.approx({
        "test_accuracy": 0.83, "test_accuracy_sd": 0.06 / 2**0.5, "test_accuracy_without": 0.55, "gain_points": 28,
        "gain_sd_points": 4 / 2**0.5, "first_accuracy_with": 0.88, "first_accuracy_without": 0.1, "settings": 4,
        "settings_learned_with": 3, "settings_learned_without": 1, "forgot_train_accuracy": 0.32,
        "forgot_eval_accuracy_pairs": 0.21})
