"""What Implementing_ResNet18_for_image_classification.ipynb defines: the network, its photos, the price list."""
import copy
import math

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy.stats import linregress, pearsonr
from torch import nn
from torchvision.models import ResNet18_Weights, resnet18

from tests.cells import run_cell
from tests.definitions import definitions
from tests.notebooks import ROOT, read

NOTEBOOK = "Chapter05/Implementing_ResNet18_for_image_classification.ipynb"
CPU = torch.device("cpu")
lesson = definitions(
    NOTEBOOK, "BasicBlock", "new_resnet", "new_resnet18_trunk", "with_head", "load_breeds", "photo_inputs", "train",
    "evaluate", "compute_logits", "train_copy", "choose_rate", "sum_groups", "breed_and_species", "majority_percent",
    "similar_pairs", "without_twins", "fresh_statistics", "variance_ratios", "train_and_test", "compute_features",
    "train_head", "head_and_test", "frozen_features", "points_per_doubling", "slopes", "amount_for",
    "draw_photos", "assert_same_network", "Rescale", "on_imagenet_colors", "draw_budgets", "draw_ratios",
    "draw_methods")
quiet = settings(deadline=None, max_examples=40)


def random_photos(n, side=32, seed=0):
    return torch.randint(0, 256, (n, 3, side, side), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def shaken(model, seed=0):
    """The model with random batch norms, as after a training."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for layer in model.modules():
            if isinstance(layer, nn.BatchNorm2d):
                for tensor, low, high in ((layer.weight, -1, 1.5), (layer.bias, -0.5, 0.5),
                                          (layer.running_mean, -0.3, 0.3), (layer.running_var, 0.5, 2)):
                    tensor.copy_(low + (high - low) * torch.rand(tensor.shape, generator=generator))
    return model


def small_trunk(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1),
                         nn.Flatten())


def small_settings(**changes):
    return {"features": 4, "classes": 3, "batch_size": 8, "change": nn.Identity(), "head": (30, 1e-2, 0.1),
            "species_of": torch.tensor([0, 1, 0])} | changes


def colored(n, seed=0):
    """Photos whose class (n,) is their brightest color."""
    labels = torch.arange(n) % 3
    images = random_photos(n, 16, seed) // 2
    images[torch.arange(n), labels] += 120
    return images, labels


# ---- the network


@pytest.mark.parametrize("shape, scale", [((2, 3, 64, 64), 1.0), ((3, 3, 33, 50), 1.0), ((2, 3, 32, 32), 1.0),
                                          ((2, 3, 32, 32), 0.0), ((2, 3, 32, 32), 1e4)])
def test_own_resnet18_is_torchvisions_in_logits_gradients_and_statistics(shape, scale):
    """In training and in evaluation mode; `scale` 0 is a black photo, without any variance."""
    images = scale * torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    torch.manual_seed(0)
    ours, theirs = lesson.new_resnet(lesson.BasicBlock, (2, 2, 2, 2), 64, 7), shaken(resnet18(num_classes=7))
    assert lesson.assert_same_network(ours.double(), theirs.double(), images) < 1e-9 * max(1, scale)
    if scale == 1:
        with torch.no_grad():
            inputs = [images.clone().requires_grad_() for _ in range(2)]
        for model, x in zip((ours, theirs), inputs):
            model.eval()(x).square().sum().backward()
        torch.testing.assert_close(inputs[0].grad, inputs[1].grad)


@pytest.mark.parametrize("spoil", ["weight", "statistics", "stride"])
def test_the_comparison_sees_a_difference(spoil):
    ours, theirs = (lesson.new_resnet(lesson.BasicBlock, (2, 2, 2, 2), 8, 3).double() for _ in range(2))
    if spoil == "weight":
        ours.layer3[1].conv2.register_forward_hook(lambda layer, x, y: y * (1 + 1e-4))
    elif spoil == "statistics":
        ours.layer2[0].bn1.momentum = 0.2
    else:
        ours.layer4[0].conv1.stride, ours.layer4[0].conv2.stride = (1, 1), (2, 2)
    with pytest.raises(AssertionError):
        lesson.assert_same_network(ours, theirs, torch.randn(2, 3, 64, 64, dtype=torch.float64))


def test_the_trunk_takes_torchvisions_weights_and_is_their_features():
    theirs = shaken(resnet18()).eval()
    trunk = lesson.new_resnet18_trunk(0)
    trunk.load_state_dict({name: value for name, value in theirs.state_dict().items() if not name.startswith("fc.")})
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(theirs.fc(trunk.eval()(x)), theirs(x))
    assert list(trunk.state_dict()) == [name for name in theirs.state_dict() if not name.startswith("fc.")]


def test_initialization_has_the_size_of_torchvisions_and_follows_the_seed():
    ours, same, other = (lesson.new_resnet18_trunk(seed) for seed in (0, 0, 1))
    theirs = dict(resnet18().named_parameters())
    for name, p in ours.named_parameters():
        if p.dim() == 4:
            assert p.std().item() == pytest.approx(theirs[name].std().item(), rel=0.1), name
    assert torch.equal(ours.conv1.weight, same.conv1.weight) and not torch.equal(ours.conv1.weight, other.conv1.weight)


def test_the_first_layers_give_what_the_weights_own_transforms_give():
    """Order of colors, mean and deviation; a black, a white and a red photo among them."""
    photos = torch.cat([random_photos(3, 64), torch.zeros(1, 3, 64, 64, dtype=torch.uint8),
                        torch.full((1, 3, 64, 64), 255, dtype=torch.uint8)])
    photos[2, 1:] = 0
    trunk = lesson.on_imagenet_colors(nn.Identity())
    expected = ResNet18_Weights.IMAGENET1K_V1.transforms(crop_size=64, resize_size=64)(photos)
    torch.testing.assert_close(trunk(lesson.photo_inputs(photos)), expected, rtol=0, atol=1e-5)
    kept = nn.Conv2d(3, 1, 1)
    assert lesson.on_imagenet_colors(kept).trunk is kept
    assert not list(lesson.on_imagenet_colors(nn.Identity()).parameters())


# ---- photos


class Pets:
    """Stands for torchvision's OxfordIIITPet: four breeds, photos of two colors, larger than high."""

    classes = ["Abyssinian", "Beagle", "Bengal", "Pug"]
    species = (0, 1, 0, 1)
    asked = []

    def __init__(self, root, split, target_types, transform, download):
        assert download and target_types == ("category", "binary-category")
        self.asked.append(split)
        self.transform, self.start = transform, {"trainval": 0, "test": 40}[split]

    def __len__(self):
        return 12

    def __getitem__(self, k):
        if k >= len(self):
            raise IndexError
        pixels = np.zeros((50, 90, 3), np.uint8)
        pixels[:, 10:80] = self.start + k, 100, 200  # red numbers the photo; the sides are cut off
        breed = k * 3 % 4
        return self.transform(Image.fromarray(pixels)), (breed, self.species[breed])


def test_breeds_are_selected_numbered_in_the_given_order_and_stay_with_their_photos(monkeypatch):
    monkeypatch.setitem(lesson.load_breeds.__globals__, "OxfordIIITPet", Pets)
    for split, start in (("trainval", 0), ("test", 40)):
        images, labels, species = lesson.load_breeds(split, ("Pug", "Abyssinian"), 25, CPU)
        assert images.shape == (6, 3, 25, 25) and images.dtype == torch.uint8
        numbers = images[:, 0, 12, 12].long() - start
        assert numbers.tolist() == [k for k in range(12) if k * 3 % 4 in (3, 0)]
        assert labels.tolist() == [{3: 0, 0: 1}[k * 3 % 4] for k in numbers.tolist()]
        assert species.tolist() == [1 - label for label in labels.tolist()]
        assert (images[:, 1] == 100).all() and (images[:, 2] == 200).all()  # green and blue, and no black sides
    assert Pets.asked == ["trainval", "test"]


def test_similar_pairs_are_those_whose_thumbnails_correlate():
    first, second = random_photos(6, 64, 1), random_photos(7, 64, 2)
    second[4] = (first[2].float() * 0.6 + 40).to(torch.uint8)  # darker and flatter, the same scene
    second[0] = 255 - first[3]  # the negative correlates with -1
    assert lesson.similar_pairs(first, second, 0.8).tolist() == [[2, 4]]
    found = lesson.similar_pairs(first, second, -2.0)
    assert len(found) == 42
    u, v = (F.adaptive_avg_pool2d(part.float(), 16).flatten(1).numpy() for part in (first, second))
    rho = [pearsonr(u[i], v[j])[0] for i, j in found.tolist()]
    np.testing.assert_allclose(rho, sorted(rho, reverse=True), atol=1e-5)


def test_no_pairs_of_photos_without_contrast_or_without_photos():
    flat = torch.full((2, 3, 32, 32), 77, dtype=torch.uint8)
    assert lesson.similar_pairs(flat, torch.cat([flat, random_photos(2)]), 0.5).shape == (0, 2)
    assert lesson.similar_pairs(flat[:0], flat, 0.5).shape == (0, 2)


def test_of_each_pair_the_training_photo_goes():
    rows = torch.tensor([7, 3, 9, 4])
    assert lesson.without_twins(rows, torch.tensor([[9, 1], [0, 3], [2, 1]])).tolist() == [7, 9]
    assert lesson.without_twins(rows, torch.empty(0, 2, dtype=torch.long)).tolist() == [7, 3, 9, 4]


# ---- what the answers are measured by


@quiet
@given(st.integers(1, 6), st.integers(0, 5), st.integers(0, 99))
def test_groups_are_sums(classes, n, seed):
    rng = np.random.default_rng(seed)
    p, group_of = rng.dirichlet(np.ones(classes), n), rng.integers(0, 3, classes)
    found = lesson.sum_groups(torch.tensor(p).view(n, classes), torch.tensor(group_of))
    expected = [[p[i, group_of == g].sum() for g in range(group_of.max() + 1)] for i in range(n)]
    np.testing.assert_allclose(found, np.reshape(expected, found.shape))


def test_a_species_can_be_right_where_the_breed_is_wrong_and_the_other_way_round():
    species_of = torch.tensor([0, 1, 0])
    p = torch.tensor([[0.35, 0.40, 0.25],  # most likely the dog, but more likely a cat
                      [0.35, 0.40, 0.25],
                      [0.6, 0.1, 0.3],
                      [0.1, 0.8, 0.1]])
    labels = torch.tensor([1, 0, 2, 1])  # breed right, species wrong; the reverse; species only; both
    assert lesson.breed_and_species(p.log(), labels, species_of) == [50, 75]
    assert lesson.breed_and_species(p.log()[:1], labels[:1], species_of) == [100, 0]


def test_the_majority_is_that_of_the_training_labels():
    assert lesson.majority_percent(torch.tensor([0, 1, 1]), torch.tensor([0, 0, 0, 1])) == 25


# ---- training


def test_train_copy_leaves_the_trunk_alone_and_learns():
    images, labels = colored(60)
    trunk = small_trunk()
    before = copy.deepcopy(trunk.state_dict())
    model = lesson.train_copy(trunk, images, labels, 80, 5e-2, 0, small_settings())
    assert all(torch.equal(value, before[name]) for name, value in trunk.state_dict().items())
    assert not any(torch.equal(p, q) for p, q in zip(model.trunk.parameters(), trunk.parameters()))
    lesson.fresh_statistics(model, images)
    assert lesson.evaluate(model, images, labels)[1] > 0.9
    again = lesson.train_copy(trunk, images, labels, 80, 5e-2, 0, small_settings())
    assert torch.equal(again.head.weight, model.head.weight)


def test_the_rate_is_chosen_by_the_loss_on_the_validation_photos(monkeypatch):
    class Fixed(nn.Module):
        """Right on photos with a red first pixel of 1 (validation), by `margin`; right on all others."""

        def __init__(self, margin):
            super().__init__()
            self.margin = margin

        def forward(self, x):
            validation = ((x[:, 0, 0, 0] + 1) * 127.5).round() == 1
            return torch.stack([torch.where(validation, self.margin, 9.0), torch.zeros(len(x))], dim=1)

    asked = []
    monkeypatch.setitem(
        lesson.choose_rate.__globals__, "train_copy",
        lambda trunk, images, labels, steps, rate, seed, settings: asked.append((len(images), rate)) or Fixed(
            {1e-4: 9.0 - 8, 1e-3: 3.0, 1e-2: -1.0}[rate]))
    train, val = torch.zeros(5, 3, 8, 8, dtype=torch.uint8), torch.ones(3, 3, 8, 8, dtype=torch.uint8)
    zeros = torch.zeros(5, dtype=torch.long)
    best, model, losses = lesson.choose_rate(None, (1e-4, 1e-3, 1e-2), (train, zeros), (val, zeros[:3]), 9, 0, {})
    assert best == 1e-3 and model.margin == 3 and asked == [(5, 1e-4), (5, 1e-3), (5, 1e-2)]
    assert losses[1e-2] == pytest.approx(math.log(1 + math.e), rel=1e-4)


def test_logits_come_from_evaluation_mode_in_order():
    model = lesson.with_head(small_trunk(), 4, 3, 0, CPU)
    images = random_photos(450, 16)
    before = copy.deepcopy(model.state_dict())
    found = lesson.compute_logits(model.train(), images)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    with torch.no_grad():
        torch.testing.assert_close(found, model.eval()(lesson.photo_inputs(images)))


# ---- fresh statistics


@pytest.mark.parametrize("n", [1, 2, 31, 64, 70, 100])
def test_fresh_statistics_are_the_means_over_batches_whatever_was_there(n):
    images, model = random_photos(n), lesson.with_head(small_trunk(), 4, 3, 0, CPU)
    norm = model.trunk[1]
    norm.momentum, norm.running_var = 0.3, torch.full((4,), float("nan"))
    weights = [p.clone() for p in model.parameters()]
    lesson.fresh_statistics(model, images)
    parts = [model.trunk[0](lesson.photo_inputs(part)).detach() for part in images.tensor_split(max(1, n // 32))]
    mean = torch.stack([part.mean(dim=(0, 2, 3)) for part in parts]).mean(dim=0)
    var = torch.stack([part.var(dim=(0, 2, 3)) for part in parts]).mean(dim=0)
    torch.testing.assert_close(norm.running_mean, mean)
    torch.testing.assert_close(norm.running_var, var)
    assert norm.momentum == 0.3 and not model.training and not norm.training
    assert all(map(torch.equal, weights, model.parameters())) and all(p.grad is None for p in model.parameters())


def test_fresh_statistics_make_both_modes_agree_on_the_whole_resnet():
    torch.manual_seed(0)
    trunk = lesson.new_resnet(lesson.BasicBlock, (2, 2, 2, 2), 8, 1)[:-1]
    model, images = lesson.with_head(trunk, 64, 3, 0, CPU), random_photos(32, 64)
    lesson.fresh_statistics(model, images)
    with torch.no_grad():
        x = lesson.photo_inputs(images)
        evaluated, trained = model.eval()(x), model.train()(x)
    torch.testing.assert_close(evaluated, trained, rtol=0.1, atol=0.1)
    assert not torch.allclose(evaluated, evaluated[:1].expand_as(evaluated), atol=0.1)


def test_ratios_are_medians_of_running_variances_in_order():
    model = lesson.new_resnet18_trunk(0)
    other = copy.deepcopy(model)
    assert lesson.variance_ratios(model, other) == [1.0] * 20
    model.bn1.running_var[:40] = 3.0
    model.layer1[0].bn1.running_var[:10] = 3.0
    other.layer4[1].bn2.running_var.fill_(4.0)
    assert lesson.variance_ratios(model, other) == [3.0] + [1.0] * 18 + [0.25]


def test_a_run_uses_its_rows_and_is_measured_before_and_after_fresh_statistics(monkeypatch):
    images, labels = colored(90)
    data = {"train": (images[:60], labels[:60]), "test": (images[60:], labels[60:])}
    rows, trunk, options = torch.arange(50, 10, -1), small_trunk(), small_settings()

    def spoil(model, photos):
        """In place of fresh statistics: from now on the answer is always class 1."""
        assert torch.equal(photos, images[rows]), "statistics of other photos than those of the training"
        model.head.bias.data.copy_(torch.tensor([0.0, 1e6, 0.0]))

    monkeypatch.setitem(lesson.train_and_test.__globals__, "fresh_statistics", spoil)
    found = lesson.train_and_test(trunk, rows, 8, 1e-1, 1, data, options)
    model = lesson.train_copy(trunk, images[rows], labels[rows], 8, 1e-1, 1, options)
    running = 100 * lesson.evaluate(model, *data["test"])[1]
    assert found.pop("seconds") > 0 and running > 60
    assert found == {"photos": 40, "steps": 8, "seed": 1, "running statistics %": pytest.approx(running),
                     "accuracy %": pytest.approx(100 / 3), "species %": pytest.approx(100 / 3)}


# ---- frozen


def test_a_frozen_trunk_is_bit_equal_afterwards_and_gives_each_photo_its_own_features():
    images, labels = colored(90)
    data = {"train": (images[:60], labels[:60]), "test": (images[60:], labels[60:])}
    trunk = small_trunk().train()
    before = copy.deepcopy(trunk.state_dict())
    z = lesson.frozen_features(trunk, data)
    found = lesson.head_and_test(z, torch.arange(30), 0, data, small_settings())
    assert all(torch.equal(value, before[name]) for name, value in trunk.state_dict().items())
    assert all(p.grad is None for p in trunk.parameters())
    assert {part: tuple(features.shape) for part, features in z.items()} == {"train": (60, 4), "test": (30, 4)}
    assert not z["train"].is_inference()
    with torch.no_grad():
        torch.testing.assert_close(z["test"], trunk.eval()(lesson.photo_inputs(images[60:])))
    head = lesson.train_head(z["train"][:30], labels[:30], 3, 30, 1e-2, 0.1, 0)
    expected = lesson.breed_and_species(head(z["test"]), labels[60:], torch.tensor([0, 1, 0]))
    assert [found["accuracy %"], found["species %"]] == expected and found["photos"] == 30


# ---- the price list


@quiet
@given(st.lists(st.floats(0, 100), min_size=2, max_size=6))
def test_points_per_doubling_is_the_slope_of_a_line(accuracies):
    amounts = np.array([10, 25, 60, 200, 450, 2000])[:len(accuracies)]
    expected = linregress(np.log2(amounts), accuracies).slope
    assert lesson.points_per_doubling(amounts, accuracies) == pytest.approx(expected, abs=1e-8)


def test_slopes_are_of_one_seed_each():
    runs = pd.DataFrame([{"seed": seed, "photos": photos, "steps": 8, "accuracy %": 10 + (seed + 1) * np.log2(photos)}
                         for photos in (64, 4, 16) for seed in (2, 0, 1)])
    np.testing.assert_allclose(lesson.slopes(runs, "photos"), [1, 2, 3])


def test_amounts_by_hand():
    amounts, accuracies = (30, 120, 480), np.array([50.0, 60.0, 80.0])
    assert lesson.amount_for(40, amounts, accuracies) == lesson.amount_for(50, amounts, accuracies) == 30
    assert lesson.amount_for(55, amounts, accuracies) == pytest.approx(60)  # half way is one doubling of two
    assert lesson.amount_for(70, amounts, accuracies) == pytest.approx(240)
    assert lesson.amount_for(60, amounts, accuracies) == 120 and lesson.amount_for(80, amounts, accuracies) == 480
    assert lesson.amount_for(80.1, amounts, accuracies) == math.inf
    assert lesson.amount_for(float("nan"), amounts, accuracies) == math.inf
    assert lesson.amount_for(50, (30,), [50.0]) == 30 and lesson.amount_for(51, (30,), [50.0]) == math.inf
    assert lesson.amount_for(55, amounts, [50.0, 60.0, 40.0]) == pytest.approx(60)  # the first time


@quiet
@given(st.lists(st.floats(0, 100), min_size=2, max_size=5, unique=True), st.floats(0, 100))
def test_amounts_invert_a_rising_curve(accuracies, target):
    accuracies = sorted(accuracies)
    amounts = [20 * 3**k for k in range(len(accuracies))]
    found = lesson.amount_for(target, amounts, accuracies)
    if target > accuracies[-1]:
        assert found == math.inf
    else:
        back = np.interp(np.log2(found), np.log2(amounts), accuracies)
        assert back == pytest.approx(max(target, accuracies[0]), abs=1e-6)


# ---- figures and stored results


@pytest.fixture
def shown(monkeypatch):
    """The axes that a function has drawn, in place of showing them."""
    found = []
    monkeypatch.setattr(plt, "show", lambda: found.append(plt.gca()))
    yield found
    plt.close("all")


def lines(ax):
    """Label -> (x, y) of every line with error bars."""
    return {bars.get_label(): bars[0].get_xydata().T.tolist() for bars in ax.containers}


def test_the_curve_shows_mean_accuracy_against_photos(shown):
    rows = [{"method": method, "photos": photos, "seed": seed, "accuracy %": start + photos + seed, "species %": 99,
             "seconds": 3.0}
            for method, start in (("from scratch", 10), ("frozen", 30)) for photos in (20, 40) for seed in (0, 2)]
    lesson.draw_methods(pd.DataFrame(rows), "a title", 33.0)
    assert lines(shown[0]) == {"from scratch": [[20, 40], [31, 51]], "frozen": [[20, 40], [51, 71]]}
    assert shown[0].get_title() == "a title" and shown[0].lines[-1].get_ydata()[0] == 33


def test_the_budgets_show_each_kind_of_statistics_against_steps(shown):
    rows = pd.DataFrame({"steps": [5, 5, 9, 9], "running statistics %": [1, 3, 5, 7], "accuracy %": [20, 40, 60, 80]})
    lesson.draw_budgets(rows.groupby("steps").agg(["mean", "std"]), "a title", 33.0)
    found = lines(shown[0])
    assert found == {"running statistics of the training": [[5, 9], [2, 6]], "fresh statistics": [[5, 9], [30, 70]]}


def test_the_ratios_are_bars_in_order(shown):
    lesson.draw_ratios([3.0, 1.0, 0.5], "a title")
    assert [bar.get_height() for bar in shown[0].patches] == [3.0, 1.0, 0.5]


# ---- which photos go where, and what prices and results say


def curve(methods, column="photos", amounts=(20, 80)):
    """Runs of two seeds: the accuracy is a start plus two points a doubling; the species is 90, minus the seed."""
    return pd.DataFrame([{"method": method, column: n, "seed": seed, "accuracy %": start + 2 * np.log2(n) + seed,
                          "species %": 90.0 - seed, "seconds": start}
                         for method, start in methods.items() for n in amounts for seed in (0, 2)])


def test_photos_are_for_training_or_for_choices():
    data = {part: (torch.arange(n), torch.arange(n) % 3, torch.arange(n) % 2) for part, n in
            (("trainval", 40), ("test", 20))}
    found = run_cell(NOTEBOOK, "pool = torch.tensor(sorted", BREEDS=("a", "b"), SIDE=8, device=CPU, VALIDATION=10,
                     load_breeds=lambda part, *_: data[part],
                     draw_photos=lambda n, size, seed: torch.randperm(n)[:size])
    assert sorted([*found["pool"].tolist(), *found["val"].tolist()]) == list(range(40)) and len(found["val"]) == 10
    assert found["images"] is data["trainval"][0] and found["test_images"] is data["test"][0]


def test_the_price_list_has_both_axes():
    means = pd.DataFrame({20: [50.0, 30], 80: [60.0, 45]}, index=["from scratch", "frozen random"])
    budget = curve({"from scratch": 10.0}, "steps", (5, 10)).assign(photos=80)
    found = run_cell(NOTEBOOK, 'time_slopes = slopes(', slopes=lesson.slopes, budget_runs=budget, means=means,
                     SIZES=(20, 80), amount_for=lesson.amount_for,
                     curve=curve({"from scratch": 10.0}), photo_slopes=[1.0, 3.0])
    assert found["time_slopes"] == pytest.approx([2, 2])
    assert found["price"].loc["a doubling of the photos"].tolist() == pytest.approx([2, 1.4])
    assert found["same_as_random"] == 20


def test_large_photos_are_those_of_the_small_ones_and_the_wrong_colors_are_only_in_the_test():
    found = {part: tuple(torch.arange(n) + first for first in (0, 1000)) + (None,) for part, n in
             (("trainval", 40), ("test", 20))}
    pool, val = torch.tensor([5, 7, 9]), torch.tensor([4, 6])
    large = run_cell(NOTEBOOK, "large_val = tuple(", BREEDS=(), LARGE_SIDE=8, device=CPU, pool=pool, val=val,
                     settings={}, augment=lambda images, transform, group: images,
                     load_breeds=lambda part, *_: found[part])
    assert [part.tolist() for part in large["large"]["train"]] == [[5, 7, 9], [1005, 1007, 1009]]
    assert [part.tolist() for part in large["large_val"]] == [[4, 6], [1004, 1006]]
    assert large["large"]["test"][0] is found["test"][0] and large["large"]["test"][1] is found["test"][1]
    photos = torch.tensor([10.0, 20, 30])[None, :, None, None].expand(4, 3, 2, 2)
    heads = []
    colors = run_cell(
        NOTEBOOK, "bgr_z = z |", on_imagenet_colors=lambda trunk: nn.Identity(), pretrained=None, device=CPU,
        large={"train": (photos, 0), "test": (photos, 1)}, frozen_features=lambda trunk, data: {
            part: images[:, :, 0, 0] for part, (images, _) in data.items()}, draw_photos=lesson.draw_photos,
        pool=pool, SIZES=(2, 3), SEEDS=(0,), settings={}, head_and_test=lambda z, rows, seed, data, settings:
            heads.append((z["train"][0].tolist(), z["test"][0].tolist())) or {"accuracy %": z["test"][0, 0].item()})
    assert heads == [([10, 20, 30], [10, 20, 30]), ([10, 20, 30], [30, 20, 10])]
    assert colors["colors"] == {"red, green, blue": 10, "blue, green, red": 30}


def test_draw_photos_is_used_for_every_size_with_its_seed():
    """The large curve: the same rows for all methods, each method from its own start and with its own rate."""
    asked = []
    found = run_cell(
        NOTEBOOK, "large_curve = pd.DataFrame", SEEDS=(0, 2), SIZES=(2, 3), STEPS=(5, 9), pool=torch.arange(10),
        device=CPU, starts={"from scratch": None, "fine-tuned": "learned"}, settings={}, large="data", z="z",
        on_imagenet_colors=lambda trunk: trunk, new_resnet18_trunk=lambda seed: f"random {seed}",
        rates={"from scratch": 0.1, "fine-tuned": 0.01}, draw_photos=lesson.draw_photos,
        head_and_test=lambda z, rows, seed, data, settings: {"rows": rows.tolist(), "seed": seed},
        train_and_test=lambda start, rows, steps, rate, seed, data, settings: asked.append((start, steps, rate)) or {
            "rows": rows.tolist(), "seed": seed})["large_curve"]
    for _, some in found.groupby([found["seed"], found["rows"].map(len)]):
        assert len(some) == 3 and some["rows"].map(tuple).nunique() == 1
        assert set(some["method"]) == {"from scratch", "frozen", "fine-tuned"}
    assert asked == [call for seed in (0, 2) for _ in (2, 3)
                     for call in ((f"random {seed}", 9, 0.1), ("learned", 9, 0.01))]


def test_results_are_taken_from_where_they_belong():
    means = pd.DataFrame({20: [50.0, 30], 80: [60.0, 45]}, index=["from scratch", "frozen random"])
    best = curve({"from scratch": 50.0}, amounts=(80,))
    found = run_cell(
        NOTEBOOK, '"scratch_learning_rate"', means=means, SIZES=(20, 80), STEPS=(5, 9), repair={5: 16.0, 9: 1.0},
        best=best, baselines=(33.0, 66.0), photo_slopes=[1.0, 3.0], time_slopes=[4.0, 6.0], scratch_rate=0.01,
        same_as_random=20.0, ratios=[1.9, 1.0], pairs=range(4), largest=1e-12)["results"]
    accuracy = 50 + 2 * np.log2(80) + 1
    assert found == pytest.approx({
        "scratch_20_breed_percent": 50, "scratch_80_breed_percent": 60, "frozen_random_20_breed_percent": 30,
        "frozen_random_80_breed_percent": 45, "fresh_statistics_after_5_steps_points": 16,
        "fresh_statistics_after_9_steps_points": 1, "scratch_breed_percent": accuracy,
        "scratch_breed_std": 2**0.5, "breed_baseline_percent": 33, "scratch_species_percent": 89,
        "species_baseline_percent": 66, "points_per_doubling_of_photos": 2, "points_per_doubling_of_steps": 5,
        "scratch_learning_rate": 0.01, "photos_worth_frozen_random": 20, "first_variance_too_large_times": 1.9,
        "pairs_on_two_sides": 4, "photos": 80, "difference_to_torchvision": 1e-12})
    most = pd.DataFrame({"accuracy %": [70.0, 80], "species %": [97.0, 99]}, index=["frozen", "fine-tuned"])
    found = run_cell(
        NOTEBOOK, '"large_frozen_bgr_percent"', results={"kept": 1.0}, most=most, worth={"frozen": 40.0},
        large_means=pd.DataFrame({20: [70.0, 75], 80: [80.0, 85]}, index=["frozen", "fine-tuned"]),
        colors={"red, green, blue": 90.0, "blue, green, red": 60.0})["results"]
    assert found == {
        "kept": 1, "large_frozen_20_breed_percent": 70, "large_frozen_80_breed_percent": 80,
        "large_fine_tuned_20_breed_percent": 75, "large_fine_tuned_80_breed_percent": 85,
        "large_frozen_species_percent": 97, "large_fine_tuned_species_percent": 99, "large_frozen_worth_photos": 40,
        "large_frozen_bgr_percent": 60}


def test_stored_results_fit_together():
    """Results taken from another variable than their name says would not."""
    measured = read(ROOT / NOTEBOOK).metadata["shelf"].get("measured", {})
    for run in measured.values():
        found = run["results"]
        most = max(int(name.split("_")[1]) for name in found if name.startswith("scratch_") and "0_breed" in name)
        assert found["scratch_breed_percent"] == pytest.approx(found[f"scratch_{most}_breed_percent"])
        assert found["photos"] == most and found["difference_to_torchvision"] < 1e-9
        assert found["breed_baseline_percent"] == pytest.approx(100 / 3, abs=1)
        assert found["species_baseline_percent"] == pytest.approx(200 / 3, abs=1)
        assert found["scratch_breed_percent"] < found["scratch_species_percent"] <= 100  # the easier question
        assert found["frozen_random_30_breed_percent"] < found[f"frozen_random_{most}_breed_percent"]
