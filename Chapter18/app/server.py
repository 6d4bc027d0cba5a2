"""Serves the garment classifier over HTTP; Creating_an_API.ipynb explains the ideas, README.md the rest.

A request is read whole (bounded in bytes and seconds), decoded in one of a few processes that may be killed, and
answered together with the requests that wait beside it. What is refused gets a status, and one sentence in JSON.
"""
import argparse
import asyncio
import base64
import contextlib
import hashlib
import json
import logging
import re
import sys
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
import uvicorn
from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import HTMLResponse, JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from pydantic import BaseModel, Field
from safetensors import SafetensorError, safe_open
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.requests import ClientDisconnect
from torch import nn

MAX_BODY = 10_000_000  # bytes of a request: a photo from a phone has 2 to 8 million
MAX_BODIES = 200_000_000  # bytes of all requests that are being received or wait
BODY_SECONDS = 20  # a request that takes longer to arrive is given up
MAX_FILES = 32  # images in a batch
MAX_WAITING = 64  # requests that wait for a decoder: more are answered 503
DECODERS = 2  # processes
DECODE_SECONDS = 5  # a request that takes longer to decode is given up, and its decoder with it
LARGEST_BATCH = 64  # images that the network answers at once
MAX_CONNECTIONS = 1000  # beyond these even the framework says 503
HERE = Path(__file__).parent
PAGE = (HERE / "page.html").read_text(encoding="utf-8")
log = logging.getLogger("garments")


# ---- the classifier


@dataclass(frozen=True)
class Preprocessing:
    """From gray pixels to the network's input; the same object in training and in serving."""

    size: int  # pixels of a side
    mean: float  # of the training pixels, on a scale of 0 to 1
    std: float

    def __call__(self, pixels):
        """Gray images (n, h, w) uint8 -> (n, 1, size, size) float32, standardized; resized and padded where needed."""
        x = pixels[:, None].float() / 255
        height, width = x.shape[2:]
        if (height, width) != (self.size, self.size):
            scale = self.size / max(height, width)
            height, width = max(2, round(height * scale)), max(2, round(width * scale))  # PyTorch errs at a width of 1
            x = F.interpolate(x, (height, width), mode="bilinear", antialias=True)
            top, left = (self.size - height) // 2, (self.size - width) // 2
            x = F.pad(x, (left, self.size - width - left, top, self.size - height - top))
        return (x - self.mean) / self.std


def garment_net(classes):
    """Convolutional network: standardized gray images (n, 1, 28, 28) -> logits (n, classes)."""

    def block(channels_in, channels_out):
        convolution = nn.Conv2d(channels_in, channels_out, kernel_size=3, stride=2, padding=1, bias=False)
        return convolution, nn.BatchNorm2d(channels_out), nn.ReLU()

    return nn.Sequential(*block(1, 16), *block(16, 32), *block(32, 64), nn.Flatten(), nn.Linear(64 * 4 * 4, classes))


def fingerprint(tensors, settings):
    """First 12 hex digits of the SHA-256 of named tensors and named texts; changes when any bit of them does."""
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for name in sorted(tensors):
        tensor = tensors[name].contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)};".encode())
        digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()[:12]


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
        """Gray images, a list of (h, w) uint8 arrays of any sizes -> a list of replies, one for each."""
        return [self.reply(row, light=border_brightness(image) > 127)
                for row, image in zip(self.network(self.inputs(images)).softmax(dim=1).tolist(), images)]

    def inputs(self, images):
        """The network's input (n, 1, size, size); those of its size are prepared together, others (memory) alone."""
        size = self.preprocess.size
        x = torch.empty(len(images), 1, size, size)
        fitting = [n for n, image in enumerate(images) if image.shape == (size, size)]
        if fitting:
            x[fitting] = self.preprocess(torch.from_numpy(np.stack([images[n] for n in fitting])))
        for n in set(range(len(images))) - set(fitting):
            x[n] = self.preprocess(torch.from_numpy(images[n])[None])[0]
        return x

    def reply(self, row, light):
        """The reply for one row of probabilities; `light`: the picture's background is."""
        best = max(range(len(row)), key=row.__getitem__)
        note = "light background: the model knows garments on black ones only" if light else None
        return {"class": self.classes[best], "probability": row[best],
                "probabilities": dict(zip(self.classes, row)), "model_version": self.version, "note": note}


def border_brightness(image):
    """The mean of the outermost pixels of a gray image (h, w) uint8."""
    return float(np.concatenate([image[0], image[-1], image[:, 0], image[:, -1]]).mean())


def load_classifier(path):
    """The classifier of a safetensors file, which has answered one image. Raises WeightsError where it cannot."""
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
        if not (isinstance(classes, list) and classes and all(isinstance(name, str) for name in classes)):
            raise ValueError("classes must be a list of names")
        network = garment_net(len(classes))
        network.load_state_dict(tensors)
        classifier = Classifier(network.eval(), Preprocessing(**json.loads(settings["preprocessing"])), classes,
                                metadata["version"])
        ramp = np.arange(40 * 30, dtype=np.uint32).reshape(40, 30)  # some picture, of another size than the network's
        probabilities = list(classifier.answer([(ramp % 256).astype(np.uint8)])[0]["probabilities"].values())
        if not np.isclose(sum(probabilities), 1, atol=1e-4):  # NaN is not close to anything
            raise ValueError("its probabilities are no numbers, or do not sum to 1")
    except (SafetensorError, OSError, KeyError, TypeError, ValueError, RuntimeError, ZeroDivisionError) as error:
        raise WeightsError(f"{path}: not weights of this program ({type(error).__name__}: {error})") from error
    return classifier


# ---- what the interface says


class Problem(BaseModel):
    """Why a request was not answered."""

    detail: str = Field(examples=["the file is empty"])


class Prediction(BaseModel):
    """The answer for one image."""

    model_config = {"protected_namespaces": (), "populate_by_name": True}

    class_: str = Field(alias="class", description="the likeliest class")
    probability: float = Field(description="of that class")
    probabilities: dict[str, float] = Field(description="of every class; they sum to 1")
    model_version: str
    note: str | None = Field(description="why the answer may mean little; null where nothing is suspected")


class Predictions(BaseModel):
    """The answers for a batch, in the order of its images."""

    predictions: list[Prediction]


class Health(BaseModel):
    """What runs."""

    status: str
    model_version: str
    classes: list[str]


PROBLEMS = {400: "an empty file", 408: "the request took too long to arrive", 411: "no Content-Length",
            413: "too large, in bytes, pixels, files or notes", 415: "not a form, or not such an image",
            422: "damaged, or not a form with a file", 503: "busy: ask again after Retry-After seconds"}
RESPONSES = {status: {"model": Problem, "description": text} for status, text in PROBLEMS.items()}


def form_of(field, several):
    """The OpenAPI description of a form with an image, or several, in one field."""
    image = {"type": "string", "format": "binary"}
    schema = {"type": "object", "required": [field],
              "properties": {field: {"type": "array", "items": image, "maxItems": MAX_FILES} if several else image}}
    return {"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": schema}}}}


def busy(what):
    """The refusal of a request that there is no room for."""
    return HTTPException(503, f"busy: {what}; ask again in a second", headers={"Retry-After": "1"})


# ---- reading a request


class Bodies:
    """How many bytes of requests the server holds."""

    def __init__(self):
        self.held = 0

    async def read(self, request):
        """The whole body; `release` it when it was used. HTTPException for what is no form, too long or too slow."""
        kind, length = (request.headers.get(name, "") for name in ("content-type", "content-length"))
        close = {"Connection": "close"}  # what is still on its way is not read
        if not re.fullmatch(r"\d{1,18}", length):
            raise HTTPException(411, "say how long the request is (Content-Length), do not send it in chunks", close)
        if not kind.lower().startswith("multipart/form-data"):
            await self.drain(request)
            raise HTTPException(415, "send a form (multipart/form-data) with an image in it", close)
        if int(length) > MAX_BODY:
            await self.drain(request)
            raise HTTPException(413, f"more than {MAX_BODY // 10**6} megabytes: send less at once", close)
        body = bytearray()
        try:
            async with asyncio.timeout(BODY_SECONDS):
                async for piece in request.stream():  # ClientDisconnect where the client has hung up
                    if self.held + len(piece) > MAX_BODIES:
                        raise busy("too much is being received")
                    self.held += len(piece)
                    body += piece
        except BaseException as error:
            self.release(body)
            if isinstance(error, TimeoutError):
                late = f"the request took more than {BODY_SECONDS} seconds to arrive"
                raise HTTPException(408, late, close) from error
            raise
        return bytes(body)

    def release(self, body):
        """The body was used."""
        self.held -= len(body)

    @staticmethod
    async def drain(request):
        """Throw away what still comes, for a while: many programs read the answer only after they have sent it all."""
        with contextlib.suppress(TimeoutError, ClientDisconnect):
            async with asyncio.timeout(BODY_SECONDS):
                async for _ in request.stream():
                    pass


# ---- decoding


class Decoder:
    """A process that runs decoding.py, started again where it dies or is killed."""

    process = None

    async def start(self):
        """Start the process, unless it runs."""
        if self.process is None or self.process.returncode is not None:
            self.process = await asyncio.create_subprocess_exec(
                sys.executable, str(HERE / "decoding.py"), stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE)

    async def ask(self, job, body):
        """The reply to a job and its pixels. TimeoutError, or EOFError where the process died; a new one follows."""
        await self.start()
        try:
            async with asyncio.timeout(DECODE_SECONDS):
                self.process.stdin.write(json.dumps({**job, "bytes": len(body)}).encode() + b"\n" + body)
                await self.process.stdin.drain()
                reply = json.loads(await self.process.stdout.readuntil())
                return reply, await self.process.stdout.readexactly(reply["bytes"])
        except BaseException:  # a reply may be half read: the next job needs a process that is at its beginning
            await self.stop()
            raise

    async def stop(self):
        """Kill the process."""
        if self.process is not None and self.process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self.process.kill()
            await self.process.wait()


class Decoders:
    """A few decoders, and a bounded number of requests that wait for one."""

    def __init__(self):
        self.all = [Decoder() for _ in range(DECODERS)]
        self.idle = asyncio.Queue()
        self.waiting = 0

    async def __aenter__(self):
        for decoder in self.all:
            await decoder.start()
            self.idle.put_nowait(decoder)
        return self

    async def __aexit__(self, *_):
        for decoder in self.all:
            await decoder.stop()

    async def images(self, content_type, body, field, most):
        """A form -> the pixels of its images, (h, w) uint8 each. HTTPException if one is refused or all are busy."""
        if self.waiting >= MAX_WAITING:
            raise busy(f"{MAX_WAITING} requests are waiting")
        self.waiting += 1
        try:
            decoder = await self.idle.get()
        finally:
            self.waiting -= 1
        try:
            reply, pixels = await decoder.ask({"content_type": content_type, "field": field, "most": most}, body)
        except TimeoutError as error:
            raise HTTPException(413, f"decoding takes more than {DECODE_SECONDS} seconds: send less at once") from error
        except (EOFError, ConnectionError) as error:  # IncompleteReadError is an EOFError
            raise HTTPException(422, "the image is damaged: it ended the program that decodes it") from error
        finally:
            self.idle.put_nowait(decoder)
        if reply["status"] != 200:
            raise HTTPException(reply["status"], reply["detail"])
        images, place = [], 0
        for height, width in reply["shapes"]:
            images.append(np.frombuffer(pixels, np.uint8, height * width, place).reshape(height, width).copy())
            place += height * width
        return images


# ---- answering


class Batcher:
    """Answers together what has come in while the network was busy with the batch before."""

    def __init__(self, answer, observe=lambda size: None, largest=LARGEST_BATCH):
        self.answer, self.observe, self.largest = answer, observe, largest
        self.jobs = asyncio.Queue()
        self.thread = ThreadPoolExecutor(1)

    async def __aenter__(self):
        self.task = asyncio.create_task(self.run())
        return self

    async def __aexit__(self, *_):
        self.task.cancel()
        await asyncio.wait([self.task])
        self.thread.shutdown()

    async def replies(self, images):
        """Images -> replies, in their order; one that fails is raised here."""
        future = asyncio.get_running_loop().create_future()
        self.jobs.put_nowait((images, future))
        return await future

    async def run(self):
        """Batch after batch, until it is cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            batch = [await self.jobs.get()]
            while sum(len(images) for images, _ in batch) < self.largest and not self.jobs.empty():
                batch.append(self.jobs.get_nowait())
            together = [image for images, _ in batch for image in images]
            self.observe(len(together))
            try:
                replies = iter(await loop.run_in_executor(self.thread, self.answer, together))
                results = [[next(replies) for _ in images] for images, _ in batch]
            except Exception as error:
                results = [error] * len(batch)
            for (_, future), result in zip(batch, results):
                if future.cancelled():  # its client has gone
                    continue
                if isinstance(result, Exception):
                    future.set_exception(result)
                else:
                    future.set_result(result)


# ---- looking on


class Watched:
    """ASGI middleware: an id, a log line, metrics and the headers of a careful server for every request."""

    HEADERS = {"x-content-type-options": "nosniff", "x-frame-options": "DENY", "referrer-policy": "no-referrer"}

    def __init__(self, app, paths, count, seconds):
        self.app, self.paths, self.count, self.seconds = app, paths, count, seconds

    async def __call__(self, scope, receive, send):
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        identity, began, status = uuid.uuid4().hex[:12], time.perf_counter(), 0
        path = scope["path"] if scope["path"] in self.paths else "other"  # a stranger's text stays out of the log

        async def sending(message):
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = {**self.HEADERS, "x-request-id": identity}
                message["headers"] = [*message["headers"], *((k.encode(), v.encode()) for k, v in headers.items())]
            await send(message)

        try:
            await self.app(scope, receive, sending)
        except ClientDisconnect:
            status = 499  # nobody is there to be answered
        finally:
            took = time.perf_counter() - began
            method = scope["method"] if scope["method"] in ("GET", "HEAD", "POST") else "other"
            self.count.labels(method, path, status or 500).inc()
            self.seconds.labels(path).observe(took)
            log.info("%s %s %s %s %.1f ms", identity, method, path, status or 500, took * 1000)


def page_policy():
    """The Content-Security-Policy of the upload page: its own style and script, named by their hashes, nothing else."""
    def hashed(tag):
        text = re.search(rf"<{tag}>(.*?)</{tag}>", PAGE, re.DOTALL)[1]
        return "'sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() + "'"

    return (f"default-src 'none'; img-src blob:; connect-src 'self'; form-action 'self'; base-uri 'none'; "
            f"frame-ancestors 'none'; style-src {hashed('style')}; script-src {hashed('script')}")


WITHOUT_SCRIPT = """<p style="font: 1rem sans-serif; margin: 2rem">Nothing more here? This page takes its script from a
public server, which was not reached. The same description, for programs:
<a href="openapi.json">openapi.json</a>.</p>"""


# ---- the application


def create_app(classifier):
    """The web application that answers with this classifier."""
    registry = CollectorRegistry()
    count = Counter("garments_requests", "requests answered", ["method", "path", "status"], registry=registry)
    seconds = Histogram("garments_request_seconds", "from the first byte to the last", ["path"], registry=registry)
    sizes = Histogram("garments_batch_images", "images that the network answered at once", registry=registry,
                      buckets=[1, 2, 4, 8, 16, 32, 64, 128])
    waiting = Gauge("garments_waiting_requests", "requests that wait for a decoder", registry=registry)

    @contextlib.asynccontextmanager
    async def lifespan(app):
        async with Decoders() as decoders, Batcher(classifier.answer, sizes.observe) as batcher:
            app.state.decoders, app.state.batcher, app.state.bodies = decoders, batcher, Bodies()
            waiting.set_function(lambda: decoders.waiting)
            yield

    app = FastAPI(title="Which garment is this?", version=classifier.version, lifespan=lifespan, docs_url=None,
                  redoc_url=None, redirect_slashes=False)

    async def answered(request, field, most):
        state = request.app.state
        body = await state.bodies.read(request)
        try:
            images = await state.decoders.images(request.headers["content-type"], body, field, most)
        finally:
            state.bodies.release(body)
        return await state.batcher.replies(images)

    @app.exception_handler(StarletteHTTPException)
    async def explain(request, error):
        return JSONResponse({"detail": error.detail}, error.status_code, headers=error.headers)

    @app.api_route("/", methods=["GET", "HEAD"], response_class=HTMLResponse, include_in_schema=False)
    async def page():
        return HTMLResponse(PAGE, headers={"content-security-policy": page_policy()})

    @app.get("/docs", response_class=HTMLResponse, include_in_schema=False)
    async def docs():
        page = get_swagger_ui_html(openapi_url="openapi.json", title=app.title).body.decode()
        return page.replace('<div id="swagger-ui">', f'<div id="swagger-ui">{WITHOUT_SCRIPT}')

    @app.head("/health", include_in_schema=False)
    @app.get("/health")
    async def health() -> Health:
        """The process answers."""
        return Health(status="ok", model_version=classifier.version, classes=classifier.classes)

    @app.head("/ready", include_in_schema=False)
    @app.get("/ready", responses={503: RESPONSES[503]})
    async def ready(request: Request) -> Health:
        """The network answers (it is asked), and there is room for a request."""
        if request.app.state.decoders.waiting >= MAX_WAITING:
            raise busy(f"{MAX_WAITING} requests are waiting")
        await request.app.state.batcher.replies([np.zeros((28, 28), dtype=np.uint8)])
        return Health(status="ready", model_version=classifier.version, classes=classifier.classes)

    @app.get("/metrics", include_in_schema=False)
    async def metrics():
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)

    @app.post("/predict", responses=RESPONSES, openapi_extra=form_of("file", several=False))
    async def predict(request: Request) -> Prediction:
        """Which garment is on the image in the field `file`?"""
        return Prediction(**(await answered(request, "file", most=1))[0])

    @app.post("/predict/batch", responses=RESPONSES, openapi_extra=form_of("files", several=True))
    async def predict_batch(request: Request) -> Predictions:
        """Which garments are on the images in the field `files`? All are answered, or none."""
        return Predictions(predictions=[Prediction(**reply) for reply in await answered(request, "files", MAX_FILES)])

    paths = {route.path for route in app.routes}
    app.add_middleware(Watched, paths=paths, count=count, seconds=seconds)
    return app


# ---- the command line


def port(text):
    """A port's number, 0 to 65535."""
    if not (text.isascii() and text.isdigit() and int(text) < 65536):
        raise argparse.ArgumentTypeError(f"{text!r} is no port: give a number from 0 to 65535")
    return int(text)


def main():
    """Serve the weights named on the command line until interrupted."""
    parser = argparse.ArgumentParser(description="Serve the garment classifier over HTTP.")
    shipped = HERE / "garments.safetensors"
    parser.add_argument("--weights", type=Path, default=shipped, help="safetensors file (default: beside this program)")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on; 0.0.0.0 for other machines too")
    parser.add_argument("--port", type=port, default=8000, help="port to listen on (default: 8000)")
    options = parser.parse_args()
    try:
        classifier = load_classifier(options.weights)
    except WeightsError as error:
        parser.exit(2, f"{error}\n")
    torch.set_num_threads(1)
    logging.basicConfig(format="%(asctime)s %(message)s", level=logging.INFO, stream=sys.stderr)
    uvicorn.run(create_app(classifier), host=options.host, port=options.port, access_log=False, log_level="warning",
                http="h11", limit_concurrency=MAX_CONNECTIONS, timeout_keep_alive=10, timeout_graceful_shutdown=8)


if __name__ == "__main__":
    main()
