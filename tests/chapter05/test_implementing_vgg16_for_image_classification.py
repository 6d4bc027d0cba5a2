"""What Implementing_VGG16_for_image_classification.ipynb defines: trunks, frozen features and heads, the curve."""
import copy
from types import SimpleNamespace

import matplotlib.pyplot as plt
import pandas
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn
from torchvision.models import VGG16_Weights, vgg

from tests.cells import run_cell
from tests.definitions import definitions

NOTEBOOK = "Chapter05/Implementing_VGG16_for_image_classification.ipynb"
CPU = torch.device("cpu")
lesson = definitions(
    NOTEBOOK, "new_trunk", "with_head", "draw_photos", "compute_features", "train_head", "Frozen", "trunk_changes",
    "learning_curve", "small_trunks", "paired_statistics", "Rescale", "photo_inputs", "evaluate", "load_imagenette",
    "load_pets", "vgg16_trunk", "large_trunks", "draw_curve", CONFIGURATION="4 M 8 M 8 M", SCRATCH_RATE=5e-3,
    TUNING_RATE=2e-3)


def photos(n, seed=0):
    """n noisy photos of four classes; a class has its own colors."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % 4
    images = torch.randint(0, 90, (n, 3, 16, 16), generator=generator)
    images[:, 0] += (labels % 2 * 120)[:, None, None]
    images[:, 1] += (labels // 2 * 120)[:, None, None]
    return images.to(torch.uint8), labels


def test_the_trunk_is_torchvisions_vgg_with_batch_norm():
    ours = lesson.new_trunk("4 M 8 8 M", 0)
    theirs = vgg.make_layers([4, "M", 8, 8, "M"], batch_norm=True)
    for one, other in zip((m for m in ours if isinstance(m, nn.Conv2d | nn.BatchNorm2d)),
                          (m for m in theirs if isinstance(m, nn.Conv2d | nn.BatchNorm2d)), strict=True):
        other.load_state_dict(one.state_dict(), strict=False)  # ours has no bias in front of a batch norm
        if isinstance(other, nn.Conv2d):
            nn.init.zeros_(other.bias)
    for training in (True, False):
        x = torch.randn(3, 3, 13, 21)
        torch.testing.assert_close(ours.train(training)(x), theirs.train(training)(x).mean(dim=(2, 3)))


def test_trunks_follow_the_seed_and_heads_leave_them_alone():
    a, b, c = (lesson.new_trunk("4 M 8", seed) for seed in (0, 0, 1))
    assert torch.equal(a[0].weight, b[0].weight) and not torch.equal(a[0].weight, c[0].weight)
    model = lesson.with_head(a, 8, 5, 3, CPU)
    assert model(torch.zeros(2, 3, 16, 16)).shape == (2, 5)
    with torch.no_grad():
        model.trunk[0].weight.zero_()
    assert torch.equal(a[0].weight, b[0].weight), "the head shares its trunk with the original"


def test_smaller_sets_are_parts_of_larger_ones():
    large, small = (lesson.draw_photos(50, size, 7) for size in (40, 10))
    assert set(small.tolist()) <= set(large.tolist()) and len(large.unique()) == 40
    assert not torch.equal(lesson.draw_photos(50, 10, 8), small)


def test_features_are_those_of_evaluation_mode_and_change_nothing():
    images, _ = photos(11)
    trunk = lesson.new_trunk("4 M 8", 0).train()
    twin = copy.deepcopy(trunk).eval()
    z = lesson.compute_features(trunk, images)
    torch.testing.assert_close(z, torch.cat([twin(lesson.photo_inputs(image[None])) for image in images]).detach(),
                               rtol=1e-4, atol=1e-5)
    assert all(map(torch.equal, trunk.state_dict().values(), twin.state_dict().values()))


def test_the_head_learns_scales_by_training_features_only_and_is_logistic_regression():
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(60) % 3
    z = torch.randn(60, 5, generator=generator) * torch.tensor([1.0, 100, 0.01, 1, 0]) + 7
    z[:, 1] += 900 * (labels == 1)
    z[:, 2] += 0.06 * (labels == 2)
    head = lesson.train_head(z, labels, 3, 300, 0.05, 0.0, 0)
    assert (head(z).argmax(dim=1) == labels).float().mean() > 0.95
    assert torch.equal(head(z[:1]), head(z[:1].clone())) and not head(z).requires_grad
    torch.testing.assert_close(head(z)[:1], head(z[:1]))  # does not depend on the other rows
    from sklearn.linear_model import LogisticRegression
    scaled = ((z - z.mean(dim=0)) / (z.std(dim=0) + 1e-3)).numpy()
    theirs = LogisticRegression(C=1e6, max_iter=5000).fit(scaled, labels.numpy())
    assert (head(z).argmax(dim=1).numpy() == theirs.predict(scaled)).mean() > 0.95


def test_frozen_stays_in_evaluation_mode_and_gets_no_gradient():
    frozen = lesson.Frozen(lesson.new_trunk("4 M 8", 0))
    model = nn.Sequential(frozen, nn.Linear(8, 2)).train()
    assert not any(module.training for module in frozen.modules()) and model[1].training
    before = copy.deepcopy(frozen.state_dict())
    model(torch.randn(4, 3, 8, 8)).sum().backward()
    assert all(p.grad is None for p in frozen.parameters()) and model[1].weight.grad is not None
    assert all(torch.equal(value, before[name]) for name, value in frozen.state_dict().items())


@pytest.mark.parametrize(("kind", "weights", "statistics"), [
    ("fine-tuned", False, False), ("requires_grad only", True, False), ("Frozen", True, True)])
def test_what_changes_in_each_way(kind, weights, statistics):
    images, labels = photos(24)
    trunk = lesson.new_trunk("4 M 8", 0)
    before = copy.deepcopy(trunk.state_dict())
    settings = {"features": 8, "steps": 4, "batch_size": 8, "rate": 1e-2}
    found = lesson.trunk_changes(kind, trunk, images, labels, 4, settings)
    assert (found["weights bit-equal"], found["statistics bit-equal"]) == (weights, statistics)
    assert (found["features changed by"] == "0.0%") == statistics
    assert all(torch.equal(value, before[name]) for name, value in trunk.state_dict().items())
    assert all(p.requires_grad for p in trunk.parameters()), "the original trunk was frozen as well"


def test_the_curve_has_all_runs_and_its_accuracies_are_right(monkeypatch):
    data, held_out = photos(40), photos(20, seed=1)
    seen = []

    def spy(model, images, labels, steps, batch_size, learning_rate, seed, change):
        seen.append((len(images), learning_rate, seed, images.flatten(1).float().mean(dim=1), labels))

    monkeypatch.setitem(lesson.learning_curve.__globals__, "train", spy)
    trunk = lesson.new_trunk("4 M 8 M 8 M", 5)
    z = {part: lesson.compute_features(trunk, images).clone()
         for part, images in (("train", data[0]), ("held out", held_out[0]))}
    settings = {"features": 8, "steps": 2, "batch_size": 4, "change": None, "head": (50, 0.05, 0.0)}
    curve = lesson.learning_curve(lambda seed: lesson.small_trunks(trunk, seed), z, data, held_out, 4, (8, 20), (0, 1),
                                  settings)
    assert len(curve) == 12 and set(curve["method"]) == {"from scratch", "frozen", "fine-tuned"}
    assert [(n, rate, seed) for n, rate, seed, *_ in seen] == [
        (n, rate, seed) for seed in (0, 1) for n in (8, 20) for rate in (5e-3, 2e-3)]
    for n, _, seed, means, labels in seen:
        rows = lesson.draw_photos(40, n, seed)
        assert torch.equal(labels, data[1][rows])
        torch.testing.assert_close(means, data[0][rows].flatten(1).float().mean(dim=1))
    rows = lesson.draw_photos(40, 20, 1)
    head = lesson.train_head(z["train"][rows], data[1][rows], 4, 50, 0.05, 0.0, 1)
    right = (head(z["held out"]).argmax(dim=1) == held_out[1]).float().mean().item()
    found = curve.query("method == 'frozen' and photos == 20 and seed == 1")["accuracy %"].item()
    assert found == pytest.approx(100 * right)
    model = lesson.with_head(trunk, 8, 4, 1, CPU)  # the spy has trained nothing
    tuned = curve.query("method == 'fine-tuned' and photos == 20 and seed == 1")["accuracy %"].item()
    assert tuned == pytest.approx(100 * lesson.evaluate(model, *held_out)[1])


def test_every_run_of_the_curve_is_measured_on_held_out_photos(monkeypatch):
    scope, asked = lesson.learning_curve.__globals__, []
    monkeypatch.setitem(scope, "train", lambda *arguments: None)
    monkeypatch.setitem(scope, "with_head", lambda *arguments: None)
    monkeypatch.setitem(scope, "evaluate", lambda model, *part: asked.append(part) or (0.0, 0.25))
    monkeypatch.setitem(scope, "train_head", lambda z, *rest: lambda other: other)
    data, held_out = (torch.arange(9), torch.arange(9) % 2), (torch.arange(4), torch.tensor([0, 1, 1, 1]))
    z = {"train": torch.eye(2)[[1] * 9], "held out": torch.eye(2)[[0, 0, 1, 1]]}  # features that are the answers
    settings = {"features": 2, "steps": 1, "batch_size": 1, "change": None, "head": ()}
    trunks = (("from scratch", "random", 0.1), ("frozen", None, None), ("fine-tuned", "learned", 0.1))
    curve = lesson.learning_curve(lambda seed: trunks, z, data, held_out, 2, (3, 5), (0,), settings)
    assert len(asked) == 4 and all(part[0] is held_out[0] and part[1] is held_out[1] for part in asked)
    assert curve["accuracy %"].tolist() == 2 * [25, 75, 25]


def test_rescaling_is_what_the_weights_expect():
    scale = VGG16_Weights.IMAGENET1K_V1.transforms()
    images = torch.randint(0, 256, (2, 3, 4, 4), dtype=torch.uint8)
    expected = (images / 255 - torch.tensor(scale.mean).view(3, 1, 1)) / torch.tensor(scale.std).view(3, 1, 1)
    torch.testing.assert_close(lesson.Rescale(scale.mean, scale.std)(lesson.photo_inputs(images)), expected,
                               rtol=1e-4, atol=1e-5)


def test_evaluation_is_the_mean_over_all_photos():
    images, labels = photos(23)
    model = lesson.with_head(lesson.new_trunk("4 M 8", 0), 8, 4, 0, CPU)
    logits = model.eval()(lesson.photo_inputs(images))
    loss, accuracy = lesson.evaluate(model.train(), images, labels)
    assert loss == pytest.approx(F.cross_entropy(logits, labels).item(), rel=1e-4)
    assert accuracy == pytest.approx((logits.argmax(dim=1) == labels).float().mean().item())


def test_gains_are_paired_by_seed_and_positive_where_scratch_is_worse():
    rows = [{"method": method, "photos": photos, "seed": seed, "accuracy %": start + photos + 10 * seed + extra * seed}
            for method, start, extra in (("from scratch", 0, 0), ("frozen", -3, 0), ("fine-tuned", 5, 1))
            for photos in (50, 200) for seed in (2, 0, 1)]
    stats = lesson.paired_statistics(pandas.DataFrame(rows[::-1]))
    expected = {"gain of fine-tuning": ([6, 6], [1, 1]), "gain of frozen": ([-3, -3], [0, 0]),
                "from scratch": ([60, 210], [10, 10])}
    for name, (mean, std) in expected.items():
        assert (stats[name]["mean"].tolist(), stats[name]["std"].tolist()) == (mean, std)
    one = lesson.paired_statistics(pandas.DataFrame([row for row in rows if row["seed"] == 1]))
    assert one["frozen"]["std"].tolist() == [0, 0]  # one seed: no deviation, and no NaN


# --- which photos go where, and what figures and results say


class Numbered:
    """Stands for Imagenette or the pets: photo k is red by k and blue by 200, its label follows from k."""

    classes = (("tench", "a fish"), ("church", ""), ("parachute", ""))
    start = {"train": 0, "val": 60, "trainval": 0, "test": 60}

    def __init__(self, root, part, size=None, download=False, transform=None):
        self.transform, self.first = transform, self.start[part]

    def __len__(self):
        return 21

    def __getitem__(self, k):
        if k >= len(self):
            raise IndexError
        number = self.first + k
        return self.transform(Image.new("RGB", (30, 20), (number, 0, 200))), number * 2 % 3


def test_photos_of_imagenette_keep_their_colors_and_labels_and_stand_in_one_part(monkeypatch):
    monkeypatch.setitem(lesson.load_imagenette.__globals__, "Imagenette", Numbered)
    data, names = lesson.load_imagenette(8, CPU)
    assert names == ["tench", "church", "parachute"]
    numbers = {}
    for part, (images, labels) in data.items():
        assert images.shape[1:] == (3, 8, 8) and images.dtype == torch.uint8 and (images[:, 2] == 200).all()
        numbers[part] = images[:, 0, 4, 4].long()
        assert torch.equal(numbers[part] * 2 % 3, labels), "labels of other photos"
    assert numbers["train"].tolist() == list(range(21))
    assert sorted(torch.cat([numbers["val"], numbers["test"]]).tolist()) == list(range(60, 81))


def test_pets_keep_their_colors_and_labels(monkeypatch):
    monkeypatch.setitem(lesson.load_pets.__globals__, "OxfordIIITPet", Numbered)
    images, labels, _ = lesson.load_pets("test", 8, CPU)
    numbers = images[:, 0, 4, 4].long()
    assert (images[:, 2] == 200).all() and torch.equal(numbers * 2 % 3, labels) and numbers[0] == 60


def test_the_large_trunk_sees_what_its_weights_expect(monkeypatch):
    """Colors as by the weights' own transforms, in this order; and weights only where the method has them."""
    asked = []
    monkeypatch.setitem(lesson.vgg16_trunk.__globals__, "vgg16",
                        lambda weights: asked.append(weights) or SimpleNamespace(features=nn.Identity()))
    images = torch.randint(0, 256, (2, 3, 16, 16), dtype=torch.uint8)
    images[0, 1:] = 0
    expected = VGG16_Weights.IMAGENET1K_V1.transforms(crop_size=16, resize_size=16)(images).mean(dim=(2, 3))
    torch.testing.assert_close(lesson.vgg16_trunk(None)(lesson.photo_inputs(images)), expected, rtol=1e-4, atol=1e-5)
    asked.clear()
    assert [method for method, *_ in lesson.large_trunks(0)] == ["from scratch", "frozen", "fine-tuned"]
    assert asked == [None, VGG16_Weights.IMAGENET1K_V1]


def test_the_first_result_is_of_held_out_photos_and_its_baseline_of_training_labels():
    data = {"train": (torch.arange(60), torch.tensor([2] * 40 + [1] * 20))}
    held_out = torch.arange(100, 110), torch.tensor([1] * 7 + [2] * 3)
    trained = []

    def train(model, images, labels, steps, batch_size, rate, seed, change):
        trained.append((images.tolist(), labels.tolist(), rate))
        model["rate"] = rate

    def evaluate(model, images, labels):
        assert images is held_out[0] and labels is held_out[1]
        return 0.0, 10 * model["rate"]

    found = run_cell(
        NOTEBOOK, "most_frequent = (", SIZES=(5, 20, 40), SEEDS=(3, 4), SCRATCH_RATE=0.01, TUNING_RATE=0.02, STEPS=1,
        BATCH_SIZE=1, CONFIGURATION="", data=data, held_out=held_out, classes=["a", "b", "c"], channels=8, change=None,
        device=CPU, pretrained="learned", new_trunk=lambda configuration, seed: "random", train=train,
        draw_photos=lesson.draw_photos, evaluate=evaluate, with_head=lambda trunk, *_: {"trunk": trunk})
    assert found["most_frequent"] == pytest.approx(0.3), "the most frequent class of the training photos"
    rows = lesson.draw_photos(60, 20, 3)
    assert [call[:2] for call in trained] == 2 * [(rows.tolist(), data["train"][1][rows].tolist())]
    assert found["first"] == {"from scratch": 0.1, "pretrained": 0.2} and found["model"]["trunk"] == "learned"


def test_frozen_features_are_of_the_photos_that_their_names_say():
    names = {"train_head": lambda *_: lambda z: torch.eye(3)[[0, 1, 1]], "rows": torch.tensor([0]), "some": [0, 0],
             "classes": [], "HEAD_STEPS": 1, "HEAD_RATE": 1, "HEAD_DECAY": 1, "SEEDS": (0,), "device": CPU,
             "compute_features": lambda trunk, images: images + 0.5}
    held_out = torch.arange(7.0, 10), torch.tensor([0, 1, 2])
    found = run_cell(NOTEBOOK, 'z = {"train": compute_features', pretrained=None, held_out=held_out,
                     data={"train": (torch.arange(4.0), torch.arange(4))}, **names)
    assert found["z"]["train"].tolist() == [0.5, 1.5, 2.5, 3.5] and found["z"]["held out"].tolist() == [7.5, 8.5, 9.5]
    assert found["accuracy"] == pytest.approx(2 / 3)
    given = []
    found = run_cell(
        NOTEBOOK, "pet_z = {part: compute_features", pets=[torch.arange(4.0), "breeds"], breeds=["pug"], settings={},
        pets_held_out=[torch.arange(7.0, 10), "others"], PET_STEPS=1, PET_SIZES=(1,), PET_SEEDS=(0,), device=CPU,
        vgg16_trunk=lambda weights: nn.Identity(), large_trunks=None, learning_curve=lambda *a: given.extend(a),
        compute_features=names["compute_features"])
    assert found["pet_z"]["train"].tolist() == [0.5, 1.5, 2.5, 3.5]
    assert found["pet_z"]["held out"].tolist() == [7.5, 8.5, 9.5]
    assert given[2][1] == "breeds" and given[3][1] == "others" and given[1] is found["pet_z"]


def curve_table():
    """Accuracies by method, photos and seed: from scratch 10 + n, frozen 20 + n, fine-tuned 30 + 2 n, plus the seed."""
    return pandas.DataFrame([
        {"method": method, "photos": n, "seed": seed, "accuracy %": start + factor * n + seed, "seconds": 1.0}
        for method, start, factor in (("from scratch", 10, 1), ("frozen", 20, 1), ("fine-tuned", 30, 2))
        for n in (5, 20) for seed in (0, 2)])


def test_the_curve_is_drawn_as_its_title_says(monkeypatch):
    monkeypatch.setattr(plt, "show", lambda: None)
    stats = lesson.paired_statistics(curve_table())
    lesson.draw_curve(stats, "a title", 33.0)
    ax = plt.gca()
    drawn = {bars.get_label(): bars[0].get_xydata().T.tolist() for bars in ax.containers}
    assert drawn == {"from scratch": [[5, 20], [16, 31]], "frozen": [[5, 20], [26, 41]],
                     "fine-tuned": [[5, 20], [41, 71]]}
    assert [line.get_ydata()[0] for line in ax.lines[-2:]] == [31, 33]
    plt.close("all")
    given = []
    run_cell(NOTEBOOK, "draw_curve(stats, f", stats=stats, SIZES=(5, 20), most_frequent=0.25,
             draw_curve=lambda *arguments: given.extend(arguments))
    assert given[1] == "With 20 photos fine-tuning gains +40.0 points over scratch, with 5 photos +25.0"
    assert given[0] is stats and given[2] == 25
    run_cell(NOTEBOOK, "draw_curve(pet_stats, f", PET_SIZES=(5, 20), paired_statistics=lesson.paired_statistics,
             pet_curve=curve_table(), pets=[0, torch.tensor([1, 1, 0])], pets_held_out=[0, torch.tensor([1, 0, 0, 0])],
             draw_curve=lambda *arguments: given.extend(arguments))
    assert given[4] == "With 5 photos: frozen 26 %, from scratch 16 %" and given[5] == 25


def test_results_are_taken_from_where_they_belong():
    stats = lesson.paired_statistics(curve_table())
    source = {"train": ("photos", "labels"), "test": ("other photos", "their labels")}
    found = run_cell(
        NOTEBOOK, '"teacher_test_percent"', stats=stats, SIZES=(5, 20), most=20, most_frequent=0.25, teacher=None,
        gain=stats["gain of fine-tuning"]["mean"], source=source,
        evaluate=lambda model, *part: (0.0, {"photos": 0.9, "other photos": 0.6}[part[0]]))["results"]
    expected = {"from_scratch_5_percent": 16, "from_scratch_20_percent": 31, "frozen_5_percent": 26,
                "frozen_20_percent": 41, "fine_tuned_5_percent": 41, "fine_tuned_20_percent": 71,
                "gain_most_photos_points": 40, "gain_few_photos_points": 25, "most_frequent_class_percent": 25,
                "most_photos": 20, "teacher_test_percent": 60}
    assert found == pytest.approx(expected)
    found = run_cell(NOTEBOOK, '"pets_most_frequent_class_percent"', results={"kept": 1.0}, pet_stats=stats,
                     PET_SIZES=(5, 20), pet_baseline=4.0)["results"]
    expected = {"kept": 1, "pets_most_frequent_class_percent": 4, "pets_frozen_most_photos_percent": 41}
    for name, values in (("from_scratch", (16, 31)), ("frozen", (26, 41)), ("fine_tuned", (41, 71))):
        expected |= {f"pets_{name}_{n}_percent": value for n, value in zip((5, 20), values)}
    assert found == pytest.approx(expected)
