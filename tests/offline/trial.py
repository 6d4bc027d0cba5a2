"""What the tests of the families share: a world of some families, and code that runs inside it."""
from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Iterable
from pathlib import Path

import pytest

from tests import offline
from tests.offline import archives

ROOT = archives.ROOT


def world_of(*families: str):
    """A fixture: the environment of a world of these families, laid out once for a test module."""
    @pytest.fixture(scope="module")
    def world(tmp_path_factory) -> dict[str, str]:
        return offline.prepare(tmp_path_factory.mktemp("world"), families or None)
    return world


def inside(world: dict[str, str], arguments: Iterable[str], **variables: str) -> subprocess.CompletedProcess:
    """Run this Python inside the world, in the world's folder, with this repository importable."""
    path = os.pathsep.join([world["PYTHONPATH"], str(ROOT)])
    return subprocess.run([sys.executable, "-W", "ignore", *arguments], capture_output=True, text=True,
                          encoding="utf-8", cwd=Path(world["MCVP_OFFLINE_LOG"]).parent,
                          env={**os.environ, **world, "PYTHONPATH": path, "PYTHONIOENCODING": "utf-8", **variables})


def python(world: dict[str, str], code: str, **variables: str) -> subprocess.CompletedProcess:
    """Run code inside the world."""
    return inside(world, ["-c", textwrap.dedent(code)], **variables)


def facts_of(run: subprocess.CompletedProcess):
    """What a process printed after `facts:`, as JSON; its errors where it failed."""
    assert run.returncode == 0, run.stderr[-4000:]
    return json.loads(run.stdout.rpartition("facts:")[2])


def used_in(family: str):
    """A fixture: what came of using every entry of the family, by name (it asks for the module's fixture `world`)."""
    @pytest.fixture(scope="module")
    def used(world) -> dict[str, dict]:
        run = inside(world, ["-m", "tests.offline.families", str(archives.FAMILIES / f"{family}.py"), "--use"],
                     MCVP_OFFLINE_LOG="used.log")
        return facts_of(run)
    return used


def judge(used: dict[str, dict], name: str) -> None:
    """Fail where an entry could not be used, or asked for the network."""
    assert name in used, f"{name} is no entry of the imported registry"
    assert used[name]["outcome"] == "ok", used[name]["outcome"]
    assert used[name]["refused"] == []
