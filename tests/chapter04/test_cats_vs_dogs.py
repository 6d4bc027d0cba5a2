"""What Cats_Vs_Dogs.ipynb defines: reading photos, parts and subsets, augmentation, its network and loop."""
import hashlib
import io
import struct
import zlib

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import nn
from torchvision.transforms import v2

from tests.definitions import definitions

NOTEBOOK = "Chapter04/Cats_Vs_Dogs.ipynb"
CPU = torch.device("cpu")
lesson = definitions(
    NOTEBOOK, "stored_bytes", "decode", "load_photos", "first_copies", "split", "subset", "augment", "new_model",
    "draw_batches", "photo_inputs", "predict", "evaluate", "train")
quickly = settings(deadline=None, derandomize=True, max_examples=40)


def stored(mode, size=(200, 100), form="PNG"):
    """A picture as a dataset stores it: dark left half, light right half."""
    pixels = np.zeros((size[1], size[0]), dtype=np.uint8)
    pixels[:, size[0] // 2 :] = 200
    file = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(file, form)
    return {"bytes": file.getvalue(), "path": None}


@pytest.mark.parametrize(("mode", "form"), [("RGB", "JPEG"), ("L", "JPEG"), ("CMYK", "JPEG"), ("RGBA", "PNG"),
                                            ("LA", "PNG"), ("P", "PNG"), ("1", "PNG")])  # fmt: skip
def test_every_kind_of_picture_becomes_three_channels_without_turning_it(mode, form):
    image = lesson.decode(stored(mode, (600, 300), form)["bytes"], 64)
    assert image.shape == (3, 64, 64) and image.dtype == torch.uint8
    assert (image[:, :, :28] < 20).all() and (image[:, :, 36:] > 180).all()


def test_a_photo_on_disk_is_read_from_its_path(tmp_path):
    (tmp_path / "a.png").write_bytes(stored("RGB")["bytes"])
    assert lesson.stored_bytes({"bytes": None, "path": str(tmp_path / "a.png")}) == stored("RGB")["bytes"]
    assert lesson.stored_bytes({"bytes": b"", "path": str(tmp_path / "a.png")}) == b""  # what is stored, even if empty


def bomb(side):
    """A PNG of side x side pixels by its header, with hardly any content."""
    def chunk(kind, content):
        checked = kind + content
        return struct.pack(">I", len(content)) + checked + struct.pack(">I", zlib.crc32(checked))

    header = struct.pack(">2I5B", side, side, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")


@pytest.mark.parametrize("content", [b"", b"no picture", stored("RGB", (600, 300), "JPEG")["bytes"][:900],
                                     bomb(30_000)], ids=["empty", "text", "cut short", "huge"])
def test_what_cannot_be_read_is_none(content):
    assert lesson.decode(content, 64) is None


def test_loading_keeps_each_label_and_fingerprint_with_its_photo():
    photos = [stored("RGB", (8, 8)), {"bytes": b"broken", "path": None}, {"bytes": b"", "path": None},
              stored("L", (30, 90)), stored("RGBA")]

    class Rows(list):
        def cast_column(self, column, feature):
            assert column == "image" and not feature.decode
            return self

        def __getitem__(self, key):
            return [1, 0, 0, 0, 1] if key == "labels" else super().__getitem__(key)

    images, labels, fingerprints = lesson.load_photos(Rows({"image": photo} for photo in photos), 16)
    assert images.shape == (3, 3, 16, 16) and labels.tolist() == [1, 0, 1]
    assert fingerprints == [hashlib.sha256(photos[i]["bytes"]).hexdigest() for i in (0, 3, 4)]
    assert torch.equal(images[1], lesson.decode(photos[3]["bytes"], 16))


def test_the_first_of_each_copy_is_kept():
    assert lesson.first_copies(["c", "a", "c", "b", "a", "c"]) == [0, 1, 3]


@quickly
@given(st.integers(1, 5000), st.integers(1, 3000), st.integers(1, 3000))
def test_parts_are_a_partition_and_bounded(n, validation, test):
    parts = lesson.split(n, validation, test)
    assert torch.equal(torch.cat(list(parts.values())).sort().values, torch.arange(n))
    assert len(parts["val"]) == min(validation, n // 5) and len(parts["test"]) == min(test, 3 * n // 10)
    again = lesson.split(n, validation, test)
    assert all(torch.equal(part, again[name]) for name, part in parts.items())


@quickly
@given(st.integers(2, 200), st.data(), st.integers(0, 5))
def test_subsets_are_nested_and_from_the_pool(n, data, seed):
    pool = torch.arange(n) * 7 + 3
    large = data.draw(st.integers(1, n))
    small = data.draw(st.integers(1, large))
    outer, inner = (lesson.subset(pool, size, seed) for size in (large, small))
    assert len(outer.unique()) == large and set(inner.tolist()) <= set(outer.tolist()) <= set(pool.tolist())


@quickly
@given(st.integers(1, 40), st.integers(1, 30), st.integers(1, 16))
def test_batches_are_full_and_go_round_the_photos(n, steps, batch_size):
    batches = lesson.draw_batches(torch.arange(n) + 100, steps, batch_size, torch.Generator().manual_seed(0))
    assert [len(batch) for batch in batches] == [batch_size] * steps
    drawn = torch.cat(batches)
    for start in range(0, len(drawn) - n + 1, n):  # every whole pass has each photo once
        assert torch.equal(drawn[start : start + n].sort().values, torch.arange(n) + 100)


def test_augmentation_draws_anew_for_every_group_only():
    images = torch.randint(0, 256, (1, 3, 32, 32), dtype=torch.uint8).expand(8, -1, -1, -1)
    torch.manual_seed(0)
    changed = lesson.augment(images, v2.RandomResizedCrop(32, scale=(0.3, 0.9), antialias=True), 4)
    assert changed.shape == images.shape and changed.dtype == torch.uint8
    assert torch.equal(changed[0], changed[3]) and torch.equal(changed[4], changed[7])
    assert not torch.equal(changed[0], changed[4]) and not torch.equal(changed[0], images[0])


def test_inputs_are_scaled():
    x = lesson.photo_inputs(torch.tensor([0, 255, 51], dtype=torch.uint8).view(1, 3, 1, 1))
    torch.testing.assert_close(x.flatten(), torch.tensor([-1.0, 1.0, -0.6]))
    assert x.dtype == torch.float32


def test_network_has_five_blocks_and_follows_from_its_seed():
    model, again, other = (lesson.new_model(seed, CPU, width=4) for seed in (0, 0, 1))
    assert sum(isinstance(layer, nn.Conv2d) for layer in model.modules()) == 5
    assert sum(isinstance(layer, nn.BatchNorm2d) for layer in model.modules()) == 5
    assert model[:5](torch.zeros(2, 3, 96, 96)).shape == (2, 32, 3, 3)
    first = model[0][0].weight
    assert torch.equal(first, again[0][0].weight) and not torch.equal(first, other[0][0].weight)


def some(n, side=64):
    """n noisy photos, every other one brighter above than below: class 1."""
    photos = torch.randint(0, 120, (n, 3, side, side), generator=torch.Generator().manual_seed(0))
    labels = torch.arange(n) % 2
    photos[labels == 1, :, : side // 2] += 130
    photos[labels == 0, :, side // 2 :] += 130
    return photos.to(torch.uint8), labels


def test_a_step_uses_the_loss_with_logits_training_mode_and_the_schedule():
    photos, labels = some(6)
    model, twin = lesson.new_model(0, CPU, 4).eval(), lesson.new_model(0, CPU, 4).train()
    optimizer = torch.optim.Adam(twin.parameters(), lr=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.01, total_steps=3)
    expected = []
    for _ in range(3):
        loss = F.binary_cross_entropy_with_logits(twin(lesson.photo_inputs(photos)).squeeze(1), labels.float())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        expected.append(loss.item())
    history = lesson.train(model, photos, labels, torch.arange(6), torch.arange(6), 3, 6, 0.01, 0, nn.Identity(), 1)
    assert [row["training loss"] for row in history] == pytest.approx(expected, rel=1e-3)
    for ours, theirs in zip(model.parameters(), twin.parameters()):
        torch.testing.assert_close(ours, theirs, rtol=1e-2, atol=1e-4)


def test_evaluation_is_loss_and_share_of_right_answers():
    photos, labels = some(12)
    model, rows = lesson.new_model(0, CPU, 4), torch.tensor([5, 0, 7, 2])
    logits = model.eval()(lesson.photo_inputs(photos[rows])).squeeze(1).detach()
    loss, accuracy = lesson.evaluate(model, photos, labels, rows)
    assert loss == pytest.approx(F.binary_cross_entropy_with_logits(logits, labels[rows].float()).item(), rel=1e-4)
    assert accuracy == ((logits > 0).long() == labels[rows]).float().mean().item()


def test_evaluation_leaves_the_network_as_it_is_and_does_not_depend_on_the_batch():
    photos, _ = some(12)
    model = lesson.new_model(0, CPU, 4).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    rows = torch.tensor([5, 0, 7])
    alone = torch.cat([lesson.predict(model, photos, rows[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(lesson.predict(model, photos, rows, batch_size=2), alone, rtol=1e-4, atol=1e-5)
    assert not model.training and all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_training_learns_looks_at_its_rows_only_and_reports_every_evaluation():
    photos, labels = some(40)
    rows, val, seen = torch.arange(0, 20), torch.arange(20, 40), []

    def spy(images):
        seen.append(images.flatten(1).sum(1))
        return images

    model = lesson.new_model(0, CPU, 4)
    history = lesson.train(model, photos, labels, rows, val, 80, 8, 5e-3, 0, spy, 30)
    assert [row["step"] for row in history] == [30, 60, 80]
    assert history[-1]["validation accuracy"] > 0.9
    assert history[-1]["training loss"] < history[0]["training loss"]
    assert history[-1]["validation accuracy"] == lesson.evaluate(model, photos, labels, val)[1]
    assert int(model[0][2].num_batches_tracked) == 80 and sum(len(part) for part in seen) == 80 * 8
    assert set(torch.cat(seen).tolist()) <= set(photos[rows].flatten(1).sum(1).tolist())  # no validation photo
    twice = lesson.train(lesson.new_model(0, CPU, 4), photos, labels, rows, val, 80, 8, 5e-3, 0, nn.Identity(), 30)
    assert twice == history


def test_training_is_on_the_changed_photos_and_evaluation_on_the_stored_ones():
    photos, labels = some(16)
    rows = torch.arange(16)
    model = lesson.new_model(0, CPU, 4)
    history = lesson.train(model, photos, 1 - labels, rows, rows, 60, 8, 5e-3, 0, lambda images: images.flip(2), 60)
    assert history[-1]["validation accuracy"] < 0.2  # it has learned the photos upside down
