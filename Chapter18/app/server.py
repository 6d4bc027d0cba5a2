"""Serves the garment classifier over HTTP. Creating_an_API.ipynb writes this file: make changes there."""
# imports
import argparse
import asyncio
import contextlib
import hashlib
import json
import os
import re
import threading
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import h11
import numpy as np
import torch
import torch.nn.functional as F
import uvicorn
from fastapi import FastAPI, HTTPException, UploadFile
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse
from PIL import Image, ImageOps, PngImagePlugin
from safetensors import SafetensorError, safe_open
from starlette.formparsers import MultiPartParser
from torch import nn
from uvicorn.protocols.http.h11_impl import H11Protocol


# preprocessing
@dataclass(frozen=True)
class Preprocessing:
    """From grey pixels to the network's input; the same object in training and in serving."""

    size: int  # pixels of a side
    mean: float  # of the training pixels, on a scale of 0 to 1
    std: float

    def __call__(self, pixels):
        """Grey images (n, h, w) uint8 -> (n, 1, size, size) float32, standardised; resized and padded where needed."""
        x = pixels[:, None].float() / 255
        height, width = x.shape[2:]
        if (height, width) != (self.size, self.size):
            scale = self.size / max(height, width)
            height, width = max(2, round(height * scale)), max(2, round(width * scale))  # PyTorch errs at a width of 1
            x = F.interpolate(x, (height, width), mode="bilinear", antialias=True)
            top, left = (self.size - height) // 2, (self.size - width) // 2
            x = F.pad(x, (left, self.size - width - left, top, self.size - height - top))
        return (x - self.mean) / self.std


# network
def garment_net(classes):
    """Convolutional network: standardised grey images (n, 1, 28, 28) -> logits (n, classes)."""

    def block(channels_in, channels_out):
        convolution = nn.Conv2d(channels_in, channels_out, kernel_size=3, stride=2, padding=1, bias=False)
        return convolution, nn.BatchNorm2d(channels_out), nn.ReLU()

    return nn.Sequential(*block(1, 16), *block(16, 32), *block(32, 64), nn.Flatten(), nn.Linear(64 * 4 * 4, classes))


# version
def fingerprint(tensors, settings):
    """First 12 hex digits of the SHA-256 of named tensors and named texts; changes when any bit of them does."""
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for name in sorted(tensors):
        tensor = tensors[name].contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)};".encode())
        digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()[:12]


# classifier
class WeightsError(Exception):
    """A weights file that cannot be served; the message says why."""


@dataclass(frozen=True)
class Classifier:
    """Everything that an answer depends on."""

    network: nn.Module
    preprocess: Preprocessing
    classes: list
    version: str

    @torch.inference_mode()
    def answer(self, images):
        """Grey images, a list of (h, w) uint8 arrays of any sizes -> a list of replies, one for each."""
        x = torch.cat([self.preprocess(torch.from_numpy(image)[None]) for image in images])
        replies = []
        for row in self.network(x).softmax(dim=1).tolist():
            best = max(range(len(row)), key=row.__getitem__)
            replies.append({"class": self.classes[best], "probability": row[best],
                            "probabilities": dict(zip(self.classes, row)), "model_version": self.version})  # fmt: skip
        return replies


# loading
def load_classifier(path):
    """The classifier of a safetensors file. Raises WeightsError where it is missing, damaged or of another program."""
    if not Path(path).is_file():
        raise WeightsError(f"no weights at {path}: Creating_an_API.ipynb writes some; name the file with --weights")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}
        settings = {name: metadata[name] for name in ("preprocessing", "classes")}
        if metadata["version"] != fingerprint(tensors, settings):
            raise WeightsError(f"{path}: its content does not fit its version: it is damaged, or was edited")
        classes = json.loads(settings["classes"])
        preprocess = Preprocessing(**json.loads(settings["preprocessing"]))
        network = garment_net(len(classes))
        network.load_state_dict(tensors)
    except (SafetensorError, OSError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise WeightsError(f"{path}: not weights of this program ({type(error).__name__}: {error})") from error
    return Classifier(network.eval(), preprocess, classes, metadata["version"])


# limits
MAX_BODY = 10_000_000  # bytes of a request: a photo from a phone has 2 to 8 million
MAX_PIXELS = 25_000_000  # of all images of a request together, by what their headers say: a photo has 12 million
MAX_TEXT = 1_000_000  # characters of the notes in a PNG, unpacked
MAX_SCANS = 30  # passes over the pixels that a JPEG may order: a photo has 1, a progressive one about 10
MAX_FILES = 32  # images in a batch
MAX_NAME = 255  # characters of a file's name
HEADER_SECONDS = 20  # a connection on which no request begins for so long is closed
BODY_SECONDS = 20  # a request that takes longer to arrive is given up
LINGER_SECONDS = 10  # for how long a refused body is still read, and thrown away
MAX_WORKING = 4  # requests that are decoded at the same time: each may take 300 MB
MAX_CONNECTIONS = 64  # more are answered 503 at once: the bodies of 64 may take 640 MB
FORMATS = ("PNG", "JPEG")  # decoders that a stranger's bytes may reach


# counting scans
MARKER = re.compile(rb"\xff([^\x00\x01\xd0-\xd8\xff])")  # codes of segments that have a length


def scans(content):
    """How many passes over its pixels a JPEG file orders; counted no further than MAX_SCANS + 1."""
    count, place = 0, 0
    while count <= MAX_SCANS and (marker := MARKER.search(content, place)) and marker[1] != b"\xd9":  # end of the image
        count += marker[1] == b"\xda"
        place = marker.end() + int.from_bytes(content[marker.end() : marker.end() + 2], "big")
    return count


# opening an upload
def open_upload(name, content):
    """Name and bytes of an upload -> an image whose header was read, its pixels not. HTTPException if refused."""
    if not name or len(name) > MAX_NAME or not name.isprintable() or "/" in name or "\\" in name:
        raise HTTPException(400, f"the file's name must be plain: no path, at most {MAX_NAME} printable characters")
    if not content:
        raise HTTPException(400, "the file is empty")
    try:
        image = Image.open(BytesIO(content), formats=FORMATS)
    except Image.UnidentifiedImageError as error:
        raise HTTPException(415, f"not an image in a format that is read here: {' or '.join(FORMATS)}") from error
    except Exception as error:  # whatever a decoder raises on a stranger's bytes, the bytes are at fault
        raise HTTPException(422, "the image is damaged, or too much text comes before its pixels") from error
    if image.format in ("JPEG", "MPO") and scans(content) > MAX_SCANS:
        raise HTTPException(413, f"a JPEG in more than {MAX_SCANS} scans: save the image again, not progressively")
    if image.mode.startswith(("I", "F")):
        raise HTTPException(415, "more than 8 bits for each channel: save the image with 8")
    return image


# decoding
def grey_pixels(image):
    """An opened image -> (h, w) uint8, 0 is black; upright, transparent parts black. HTTPException if damaged."""
    try:
        image = ImageOps.exif_transpose(image)
        if image.has_transparency_data:
            image = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", image.size, "black"), image)
        return np.array(image.convert("L"))
    except Exception as error:  # as above
        raise HTTPException(422, "the image is damaged: its pixels cannot be decoded") from error


# one after the other
def each(function, items):
    """[function(item), ...]; an HTTPException gets the number of the item in front, where there are several."""
    results = []
    for number, item in enumerate(items, start=1):
        try:
            results.append(function(item))
        except HTTPException as error:
            which = f"file {number}: " if len(items) > 1 else ""
            raise HTTPException(error.status_code, which + error.detail) from error
    return results


# reading uploads
Image.MAX_IMAGE_PIXELS = None
PngImagePlugin.MAX_TEXT_MEMORY = MAX_TEXT


def read_uploads(uploads):
    """Uploaded files -> their images, (h, w) uint8 each. HTTPException if one is refused, or all together."""
    images = each(lambda upload: open_upload(upload.filename, upload.file.read()), uploads)
    if sum(image.width * image.height for image in images) > MAX_PIXELS:
        raise HTTPException(413, f"more than {MAX_PIXELS // 10**6} megapixels: send a smaller image, or fewer")
    return each(grey_pixels, images)


# reading a body
async def read_body(scope, receive):
    """The whole body of a request. HTTPException as soon as it is longer than MAX_BODY, announced or counted."""
    too_long = HTTPException(413, f"more than {MAX_BODY // 10**6} megabytes: send less at once")
    if int(dict(scope["headers"]).get(b"content-length", b"0")) > MAX_BODY:
        raise too_long
    body = bytearray()
    while True:
        message = await receive()
        body += message.get("body", b"")
        if len(body) > MAX_BODY:
            raise too_long
        if not message.get("more_body", False):
            return bytes(body)


# refusing a body
async def refuse(receive, send, status, message):
    """Answer now, close afterwards; what still comes within LINGER_SECONDS is read and thrown away."""
    body = json.dumps({"detail": message}).encode()
    headers = {b"content-type": b"application/json", b"content-length": b"%d" % len(body), b"connection": b"close"}
    await send({"type": "http.response.start", "status": status, "headers": list(headers.items())})
    await send({"type": "http.response.body", "body": body, "more_body": True})

    async def throw_away():
        while (await receive()).get("more_body", False):
            pass

    with contextlib.suppress(asyncio.TimeoutError):
        await asyncio.wait_for(throw_away(), LINGER_SECONDS)
    await send({"type": "http.response.body", "body": b""})


# middleware
class WholeBody:
    """ASGI middleware: the application gets a request once its body is complete, if that is neither long nor slow."""

    def __init__(self, app):
        self.app = app

    async def __call__(self, scope, receive, send):
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        try:
            bodies = [await asyncio.wait_for(read_body(scope, receive), BODY_SECONDS)]
        except HTTPException as error:
            return await refuse(receive, send, error.status_code, error.detail)
        except asyncio.TimeoutError:
            return await refuse(receive, send, 408, f"the request took more than {BODY_SECONDS} seconds to arrive")

        async def replay():  # the body is handed over, not kept
            if bodies:
                return {"type": "http.request", "body": bodies.pop(), "more_body": False}
            return await receive()

        await self.app(scope, replay, send)


# connection
class ImpatientConnection(H11Protocol):
    """uvicorn's connection, closed if no request begins for HEADER_SECONDS or longer."""

    def connection_made(self, transport):
        super().connection_made(transport)
        self.loop.call_later(HEADER_SECONDS, self.look, None)

    def look(self, last_request):
        """Close the connection if it waits for a request, and the last one is still the one of the look before."""
        if self.transport.is_closing():
            return
        if self.conn.their_state is h11.IDLE and self.cycle is last_request:
            self.transport.close()
        else:
            self.loop.call_later(HEADER_SECONDS, self.look, self.cycle)


# page
PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Which garment is this?</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>
  body { font: 1.1rem/1.6 system-ui, sans-serif; max-width: 32rem; margin: 2rem auto; padding: 0 1rem }
  img:not([hidden]) { display: block; width: 14rem; height: 14rem; object-fit: contain; margin: 1rem 0 }
</style></head><body>
<h1>Which garment is this?</h1>
<p>One garment, upright, light on a dark background. PNG or JPEG.</p>
<form method="post" action="predict" enctype="multipart/form-data">
<input type="file" name="file" accept="image/png,image/jpeg" aria-label="image" required> <button>Ask</button></form>
<img alt="" hidden><p role="status"></p>
<script>
const [form, image, text] = ["form", "img", "p[role]"].map(name => document.querySelector(name));
form.file.onchange = () => {
  image.hidden = !form.file.files.length; text.textContent = "";
  if (!image.hidden) image.src = URL.createObjectURL(form.file.files[0]);
};
form.onsubmit = async event => {
  event.preventDefault(); text.textContent = "…";
  try {
    const reply = await fetch(form.action, {method: "POST", body: new FormData(form)}), found = await reply.json();
    text.textContent = !reply.ok ? found.detail
      : `${found.class}, probability ${found.probability.toFixed(3)} (model ${found.model_version})`;
  } catch { text.textContent = "The server did not answer."; }
};
</script></body></html>"""


# application
def create_app(classifier):
    """The web application that answers with this classifier."""
    MultiPartParser.spool_max_size = MAX_BODY  # bytes of an upload that stay in memory: all of them
    app = FastAPI(title="Which garment is this?", version=classifier.version)
    app.add_middleware(WholeBody)
    turns = threading.BoundedSemaphore(min(os.cpu_count() or 1, MAX_WORKING))

    @app.exception_handler(RequestValidationError)
    async def explain(request, error):
        return JSONResponse({"detail": "send a form (multipart/form-data) with a file, or for a batch with files"}, 422)

    @app.get("/", response_class=HTMLResponse)
    async def page():
        return PAGE

    @app.get("/health")
    async def health():
        return {"status": "ok", "model_version": classifier.version, "classes": classifier.classes}

    @app.post("/predict")
    def predict(file: UploadFile):
        with turns:
            return classifier.answer(read_uploads([file]))[0]

    @app.post("/predict/batch")
    def predict_batch(files: list[UploadFile]):
        if len(files) > MAX_FILES:
            raise HTTPException(413, f"more than {MAX_FILES} files: send fewer at once")
        with turns:
            return {"predictions": classifier.answer(read_uploads(files))}

    return app


# command line
def main():
    """Serve the weights named on the command line until interrupted."""
    parser = argparse.ArgumentParser(description="Serve the garment classifier over HTTP.")
    shipped = Path(__file__).with_name("garments.safetensors")
    parser.add_argument("--weights", type=Path, default=shipped, help="safetensors file (default: beside this program)")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on; 0.0.0.0 for other machines too")
    parser.add_argument("--port", type=int, default=8000, help="port to listen on (default: 8000)")
    options = parser.parse_args()
    try:
        classifier = load_classifier(options.weights)
    except WeightsError as error:
        parser.exit(2, f"{error}\n")
    torch.set_num_threads(1)
    uvicorn.run(create_app(classifier), host=options.host, port=options.port, access_log=False,
                limit_concurrency=MAX_CONNECTIONS, http=ImpatientConnection)  # fmt: skip


if __name__ == "__main__":
    main()
