"""What Road_sign_detection.ipynb defines: the split by track, its network, effects of a 2×2 experiment, temperature."""
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import nn

from tests.cells import run_cell
from tests.definitions import definitions

CPU = torch.device("cpu")
NOTEBOOK = "Chapter06/Road_sign_detection.ipynb"
lesson = definitions(
    NOTEBOOK, "NAMES", "MIRRORED", "load_signs", "track_of", "split_tracks", "sign_model",
    "effects", "best_temperature", "predict", "recipes", "augmentation", "flips", "changes",
    "reliability", "calibration_error")  # fmt: skip
quickly = settings(deadline=None, derandomize=True, max_examples=30)


def test_a_track_is_class_and_number():
    one, other, class_two = (lesson.track_of(Path(f"GTSRB/Training/{name}.ppm"))
                             for name in ("00001/00003_00017", "00001/00003_00004", "00002/00003_00017"))
    assert one == other and one != class_two


@quickly
@given(st.dictionaries(st.integers(0, 42), st.integers(2, 9), min_size=1, max_size=6),
       st.sampled_from([0.2, 0.25, 0.5]),
       st.integers(0, 3))  # fmt: skip
def test_whole_tracks_of_every_class_go_to_each_side(classes, share, seed):
    tracks = [(f"{label:05d}", f"{track:05d}") for label, count in classes.items()
              for track in range(count) for _ in range(3)]
    order = np.random.default_rng(0).permutation(len(tracks))
    tracks = [tracks[i] for i in order]
    parts = lesson.split_tracks(tracks, share, seed)
    assert sorted(torch.cat(list(parts.values())).tolist()) == list(range(len(tracks)))
    train, val = ({tracks[i] for i in parts[part].tolist()} for part in ("train", "val"))
    assert not train & val
    for label, count in classes.items():
        held = sum(track[0] == f"{label:05d}" for track in val)
        assert held == max(1, round(share * count)) and held < count


def test_signs_are_read_with_their_labels(tmp_path, monkeypatch):
    class Fake:
        asked = []

        def __init__(self, root, split, download=False):
            self.asked.append(download)
            if not download:
                raise RuntimeError("Dataset not found")
            self._samples = []
            for label, color in ((7, (250, 10, 20)), (3, (10, 250, 20))):
                path = tmp_path / f"{label}.ppm"
                Image.new("RGB", (40, 30), color).save(path)
                self._samples.append((str(path), label))

    monkeypatch.setitem(lesson.load_signs.__globals__, "GTSRB", Fake)
    images, labels, paths = lesson.load_signs(tmp_path, "train", 16)
    assert Fake.asked == [False, True] and labels.tolist() == [7, 3] and [path.stem for path in paths] == ["7", "3"]
    assert images.shape == (2, 3, 16, 16) and images[:, :, 5, 5].tolist() == [[250, 10, 20], [10, 250, 20]]


def test_names_are_of_the_benchmark():
    assert len(lesson.NAMES) == len(set(lesson.NAMES)) == 43
    assert [lesson.NAMES[k] for k in (0, 14, 17, 33, 38, 42)] == [
        "20 km/h", "stop", "no entry", "turn right", "keep right", "end of no passing for trucks"]
    for a, b in lesson.MIRRORED:
        swapped = lesson.NAMES[a].replace("left", "@").replace("right", "left").replace("@", "right")
        assert swapped == lesson.NAMES[b]
    partnered = set(sum(lesson.MIRRORED, ()))
    sided = {k for k, name in enumerate(lesson.NAMES) if "left" in name or "right" in name}
    assert sided - partnered == {11, 24}  # right of way; the road that narrows has no partner here


@pytest.mark.parametrize("norm", [False, True])
def test_network(norm):
    model = lesson.sign_model(0, CPU, 4, norm)
    assert model(torch.zeros(2, 3, 32, 32)).shape == (2, 43)
    assert sum(isinstance(module, nn.BatchNorm2d) for module in model.modules()) == 3 * norm
    assert all((module.bias is None) == norm for module in model.modules() if isinstance(module, nn.Conv2d))
    again, other = (lesson.sign_model(seed, CPU, 4, norm)[0][0].weight for seed in (0, 1))
    assert torch.equal(model[0][0].weight, again) and not torch.equal(model[0][0].weight, other)


@quickly
@given(*[st.floats(-50, 50)] * 4)
def test_effects_are_the_contrasts_of_a_linear_model(constant, norm, augmentation, interaction):
    a00, a10, a01 = constant, constant + norm, constant + augmentation
    found = lesson.effects(a00, a10, a01, constant + norm + augmentation + interaction)
    assert found["interaction"] == pytest.approx(interaction, abs=1e-6)
    assert found["batch norm"] == pytest.approx(norm + interaction / 2, abs=1e-6)
    assert found["augmentation"] == pytest.approx(augmentation + interaction / 2, abs=1e-6)


@pytest.mark.parametrize("scale", [0.5, 1.0, 3.0])
def test_temperature_undoes_a_scale(scale):
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(6000, 5, generator=generator)
    labels = torch.multinomial(logits.softmax(1), 1, generator=generator).squeeze(1)
    T = lesson.best_temperature(scale * logits, labels)
    assert T == pytest.approx(scale, rel=0.12)
    losses = [F.cross_entropy(scale * logits / t, labels).item() for t in np.linspace(0.3, 5, 200)]
    assert F.cross_entropy(scale * logits / T, labels).item() <= min(losses) + 1e-3


def test_the_four_recipes_differ_in_what_they_are_called_after():
    assert list(lesson.recipes) == ["plain", "batch norm", "augmentation", "both"]
    for name, (norm, change) in lesson.recipes.items():
        assert norm == (name in ("batch norm", "both"))
        assert (change is lesson.augmentation) == (name in ("augmentation", "both"))
    images = torch.randint(0, 256, (8, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    changed = lesson.augmentation(images)
    assert changed.shape == images.shape and changed.dtype == torch.uint8 and not torch.equal(changed, images)
    assert torch.equal(lesson.recipes["plain"][1](images), images)


def test_only_the_flips_mirror():
    kinds = [[type(change).__name__ for change in one.transforms] for one in (lesson.changes, lesson.flips)]
    assert kinds[1] == [*kinds[0], "RandomHorizontalFlip"] and "RandomHorizontalFlip" not in kinds[0]


# ---- which signs and networks go where, and what tables, figures and results say


def part_of(value, labels):
    """Signs (n, 3, 2, 2) whose pixels have the value that names their part, with their labels."""
    labels = torch.tensor(labels)
    return torch.full((len(labels), 3, 2, 2), value, dtype=torch.uint8), labels


PARTS = {"train": part_of(10, [0, 1, 1, 33]), "val": part_of(20, [33, 34, 1, 1, 2, 2])}


def value_of(images):
    return images[0, 0, 0, 0].item()


def test_each_recipe_is_trained_and_measured_as_it_says():
    """The accuracy of a run is that of its part, plus one for batch norm and two for augmentation."""
    def train(network, images, labels, steps, batch_size, rate, seed, change):
        network["trained on"], network["changed"], network["seed"] = value_of(images), change == "augmentation", seed

    def evaluate(network, part):
        assert network["trained on"] == 10
        return 0.0, (value_of(part[0]) + network["norm"] + 2 * network["changed"]) / 100

    found = run_cell(
        NOTEBOOK, "recipes = {", augmentation="augmentation", SEEDS=(3, 4), device=CPU, WIDTH=1, parts=PARTS, STEPS=1,
        BATCH_SIZE=1, LEARNING_RATE=1, train=train, evaluate=evaluate,
        sign_model=lambda seed, device, width, norm: {"norm": norm})["found"]
    gains = {"plain": 0, "batch norm": 1, "augmentation": 2, "both": 3}
    assert found["validation"].tolist() == pytest.approx([20 + gains[name] for name in found["recipe"]])
    assert found["training"].tolist() == pytest.approx([10 + gains[name] for name in found["recipe"]])
    assert len(found) == 8 and set(found["seed"]) == {3, 4}


WIDE = pd.DataFrame({"plain": [60.0, 62], "batch norm": [70.0, 70], "augmentation": [64.0, 68], "both": [80.0, 84]},
                    index=pd.Index([3, 4], name="seed"))


def test_effects_are_of_the_validation_accuracies_seed_by_seed():
    rows = [{"recipe": name, "seed": seed, "training": 99.0, "validation": WIDE.loc[seed, name]}
            for name in WIDE for seed in WIDE.index]
    found = run_cell(NOTEBOOK, "wide = found.pivot", found=pd.DataFrame(rows), SEEDS=(3, 4))
    pd.testing.assert_frame_equal(found["wide"][list(WIDE)], WIDE, check_names=False)
    drawn = [line.get_ydata().tolist() for line in found["ax"].lines]
    assert drawn == [[60, 64], [70, 80], [62, 68], [70, 84]]
    effect = run_cell(NOTEBOOK, "effect = pd.DataFrame(effects", effects=lesson.effects, wide=WIDE)["effect"]
    assert effect["batch norm"].tolist() == [13, 12] and effect["augmentation"].tolist() == [7, 10]
    assert effect["interaction"].tolist() == [6, 8]


def test_flips_are_compared_with_the_same_recipe_without_them():
    """With flips the eight classes lose 30 points, the others nothing."""
    models = {("both", seed): {"flips": False} for seed in (3, 4)}

    def train(network, images, labels, steps, batch_size, rate, seed, change):
        kinds = [type(one).__name__ for one in change.keywords["transform"].transforms]
        assert value_of(images) == 10 and network["norm"]
        network["flips"] = "RandomHorizontalFlip" in kinds

    def evaluate(network, part):
        sided = bool(torch.isin(part[1], torch.tensor([33, 34])).all())
        assert sided or not torch.isin(part[1], torch.tensor([33, 34])).any()
        return 0.0, 0.9 - 0.3 * (network["flips"] and sided)

    found = run_cell(
        NOTEBOOK, "flips = v2.Compose", changes=lesson.changes, MIRRORED=lesson.MIRRORED, device=CPU, parts=PARTS,
        SEEDS=(3, 4), models=models, WIDTH=1, augment=lambda images, transform, group: images, GROUP=4, STEPS=1,
        BATCH_SIZE=1, LEARNING_RATE=1, train=train,
        evaluate=evaluate, sign_model=lambda seed, device, width, norm: {"norm": norm})
    rows = run_cell(NOTEBOOK, 'flipped["change"] = ', flipped=found["flipped"])["by_class"]
    assert rows[("change", "mean")].to_dict() == pytest.approx({"eight with a partner": -30, "the other 35": 0})
    assert rows.loc["eight with a partner", ("without", "mean")] == pytest.approx(90)


def test_answers_are_sorted_into_right_the_partner_and_others():
    """Signs 33, 34, 34, 38: with flips two are taken for their partner and one for a stop sign."""
    answers = {"both": [33, 34, 34, 38], "flips": [34, 33, 14, 38]}
    part = part_of(20, [33, 34, 34, 38])
    models = {(kind, seed): kind for kind in answers for seed in (3, 4)}
    found = run_cell(
        NOTEBOOK, "partner = torch.arange", NAMES=lesson.NAMES, MIRRORED=lesson.MIRRORED, device=CPU, pair_part=part,
        models=models, SEEDS=(3, 4), predict=lambda kind, images: torch.eye(43)[answers[kind]])
    assert found["kinds"]["both"] == pytest.approx({"right": 1, "the mirror partner": 0, "something else": 0})
    assert found["kinds"]["flips"] == pytest.approx({"right": 0.25, "the mirror partner": 0.5, "something else": 0.25})
    ax = run_cell(NOTEBOOK, "start = np.zeros(2)", kinds=found["kinds"])["ax"]
    widths = {bars.get_label(): [bar.get_width() for bar in bars] for bars in ax.containers}
    assert widths["the mirror partner"] == pytest.approx([0, 50]) and widths["right"] == pytest.approx([100, 25])
    assert [text.get_text() for text in ax.get_yticklabels()] == ["without flips", "with flips"]
    assert "With flips, 50% of these signs" in ax.get_title() and ax.get_title().endswith("without 0%")


def test_the_recipe_is_chosen_on_validation_and_tested_on_test_signs():
    images, labels = part_of(30, [1, 1, 1, 2])
    asked = []
    found = run_cell(
        NOTEBOOK, "best = wide.mean()", wide=WIDE, root=None, SIDE=8, device=CPU, SEEDS=(3, 4), WHOLE=(1, 2),
        most_frequent=torch.tensor(1), models={("both", 3): "a", ("both", 4): "b"},
        load_signs=lambda root, split, side: asked.append(split) or (images, labels, []),
        evaluate=lambda network, part: (0.0, {"a": 0.75, "b": 0.5}[network] if value_of(part[0]) == 30 else 0.0))
    assert found["best"] == "both" and asked == ["test"] and found["test_accuracy"].tolist() == [75, 50]
    assert found["test_baseline"] == 75


def test_confusions_and_the_mean_over_classes():
    """Class 1 is taken for class 2 twice by the first network, class 5 for class 1 once by the second."""
    part = part_of(30, [1, 1, 1, 1, 2, 5])
    answers = {"a": [1, 1, 2, 2, 2, 5], "b": [1, 1, 1, 1, 2, 1]}
    found = run_cell(
        NOTEBOOK, "confusions = pairs.value_counts", models={("both", 0): "a", ("both", 1): "b"}, best="both",
        SEEDS=(0, 1), test_part=part, NAMES=lesson.NAMES, predict=lambda kind, images: torch.eye(43)[answers[kind]])
    assert found["confusions"].to_dict("records") == [{"true": 1, "answer": 2, "times": 2},
                                                      {"true": 5, "answer": 1, "times": 1}]
    found = run_cell(NOTEBOOK, "per_class = torch.stack", wrong=found["wrong"], test_part=part,
                     parts={"train": (None, torch.tensor([0, 1, 1]))})
    assert found["mean_answers"].mean() == pytest.approx(0.75)
    assert found["per_class"].tolist() == pytest.approx([0.75, 1, 0.5])


def test_temperature_comes_from_validation_signs_and_divides():
    """On validation the logits are twice too large; on the test signs they are what they should be."""
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(4000, 5, generator=generator)
    labels = torch.multinomial(logits.softmax(1), 1, generator=generator).squeeze(1)
    parts = {"val": (torch.tensor([2.0]), labels)}
    found = run_cell(
        NOTEBOOK, "calibration = []", models={("both", 0): None}, best="both", SEEDS=(0,), parts=parts, BINS=10,
        test_part=(torch.tensor([1.0]), labels), test_labels=labels, predict=lambda model, images: images * logits,
        reliability=lesson.reliability, calibration_error=lesson.calibration_error)["calibration"]
    assert found["kind"].tolist() == ["as trained", "with temperature"]
    assert found["T"].tolist() == pytest.approx([1, 2], rel=0.1)
    for name, divisor, error in found[["kind", "T", "ECE"]].itertuples(index=False):
        p, answer = (logits / divisor).softmax(1).max(1)
        bins = lesson.reliability(p, answer == labels, 10)
        assert error == pytest.approx(100 * lesson.calibration_error(*bins)), name
    assert found["ECE"][0] < 3 < found["ECE"][1]  # a temperature from elsewhere does harm here


@pytest.mark.parametrize("n", [1, 50, 400])
def test_the_calibration_error_is_torchmetrics(n):
    from torchmetrics.functional.classification import binary_calibration_error

    generator = torch.Generator().manual_seed(n)
    confidence = torch.rand(n, generator=generator)
    correct = torch.rand(n, generator=generator) < confidence**2
    ours = lesson.calibration_error(*lesson.reliability(confidence, correct, 10))
    theirs = binary_calibration_error(confidence.clamp(1e-6, 1 - 1e-6), correct.long(), n_bins=10, norm="l1")
    assert ours == pytest.approx(theirs.item(), abs=1e-5)


def test_results_are_taken_from_where_they_belong():
    effect = pd.DataFrame({"batch norm": [13.0, 12], "augmentation": [7.0, 10], "interaction": [6.0, 8]})
    calibration = pd.DataFrame({"kind": ["as trained", "with temperature"] * 2, "ECE": [9.0, 2, 11, 4]})
    found = run_cell(
        NOTEBOOK, '"mean_over_classes_percent"', test_accuracy=torch.tensor([90.0, 92]), test_baseline=6.0, wide=WIDE,
        SEEDS=(3, 4), per_class=torch.tensor([0.5, 0.7]), recipes=dict.fromkeys(WIDE), effect=effect, lost=30.0,
        calibration=calibration)["results"]
    assert found == pytest.approx({
        "test_accuracy_percent": 91, "test_accuracy_std_points": 2**0.5, "most_frequent_class_percent": 6,
        "mean_over_classes_percent": 60, "validation_plain_percent": 61, "validation_batch_norm_percent": 70,
        "validation_augmentation_percent": 66, "validation_both_percent": 82, "batch_norm_points": 12.5,
        "batch_norm_std_points": 0.5**0.5, "augmentation_points": 8.5, "augmentation_std_points": 4.5**0.5,
        "interaction_points": 7, "flip_points": 30, "calibration_error_percent": 10,
        "calibration_error_with_temperature_percent": 3}, rel=1e-5)
