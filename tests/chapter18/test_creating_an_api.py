"""The notebook's server without a network: what it computes, what it refuses, what it leaves behind."""
import ast
import asyncio
import json
import re
import socket
import sys
import tempfile
import threading
import time
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO

import numpy as np
import pytest
import torch
import uvicorn
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin
from safetensors.torch import load_file, save_file
from starlette.testclient import TestClient

from tests.chapter18.conftest import APP, NOTEBOOK
from tests.definitions import definitions
from tests.notebooks import ROOT, code_cells, read

RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def classifier(server, trained):
    return server.load_classifier(trained.path)


@pytest.fixture(scope="module")
def client(server, classifier):
    """Sends requests straight into the application; an exception in the server is one here."""
    with TestClient(server.create_app(classifier)) as client:
        yield client


def encode(image, kind="PNG", **options):
    """The bytes of a Pillow image in a file format."""
    file = BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def predict(client, content, name="a.png", path="/predict", field="file"):
    return client.post(path, files=[(field, (name, content))])


# --- the program and the notebook


def written(cells):
    """The text that the notebook writes after running these cells."""
    lesson = definitions(NOTEBOOK, "remember", "program", "server_file")
    for cell in cells:
        lesson.remember(cell)
    return lesson.server_file(lesson.program)


def test_the_program_is_what_the_notebook_says():
    cells = [cell.source for cell in code_cells(read(ROOT / NOTEBOOK))]
    assert (APP / "server.py").read_text(encoding="utf-8") == written(cells), (
        "Chapter18/app/server.py is not what the notebook writes: run the notebook in its folder")


def test_a_part_that_was_run_again_counts_as_it_is_now():
    once = written(["# app/server.py: a\nx = 1", "y = 1", "# app/server.py: b\nz = 1"])
    again = written(["# app/server.py: a\nx = 0", "# app/server.py: b\nz = 1", "# app/server.py: a\nx = 1"])
    assert once == again and "y = 1" not in once
    assert [ast.unparse(node) for node in ast.parse(once).body[1:3]] == ["x = 1", "z = 1"]


def test_marked_cells_run_on_nothing_but_marked_cells(server):
    """Nothing of the lesson is used by the program: it was imported alone."""
    assert server.PAGE.startswith("<!doctype html>") and callable(server.main)


# --- preprocessing: one for training and serving


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "LA", "P"])
def test_upload_gives_the_very_input_of_training(server, classifier, trained, mode):
    for pixels, expected in zip(trained.images[:50], trained.inputs):
        content = encode(Image.fromarray(pixels.numpy()).convert(mode))
        found = server.grey_pixels(server.open_upload("a.png", content))
        assert torch.equal(classifier.preprocess(torch.from_numpy(found)[None])[0], expected)


def test_preprocessing_travels_with_the_weights(server, lesson, trained, tmp_path):
    for size, mean, std in ((28, 0.1, 0.7), (14, 0.123456789012345, 1e-3)):
        preprocess = lesson.Preprocessing(size, mean, std)
        lesson.save_classifier(trained.network, preprocess, trained.classes, tmp_path / "a.safetensors")
        found = server.load_classifier(tmp_path / "a.safetensors").preprocess
        assert (found.size, found.mean, found.std) == (size, mean, std)
        images = torch.from_numpy(RNG.integers(0, 256, (3, 28, 28), dtype=np.uint8))
        assert torch.equal(found(images), preprocess(images))


@settings(deadline=None, derandomize=True, max_examples=60)
@given(st.integers(1, 90), st.integers(1, 90), st.integers(0, 2**32 - 1))
def test_other_sizes_keep_their_proportions(server, height, width, seed):
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width), dtype=np.uint8)
    found = server.Preprocessing(28, 0.25, 0.5)(torch.from_numpy(pixels)[None])
    assert found.shape == (1, 1, 28, 28) and found.dtype == torch.float32
    new_width, new_height = (max(2, round(28 * side / max(height, width))) for side in (width, height))
    resized = Image.fromarray(pixels.astype(np.float32)).resize((new_width, new_height), Image.Resampling.BILINEAR)
    top, left = (28 - new_height) // 2, (28 - new_width) // 2
    expected = np.zeros((28, 28))
    expected[top : top + new_height, left : left + new_width] = np.asarray(resized) / 255
    np.testing.assert_allclose(found[0, 0] * 0.5 + 0.25, expected, rtol=0, atol=5e-6)


@pytest.mark.parametrize("shape", [(1, 1), (1, 1_000_000), (1_000_000, 1), (3000, 2)])
def test_extreme_proportions_take_no_memory(server, shape):
    found = server.Preprocessing(28, 0.0, 1.0)(torch.full((1, *shape), 255, dtype=torch.uint8))
    assert found.shape == (1, 1, 28, 28) and 0 < found.max() <= 1 + 1e-5 and found.min() == 0 or shape == (1, 1)


def test_batches_of_any_length(server):
    preprocess = server.Preprocessing(28, 0.1, 0.3)
    images = torch.from_numpy(RNG.integers(0, 256, (4, 40, 30), dtype=np.uint8))
    one_by_one = torch.cat([preprocess(image[None]) for image in images])
    torch.testing.assert_close(preprocess(images), one_by_one, rtol=0, atol=1e-6)
    assert preprocess(images[:0]).shape == (0, 1, 28, 28)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_photos_are_turned_as_their_exif_says(server, orientation):
    turn = {2: "FLIP_LEFT_RIGHT", 3: "ROTATE_180", 4: "FLIP_TOP_BOTTOM", 5: "TRANSPOSE", 6: "ROTATE_90",
            7: "TRANSVERSE", 8: "ROTATE_270"}  # fmt: skip
    upright = Image.fromarray(np.arange(24, dtype=np.uint8).reshape(4, 6) * 10)
    stored = upright.transpose(Image.Transpose[turn[orientation]]) if orientation > 1 else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    found = server.grey_pixels(server.open_upload("a.png", encode(stored, exif=exif)))
    np.testing.assert_array_equal(found, np.asarray(upright))


def test_transparent_is_black(server):
    pixels = np.full((2, 2, 4), 255, dtype=np.uint8)
    pixels[0, 0, 3] = 0
    found = server.grey_pixels(server.open_upload("a.png", encode(Image.fromarray(pixels))))
    assert found.tolist() == [[0, 255], [255, 255]]


# --- the weights file


def test_any_change_changes_the_version(server, trained):
    tensors = load_file(trained.path)
    texts = {"preprocessing": "{}", "classes": '["a", "b"]'}
    versions = {server.fingerprint(tensors, texts), server.fingerprint(tensors, {**texts, "classes": '["b", "a"]'})}
    for name in tensors:
        changed = tensors[name].clone()
        changed.view(-1)[-1] += 1
        versions.add(server.fingerprint({**tensors, name: changed}, texts))
    assert len(versions) == len(tensors) + 2
    assert server.fingerprint(dict(reversed(tensors.items())), texts) in versions


def damaged_files(content):
    """Name and bytes of files that must not be served, made of one that may."""
    flipped = bytearray(content)
    flipped[-1] ^= 1
    yield "empty", b""
    yield "text", b"weights, honestly"
    yield "cut off", content[:-100]
    yield "flipped bit", bytes(flipped)
    yield "other preprocessing", content.replace(b"mean", b"mode")
    yield "other order of classes", content.replace(b"Trouser", b"Dress  ")


def test_a_file_that_is_not_right_is_not_served(server, lesson, trained, tmp_path):
    path = tmp_path / "a.safetensors"
    for case, content in damaged_files(trained.path.read_bytes()):
        path.write_bytes(content)
        with pytest.raises(server.WeightsError, match=re.escape(str(path))):
            pytest.fail(f"{case}: served {server.load_classifier(path).version}")
    tensors = load_file(trained.path)
    save_file(tensors, path)
    with pytest.raises(server.WeightsError, match="KeyError"):
        server.load_classifier(path)
    other = torch.nn.Sequential(torch.nn.Linear(3, 10))
    lesson.save_classifier(other, trained.preprocess, trained.classes, path)
    with pytest.raises(server.WeightsError, match="not weights of this program"):
        server.load_classifier(path)


@pytest.mark.parametrize("content, words", [(None, "no weights at"), (b"", "not weights of this program")])
def test_wrong_weights_end_the_program_with_a_sentence(server, tmp_path, monkeypatch, capsys, content, words):
    path = tmp_path / "some.safetensors"
    if content is not None:
        path.write_bytes(content)
    monkeypatch.setattr(sys, "argv", ["server.py", "--weights", str(path)])
    with pytest.raises(SystemExit) as ended:
        server.main()
    assert ended.value.code == 2 and words in capsys.readouterr().err


def test_shipped_weights_fit_the_program(server):
    shipped = APP / "garments.safetensors"
    if not shipped.exists():
        pytest.skip("no weights in Chapter18/app")
    classifier = server.load_classifier(shipped)
    assert len(classifier.classes) == 10 and classifier.preprocess.size == 28
    assert shipped.stat().st_size < 500_000


# --- answers


def test_http_equals_direct(client, trained):
    replies = [predict(client, encode(Image.fromarray(image.numpy()))).json() for image in trained.images[:40]]
    found = torch.tensor([list(reply["probabilities"].values()) for reply in replies], dtype=torch.float64)
    torch.testing.assert_close(found, trained.direct[:40].double(), rtol=0, atol=1e-6)
    for reply, expected in zip(replies, trained.direct):
        assert list(reply["probabilities"]) == trained.classes
        assert reply["class"] == trained.classes[expected.argmax()]
        assert reply["probability"] == max(reply["probabilities"].values())
        assert reply["model_version"] == trained.version


@pytest.mark.parametrize("shape", [(29, 27), (200, 60), (64, 640), (512, 512)])
def test_larger_images_equal_direct(client, lesson, trained, shape):
    """Training and serving agree on images that must be resized as well."""
    pixels = np.kron(trained.images[7].numpy(), np.ones((20, 24), dtype=np.uint8))[: shape[0], : shape[1]]
    expected = lesson.probabilities(trained.network, trained.preprocess(torch.from_numpy(pixels.copy())[None]))[0]
    found = predict(client, encode(Image.fromarray(pixels).convert("RGB"))).json()["probabilities"]
    np.testing.assert_allclose(list(found.values()), expected, rtol=0, atol=1e-6)


def test_batch_equals_one_by_one(client, trained):
    contents = [encode(Image.fromarray(image.numpy())) for image in trained.images[:32]]
    contents[3] = encode(Image.fromarray(RNG.integers(0, 256, (60, 200, 3), dtype=np.uint8)))  # sizes may differ
    batch = client.post("/predict/batch", files=[("files", ("a.png", content)) for content in contents])
    assert batch.status_code == 200 and len(batch.json()["predictions"]) == 32
    for content, reply in zip(contents, batch.json()["predictions"]):
        single = predict(client, content).json()["probabilities"]
        np.testing.assert_allclose(list(single.values()), list(reply["probabilities"].values()), rtol=0, atol=1e-6)


@pytest.mark.parametrize("mode, kind", [
    ("1", "PNG"), ("L", "PNG"), ("P", "PNG"), ("RGB", "PNG"), ("RGBA", "PNG"), ("LA", "PNG"),
    ("L", "JPEG"), ("RGB", "JPEG"), ("CMYK", "JPEG"),
])  # fmt: skip
@pytest.mark.parametrize("size", [(1, 1), (28, 28), (300, 200)])
def test_every_ordinary_image_is_answered(client, mode, kind, size):
    image = Image.fromarray(RNG.integers(0, 256, (size[1], size[0], 4), dtype=np.uint8)).convert("RGB").convert(mode)
    reply = predict(client, encode(image, kind), name="Füße auf dem Foto.jpeg")
    assert reply.status_code == 200
    assert abs(sum(reply.json()["probabilities"].values()) - 1) < 1e-5


def test_page_health_and_documentation(client, trained):
    page = client.get("/")
    assert page.status_code == 200 and page.headers["content-type"].startswith("text/html")
    assert "innerHTML" not in page.text and not re.search(r"(src|href)=.https?:", page.text)
    health = client.get("/health").json()
    assert health == {"status": "ok", "model_version": trained.version, "classes": trained.classes}
    assert {"/predict", "/predict/batch", "/health"} <= set(client.get("/openapi.json").json()["paths"])


# --- refusals


def refused(response, status, words=""):
    assert response.status_code == status, response.text
    assert isinstance(response.json()["detail"], str) and words in response.json()["detail"]


GREY = Image.fromarray(RNG.integers(0, 256, (28, 28), dtype=np.uint8))


@pytest.mark.parametrize("name", [
    "../../etc/passwd", "/etc/passwd", "..\\..\\win.ini", "a/b.png", "a\x7f.png", "a\u202egnp.png",
    "a" * 256, "x" * 3000,
])  # fmt: skip
def test_names_are_refused(client, name):
    refused(predict(client, encode(GREY), name=name), 400, "name")


def test_a_name_is_used_for_nothing(client):
    answers = [predict(client, encode(GREY), name=name) for name in ("a.png", "virus.exe", "..", "CON", "a" * 255)]
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.text for answer in answers}) == 1


@pytest.mark.parametrize("content, status", [
    (b"", 400), (b"\0", 415), (b"hello", 415), (b"<svg xmlns='http://www.w3.org/2000/svg'/>", 415),
    (b"%PDF-1.7", 415), (encode(GREY, "GIF"), 415), (encode(GREY, "BMP"), 415), (encode(GREY, "TIFF"), 415),
    (encode(GREY)[:-400], 422), (encode(GREY, "JPEG")[:-100], 422), (encode(GREY)[:20], 422),
    (encode(Image.fromarray(RNG.integers(0, 2**16, (9, 9), dtype=np.uint16))), 415),
])  # fmt: skip
def test_contents_are_refused(client, content, status):
    refused(predict(client, content, name="a.png"), status)


def test_not_only_os_errors_of_a_decoder_are_caught(client):
    """Pixels that end too early, before a chunk without a name: Pillow raises a SyntaxError for this one."""
    good = encode(GREY)
    head, pixels = good[:33], good[41:-16]  # signature and IHDR; the data of the IDAT chunk
    half = b"IDAT" + pixels[: len(pixels) // 2]
    broken = head + (len(half) - 4).to_bytes(4, "big") + half + bytes(4) + b"\0\0\0\4\1\2\3\4" + bytes(8)
    refused(predict(client, broken), 422, "damaged")


def test_bombs_are_refused_before_they_are_decoded(client, lesson, server, monkeypatch):
    monkeypatch.setattr(server, "grey_pixels", lambda image: pytest.fail("decoded"))
    for side in (5_001, 10_000, 50_000, 2**31 - 1):
        refused(predict(client, lesson.claim_size(encode(GREY), side)), 413, "megapixels")
    huge = bytearray(encode(Image.new("L", (16, 16)), "JPEG"))
    start = huge.index(b"\xff\xc0")
    huge[start + 5 : start + 9] = (60_000).to_bytes(2, "big") * 2
    refused(predict(client, bytes(huge)), 413, "megapixels")
    many = [("files", ("a.png", lesson.claim_size(encode(GREY), 1_000)))] * 26
    refused(client.post("/predict/batch", files=many), 413, "megapixels")


def test_notes_of_a_png_are_not_unpacked_without_limit(client, lesson):
    """Thirty-two of them would be 2 GB."""
    packed = lesson.add_notes(encode(GREY), 60)
    assert len(packed) < 100_000
    tracemalloc.start()
    try:
        response = client.post("/predict/batch", files=[("files", ("a.png", packed))] * 32)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    refused(response, 422, "too much text")
    assert peak < 40e6, f"{peak / 1e6:.0f} MB"
    refused(predict(client, encode(GREY)[:-12] + packed[33 : -len(encode(GREY)) + 33] + encode(GREY)[-12:]), 422)


def test_ordinary_notes_are_no_fault(client):
    notes = PngImagePlugin.PngInfo()
    notes.add_text("Comment", "a" * 50_000, zip=True)
    assert predict(client, encode(GREY, pnginfo=notes)).status_code == 200


def test_scans_are_counted(server, lesson):
    colours = Image.fromarray(RNG.integers(0, 256, (64, 64, 3), dtype=np.uint8))
    baseline, progressive = encode(colours, "JPEG"), encode(colours, "JPEG", progressive=True)
    restarts = encode(colours, "JPEG", restart_marker_blocks=1)
    thumbnail = baseline[:2] + b"\xff\xe1" + (len(progressive) + 2).to_bytes(2, "big") + progressive + baseline[2:]
    assert re.search(rb"\xff[\xd0-\xd7]", restarts)
    for content in (baseline, restarts, thumbnail, baseline + b"\xff\xda" * 100):
        assert server.scans(content) == 1
    assert 5 < server.scans(progressive) == progressive.count(b"\xff\xda") < server.MAX_SCANS
    for times in (1, 5, 10):
        assert server.scans(lesson.repeat_scan(progressive, times)) == server.scans(progressive) + times
    assert server.scans(lesson.repeat_scan(progressive, 5000)) == server.MAX_SCANS + 1


@settings(deadline=None, derandomize=True, max_examples=200)
@given(st.binary(max_size=300))
def test_counting_scans_ends(server, content):
    assert 0 <= server.scans(content) <= server.MAX_SCANS + 1
    assert 0 <= server.scans(content.replace(b"\0", b"\xff\xda")) <= server.MAX_SCANS + 1


def encoded_end(content):
    """Where the first picture of a JPEG file ends."""
    return content.index(b"\xff\xd9") + 2


def test_a_jpeg_of_many_scans_is_refused_before_it_is_decoded(client, lesson, server, monkeypatch):
    content = encode(GREY, "JPEG", progressive=True)
    assert predict(client, content).status_code == 200
    monkeypatch.setattr(server, "grey_pixels", lambda image: pytest.fail("decoded"))
    refused(predict(client, lesson.repeat_scan(content, 2000), name="a.jpg"), 413, "scans")
    file = BytesIO()
    GREY.save(file, "MPO", save_all=True, append_images=[GREY])
    first, second = file.getvalue()[: encoded_end(file.getvalue())], file.getvalue()[encoded_end(file.getvalue()) :]
    refused(predict(client, lesson.repeat_scan(first, 40) + second, name="a.jpg"), 413, "scans")


def test_few_requests_are_decoded_at_the_same_time(server, classifier, monkeypatch):
    """However many processors there are: their images would not fit into memory."""
    working, most, lock = 0, 0, threading.Lock()

    def read_uploads(uploads):
        nonlocal working, most
        with lock:
            working += 1
            most = max(most, working)
        time.sleep(0.05)
        with lock:
            working -= 1
        return [np.zeros((28, 28), dtype=np.uint8)]

    monkeypatch.setattr(server, "read_uploads", read_uploads)
    monkeypatch.setattr(server.os, "cpu_count", lambda: 64)
    with TestClient(server.create_app(classifier)) as client, ThreadPoolExecutor(16) as pool:
        assert {answer.status_code for answer in pool.map(lambda _: predict(client, b"x"), range(32))} == {200}
    assert most == server.MAX_WORKING


def test_batches_are_refused_as_a_whole(client):
    good, bad = ("files", ("a.png", encode(GREY))), ("files", ("b.png", b"hello"))
    refused(client.post("/predict/batch", files=[good, bad, good]), 415, "file 2: ")
    refused(client.post("/predict/batch", files=[good] * 33), 413, "32")
    refused(client.post("/predict/batch", files=[("file", good[1])]), 422)
    refused(client.post("/predict/batch"), 422)


FRAME = {"content-type": "multipart/form-data; boundary=frame"}


@pytest.mark.parametrize("body, headers", [
    (b"", {}), (b"", FRAME), (b"--frame", FRAME), (b"--frame--", FRAME), (b"\0" * 100, FRAME),
    (b"--other\r\n\r\n--other--", FRAME),
    (b'--frame\r\nContent-Disposition: form-data; name="file"; filename="a.png"\r\n\r\nno end', FRAME),
    (b'--frame\r\nContent-Disposition: form-data; name="file"\r\n\r\ntext\r\n--frame--\r\n', FRAME),
    (b'--frame\r\nContent-Disposition: form-data; filename="a.png"\r\n\r\n1\r\n--frame--\r\n', FRAME),
    (b'--frame\r\nContent-Disposition: form-data; name="file"; filename=""\r\n\r\n\r\n--frame--\r\n', FRAME),
    (b'--frame\r\nX: ' + b"a" * 100_000 + b"\r\n\r\n--frame--\r\n", FRAME),
    (b"x", {"content-type": "multipart/form-data"}), (b'{"file": 1}', {"content-type": "application/json"}),
    (b"file=1", {"content-type": "application/x-www-form-urlencoded"}), (encode(GREY), {"content-type": "image/png"}),
])  # fmt: skip
def test_damaged_forms_are_refused(client, body, headers):
    response = client.post("/predict", content=body, headers=headers)
    assert 400 <= response.status_code < 500 and isinstance(response.json()["detail"], str)


@settings(deadline=None, derandomize=True, max_examples=150)
@given(st.sampled_from(["PNG", "JPEG"]), st.integers(0, 2**32 - 1))
def test_damaged_images_never_break_the_server(client, kind, seed):
    rng = np.random.default_rng(seed)
    content = bytearray(encode(GREY, kind))
    for place in rng.integers(0, len(content), rng.integers(1, 20)):
        content[place] = rng.integers(256)
    response = predict(client, bytes(content[: rng.integers(1, 2 * len(content))]))
    assert response.status_code == 200 or (400 <= response.status_code < 500 and response.json()["detail"])


# --- the body, in front of the framework


def send_body(server, chunks, headers=(), patience=10):
    """Send chunks through the middleware: status, bodies that the application got, chunks that were read, answer."""
    sent, bodies, count = [], [], 0
    chunks = iter(chunks)

    async def application(scope, receive, send):
        bodies.append((await receive())["body"])
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async def receive():
        nonlocal count
        chunk = next(chunks, None)
        if chunk is None:
            await asyncio.sleep(patience)  # a client that goes silent
        count += 1
        return {"type": "http.request", "body": chunk, "more_body": len(chunk) > 0}

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "headers": [(name.encode(), value.encode()) for name, value in headers]}
    asyncio.run(server.WholeBody(application)(scope, receive, send))
    assert sent[-1] == {"type": "http.response.body", "body": b""}
    return sent[0]["status"], bodies, count, b"".join(message.get("body", b"") for message in sent)


@pytest.fixture
def narrow(server, monkeypatch):
    """The middleware with a small limit, 1,000 bytes; what is refused is still read for a tenth of a second."""
    monkeypatch.setattr(server, "MAX_BODY", 1000)
    monkeypatch.setattr(server, "LINGER_SECONDS", 0.1)
    return server


@pytest.mark.parametrize("chunks", [[b""], [b"a" * 1000, b""], [b"a"] * 1000 + [b""]])
def test_a_body_within_the_limit_is_handed_on_whole(narrow, chunks):
    status, bodies, _, _ = send_body(narrow, chunks)
    assert status == 200 and bodies == [b"".join(chunks)]


def test_a_body_that_is_announced_too_long_is_refused_unread(narrow):
    status, bodies, count, answer = send_body(narrow, [], [("content-length", "1001")])
    assert status == 413 and bodies == [] and count == 0 and json.loads(answer)["detail"]


def test_a_body_without_end_is_refused_at_the_limit(narrow):
    def endless():
        while True:
            yield b"a" * 100

    monitored = (chunk for _, chunk in zip(range(500), endless()))
    status, bodies, _, answer = send_body(narrow, monitored, patience=1)
    assert status == 413 and bodies == [] and json.loads(answer)["detail"]


def test_a_body_that_is_too_long_is_not_kept(server, monkeypatch):
    monkeypatch.setattr(server, "LINGER_SECONDS", 300)
    megabytes = [bytes(1_000_000)] * 50 + [b""]
    tracemalloc.start()
    try:
        status, bodies, count, _ = send_body(server, (bytes(chunk) for chunk in megabytes))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert status == 413 and bodies == [] and count == 51
    assert peak < 2.5 * server.MAX_BODY


def test_a_client_that_goes_silent_is_given_up(narrow, monkeypatch):
    monkeypatch.setattr(narrow, "BODY_SECONDS", 0.2)
    status, bodies, _, answer = send_body(narrow, [b"a"])
    assert status == 408 and bodies == [] and "seconds" in json.loads(answer)["detail"]


def test_the_body_is_handed_over_and_not_kept(server):
    """A request that waits for its turn holds its upload once, not twice."""
    held = None

    async def application(scope, receive, send):
        nonlocal held
        message = await receive()
        assert len(message.pop("body")) == 5_000_000
        held = tracemalloc.get_traced_memory()[0]
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def receive():
        return {"type": "http.request", "body": bytes(5_000_000), "more_body": False}

    async def send(message):
        pass

    tracemalloc.start()
    try:
        asyncio.run(server.WholeBody(application)({"type": "http", "headers": []}, receive, send))
    finally:
        tracemalloc.stop()
    assert held < 1e6


@pytest.fixture
def impatient(server, classifier, monkeypatch):
    """The port of a server in a thread of this process whose connections wait for a second and a half."""
    monkeypatch.setattr(server, "HEADER_SECONDS", 1.5)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    config = uvicorn.Config(server.create_app(classifier), port=port, http=server.ImpatientConnection,
                            timeout_keep_alive=60, log_level="warning")  # fmt: skip
    running = uvicorn.Server(config)
    thread = threading.Thread(target=running.run)
    thread.start()
    end = time.monotonic() + 300
    while not running.started:
        assert time.monotonic() < end
        time.sleep(0.01)
    yield port
    running.should_exit = True
    thread.join(30)
    assert not thread.is_alive()


GET = b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n"


@pytest.mark.parametrize("first, second", [(b"", b""), (b"GET /hea", b""), (GET, b""), (GET, b"GET /hea")])
def test_a_connection_without_a_request_is_closed(impatient, first, second):
    with socket.create_connection(("127.0.0.1", impatient), timeout=60) as connection:
        if first:
            connection.sendall(first)
            connection.sendall(second)
        start = time.monotonic()
        answer = b"".join(iter(lambda: connection.recv(10_000), b""))  # until the server closes
        assert time.monotonic() - start < 30  # half of what uvicorn itself would wait
        assert answer.startswith(b"HTTP/1.1 200") if first == GET else answer == b""


def test_a_request_in_progress_is_not_cut_off(impatient):
    """A body on its way has a clock of its own."""
    body = b"--frame--\r\n"
    head = b"POST /predict HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n" % len(body)
    with socket.create_connection(("127.0.0.1", impatient), timeout=60) as connection:
        connection.sendall(head + b"Content-Type: multipart/form-data; boundary=frame\r\n\r\n" + body[:1])
        time.sleep(4)
        connection.sendall(body[1:])
        assert connection.recv(10_000).startswith(b"HTTP/1.1 422")


# --- nothing on disk


def test_nothing_is_written_to_disk(client, monkeypatch):
    """Neither by us nor by the framework, which would use a temporary file from one megabyte on."""
    def forbidden(*args, **kwargs):
        raise AssertionError("a temporary file on disk")

    monkeypatch.setattr(tempfile.SpooledTemporaryFile, "rollover", forbidden)
    for name in ("mkstemp", "NamedTemporaryFile", "TemporaryFile"):
        monkeypatch.setattr(tempfile, name, forbidden)
    noise = encode(Image.fromarray(RNG.integers(0, 256, (1000, 1500, 3), dtype=np.uint8)))
    assert len(noise) > 4_000_000
    assert predict(client, noise).status_code == 200


# --- the container, read


def test_the_container_fits_the_program():
    dockerfile = (APP / "Dockerfile").read_text(encoding="utf-8")
    image = re.search(r"^FROM (\S+)", dockerfile, re.MULTILINE)[1]
    assert re.search(r":\d+\.\d+\.\d+-slim", image), "pin the base image"
    assert re.search(r"^USER (?!root|0\b)\S+", dockerfile, re.MULTILINE), "do not run as root"
    assert re.search(r"^HEALTHCHECK .*\n?.*/health", dockerfile, re.MULTILINE)
    assert not re.search(r"^(ARG|ENV).*(TOKEN|PASSWORD|SECRET|KEY)", dockerfile, re.MULTILINE)
    assert dockerfile.index("USER ") < dockerfile.index("\nCMD ")
    command = json.loads(re.search(r"^CMD (.*)", dockerfile, re.MULTILINE)[1])
    assert command[:2] == ["python", "server.py"] and "--host" in command
    copied = re.findall(r"^COPY (?:--\S+ )?(.*) \S+$", dockerfile, re.MULTILINE)
    ignored = (APP / ".dockerignore").read_text(encoding="utf-8").split()
    for name in " ".join(copied).split():
        assert name == "garments.safetensors" or (APP / name).exists(), name
        assert f"!{name}" in ignored, f"{name} must be let in by .dockerignore"


def test_the_container_installs_what_the_program_imports():
    lines = (APP / "requirements.txt").read_text(encoding="utf-8").splitlines()
    pinned = [line.partition("==")[0] for line in lines if line and not line.startswith("#")]
    assert all(re.fullmatch(r"[\w-]+==[\d.]+", line) for line in lines if line and not line.startswith("#"))
    packages = {"PIL": "pillow", "starlette": "fastapi"}  # fastapi brings starlette
    imported = {(node.module if isinstance(node, ast.ImportFrom) else node.names[0].name).partition(".")[0]
                for node in ast.parse((APP / "server.py").read_text(encoding="utf-8")).body
                if isinstance(node, (ast.Import, ast.ImportFrom))}  # fmt: skip
    needed = {packages.get(name, name) for name in imported - set(sys.stdlib_module_names)}
    assert needed | {"python-multipart"} == set(pinned)
