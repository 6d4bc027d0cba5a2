"""What adversarial_attack.ipynb defines: attacks and their limits, photos in files, and what is measured on whom."""
import io

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import nn
from torchvision.transforms import v2

from tests.cells import run_cell
from tests.definitions import definitions

NOTEBOOK = "Chapter11/adversarial_attack.ipynb"
CPU = torch.device("cpu")
lesson = definitions(
    NOTEBOOK, "load_cifar10", "choose_classes", "Rescaled", "new_network", "train_on_photos", "logits_of", "accuracy",
    "input_gradient", "project", "fgsm", "random_like", "pgd", "noise", "measure_attacks",
    "through_file")  # fmt: skip
quickly = settings(deadline=None, derandomize=True, max_examples=30)


def network(seed=0, classes=3, side=6):
    """A small network that is not linear, with batch norm and dropout, which must be in evaluation mode."""
    torch.manual_seed(seed)
    layers = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Tanh(), nn.Dropout(0.5), nn.Flatten()
    model = nn.Sequential(*layers, nn.Linear(8 * (side - 2) ** 2, classes))
    with torch.no_grad():
        model[1].running_mean.normal_()
        model[1].running_var.uniform_(0.5, 2)
    return model


def photos(n=5, side=6, seed=0, values=256):
    """Photos whose colors stand in files: whole steps of 1/255."""
    return torch.randint(0, values, (n, 3, side, side), generator=torch.Generator().manual_seed(seed)) / 255


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


# ---- gradient, ball, attacks


def test_the_gradient_is_that_of_each_photo_alone_and_of_nothing_else():
    model, x, y = network().train(), photos(), torch.tensor([0, 1, 2, 0, 1])
    found = lesson.input_gradient(model, x, y)
    assert not found.requires_grad and not x.requires_grad and all(p.grad is None for p in model.parameters())
    model.eval()
    for k in range(len(x)):
        def loss(one, k=k):
            return F.cross_entropy(model(one[None].float()), y[k:k + 1])
        jacobian = torch.autograd.functional.jacobian(loss, x[k])
        torch.testing.assert_close(found[k], jacobian)


def test_the_gradient_agrees_with_finite_differences():
    model, x, y = network(1).double(), photos(1).double(), torch.tensor([2])
    found, step = lesson.input_gradient(model, x, y).flatten(), 1e-6
    model.eval()
    for place in (0, 17, 60, 107):
        moved = torch.zeros(108, dtype=torch.float64)
        moved[place] = step
        ends = [F.cross_entropy(model(x + sign * moved.view_as(x)), y).item() for sign in (1, -1)]
        assert found[place].item() == pytest.approx((ends[0] - ends[1]) / (2 * step), abs=1e-6)


@quickly
@given(st.floats(0, 1.5), st.integers(0, 10_000), st.floats(0, 5))
def test_projection_is_the_nearest_point_of_ball_and_box(epsilon, seed, reach):
    x = torch.rand(2, 3, 4, 4, generator=generator(seed), dtype=torch.float64)
    adv = x + reach * torch.randn(x.shape, generator=generator(seed + 1), dtype=torch.float64)
    found = lesson.project(adv, x, epsilon)
    assert (found - x).abs().max() <= epsilon + 1e-12 and found.min() >= 0 and found.max() <= 1
    low, high = np.maximum(x.numpy() - epsilon, 0), np.minimum(x.numpy() + epsilon, 1)
    np.testing.assert_allclose(found, np.clip(adv.numpy(), low, high), rtol=0, atol=1e-12)
    torch.testing.assert_close(lesson.project(found, x, epsilon), found, rtol=0, atol=1e-12)


def test_projection_handles_infinite_colors_and_a_ball_of_no_size():
    x = photos()
    wild = torch.full_like(x, torch.inf)
    torch.testing.assert_close(lesson.project(wild, x, 0.1), (x + 0.1).clamp(max=1))
    torch.testing.assert_close(lesson.project(-wild, x, 0.1), (x - 0.1).clamp(min=0))
    assert torch.equal(lesson.project(wild, x, 0), x)


def linear(seed=0, classes=2, n=108):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(n, classes))


@pytest.mark.parametrize("label", [0, 1])
@pytest.mark.parametrize("attack", ["fgsm", "pgd"])
def test_on_a_linear_network_both_attacks_reach_the_bound(attack, label):
    """Away from 0 and 1 the margin falls by epsilon times the sum of |w|, and by nothing more."""
    model, x, epsilon = linear(label), 0.4 + 0.2 * photos(), 0.1
    y = torch.full((5,), label)
    adv = (lesson.fgsm(model, x, y, epsilon) if attack == "fgsm"
           else lesson.pgd(model, x, y, epsilon, epsilon / 4, 12, generator()))
    w = (model[1].weight[label] - model[1].weight[1 - label]).detach()
    margin = [(logits[:, label] - logits[:, 1 - label]).detach() for logits in (model(x), model(adv))]
    torch.testing.assert_close(margin[0] - margin[1], (epsilon * w.abs().sum()).expand(5), rtol=1e-4, atol=1e-5)


def test_on_a_linear_network_the_targeted_attack_is_the_mirror():
    model, x, y = linear(3), 0.4 + 0.2 * photos(), torch.zeros(5, dtype=torch.long)
    away, towards = lesson.fgsm(model, x, y, 0.1), lesson.fgsm(model, x, y, 0.1, targeted=True)
    torch.testing.assert_close(away - x, x - towards, rtol=0, atol=1e-6)
    many = lesson.pgd(model, x, y, 0.1, 0.05, 10, generator(), targeted=True)
    torch.testing.assert_close(many, towards, rtol=0, atol=1e-6)
    assert (model(towards).diff(dim=1) < model(x).diff(dim=1)).all()  # logit 0 gains on logit 1


@quickly
@given(st.sampled_from([0.0, 1 / 255, 0.1, 0.7, 2.0]), st.integers(1, 4), st.booleans(), st.sampled_from([2, 256]),
       st.sampled_from([0.3, 1.0, 5.0]))
def test_attacks_stay_in_the_ball_and_among_colors(epsilon, steps, targeted, values, pace):
    """Whatever the size; photos of black and white only (values = 2) lie on the border of the colors."""
    model, x, y = network(), photos(values=values) * (255 if values == 2 else 1), torch.tensor([0, 1, 2, 0, 1])
    for adv in (lesson.fgsm(model, x, y, epsilon, targeted),
                lesson.pgd(model, x, y, epsilon, pace * epsilon, steps, generator(), targeted),
                lesson.noise(x, epsilon, generator())):
        assert adv.shape == x.shape and adv.dtype == x.dtype and torch.isfinite(adv).all()
        assert (adv - x).abs().max() <= epsilon + 1e-6 and adv.min() >= 0 and adv.max() <= 1


def test_fgsm_uses_the_whole_ball_where_colors_allow():
    x = 0.4 + 0.2 * photos()
    moved = (lesson.fgsm(network(), x, torch.zeros(5, dtype=torch.long), 0.05) - x).abs()
    torch.testing.assert_close(moved, torch.full_like(moved, 0.05), rtol=1e-4, atol=1e-6)


def test_the_loss_grows_and_more_steps_find_more():
    """By the untargeted attack; the targeted one makes the loss of its label smaller."""
    model, x = network(5), 0.3 + 0.4 * photos(40)
    y = model.eval()(x).argmax(1)

    def loss(adv, labels):
        return F.cross_entropy(model.eval()(adv), labels).item()

    one, many = lesson.fgsm(model, x, y, 0.3), lesson.pgd(model, x, y, 0.3, 0.05, 20, generator())
    assert loss(x, y) < loss(one, y) < loss(many, y)
    wanted = (y + 1) % 3
    assert loss(lesson.pgd(model, x, wanted, 0.3, 0.05, 20, generator(), True), wanted) < loss(x, wanted)


def test_pgd_starts_at_random_in_the_ball_around_the_photo_and_follows_its_generator():
    model, x, y = network(), 0.4 + 0.2 * photos(), torch.zeros(5, dtype=torch.long)
    starts = [lesson.pgd(model, x, y, 0.1, 0.0, 1, generator(seed)) - x for seed in (0, 0, 1)]
    assert torch.equal(starts[0], starts[1]) and not torch.equal(starts[0], starts[2])
    values = (starts[0] / 0.1).flatten()
    assert values.min() < -0.95 and values.max() > 0.95 and abs(values.mean()) < 0.1
    assert values.std().item() == pytest.approx(3 ** -0.5, abs=0.05)  # uniform, not only corners


def test_pgd_asks_for_the_gradient_where_it_is():
    """One step of it from a known place is FGSM from there, projected around the photo."""
    model, x, y = network(2), 0.4 + 0.2 * photos(), torch.tensor([0, 1, 2, 0, 1])
    start = lesson.pgd(model, x, y, 0.1, 0.0, 1, generator(4))
    first = lesson.project(start + 0.06 * lesson.input_gradient(model, start, y).sign(), x, 0.1)
    second = lesson.project(first + 0.06 * lesson.input_gradient(model, first, y).sign(), x, 0.1)
    torch.testing.assert_close(lesson.pgd(model, x, y, 0.1, 0.06, 2, generator(4)), second)
    assert not torch.equal(first, second)


def test_noise_is_as_large_as_the_attack_and_knows_no_network():
    x = 0.4 + 0.2 * photos(20)
    moved = lesson.noise(x, 0.05, generator()) - x
    torch.testing.assert_close(moved.abs(), torch.full_like(moved, 0.05), rtol=1e-4, atol=1e-6)
    assert abs((moved > 0).float().mean() - 0.5) < 0.05


# ---- photos, networks, training


@pytest.mark.parametrize("kind", ["A", "B"])
def test_networks_take_photos_between_0_and_1_and_follow_the_seed(kind):
    a, b, c = (lesson.new_network(kind, seed, 4, 3, CPU) for seed in (0, 0, 1))
    assert a(torch.rand(2, 3, 32, 32)).shape == (2, 3)
    for one, other in zip(a.parameters(), b.parameters(), strict=True):
        assert torch.equal(one, other)
    assert not torch.equal(a[1].weight, c[1].weight)
    pools = sum(isinstance(layer, nn.MaxPool2d) for layer in a)
    assert pools == (2 if kind == "A" else 0)


def test_the_first_layer_is_torchvisions_normalize():
    x, mean, std = torch.rand(2, 3, 5, 5), [0.1, 0.5, 0.7], [0.2, 0.3, 1.5]
    torch.testing.assert_close(lesson.Rescaled(mean, std)(x), v2.functional.normalize(x, mean, std))


def test_classes_are_chosen_and_numbered_by_their_place():
    images = torch.arange(5, dtype=torch.uint8).view(5, 1, 1, 1).expand(5, 3, 2, 2) * 51
    x, y = lesson.choose_classes(images, torch.tensor([7, 3, 9, 7, 3]), [3, 7])
    assert y.tolist() == [1, 0, 1, 0] and x.dtype == torch.float32
    torch.testing.assert_close(x[:, 0, 0, 0], torch.tensor([0.0, 0.2, 0.6, 0.8]))
    x, y = lesson.choose_classes(images, torch.tensor([7, 3, 9, 7, 3]), [5])
    assert len(x) == len(y) == 0


def test_training_learns_and_sees_what_the_attack_makes():
    x = torch.rand(64, 3, 8, 8, generator=generator())
    y = torch.arange(64) % 2
    x[:, 0] = 0.2 + 0.6 * y[:, None, None]
    model, seen = network(side=8, classes=2), []
    lesson.train_on_photos(model, x, y, 60, 16, 1e-2, 0)
    assert lesson.accuracy(lesson.logits_of(model, x), y) > 0.95

    def attack(current, some, labels, generator):
        assert current is model and len(some) == len(labels) == 16 and isinstance(generator, torch.Generator)
        current.eval()  # as an attack leaves it
        seen.append(some)
        return torch.zeros_like(some)

    class Watched(nn.Module):
        """A network that notes what it is shown."""

        def __init__(self):
            super().__init__()
            self.inner, self.shown = network(side=8, classes=2), []

        def forward(self, some):
            self.shown.append((some.abs().sum().item(), self.training))
            return self.inner(some)

    model = Watched()
    lesson.train_on_photos(model, x, y, 3, 16, 1e-2, 0, attack)
    assert model.shown == [(0.0, True)] * 3 and all(some.sum() > 0 for some in seen)


def test_training_follows_its_seed_and_mirrors_about_half_of_the_batches():
    x, y, first = torch.zeros(8, 3, 6, 6), torch.arange(8) % 3, []
    x[:, :, :, 0] = 1

    def attack(model, some, labels, generator):
        first.append(bool(some[0, 0, 0, 0] == 1))
        return some

    for _ in range(2):
        lesson.train_on_photos(network(), x, y, 40, 4, 1e-3, 3, attack)
    assert first[:40] == first[40:] and 10 <= sum(first[:40]) <= 30


def test_logits_are_in_evaluation_mode_and_of_every_photo():
    model, x = network().train(), photos(401)
    found = lesson.logits_of(model, x)
    torch.testing.assert_close(found, model.eval()(x).detach())


def test_cifar10_is_mixed_and_its_labels_stay_with_the_photos(monkeypatch):
    import datasets

    rows = [{"img": Image.new("RGB", (32, 32), (label, 0, 0)), "label": label} for label in range(10)]
    features = datasets.Features({"img": datasets.Image(), "label": datasets.ClassLabel(names=list("abcdefghij"))})
    table = datasets.Dataset.from_list(rows, features=features)
    monkeypatch.setitem(lesson.load_cifar10.__globals__, "load_dataset", lambda *_, **__: table)
    found, names = lesson.load_cifar10("any", "any", {"train": 6, "test": 20}, CPU)
    assert names == list("abcdefghij") and len(found["train"][1]) == 6 and len(found["test"][1]) == 10
    for images, labels in found.values():
        assert images[:, 0, 0, 0].tolist() == labels.tolist() != sorted(labels.tolist())


# ---- files


@quickly
@given(st.integers(0, 10_000), st.sampled_from([0, 1, 3, 8]))
def test_png_keeps_256_steps_and_a_ball_of_whole_steps(seed, level):
    x = photos(2, seed=seed)
    assert torch.equal(lesson.through_file(x, "PNG"), x)
    adv = lesson.project(x + torch.randn(x.shape, generator=generator(seed)) * 0.05, x, level / 255)
    filed = lesson.through_file(adv, "PNG")
    assert (filed - x).abs().max() <= level / 255 + 1e-6 and (filed - adv).abs().max() <= 0.5 / 255 + 1e-6
    torch.testing.assert_close(filed * 255, (filed * 255).round(), rtol=0, atol=1e-4)


def test_files_keep_the_order_of_colors_rows_and_photos():
    x = torch.zeros(2, 3, 4, 6)
    x[0, 0, 1, 5] = x[1, 2, 3, 0] = 1
    assert torch.equal(lesson.through_file(x, "PNG"), x)


def test_jpeg_is_pillows():
    pixels = (255 * photos(1, 16)[0]).round().to(torch.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(file, "JPEG", quality=75)
    expected = v2.functional.pil_to_tensor(Image.open(file)) / 255
    torch.testing.assert_close(lesson.through_file(pixels[None] / 255, "JPEG", quality=75)[0], expected)


# ---- what is measured on whom


def test_a_measurement_has_every_attack_at_every_level_and_of_the_network_it_was_given():
    model, x = network(), photos(40)
    y = model.eval()(x).argmax(1)
    table = lesson.measure_attacks(model, x, y, (1, 40), 5, 0).pivot(index="level", columns="attack", values="accuracy")
    assert table.index.tolist() == [0, 1, 40] and (table.loc[0] == 100).all()
    assert max(table["PGD"][40], table["FGSM"][40]) < table["noise"][40] - 30
    direct = lesson.fgsm(model, x, y, 40 / 255)
    assert table["FGSM"][40] == pytest.approx(100 * (model(direct).argmax(1) == y).float().mean().item())


def test_an_attack_outside_its_limits_is_noticed():
    broken = definitions(NOTEBOOK, "measure_attacks", project=lambda adv, x, epsilon: adv + 0.1)
    with pytest.raises(AssertionError):
        broken.measure_attacks(network(), photos(), torch.zeros(5, dtype=torch.long), (1,), 1, 0)


class Named:
    """Stands for a network: what is measured of it says its name and whose attack it was shown."""

    def __init__(self, name):
        self.name = name


def stand_ins():
    """pgd gives ("whose", ...) as a number: 100 for attacks on network k's number; logits_of tells pairs."""
    pairs = []

    def pgd(network, x, y, *_, **options):
        return network.name, tuple(y.tolist()), options.get("targeted", False)

    def logits_of(network, shown):
        pairs.append((network.name, shown))
        return shown

    return pairs, pgd, logits_of


def test_transfer_attacks_the_first_network_and_asks_the_victim():
    pairs, pgd, logits_of = stand_ins()
    x, y = "photos", torch.tensor([0])
    trained = []
    run_cell(NOTEBOOK, "victims = {", SEEDS=(0, 1, 2), WIDTH=1, CLASSES="abcd", device=CPU, photos=0, labels=0, STEPS=1,
             BATCH_SIZE=1, LEARNING_RATE=1, LARGE=8, ATTACK_STEPS=2, networks={k: Named(f"A{k}") for k in range(3)},
             new_network=lambda kind, seed, *_: Named(f"{kind}{seed}"), pgd=pgd, logits_of=logits_of, x=x, y=y,
             train_on_photos=lambda network, *_: trained.append((network.name, _[-1])),
             noise=lambda x, *_: "noise", accuracy=lambda *_: 0.5)
    assert trained == [("B100", 100), ("B101", 101), ("B102", 102)]
    attacks = [(victim, shown[0]) for victim, shown in pairs if isinstance(shown, tuple)]
    assert attacks == [("A0", "A0"), ("A2", "A0"), ("B100", "A0"), ("A1", "A1"), ("A0", "A1"), ("B101", "A1"),
                       ("A2", "A2"), ("A1", "A2"), ("B102", "A2")]


def test_targeted_attacks_are_judged_by_the_wanted_answer():
    pairs, pgd, logits_of = stand_ins()
    judged = []
    y = torch.tensor([0, 3, 1])
    found = run_cell(NOTEBOOK, "wanted = (y + 1)", SEEDS=(0, 1), CLASSES="abcd", LARGE=8, ATTACK_STEPS=2, x="photos",
                     y=y, networks={0: Named("A"), 1: Named("B")}, pgd=pgd, logits_of=logits_of, noise=lambda *_: "",
                     accuracy=lambda shown, labels: judged.append((shown, labels.tolist())) or 0.5)
    assert found["wanted"].tolist() == [1, 0, 2]
    assert judged[0] == (("A", (1, 0, 2), True), [1, 0, 2]) and judged[1] == ("", [1, 0, 2])
    assert judged[2][0][0] == "B"


def test_adversarial_training_is_one_long_step_of_pgd_and_its_networks_are_measured():
    trained = []
    found = run_cell(
        NOTEBOOK, "attack = partial(pgd", TRAINING_LEVEL=4, SEEDS=(0, 1), WIDTH=1, CLASSES="abcd", device=CPU, photos=0,
        labels=0, STEPS=1, BATCH_SIZE=1, LEARNING_RATE=1, LEVELS=(8,), ATTACK_STEPS=2, x=0, y=0, pgd=lesson.pgd,
        measured=pd.DataFrame([{"network": "trained as usual", "seed": 0, "accuracy": 1.0}]),
        new_network=lambda kind, seed, *_: Named(f"{kind}{seed}"),
        train_on_photos=lambda network, *rest: trained.append((network.name, rest[-2], rest[-1])),
        measure_attacks=lambda network, *_: pd.DataFrame([{"accuracy": 10.0 + int(network.name[1:])}]))
    assert [(name, seed) for name, seed, _ in trained] == [("A0", 0), ("A1", 1)]
    options = trained[0][2].keywords
    assert options == pytest.approx({"epsilon": 4 / 255, "step": 5 / 255, "steps": 1})
    some = found["measured"]
    assert some["network"].tolist() == ["trained as usual"] + 2 * ["trained on attacked photos"]
    assert some["accuracy"].tolist() == [1, 10, 11] and some["seed"].tolist() == [0, 0, 1]


def test_files_are_made_of_the_attacked_photos_and_keep_their_columns():
    asked = []

    def pgd(network, x, y, epsilon, step, steps, generator):
        return f"{network} at {255 * epsilon:g}"

    class File:
        """A file that says what it is made of; its distance from the photo is 0."""

        def __init__(self, text):
            self.text = text

        def __sub__(self, other):
            return torch.zeros(1)

    found = run_cell(
        NOTEBOOK, "png, jpeg = through_file", SEEDS=(0, 1), networks={0: "A", 1: "B"}, LARGE=8, ATTACK_STEPS=2,
        x=0, y=0, pgd=pgd, through_file=lambda adv, kind, **options: File(f"{adv} as {kind}"),
        logits_of=lambda network, some: asked.append((network, getattr(some, "text", some))) or asked[-1],
        accuracy=lambda shown, y: {"PNG": 0.2, "JPEG": 0.3}.get(shown[1].partition(" as ")[2], 0.1))["filed"]
    assert asked[:3] == [("A", "A at 0"), ("A", "A at 0 as PNG"), ("A", "A at 0 as JPEG")]
    assert {network == shown[0] for network, shown in asked} == {True}
    assert found["tensor", "mean"].tolist() == pytest.approx([10] * 4)
    assert found["PNG", "mean"].tolist() == pytest.approx([20] * 4)
    assert found["JPEG", "mean"].tolist() == pytest.approx([30] * 4)


def test_the_robust_network_is_asked_about_stronger_and_about_foreign_attacks():
    pairs = []

    def pgd(network, x, y, epsilon, step, steps, generator):
        return f"{network}, {steps} steps"

    found = run_cell(
        NOTEBOOK, "foreign = pgd(networks[seed]", SEEDS=(0,), networks={0: "usual"}, robust={0: "robust"}, LARGE=8,
        ATTACK_STEPS=10, x=0, y=0, pgd=pgd, logits_of=lambda network, shown: pairs.append((network, shown)) or shown,
        accuracy=lambda shown, y: {"robust, 10 steps": 0.4, "robust, 30 steps": 0.3, "usual, 10 steps": 0.6}[shown])
    assert {network for network, _ in pairs} == {"robust"}
    assert found["honest"].iloc[0].to_dict() == pytest.approx(
        {"10 steps": 40, "30 steps": 30, "made on the usual network": 60})


def measured_table():
    values = {"trained as usual": {"noise": 80, "FGSM": 20, "PGD": 10},
              "trained on attacked photos": {"noise": 77, "FGSM": 50, "PGD": 45}}
    return pd.DataFrame([
        {"network": network, "attack": attack, "level": level, "seed": seed,
         "accuracy": (accuracy if level else values[network]["noise"] + 1.0) + seed}
        for network, attacks in values.items() for attack, accuracy in attacks.items()
        for level in (0, 8) for seed in (0, 2)])


def test_the_table_tells_gain_price_and_fall():
    found = run_cell(NOTEBOOK, 'table = measured.pivot_table', measured=measured_table(), LARGE=8,
                     draw_levels=lambda measured, networks, title: None)
    assert found["gain"].tolist() == [35, 35] and found["price"].tolist() == [3, 3]
    check = run_cell(NOTEBOOK, 'fall = usual["noise"]', usual=found["usual"], gain=found["gain"], LARGE=8,
                     REQUIRED_FALL=60, REQUIRED_GAIN=30)
    assert check["fall"].tolist() == [70, 70]
    for bounds in ({"REQUIRED_FALL": 71, "REQUIRED_GAIN": 30}, {"REQUIRED_FALL": 60, "REQUIRED_GAIN": 36}):
        with pytest.raises(AssertionError):
            run_cell(NOTEBOOK, 'fall = usual["noise"]', usual=found["usual"], gain=found["gain"], LARGE=8, **bounds)


def test_the_figure_draws_each_attack_in_its_panel():
    import matplotlib.pyplot as plt

    draw = definitions(NOTEBOOK, "draw_levels").draw_levels
    plt.close("all")
    draw(measured_table(), ["trained as usual", "trained on attacked photos"], "title")
    left, right = plt.gcf().axes
    for ax, ends in ((left, {"noise": 81, "FGSM": 21, "PGD": 11}), (right, {"noise": 78, "FGSM": 51, "PGD": 46})):
        found = {text.get_text(): bars[0].get_ydata()[-1]
                 for text, bars in zip(left.get_legend().get_texts(), ax.containers, strict=True)}
        assert found == ends
    plt.close("all")


def test_results_are_taken_from_where_they_belong():
    found = run_cell(NOTEBOOK, 'table = measured.pivot_table', measured=measured_table(), LARGE=8,
                     draw_levels=lambda *_: None)
    both = pd.MultiIndex.from_product([["tensor", "PNG", "JPEG"], ["mean", "std"]])
    filed = pd.DataFrame([[90, 0, 91, 0, 92, 0], [8, 0, 9, 0, 30, 0]], index=[0, 8], columns=both)
    columns = pd.MultiIndex.from_product([["photos", "noise", "attack on the first network"], ["mean", "std"]])
    transfer = pd.DataFrame([[80, 0, 79, 0, 10, 0], [81, 0, 78, 0, 40, 0], [82, 0, 77, 0, 60, 0]], columns=columns,
                            index=["itself", "same architecture", "other architecture"])
    results = run_cell(
        NOTEBOOK, '"usual_clean_std_points"', usual=found["usual"], hardened=found["hardened"], gain=found["gain"],
        LARGE=8, reached=pd.DataFrame({"targeted PGD": [70.0, 74], "noise": [1.0, 1]}), ratio=33.0, filed=filed,
        transfer=transfer, honest=pd.DataFrame({"10 steps": [40.0], "30 steps": [39.0]}),
        ATTACK_STEPS=10)["results"]
    assert results == pytest.approx({
        "usual_noise_0_percent": 82, "usual_noise_8_percent": 81, "usual_fgsm_0_percent": 82,
        "usual_fgsm_8_percent": 21, "usual_pgd_0_percent": 82, "usual_pgd_8_percent": 11, "robust_noise_0_percent": 79,
        "robust_noise_8_percent": 78, "robust_fgsm_0_percent": 79, "robust_fgsm_8_percent": 51,
        "robust_pgd_0_percent": 79, "robust_pgd_8_percent": 46, "usual_clean_std_points": 2 ** 0.5,
        "gain_std_points": 0, "targeted_percent": 72, "sign_to_noise_ratio": 33, "png_percent": 9, "jpeg_percent": 30,
        "transfer_same_percent": 40, "transfer_other_percent": 60, "many_steps_percent": 39})
