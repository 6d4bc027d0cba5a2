"""The losses and update rules of Varying_loss_optimizer against PyTorch's, on random and on adversarial gradients."""
import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from torch import nn

from tests.cells import find_cell, loops_over_seeds, run_cell
from tests.definitions import definitions
from tests.notebooks import ROOT, read

NOTEBOOK = "Chapter03/Varying_loss_optimizer.ipynb"
NAMES = ("cross_entropy", "squared_error", "sgd", "rmsprop", "adam_step", "adamw_step", "assert_same_steps", "train",
         "fit", "search", "new_model")
lesson = definitions(NOTEBOOK, *NAMES)
often = settings(deadline=None, derandomize=True, max_examples=60)
numbers = st.floats(-1e4, 1e4, allow_subnormal=False)
RULES = {
    "sgd": (lesson.sgd, {}, torch.optim.SGD, {}),
    "momentum": (lesson.sgd, {"momentum": 0.9}, torch.optim.SGD, {"momentum": 0.9}),
    "rmsprop": (lesson.rmsprop, {"alpha": 0.9}, torch.optim.RMSprop, {"alpha": 0.9}),
    "adam": (lesson.adam_step, {"beta1": 0.8, "beta2": 0.95}, torch.optim.Adam, {"betas": (0.8, 0.95)}),
    "adamw": (lesson.adamw_step, {"decay": 0.3}, torch.optim.AdamW, {"weight_decay": 0.3}),
}


@pytest.mark.parametrize("name", RULES)
@often
@given(gradients=hnp.arrays("float64", (8, 3), elements=numbers), rate=st.sampled_from([1e-4, 1e-2, 1.0]))
def test_rules_are_pytorchs_step_for_step(name, gradients, rate):
    rule, options, library, library_options = RULES[name]
    w, state = torch.tensor([1.0, -2.0, 0.0], dtype=torch.float64), {}
    parameter = nn.Parameter(w.clone())
    optimizer = library([parameter], lr=rate, **library_options)
    for g in torch.from_numpy(gradients):
        w, parameter.grad = rule(w, g, state, rate, **options), g.clone()
        optimizer.step()
        torch.testing.assert_close(w, parameter.detach(), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", RULES)
def test_rules_do_not_change_their_arguments(name):
    rule, options, *_ = RULES[name]
    w, g, state = torch.ones(3), torch.ones(3), {}
    for _ in range(3):
        rule(w, g, state, 0.1, **options)
    assert torch.equal(w, torch.ones(3)) and torch.equal(g, torch.ones(3))


@often
@given(hnp.arrays("float64", (5, 4), elements=st.floats(-50, 50)), st.floats(0, 1))
def test_losses_are_pytorchs_forward_and_backward(logits, smoothing):
    z, labels = torch.from_numpy(logits).requires_grad_(), torch.tensor([0, 1, 2, 3, 0])
    pairs = [
        (lesson.cross_entropy(z, labels, smoothing), F.cross_entropy(z, labels, label_smoothing=smoothing)),
        (lesson.squared_error(z, labels), 4 * F.mse_loss(z, F.one_hot(labels, 4).double())),
        (lesson.squared_error(z.softmax(1), labels), 4 * F.mse_loss(z.softmax(1), F.one_hot(labels, 4).double())),
    ]
    for ours, theirs in pairs:
        torch.testing.assert_close(ours, theirs)
        torch.testing.assert_close(*(torch.autograd.grad(loss, z, retain_graph=True)[0] for loss in (ours, theirs)))


def test_cross_entropy_survives_huge_logits():
    z = torch.tensor([[1000.0, 0.0], [-1000.0, 1000.0]])
    torch.testing.assert_close(lesson.cross_entropy(z, torch.tensor([0, 0])), torch.tensor(1000.0))


@pytest.mark.parametrize("mistake", ["no bias correction", "root of v left out", "rate of the gradient squared"])
def test_the_check_of_the_lesson_sees_mistakes(mistake):
    def wrong(w, g, state, rate):
        if mistake == "no bias correction":
            state["m"] = 0.9 * state.get("m", 0.0) + 0.1 * g
            state["v"] = 0.999 * state.get("v", 0.0) + 0.001 * g**2
            return w - rate * state["m"] / (state["v"].sqrt() + 1e-8)
        step = w - lesson.adam_step(w, g, state, rate)
        return w - (step**2 if mistake == "root of v left out" else step * 0.9)

    gradients = torch.randn(5, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    lesson.assert_same_steps(lesson.adam_step, {}, torch.optim.Adam, {}, gradients)
    with pytest.raises(AssertionError):
        lesson.assert_same_steps(wrong, {}, torch.optim.Adam, {}, gradients)


def test_a_gradient_of_zero_moves_nothing():
    """What the lesson says of Adam's first step: the rate, in the direction of the gradient, but 0 where that is 0."""
    g = torch.tensor([100.0, 1e-3, -5.0, 0.0])
    torch.testing.assert_close(lesson.adam_step(torch.zeros(4), g, {}, 0.1), torch.tensor([-0.1, -0.1, 0.1, 0.0]),
                               rtol=1e-4, atol=0)


IMAGES = torch.randint(0, 256, (30, 28, 28), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(30) % 10
DATA = {"train": (IMAGES, LABELS), "val": (IMAGES[:10], LABELS[:10])}


def test_training_is_in_training_mode_at_a_rate_that_falls_to_zero():
    model = nn.Sequential(nn.Linear(784, 8), nn.Dropout(0.5), nn.BatchNorm1d(8), nn.Linear(8, 10)).eval()
    before, rates = [p.detach().clone() for p in model.parameters()], []

    class Recorder(torch.optim.SGD):
        def step(self, closure=None):
            rates.append(self.param_groups[0]["lr"])
            return super().step(closure)

    lesson.train(model, IMAGES, LABELS, F.cross_entropy, Recorder(model.parameters(), lr=0.4), 7, 2, 0)
    assert model.training and model[2].num_batches_tracked == 10
    assert all(not torch.equal(p, q) for p, q in zip(model.parameters(), before))
    assert rates == pytest.approx([0.4 * (1 - k / 10) for k in range(10)])


def optimizer(weights, rate):
    return torch.optim.SGD(weights, lr=rate)


def test_a_run_depends_on_its_seed_alone_and_reports_validation_accuracy():
    runs = [lesson.fit(DATA, F.cross_entropy, optimizer, 0.1, seed, 10, 1) for seed in (0, 0, 1)]
    first, again, other = (torch.cat([p.flatten() for p in model.parameters()]) for model, _ in runs)
    assert torch.equal(first, again) and not torch.equal(first, other)
    for model, accuracy in runs:
        assert not model.training  # measured in evaluation mode
        answers = model(IMAGES[:10].flatten(1) / 255).argmax(1)
        assert accuracy == pytest.approx((answers == LABELS[:10]).float().mean().item())


def test_the_bad_start_scales_the_last_layer_only():
    model, _ = lesson.fit(DATA, F.cross_entropy, optimizer, 0.0, 3, 10, 1, last_layer_scale=50.0)
    start = lesson.new_model(3, "cpu")
    torch.testing.assert_close(model[-1].weight, 50 * start[-1].weight)
    assert torch.equal(model[0].weight, start[0].weight) and torch.equal(model[-1].bias, start[-1].bias)


def test_the_search_makes_one_full_run_for_each_rate():
    found = lesson.search(DATA, F.cross_entropy, optimizer, (0.01, 1.0), 5, 10, 2)
    assert list(found.index) == [0.01, 1.0]
    for rate, accuracy in found.items():
        assert accuracy == lesson.fit(DATA, F.cross_entropy, optimizer, rate, 5, 10, 2)[1]


# ---- what is chosen, drawn and reported

OPTIMIZERS = dict.fromkeys(("SGD", "momentum", "RMSprop", "Adam", "AdamW"))
LOSSES = dict.fromkeys(("cross-entropy", "label smoothing", "squared error"))
RATES = {name: rate for name, rate in zip(OPTIMIZERS, (0.5, 0.1, 0.001, 0.003, 0.003))}


def test_every_run_over_seeds_uses_its_seed():
    calls = [(name, names) for name, names in loops_over_seeds(NOTEBOOK) if name == "fit"]
    assert len(calls) == 3 and all("seed" in names for _, names in calls), calls


def test_the_test_set_is_used_in_its_section_only():
    section = False
    for cell in read(ROOT / NOTEBOOK).cells:
        if cell.cell_type == "markdown" and "## " in cell.source:
            section = "The test set, once" in cell.source.rpartition("## ")[2]
        if cell.cell_type == "code" and 'data["test"]' in cell.source:
            assert section, cell.source
    assert 'data["val"]' not in find_cell(NOTEBOOK, "test = pd.Series")


def test_each_loss_gets_its_best_rate():
    def search(data, loss_fn, make_optimizer, rates, seed, batch_size, epochs):
        assert (make_optimizer, seed, epochs) == ("adam", 100, 3)
        return pd.Series(loss_fn, index=list(rates))

    losses = {"cross-entropy": [0.1, 0.9, 0.2], "label smoothing": [0.9, 0.1, 0.2], "squared error": [0.1, 0.2, 0.9]}
    space = run_cell(NOTEBOOK, "loss_search = pd.DataFrame", search=search, losses=losses, data=None, SEARCH_SEED=100,
                     optimizers={"Adam": "adam"}, ADAPTIVE_RATES=(1e-3, 1e-2, 1e-1), BATCH_SIZE=8, EPOCHS=3)
    assert dict(space["loss_rates"]) == dict(zip(losses, (1e-2, 1e-3, 1e-1)))


def test_each_optimizer_gets_its_best_rate():
    def search(data, loss_fn, make_optimizer, rates, seed, batch_size, epochs):
        assert (loss_fn, seed, epochs) == (F.cross_entropy, 100, 3)
        return pd.Series([0.1, 0.8, 0.3], index=list(rates))

    lists = {"SGD_RATES": (0.1, 0.3, 1.0), "MOMENTUM_RATES": (0.01, 0.1, 0.3), "ADAPTIVE_RATES": (1e-4, 1e-3, 1e-2)}
    space = run_cell(NOTEBOOK, "choices = {", search=search, optimizers=OPTIMIZERS, data=None, SEARCH_SEED=100,
                     BATCH_SIZE=8, EPOCHS=3, loss_search={"cross-entropy": pd.Series({1e-3: 0.2, 1e-2: 0.9})}, **lists)
    assert space["rates"] == {"SGD": 0.3, "momentum": 0.1, "RMSprop": 1e-3, "Adam": 1e-2, "AdamW": 1e-3}
    assert space["factor"] == pytest.approx(300)


def test_the_comparison_takes_differences_seed_by_seed():
    scores = {name: [0.1 * k, 0.1 * k + 0.05] for k, name in enumerate(OPTIMIZERS, start=1)}

    def fit(data, loss_fn, make_optimizer, rate, seed, batch_size, epochs):
        name = make_optimizer
        assert name != "Adam" and (rate, epochs) == (RATES[name], 3)
        return (name, seed), scores[name][seed]

    adam = pd.DataFrame({"accuracy": [0.7, 0.6]}, index=pd.MultiIndex.from_product([["cross-entropy"], [0, 1]]))
    space = run_cell(NOTEBOOK, "behind = 100", fit=fit, optimizers={name: name for name in OPTIMIZERS}, rates=RATES,
                     SEEDS=(0, 1), models={("cross-entropy", seed): ("Adam", seed) for seed in (0, 1)}, data=None,
                     loss_runs=adam, BATCH_SIZE=8, EPOCHS=3)
    scores["Adam"] = [0.7, 0.6]
    assert {name: space["table"][name].tolist() for name in OPTIMIZERS} == scores
    assert all(space["models"][name, seed] == (name, seed) for name in OPTIMIZERS for seed in (0, 1))
    for name, values in scores.items():
        assert space["behind"][name].tolist() == pytest.approx(100 * (np.array([0.7, 0.6]) - values))


def test_the_first_picture():
    first = pd.DataFrame({"SGD": [0.2, 0.8], "Adam": [0.9, 0.3]}, index=[0.001, 0.3])
    space = run_cell(NOTEBOOK, "# @title Figure: two optimizers at two", first=first, FIRST_RATES=(0.001, 0.3),
                     lead=100 * (first["Adam"] - first["SGD"]))
    heights = {bars.get_label(): [bar.get_height() for bar in bars] for bars in space["ax"].containers
               if hasattr(bars, "patches")}
    assert heights == {"SGD": [0.2, 0.8], "Adam": [0.9, 0.3]}
    assert [text.get_text() for text in space["ax"].texts] == ["20%", "80%", "90%", "30%"]
    assert space["ax"].get_title() == "Adam is 70 points ahead, or 50 points behind"


def test_the_picture_of_gradients_is_that_of_the_losses():
    space = run_cell(NOTEBOOK, "wrong_logit = torch.linspace", losses={
        "cross-entropy": F.cross_entropy, "squared error": lambda z, y: lesson.squared_error(z.softmax(1), y)})
    for row, length in ((0, 3 / 10**0.5), (-1, 2**0.5)):  # p - y of ten equal and of one wrong certain probability
        assert space["lengths"]["cross-entropy"][row].item() == pytest.approx(length, rel=1e-2)
    assert space["lengths"]["squared error"][-1] < 1e-3
    drawn = run_cell(NOTEBOOK, "# @title Figure: gradients of a confident mistake", wrong_logit=space["wrong_logit"],
                     lengths=space["lengths"])
    for line in drawn["ax"].lines:
        assert line.get_ydata().tolist() == space["lengths"][line.get_label()].tolist()


def test_the_bad_start_is_bad_and_drawn_beside_the_usual_one():
    scores = {"cross-entropy": 0.7, "label smoothing": 0.6, "squared error": 0.2}

    def fit(data, loss_fn, make_optimizer, rate, seed, batch_size, epochs, last_layer_scale):
        assert (make_optimizer, rate, last_layer_scale) == ("adam", 1e-3, 50.0)
        return None, scores[loss_fn] + seed / 100

    names = dict(losses={name: name for name in LOSSES}, loss_rates=dict.fromkeys(LOSSES, 1e-3))
    space = run_cell(NOTEBOOK, "bad_start = pd.DataFrame", fit=fit, optimizers={"Adam": "adam"}, SEEDS=(0, 1, 2, 3),
                     data=None, BATCH_SIZE=8, EPOCHS=3, **names)
    bad_start = space["bad_start"]
    assert bad_start.mean().to_dict() == pytest.approx({name: value + 0.01 for name, value in scores.items()})
    index = pd.MultiIndex.from_product([LOSSES, (0, 1)], names=["loss", "seed"])
    runs = pd.DataFrame({"accuracy": [0.80, 0.82, 0.84, 0.86, 0.88, 0.90]}, index=index)
    drawn = run_cell(NOTEBOOK, "# @title Figure: two starts", loss_runs=runs, bad_start=bad_start,
                     losses=names["losses"])
    heights = {bars.get_label(): [bar.get_height() for bar in bars] for bars in drawn["ax"].containers
               if hasattr(bars, "patches")}
    assert heights["usual start"] == pytest.approx([0.81, 0.85, 0.89])
    assert heights["bad start"] == pytest.approx([0.71, 0.61, 0.21])
    assert [tick.get_text() for tick in drawn["ax"].get_xticklabels()] == list(LOSSES)


def test_the_picture_of_rates():
    searches = {name: pd.Series({RATES[name] / 10: 0.1 * k, RATES[name]: 0.2 * k}) for k, name in enumerate(OPTIMIZERS)}
    space = run_cell(NOTEBOOK, "# @title Figure: validation accuracy against", optimizers=OPTIMIZERS, rates=RATES,
                     searches=searches, factor=500)
    for line in space["ax"].lines:
        name, _, rate = line.get_label().partition(": ")
        assert float(rate) == RATES[name] and list(line.get_ydata()) == searches[name].tolist()


def test_the_picture_of_the_comparison():
    table = pd.DataFrame({name: [0.5 + 0.1 * k, 0.6 + 0.1 * k] for k, name in enumerate(OPTIMIZERS)})
    space = run_cell(NOTEBOOK, "# @title Figure: five optimizers", optimizers=OPTIMIZERS, rates=RATES, table=table,
                     behind=pd.DataFrame({"SGD": [3.0, 3.4]}), lead=pd.Series([15.0, -70.0]))
    names = [tick.get_text().split("\n")[0] for tick in space["ax"].get_xticklabels()]
    dots = [list(line.get_ydata()) for line in space["ax"].lines[::2]]
    assert names == list(OPTIMIZERS) and dots == [table[name].tolist() for name in names]
    assert "3.2 points behind" in space["ax"].get_title() and "not 15" in space["ax"].get_title()


def test_the_test_is_of_the_best_optimizer():
    def evaluate(model, images, labels):
        assert images == "test images"
        return 0.0, {("momentum", 0): 0.8, ("momentum", 1): 0.9}[model]

    table = pd.DataFrame({name: [0.5, 0.6] for name in OPTIMIZERS})
    table["momentum"] = [0.9, 0.7]
    labels = torch.tensor([1, 1, 0, 1, 2, 2])
    space = run_cell(NOTEBOOK, "test = pd.Series", table=table, evaluate=evaluate, SEEDS=(0, 1),
                     models={("momentum", seed): ("momentum", seed) for seed in (0, 1)},
                     data={"train": (None, torch.tensor([0, 2, 2])), "test": ("test images", labels)})
    assert space["best"] == "momentum" and space["test"].tolist() == [0.8, 0.9]
    assert space["baseline"] == pytest.approx(2 / 6)


def test_the_results():
    table = pd.DataFrame({name: [0.5 + 0.1 * k, 0.6 + 0.1 * k] for k, name in enumerate(OPTIMIZERS)})
    bad_start = pd.DataFrame(dict(zip(LOSSES, ([0.6, 0.8], [0.5, 0.7], [0.1, 0.3]))))
    space = run_cell(NOTEBOOK, "results = {", test=pd.Series([0.8, 0.86]), lead=pd.Series([15.0, -70.0]), factor=300.0,
                     behind=pd.DataFrame({"SGD": [3.0, 3.4], "AdamW": [0.1, 0.2]}), table=table, bad_start=bad_start,
                     optimizers=OPTIMIZERS, losses=LOSSES)
    assert space["results"] == pytest.approx({
        "test_accuracy": 0.83, "test_accuracy_sd": 0.06 / 2**0.5, "shared_rate_lead_points": 15,
        "own_rate_lead_points": 3.2, "own_rate_lead_sd_points": 0.4 / 2**0.5, "best_rates_factor": 300,
        "sgd_val_accuracy": 0.55, "momentum_val_accuracy": 0.65, "rmsprop_val_accuracy": 0.75,
        "adam_val_accuracy": 0.85, "adamw_val_accuracy": 0.95, "cross_entropy_bad_start_accuracy": 0.7,
        "label_smoothing_bad_start_accuracy": 0.6, "squared_error_bad_start_accuracy": 0.2})
