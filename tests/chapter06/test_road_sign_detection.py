"""What Road_sign_detection.ipynb defines: the split by track, its network, effects of a 2×2 experiment, temperature."""
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import nn

from tests.definitions import definitions

CPU = torch.device("cpu")
lesson = definitions(
    "Chapter06/Road_sign_detection.ipynb", "NAMES", "MIRRORED", "load_signs", "track_of", "split_tracks", "sign_model",
    "effects", "best_temperature", "predict", "recipes", "augmentation", "flips", "changes")  # fmt: skip
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
