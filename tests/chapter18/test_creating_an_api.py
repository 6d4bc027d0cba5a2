"""The notebook's own parts: what it saves it can load, what it refuses, whose answers a batch gives to whom."""
import asyncio
import contextlib
import json
import time
from io import BytesIO
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from fastapi import HTTPException
from PIL import Image
from safetensors.torch import load_file, save_file

from tests.cells import run_cell
from tests.chapter18.conftest import NOTEBOOK
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


def test_only_training_images_say_how_pixels_are_standardized(lesson):
    class Images:
        classes = list("abcdefghij")

        def __init__(self, root, train, download):
            values = torch.arange(60, dtype=torch.uint8) if train else torch.full((20,), 255, dtype=torch.uint8)
            self.data, self.targets = values[:, None, None].expand(-1, 28, 28), torch.arange(len(values)) % 10

        def __len__(self):
            return len(self.data)

    found = run_cell(NOTEBOOK, "preprocess = Preprocessing(", SEED=0, FashionMNIST=Images,
                     Preprocessing=lesson.Preprocessing)
    images, labels = found["images"], found["labels"]
    values = {part: pixels[:, 0, 0] for part, pixels in images.items()}
    assert (len(values["train"]), len(values["validation"]), len(values["test"])) == (50, 10, 20)
    assert sorted([*values["train"].tolist(), *values["validation"].tolist()]) == list(range(60))
    assert (values["test"] == 255).all()
    assert all((labels[part] == torch.arange(60)[values[part].long()] % 10).all() for part in ("train", "validation"))
    assert found["preprocess"].mean == pytest.approx(values["train"].double().mean().item() / 255)


def test_faults_of_preprocessing_are_judged_by_their_labels_and_answers():
    """Network outputs that depend on nothing but the variant: right and sure, or wrong and less sure."""
    pixels = torch.randint(0, 256, (20, 28, 28), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    labels, seen = torch.arange(20) % 10, []

    def probabilities(network, x):
        seen.append(x)
        right = torch.nn.functional.one_hot(labels, 10)
        return right * 0.9 + (1 - right) * 0.1 / 9 if len(seen) == 1 else right.roll(1, 1) * 0.4 + 0.06

    found = run_cell(NOTEBOOK, "variants = {", images={"validation": pixels}, labels={"validation": labels},
                     network=None, preprocess=lambda some: some[:, None].float() / 100, probabilities=probabilities,
                     accuracy_of=definitions(NOTEBOOK, "accuracy_of").accuracy_of)
    table = found["faults"]
    assert table.loc["as in training"].tolist() == pytest.approx([1, 0.9])
    assert table.drop("as in training").to_numpy().ravel().tolist() == pytest.approx([0, 0.46] * 4)
    expected = [pixels / 100, pixels / 255, pixels.float(), pixels.transpose(1, 2) / 100, (255 - pixels) / 100]
    for x, wanted in zip(seen, expected, strict=True):
        torch.testing.assert_close(x[:, 0], wanted)
    bars = [patch.get_width() for patch in found["ax"].patches]
    assert bars == pytest.approx([*table["accuracy"], *table["mean confidence"]])
    assert found["ax"].get_title() == "Accuracy falls to 0% at worst; confidence never below 46%"


def test_the_throughput_is_that_of_all_clients():
    lesson = definitions(NOTEBOOK, "put_under_load")
    asked = []

    def ask_repeatedly(url, content, count):
        asked.append((url, content, count))
        time.sleep(0.2)
        return [0.2 / count] * count

    lesson.put_under_load.__globals__["ask_repeatedly"] = ask_repeatedly
    seconds, rate = lesson.put_under_load("url", b"image", 4, 40)
    assert asked == [("url", b"image", 10)] * 4 and seconds.tolist() == [0.02] * 40
    assert 40 < rate <= 200  # forty in a fifth of a second, and the time to start four threads


def test_percentiles_and_rates_stand_in_their_columns():
    def put_under_load(url, content, clients, requests):
        return np.linspace(0, clients, requests), 10.0 * clients

    found = run_cell(NOTEBOOK, "p50, p95 = 1000", CLIENTS=(1, 4), REPEATS=2, REQUESTS=101, good=b"", hardened_url="",
                     ask_repeatedly=lambda url, content, count: None, put_under_load=put_under_load)["speed"]
    assert found["p50, ms"].tolist() == pytest.approx([500, 2000])
    assert found["p95, ms"].tolist() == pytest.approx([950, 3800])
    assert found["requests/s"].tolist() == [10, 40] and found.iloc[:, -1].tolist() == pytest.approx([5, 80])


def test_batches_are_compared_with_one_by_one_at_the_largest_load():
    asked = []

    def images_per_second(x, largest, requests):
        asked.append((len(x), largest))
        return 100.0 * len(x) if largest > 1 else 50.0 + asked.count((len(x), 1)), (len(x), largest)

    found = run_cell(NOTEBOOK, "rates, answers = {}, {}", CLIENTS=(1, 8, 32), REPEATS=3, REQUESTS=64,
                     ThreadPoolExecutor=lambda count: contextlib.nullcontext(SimpleNamespace(
                         submit=lambda run, measured: SimpleNamespace(result=lambda: measured))),
                     images={"test": torch.zeros(40)}, preprocess=lambda x: x, images_per_second=images_per_second)
    assert found["gain"] == pytest.approx(3200 / 52) and found["answers"][8, 64] == (8, 64)
    alone, together = found["ax"].lines
    assert list(alone.get_ydata()) == [52, 52, 52] and list(together.get_ydata()) == [100, 800, 3200]
    assert (alone.get_label(), found["ax"].get_title()) == (
        "one by one", f"Answered together, 32 clients get {3200 / 52:.1f} times as many answers")


def test_answers_are_grouped_by_whether_they_are_right():
    replies = [{"garment": "bag", "probability": p} for p in (0.2, 0.95)]
    p = torch.tensor([[0.95, 0.05], [0.6, 0.4], [0.91, 0.09]])
    found = run_cell(NOTEBOOK, "foreign_replies = [ask(", CROPS=2, SEED=0, predict_url="url", test_probabilities=p,
                     cut_out=lambda photos, count, seed: range(count), ask=lambda url, piece: replies[piece],
                     labels={"test": torch.tensor([0, 1, 1])})
    groups = [values.round(2).tolist() for values in found["groups"].values()]
    assert groups == [[pytest.approx(0.95)], pytest.approx([0.6, 0.91]), [0.2, 0.95]]
    assert list(found["groups"]) == ["garments, answered correctly", "garments, answered wrongly", "no garment at all"]
    assert list(found["sure"].values()) == [1, 0.5, 0.5]


def test_results_are_taken_from_where_they_belong(tmp_path):
    (tmp_path / "a.safetensors").write_bytes(bytes(3000))
    speed = pd.DataFrame({"p50, ms": [1.0, 2.0], "p95, ms": [3.0, 4.0], "requests/s": [5.0, 6.0]}, index=[1, 8])
    found = run_cell(
        NOTEBOOK, '"batching_gain": gain', test_accuracy=0.9, baseline=0.1, http_difference=1e-7, CLIENTS=(1, 8),
        faults=pd.DataFrame({"accuracy": [0.9, 0.2], "mean confidence": [0.8, 0.7]},
                            index=["as in training", "dark on white"]),
        weights=tmp_path / "a.safetensors", speed=speed, gain=7.0, before=pd.DataFrame({"status": [200, 500, 503]}),
        after=pd.DataFrame({"status": [200, 413, 500]}),
        sure={"garments, answered correctly": 0.8, "no garment at all": 0.3})["results"]
    assert found == {
        "test_accuracy": 0.9, "most_frequent_class_accuracy": 0.1, "http_difference": 1e-7,
        "dark_on_white_accuracy": 0.2, "weights_kb": 3, "p50_ms_clients_1": 1, "p50_ms_clients_8": 2,
        "requests_per_second_clients_1": 5, "requests_per_second_clients_8": 6, "batching_gain": 7,
        "server_errors_before": 2, "server_errors_after": 1, "non_garments_at_90_percent": 0.3}
