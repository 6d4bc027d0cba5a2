"""The notebook's own parts: what it saves it can load, what it refuses, whose answers a batch gives to whom."""
import asyncio
import json
from io import BytesIO

import numpy as np
import pytest
import torch
from fastapi import HTTPException
from PIL import Image
from safetensors.torch import load_file, save_file

from tests.chapter18.conftest import APP, NOTEBOOK
from tests.definitions import definitions

RNG = np.random.default_rng(0)
GRAY = RNG.integers(0, 256, (28, 28), dtype=np.uint8)


@pytest.fixture(scope="module")
def notebook():
    """What the lesson defines."""
    return definitions(NOTEBOOK, "gray_pixels", "notes_in", "claim_size", "many_notes", "png", "Batcher", "fingerprint",
                       "cut_out", "accuracy_of")


def encode(pixels, kind="PNG", **options):
    """The bytes of an image file."""
    file = BytesIO()
    Image.fromarray(pixels).save(file, kind, **options)
    return file.getvalue()


def test_the_app_prepares_images_as_the_notebook_does(server, lesson):
    """The two copies of the preprocessing, and of the network, are one."""
    ours, theirs = lesson.Preprocessing(28, 0.2, 0.3), server.Preprocessing(28, 0.2, 0.3)
    for shape in ((28, 28), (1, 1), (1, 90), (90, 1), (40, 30), (300, 200), (29, 27)):
        pixels = torch.from_numpy(RNG.integers(0, 256, (2, *shape), dtype=np.uint8))
        assert torch.equal(ours(pixels), theirs(pixels))
    assert str(lesson.garment_net(10)) == str(server.garment_net(10))


def test_what_is_saved_is_loaded_by_the_notebook_and_by_the_app(server, lesson, trained):
    network, preprocess, classes, version = lesson.load_classifier(trained.path)
    served = server.load_classifier(trained.path)
    assert (preprocess, classes, version) == (trained.preprocess, trained.classes, trained.version)
    assert (served.classes, served.version) == (classes, version)
    torch.testing.assert_close(lesson.probabilities(network, trained.inputs), trained.direct)


@pytest.mark.parametrize("fault", ["nan", "edited"])
def test_a_file_that_cannot_answer_is_not_loaded(lesson, notebook, trained, tmp_path, fault):
    tensors = load_file(trained.path)
    preprocessing = json.dumps({"size": 28, "mean": 0.1, "std": 0.3})
    settings = {"preprocessing": preprocessing, "classes": json.dumps(trained.classes)}
    version = notebook.fingerprint(tensors, settings)
    tensors["0.weight"].view(-1)[0] = torch.nan if fault == "nan" else 1
    version = notebook.fingerprint(tensors, settings) if fault == "nan" else version
    save_file(tensors, tmp_path / "a.safetensors", {**settings, "version": version})
    with pytest.raises(ValueError, match="numbers" if fault == "nan" else "version"):
        lesson.load_classifier(tmp_path / "a.safetensors")


def test_a_network_that_was_not_trained_does_not_beat_the_baseline(lesson, notebook, trained):
    torch.manual_seed(0)
    untrained = lesson.probabilities(lesson.garment_net(10).eval(), trained.inputs)
    assert notebook.accuracy_of(untrained, trained.labels) < 0.5 < notebook.accuracy_of(trained.direct, trained.labels)


def test_pixels_come_back_as_they_were_sent(notebook):
    for kind in ("PNG", "JPEG"):
        found = notebook.gray_pixels(encode(GRAY, kind, **({"quality": 100} if kind == "JPEG" else {})))
        np.testing.assert_allclose(found.astype(int), GRAY, rtol=0, atol=0 if kind == "PNG" else 3)
    assert notebook.gray_pixels(notebook.png(GRAY)).tolist() == GRAY.tolist()


@pytest.mark.parametrize("case, status", [
    ("empty", 400), ("text", 415), ("gif", 415), ("half", 422), ("bomb", 413), ("notes", 413)])
def test_bad_uploads_are_the_clients_fault(notebook, case, status, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)  # as the notebook sets it
    good, jpeg = encode(GRAY), encode(GRAY, "JPEG")
    content = {"empty": b"", "text": b"hello", "gif": encode(GRAY, "GIF"), "half": good[:-400],
               "bomb": notebook.claim_size(good, 30_000), "notes": notebook.many_notes(jpeg, 500)}[case]
    with pytest.raises(HTTPException) as refused:
        notebook.gray_pixels(content)
    assert refused.value.status_code == status and refused.value.detail


def test_ordinary_notes_are_few(notebook):
    exif = Image.Exif()
    exif[0x010E] = "a" * 5000
    for content in (encode(GRAY, "JPEG", exif=exif), encode(GRAY, icc_profile=bytes(500)), encode(GRAY)):
        assert notebook.notes_in(content) < 20
    assert notebook.notes_in(notebook.many_notes(encode(GRAY, "JPEG"), 300)) >= 300


@pytest.mark.parametrize("largest", [1, 3, 64])
def test_every_client_of_a_batcher_gets_its_own_answer(notebook, largest):
    sizes = []

    def answer(x):
        sizes.append(len(x))
        return x * 10

    async def run():
        batcher = notebook.Batcher(answer, largest)
        loop = asyncio.create_task(batcher.run())
        found = await asyncio.gather(*(batcher.ask(torch.tensor(float(n))) for n in range(40)))
        loop.cancel()
        return found

    assert [value.item() for value in asyncio.run(run())] == [10.0 * n for n in range(40)]
    assert max(sizes) <= largest and (largest == 1 or len(sizes) < 40)


def test_pieces_lie_within_their_photos(notebook):
    photos = [RNG.integers(0, 256, (256, 300, 3), dtype=np.uint8), RNG.integers(0, 256, (400, 256, 3), dtype=np.uint8)]
    pieces = notebook.cut_out(photos, 50, seed=1)
    assert len(pieces) == 50
    assert all(64 <= len(piece) <= 256 and piece.shape == (len(piece), len(piece), 3) for piece in pieces)


def test_the_readme_names_the_weights_that_are_shipped(server):
    version = server.load_classifier(APP / "garments.safetensors").version
    assert f"(version `{version}`)" in (APP / "README.md").read_text(encoding="utf-8")
