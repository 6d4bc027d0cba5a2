"""What the tests of the API share: the program, a network that the notebook's own code trained, a running server."""
from __future__ import annotations

import contextlib
import importlib.util
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import NamedTuple

import httpx
import pytest
import torch
from torchvision.datasets import FashionMNIST

from tests.definitions import definitions
from tests.notebooks import ROOT

NOTEBOOK = "Chapter18/Creating_an_API.ipynb"
APP = ROOT / "Chapter18" / "app"
STARTUP_SECONDS = 120


def imported(name: str) -> ModuleType:
    """A program of Chapter18/app, imported."""
    spec = importlib.util.spec_from_file_location(f"garment_{name}", APP / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def server() -> ModuleType:
    """What answers requests."""
    return imported("server")


@pytest.fixture(scope="session")
def decoding() -> ModuleType:
    """What decodes uploads, in this process."""
    return imported("decoding")


@pytest.fixture(scope="session")
def lesson() -> SimpleNamespace:
    """The notebook's side: what prepares, trains and saves."""
    return definitions(NOTEBOOK, "Preprocessing", "train", "probabilities", "save_classifier", "png", "claim_size",
                       "add_notes", "repeat_scan", tqdm=lambda epochs, **options: epochs)  # fmt: skip


@pytest.fixture(scope="session")
def trained(lesson: SimpleNamespace, tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """A network trained for seconds: images (n, 28, 28) uint8, labels, inputs, direct (n, 10), and the saved file."""
    root = Path(torch.hub.get_dir()) / "datasets"
    train, test = (FashionMNIST(root, train=part, download=True) for part in (True, False))
    images, labels = train.data[:1000], train.targets[:1000]
    pixels = images.float() / 255
    preprocess = lesson.Preprocessing(size=28, mean=pixels.mean().item(), std=pixels.std().item())
    network = lesson.train(preprocess(images), labels, 10, epochs=3, batch_size=32, learning_rate=5e-3, seed=0)
    inputs = preprocess(test.data[:200])
    path = tmp_path_factory.mktemp("weights") / "garments.safetensors"
    version = lesson.save_classifier(network, preprocess, train.classes, path)
    return SimpleNamespace(images=test.data[:200], labels=test.targets[:200], inputs=inputs, classes=train.classes,
                           direct=lesson.probabilities(network, inputs), network=network, preprocess=preprocess,
                           path=path, version=version)  # fmt: skip


class Running(NamedTuple):
    """A server process: its port, and the two folders in which it could leave files, empty at the start."""

    port: int
    process: subprocess.Popen
    working: Path
    temporary: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@contextlib.contextmanager
def serve(weights: Path, folder: Path) -> Iterator[Running]:
    """Run the program, as its README says, in an empty folder below `folder`; then it is told to end, and must."""
    working, temporary = folder / "working", folder / "temporary"
    working.mkdir(parents=True)
    temporary.mkdir()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, str(APP / "server.py"), "--weights", str(weights), "--port", str(port)]
    environment = {**os.environ, **dict.fromkeys(("TMPDIR", "TEMP", "TMP"), str(temporary))}
    with (folder / "log.txt").open("w") as log:
        process = subprocess.Popen(command, cwd=working, env=environment, stdout=log, stderr=log)
    running = Running(port, process, working, temporary)
    try:
        end = time.monotonic() + STARTUP_SECONDS
        while True:
            assert process.poll() is None and time.monotonic() < end, (folder / "log.txt").read_text()
            with contextlib.suppress(httpx.TransportError):
                if httpx.get(f"{running.url}/health", trust_env=False, timeout=10).status_code == 200:
                    break
            time.sleep(0.1)
        yield running
        process.terminate()
        process.wait(timeout=STARTUP_SECONDS)  # it ends when it is told to
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def running(trained: SimpleNamespace, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """One server for all tests of a file."""
    with serve(trained.path, tmp_path_factory.mktemp("server")) as server:
        yield server
