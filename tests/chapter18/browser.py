"""A real browser without a window, driven over the DevTools protocol: enough to choose a file and press a button."""
from __future__ import annotations

import contextlib
import itertools
import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
from websockets.sync.client import ClientConnection, connect

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "msedge")
PLACES = ("/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
          "C:/Program Files/Google/Chrome/Application/chrome.exe",
          "C:/Program Files (x86)/Microsoft/Edge/Application/msedge.exe")  # fmt: skip
PATIENCE = 60  # seconds for the browser's start, and for each answer


def find() -> str | None:
    """The program of a Chromium-like browser on this machine, or None."""
    return next(filter(None, map(shutil.which, (*NAMES, *PLACES))), None)


class Page:
    """One page of the browser."""

    def __init__(self, connection: ClientConnection) -> None:
        self._connection = connection
        self._numbers = itertools.count(1)

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """The result of a DevTools method; events that arrive meanwhile are dropped. RuntimeError where it fails."""
        number = next(self._numbers)
        self._connection.send(json.dumps({"id": number, "method": method, "params": parameters}))
        while True:
            message = json.loads(self._connection.recv(timeout=PATIENCE))
            if message.get("id") == number:
                if "error" in message:
                    raise RuntimeError(f"{method}: {message['error']['message']}")
                return message["result"]

    def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression. RuntimeError where it throws."""
        found = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        if "exceptionDetails" in found:
            raise RuntimeError(f"{expression}: {found['exceptionDetails']['text']}")
        return found["result"].get("value")

    def wait_for(self, expression: str) -> Any:
        """The value of an expression as soon as it is a true one. TimeoutError where that does not come."""
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            if value := self.evaluate(expression):
                return value
            time.sleep(0.05)
        raise TimeoutError(f"{expression} never came true; the page says: {self.evaluate('document.body.innerText')}")

    def open(self, url: str) -> None:
        """Load a page, and wait for the end of that."""
        self.call("Page.navigate", url=url)
        self.wait_for(f"location.href.startsWith({json.dumps(url)}) && document.readyState == 'complete'")

    def choose_file(self, selector: str, path: Path) -> None:
        """Put a file into the file input that a CSS selector names, as a person would; the page hears of it."""
        root = self.call("DOM.getDocument")["root"]["nodeId"]
        node = self.call("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self.call("DOM.setFileInputFiles", nodeId=node, files=[str(path)])


@contextlib.contextmanager
def page(program: str, profile: Path) -> Iterator[Page]:
    """An empty page of a fresh browser that keeps its files in `profile`, an empty folder."""
    options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
               "--no-proxy-server", "--disable-background-networking", "--disable-component-update", "--disable-sync",
               "--remote-debugging-port=0", f"--user-data-dir={profile}"]  # fmt: skip
    process = subprocess.Popen([program, *options, "about:blank"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        port, end = profile / "DevToolsActivePort", time.monotonic() + PATIENCE
        while not (port.exists() and port.read_text().count("\n")):
            assert process.poll() is None and time.monotonic() < end, f"{program} does not start"
            time.sleep(0.05)
        address = f"http://127.0.0.1:{port.read_text().split()[0]}/json/list"
        targets = httpx.get(address, trust_env=False, timeout=PATIENCE).json()
        url = next(target["webSocketDebuggerUrl"] for target in targets if target["type"] == "page")
        with connect(url, max_size=None, proxy=None) as connection:
            yield Page(connection)
    finally:
        process.kill()
        process.wait()
