"""The app of chapter 18 without a network: what it computes, what it refuses, what it leaves behind."""
import ast
import asyncio
import json
import re
import struct
import subprocess
import sys
import tempfile
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin
from safetensors.torch import load_file, save_file
from starlette.testclient import TestClient

from tests.chapter18.conftest import APP

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


# --- preprocessing: one for training and serving


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "LA", "P"])
def test_upload_gives_the_very_input_of_training(decoding, classifier, trained, mode):
    for pixels, expected in zip(trained.images[:50], trained.inputs):
        content = encode(Image.fromarray(pixels.numpy()).convert(mode))
        found = decoding.gray_pixels(decoding.open_image(content))
        assert torch.equal(classifier.preprocess(torch.from_numpy(found)[None])[0], expected)


def test_preprocessing_travels_with_the_weights(server, lesson, trained, tmp_path):
    for size, mean, std in ((28, 0.1, 0.7), (30, 0.123456789012345, 1e-3)):
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
def test_photos_are_turned_as_their_exif_says(decoding, orientation):
    turn = {2: "FLIP_LEFT_RIGHT", 3: "ROTATE_180", 4: "FLIP_TOP_BOTTOM", 5: "TRANSPOSE", 6: "ROTATE_90",
            7: "TRANSVERSE", 8: "ROTATE_270"}
    upright = Image.fromarray(np.arange(24, dtype=np.uint8).reshape(4, 6) * 10)
    stored = upright.transpose(Image.Transpose[turn[orientation]]) if orientation > 1 else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    entries = [struct.pack("<HHII", 0x0100, 2, 4, 0x65646977), struct.pack("<HHII", 0x0112, 3, 1, orientation),
               struct.pack("<HHII", 0x011A, 2, 4, 0x00323737)]  # a width and a resolution that are texts
    odd = b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<H", len(entries)) + b"".join(entries) + bytes(4)
    for kind, bytes_of_exif in (("PNG", exif), ("PNG", odd), ("JPEG", odd)):
        found = decoding.gray_pixels(decoding.open_image(encode(stored, kind, exif=bytes_of_exif)))
        assert found.shape == (4, 6)
        np.testing.assert_allclose(found, np.asarray(upright), rtol=0, atol=12 if kind == "JPEG" else 0)


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_damaged_metadata_are_no_reason_to_refuse_good_pixels(client, kind):
    content = encode(Image.new("L", (28, 28), 200), kind, exif=b"Exif\0\0" + bytes(range(200)))
    assert predict(client, content).status_code == 200


def test_transparent_is_black(decoding):
    pixels = np.full((2, 2, 4), 255, dtype=np.uint8)
    pixels[0, 0, 3] = 0
    found = decoding.gray_pixels(decoding.open_image(encode(Image.fromarray(pixels))))
    assert found.tolist() == [[0, 255], [255, 255]]


def test_sixteen_bits_are_as_good_as_eight(decoding):
    eight = RNG.integers(0, 256, (28, 28), dtype=np.uint8)
    found = decoding.gray_pixels(decoding.open_image(encode(Image.fromarray(eight.astype(np.uint16) * 257))))
    np.testing.assert_array_equal(found, eight)


@pytest.mark.parametrize("shape, reduced", [
    ((1024, 700), (1024, 700)), ((1025, 700), (513, 350)), ((4000, 3000), (1000, 750))])
def test_photos_are_averaged_over_whole_blocks(decoding, shape, reduced):
    pixels = RNG.integers(0, 256, shape, dtype=np.uint8)
    found = decoding.gray_pixels(decoding.open_image(encode(Image.fromarray(pixels))))
    assert found.shape == reduced
    if shape == (4000, 3000):
        mean = pixels.reshape(1000, 4, 750, 4).mean((1, 3))
        np.testing.assert_allclose(found, mean, rtol=0, atol=1)


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


@pytest.mark.parametrize("fault", [
    {"size": 64}, {"size": 28.5}, {"std": 0.0}, {"mean": "0.1"}, {"classes": {"a": 1}}, {"nan": True}])
def test_weights_that_cannot_answer_are_not_served(server, lesson, trained, tmp_path, fault):
    """Files whose version is right: only asking the network for an answer shows what is wrong with them."""
    numbers = {"size": 28, "mean": 0.1, "std": 0.3}
    preprocess = numbers | {name: value for name, value in fault.items() if name in numbers}
    tensors = load_file(trained.path)
    if "nan" in fault:
        tensors["0.weight"].view(-1)[3] = torch.nan
    settings = {"preprocessing": json.dumps(preprocess), "classes": json.dumps(fault.get("classes", trained.classes))}
    save_file(tensors, tmp_path / "a.safetensors", {**settings, "version": server.fingerprint(tensors, settings)})
    with pytest.raises(server.WeightsError, match="not weights of this program"):
        server.load_classifier(tmp_path / "a.safetensors")


@pytest.mark.parametrize("content, words", [(None, "no weights at"), (b"", "not weights of this program")])
def test_wrong_weights_end_the_program_with_a_sentence(server, tmp_path, monkeypatch, capsys, content, words):
    path = tmp_path / "some.safetensors"
    if content is not None:
        path.write_bytes(content)
    monkeypatch.setattr(sys, "argv", ["server.py", "--weights", str(path)])
    with pytest.raises(SystemExit) as ended:
        server.main()
    assert ended.value.code == 2 and words in capsys.readouterr().err


@pytest.mark.parametrize("port", ["70000", "-1", "http", "８０００"])
def test_a_port_that_is_none_ends_the_program_with_a_sentence(server, monkeypatch, capsys, port):
    monkeypatch.setattr(sys, "argv", ["server.py", f"--port={port}"])
    with pytest.raises(SystemExit) as ended:
        server.main()
    assert ended.value.code == 2 and "0 to 65535" in capsys.readouterr().err


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


@pytest.mark.parametrize("shapes", [
    [(28, 28)] * 3, [(40, 30)], [(5, 90), (28, 28), (28, 27), (28, 28), (1, 1), (60, 60)],
])
def test_what_is_prepared_together_is_what_is_prepared_alone(classifier, shapes):
    images = [RNG.integers(0, 256, shape, dtype=np.uint8) for shape in shapes]
    alone = [classifier.preprocess(torch.from_numpy(image)[None]) for image in images]
    assert torch.equal(classifier.inputs(images), torch.cat(alone))


@pytest.mark.parametrize("mode, kind", [
    ("1", "PNG"), ("L", "PNG"), ("P", "PNG"), ("RGB", "PNG"), ("RGBA", "PNG"), ("LA", "PNG"),
    ("L", "JPEG"), ("RGB", "JPEG"), ("CMYK", "JPEG"),
])
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
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy and page.headers["x-frame-options"] == "DENY"
    health = client.get("/health").json()
    assert health == {"status": "ok", "model_version": trained.version, "classes": trained.classes}
    assert {client.head(path).status_code for path in ("/", "/health", "/ready")} == {200}
    assert client.get("/ready").json()["status"] == "ready"
    assert "openapi.json" in client.get("/docs").text  # what is left of it without its script
    assert client.post("/predict/").status_code == 404  # no redirection to whatever Host says


def test_the_description_says_what_is_true(client):
    """Every status that the tests below see is declared, with its form; uploads have file pickers."""
    described = client.get("/openapi.json").json()
    for path, field in (("/predict", "file"), ("/predict/batch", "files")):
        operation = described["paths"][path]["post"]
        assert set(operation["responses"]) == {"200", "400", "408", "411", "413", "415", "422", "503"}
        for status, response in operation["responses"].items():
            schema = response["content"]["application/json"]["schema"]["$ref"]
            assert schema.endswith({"200": "Prediction" if field == "file" else "Predictions"}.get(status, "Problem"))
        form = operation["requestBody"]["content"]["multipart/form-data"]["schema"]
        image = form["properties"][field]
        assert (image.get("items") or image)["format"] == "binary" and form["required"] == [field]
    reply = predict(client, encode(GRAY)).json()
    assert set(reply) == set(described["components"]["schemas"]["Prediction"]["properties"])


def test_a_light_background_is_remarked(client, trained):
    dark = next(image for image in trained.images.numpy() if image[0].mean() < 20 and image[:, 0].mean() < 20)
    assert predict(client, encode(Image.fromarray(dark))).json()["note"] is None
    assert "background" in predict(client, encode(Image.fromarray(255 - dark))).json()["note"]


# --- refusals


def refused(response, status, words=""):
    assert response.status_code == status, response.text
    assert isinstance(response.json()["detail"], str) and words in response.json()["detail"]


GRAY = Image.fromarray(RNG.integers(0, 256, (28, 28), dtype=np.uint8))


NAMES = ("a.png", "virus.exe", "..", "CON", "../../etc/passwd", "/etc/passwd", "..\\win.ini", "a/b.png", "a" * 255,
         "Screenshot 2026-11-28 at 3.45.12\u202fPM.png", "👨‍👩‍👧.png",
         "عکس\u200cها.png", "a\u00a0b\u202egnp.png", "a\x7f.png")


def test_a_name_is_used_for_nothing(client):
    answers = [predict(client, encode(GRAY), name=name) for name in NAMES]
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.text for answer in answers}) == 1


@pytest.mark.parametrize("content, status", [
    (b"", 400), (b"\0", 415), (b"hello", 415), (b"<svg xmlns='http://www.w3.org/2000/svg'/>", 415),
    (b"%PDF-1.7", 415), (encode(GRAY, "GIF"), 415), (encode(GRAY, "BMP"), 415), (encode(GRAY, "TIFF"), 415),
    (encode(GRAY)[:-400], 422), (encode(GRAY, "JPEG")[:-100], 422), (encode(GRAY)[:20], 422),
])
def test_contents_are_refused(client, content, status):
    refused(predict(client, content, name="a.png"), status)


def test_not_only_os_errors_of_a_decoder_are_caught(client):
    """Pixels that end too early, before a chunk without a name: Pillow raises a SyntaxError for this one."""
    good = encode(GRAY)
    head, pixels = good[:33], good[41:-16]  # signature and IHDR; the data of the IDAT chunk
    half = b"IDAT" + pixels[: len(pixels) // 2]
    broken = head + (len(half) - 4).to_bytes(4, "big") + half + bytes(4) + b"\0\0\0\4\1\2\3\4" + bytes(8)
    refused(predict(client, broken), 422, "damaged")


def claim_size(content, side):
    """A PNG whose header claims `side` pixels each way."""
    header = content[12:16] + struct.pack(">II", side, side) + content[24:29]
    return content[:12] + header + struct.pack(">I", zlib.crc32(header)) + content[33:]


def chunk(kind, data):
    """A chunk of a PNG."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def with_chunks(content, chunks):
    """A PNG with these chunks behind its header."""
    return content[:33] + chunks + content[33:]


def repeat_scan(content, times):
    """A progressive JPEG whose last scan is ordered again and again."""
    start, end = content.rindex(b"\xff\xda"), content.rindex(b"\xff\xd9")
    return content[:end] + content[start:end] * times + content[end:]


def test_bombs_are_refused_before_they_are_decoded(client):
    for side in (5_001, 10_000, 50_000, 2**31 - 1):
        refused(predict(client, claim_size(encode(GRAY), side)), 413)
    huge = bytearray(encode(Image.new("L", (16, 16)), "JPEG"))
    start = huge.index(b"\xff\xc0")
    huge[start + 5 : start + 9] = (19_000).to_bytes(2, "big") * 2
    refused(predict(client, bytes(huge)), 413, "megapixels")
    many = [("files", ("a.png", claim_size(encode(GRAY), 1_000)))] * 26
    refused(client.post("/predict/batch", files=many), 413, "megapixels")


JPEG = encode(Image.fromarray(RNG.integers(0, 256, (28, 28, 3), dtype=np.uint8)), "JPEG")
PROFILE = zlib.compress(bytes(1_000_000), 9)
MANY = {  # small files, or files within the limit of a request, that once kept the server busy for seconds to minutes
    "EXIF segments": JPEG[:2] + (b"\xff\xe1\0\x30Exif\0\0" + b"a" * 40) * 198_000 + JPEG[2:],
    "empty segments": JPEG[:2] + b"\xff\xe5\0\2" * 2_400_000 + JPEG[2:],
    "empty comments": JPEG[:2] + b"\xff\xfe\0\2" * 2_400_000 + JPEG[2:],
    "filling": JPEG[:2] + b"\xff" * 9_500_000 + JPEG[2:],
    "filling that is none": JPEG[:2] + b"\xff" * 9_000_000 + b"\0" + JPEG[2:],
    "color profiles": with_chunks(encode(GRAY), chunk(b"iCCP", b"a\0\0" + PROFILE) * 9_000),
    "empty chunks": with_chunks(encode(GRAY), chunk(b"tEXt", b"") * 800_000),
    "notes that unpack to 60 MB": with_chunks(
        encode(GRAY), chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(500_000), 9)) * 120),
    "scans": repeat_scan(encode(GRAY, "JPEG", progressive=True), 4_000),
    "chunks of pixels": encode(GRAY)[:33] + chunk(b"IDAT", b"") * 700_000 + encode(GRAY)[33:],
}


@pytest.mark.parametrize("kind", MANY)
def test_what_takes_long_is_refused_before_a_decoder_sees_it(client, kind):
    start = time.process_time(), time.monotonic()
    refused(predict(client, MANY[kind]), 413)
    assert time.process_time() - start[0] < 3 and time.monotonic() - start[1] < 60


def test_ordinary_notes_are_no_fault(client):
    notes = PngImagePlugin.PngInfo()
    notes.add_text("Comment", "a" * 50_000, zip=True)
    assert predict(client, encode(GRAY, pnginfo=notes, icc_profile=bytes(3000))).status_code == 200
    exif = Image.Exif()
    exif[0x010E] = "a" * 60_000
    assert predict(client, encode(GRAY, "JPEG", exif=exif)).status_code == 200
    assert predict(client, encode(GRAY.resize((900, 900)), "JPEG", progressive=True)).status_code == 200


def test_the_parts_of_a_jpeg_are_seen_as_they_are(decoding):
    colors = Image.fromarray(RNG.integers(0, 256, (64, 64, 3), dtype=np.uint8))
    baseline, progressive = encode(colors, "JPEG"), encode(colors, "JPEG", progressive=True)
    restarts = encode(colors, "JPEG", restart_marker_blocks=1)
    thumbnail = baseline[:2] + b"\xff\xe1" + (len(progressive) + 2).to_bytes(2, "big") + progressive + baseline[2:]

    def scans(content):
        return sum(kind == decoding.SCAN for kind, _ in decoding.parts_of_jpeg(content))

    assert re.search(rb"\xff[\xd0-\xd7]", restarts)
    for content in (baseline, restarts, thumbnail, baseline + b"\xff\xda" * 100):
        assert scans(content) == 1
    assert 5 < scans(progressive) == progressive.count(b"\xff\xda") < decoding.MAX_SCANS
    for times in (1, 5, 10):
        assert scans(repeat_scan(progressive, times)) == scans(progressive) + times


@settings(deadline=None, derandomize=True, max_examples=200)
@given(st.binary(max_size=300), st.sampled_from([b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8"]))
def test_looking_at_parts_ends(decoding, content, start):
    for damaged in (start + content, start + content.replace(b"\0", b"\xff\xda")):
        try:
            decoding.check_parts(damaged)
        except decoding.Refused as error:
            assert error.status == 413


def test_batches_are_refused_as_a_whole(client):
    good, bad = ("files", ("a.png", encode(GRAY))), ("files", ("b.png", b"hello"))
    refused(client.post("/predict/batch", files=[good, bad, good]), 415, "file 2: ")
    refused(client.post("/predict/batch", files=[good] * 33), 413, "32")
    refused(client.post("/predict/batch", files=[("file", good[1])]), 422)
    refused(client.post("/predict", files=[("file", good[1]), ("file", bad[1])]), 413, "more than 1 file")
    refused(client.post("/predict", files=[("file", good[1])], data={"name": "a"}), 422, "nothing else")
    refused(client.post("/predict/batch", headers={"content-length": "0"}), 415)


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
    (b"file=1", {"content-type": "application/x-www-form-urlencoded"}), (encode(GRAY), {"content-type": "image/png"}),
])
def test_damaged_forms_are_refused(client, body, headers):
    response = client.post("/predict", content=body, headers=headers)
    assert 400 <= response.status_code < 500 and isinstance(response.json()["detail"], str)


@settings(deadline=None, derandomize=True, max_examples=150)
@given(st.sampled_from(["PNG", "JPEG"]), st.integers(0, 2**32 - 1))
def test_damaged_images_never_break_the_server(client, kind, seed):
    rng = np.random.default_rng(seed)
    content = bytearray(encode(GRAY, kind))
    for place in rng.integers(0, len(content), rng.integers(1, 20)):
        content[place] = rng.integers(256)
    response = predict(client, bytes(content[: rng.integers(1, 2 * len(content))]))
    assert response.status_code == 200 or (400 <= response.status_code < 500 and response.json()["detail"])


# --- a request on its way


def ask(server, messages, headers, path="/predict"):
    """Send ASGI messages to a new application: status, JSON, and the bytes that it holds of requests afterwards."""
    async def run():
        app, sent, left = server.create_app(CLASSIFIER[0]), [], iter(messages)

        async def receive():
            message = next(left, None)
            if message is None:
                await asyncio.sleep(60)  # a client that goes silent
            return message

        async def send(message):
            sent.append(message)

        scope = {"type": "http", "method": "POST", "path": path, "raw_path": path.encode(), "query_string": b"",
                 "headers": [(name.encode(), value.encode()) for name, value in headers.items()]}
        async with app.router.lifespan_context(app):
            await app(scope, receive, send)
            held = app.state.bodies.held
        body = b"".join(message.get("body", b"") for message in sent)
        return (sent[0]["status"] if sent else None), json.loads(body or b"null"), held

    return asyncio.run(run())


CLASSIFIER = []  # the trained one, for functions that hypothesis or asyncio call


@pytest.fixture(autouse=True, scope="module")
def _classifier(classifier):
    CLASSIFIER[:] = [classifier]


FORM = {"content-type": "multipart/form-data; boundary=frame"}


def piece(body, more):
    return {"type": "http.request", "body": body, "more_body": more}


def test_a_request_of_unknown_length_is_refused_unread(server):
    status, answer, held = ask(server, [], {**FORM, "transfer-encoding": "chunked"})
    assert status == 411 and "Content-Length" in answer["detail"] and held == 0


def test_a_long_request_is_thrown_away_while_it_comes(server):
    messages = [piece(bytes(1_000_000), n < 19) for n in range(20)]
    status, answer, held = ask(server, messages, {**FORM, "content-length": "20000000"})
    assert status == 413 and "megabytes" in answer["detail"] and held == 0


def test_a_slow_request_is_given_up(server, monkeypatch):
    monkeypatch.setattr(server, "BODY_SECONDS", 0.2)
    for length in ("5000", "50000000"):
        status, _, held = ask(server, [piece(b"--frame", True)], {**FORM, "content-length": length})
        assert status == (408 if length == "5000" else 413) and held == 0


def test_a_client_that_hangs_up_is_not_answered_with_half_its_request(server):
    messages = [piece(b"--frame", True), {"type": "http.disconnect"}]
    status, _, held = ask(server, messages, {**FORM, "content-length": "50"})
    assert status is None and held == 0


def test_not_more_is_held_than_there_is_room_for(server, monkeypatch):
    monkeypatch.setattr(server, "MAX_BODIES", 1000)
    messages = [piece(bytes(600), True), piece(bytes(600), False)]
    status, _, held = ask(server, messages, {**FORM, "content-length": "1200"})
    assert status == 503 and held == 0


# --- decoders that fail


@pytest.fixture
def stub(server, tmp_path, monkeypatch):
    """Replace the program of the decoders by another: `stub(source)`."""
    def replace(source):
        (tmp_path / "decoding.py").write_text(source, encoding="utf-8")
        monkeypatch.setattr(server, "HERE", tmp_path)

    return replace


SLEEPS = "import sys, time\nsys.stdin.buffer.readline()\ntime.sleep(600)"
DIES = "import sys\nsys.stdin.buffer.readline()\nsys.exit(1)"


@pytest.mark.parametrize("source, status, words", [(SLEEPS, 413, "seconds"), (DIES, 422, "ended the program")])
def test_a_decoder_that_hangs_or_dies_is_replaced(server, classifier, stub, monkeypatch, source, status, words):
    monkeypatch.setattr(server, "DECODE_SECONDS", 0.5)
    real = (APP / "decoding.py").read_text(encoding="utf-8")
    stub(source)
    with TestClient(server.create_app(classifier)) as client:
        monkeypatch.setattr(server, "DECODE_SECONDS", 1.5)
        for _ in range(server.DECODERS):
            refused(predict(client, encode(GRAY)), status, words)
        stub(real)
        monkeypatch.setattr(server, "DECODE_SECONDS", 60)
        for _ in range(2 * server.DECODERS):  # each has failed, and is there again
            assert predict(client, encode(GRAY)).status_code == 200


def test_more_requests_than_can_wait_are_told_when_to_come_again(server, classifier, stub, monkeypatch):
    stub(SLEEPS)
    monkeypatch.setattr(server, "MAX_WAITING", 3)
    monkeypatch.setattr(server, "DECODE_SECONDS", 3)
    with TestClient(server.create_app(classifier)) as client, ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda _: predict(client, encode(GRAY)), range(16)))
        busy = [answer for answer in answers if answer.status_code == 503]
        assert len(answers) - len(busy) >= server.DECODERS and len(busy) >= 16 - 3 - 2 * server.DECODERS - 3
        for answer in busy:
            assert int(answer.headers["retry-after"]) >= 1 and "busy" in answer.json()["detail"]


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the system does not hold a process to its memory")
def test_a_decoder_does_not_take_more_than_its_memory():
    source = ("import decoding, numpy as np\ndecoding.limit_memory()\n"
              "decoding.decode = lambda *a: np.ones(3 * decoding.MEMORY, np.uint8)\n"
              "print(decoding.answer(dict(content_type='', field='', most=1), b''))")
    run = subprocess.run([sys.executable, "-c", source], cwd=APP, capture_output=True, text=True)
    assert "'status': 413" in run.stdout and "memory" in run.stdout, run


# --- requests that are answered together


def test_every_request_of_a_batch_gets_its_own_answers(server):
    sizes = []

    def answer(images):
        time.sleep(0.01)
        return [int(image) for image in images]

    async def run():
        async with server.Batcher(answer, sizes.append, largest=8) as batcher:
            wanted = [list(range(n, n + n % 4)) for n in range(40)]
            return wanted, await asyncio.gather(*(batcher.replies(images) for images in wanted))

    wanted, found = asyncio.run(run())
    assert found == wanted
    assert max(sizes) <= 8 + 2 and len(sizes) < 20  # a request is never cut in two; most were answered with others


def test_a_failure_reaches_those_whom_it_concerns_and_nobody_else(server):
    def answer(images):
        time.sleep(0.01)
        if "bad" in images:
            raise ValueError("bad")
        return images

    async def run():
        async with server.Batcher(answer, largest=1) as batcher:
            given_up = asyncio.create_task(batcher.replies(["gone"]))
            await asyncio.sleep(0)
            given_up.cancel()
            asked = [batcher.replies([name]) for name in ("a", "bad", "b")]
            return await asyncio.gather(*asked, return_exceptions=True)

    first, failed, last = asyncio.run(run())
    assert first == ["a"] and last == ["b"] and isinstance(failed, ValueError)


def test_together_is_five_times_as_fast_as_one_by_one(server, classifier):
    """32 clients who ask again and again; the network alone, in one run, best of five.

    Seconds are the process' own, so that another program's work on this machine is not taken for the server's; that
    it does not wait either is looked for on the clock on the wall, with room for others.
    """
    images = RNG.integers(0, 256, (32, 28, 28), dtype=np.uint8)

    async def seconds(largest):
        async with server.Batcher(classifier.answer, largest=largest) as batcher:
            async def client(image, times):
                for _ in range(times):
                    await batcher.replies([image])

            await client(images[0], 10)
            began, began_own = time.perf_counter(), time.process_time()
            await asyncio.gather(*(client(image, 10) for image in images))
            return np.array([time.process_time() - began_own, time.perf_counter() - began])

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as the program does
    try:
        gains = np.array([asyncio.run(seconds(1)) / asyncio.run(seconds(64)) for _ in range(5)])
    finally:
        torch.set_num_threads(threads)
    own, wall = gains.max(axis=0)
    assert own > 5 and wall > 3, gains


# --- looking on


def test_every_request_leaves_a_line_and_a_number_and_nothing_of_its_text(client, caplog):
    caplog.set_level("INFO", "garments")
    reply = predict(client, encode(GRAY), name="secret.png")
    client.get("/secret/../path?secret=1")
    client.request("SECRET", "/predict")
    lines = [record.getMessage() for record in caplog.records if record.name == "garments"]
    assert len(lines) == 3 and "secret" not in " ".join(lines).lower()
    assert reply.headers["x-request-id"] in lines[0] and "POST /predict 200" in lines[0]
    metrics = client.get("/metrics").text
    assert 'garments_requests_total{method="POST",path="/predict",status="200"}' in metrics
    assert 'path="other",status="404"' in metrics and "secret" not in metrics.lower()
    assert "garments_batch_images_bucket" in metrics and "garments_waiting_requests 0.0" in metrics


# --- nothing on disk


def test_nothing_is_written_to_disk(decoding, monkeypatch):
    """Not even by the parser of forms, which would use a temporary file from one megabyte on."""
    def forbidden(*args, **kwargs):
        raise AssertionError("a temporary file on disk")

    for name in ("mkstemp", "NamedTemporaryFile", "TemporaryFile", "SpooledTemporaryFile"):
        monkeypatch.setattr(tempfile, name, forbidden)
    noise = encode(Image.fromarray(RNG.integers(0, 256, (1000, 1500, 3), dtype=np.uint8)))
    assert len(noise) > 4_000_000
    body = (b'--frame\r\nContent-Disposition: form-data; name="file"; filename="a.png"\r\n\r\n' + noise
            + b"\r\n--frame--\r\n")
    assert decoding.decode(FORM["content-type"], body, "file", 1)[0].shape == (500, 750)


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
    packages = {"PIL": "pillow", "python_multipart": "python-multipart", "prometheus_client": "prometheus-client"}
    imported = {(node.module if isinstance(node, ast.ImportFrom) else node.names[0].name).partition(".")[0]
                for program in ("server.py", "decoding.py")
                for node in ast.parse((APP / program).read_text(encoding="utf-8")).body
                if isinstance(node, (ast.Import, ast.ImportFrom))}
    needed = {packages.get(name, name) for name in imported - set(sys.stdlib_module_names)}
    assert needed - {"server", "decoding"} | {"h11"} == set(pinned)
