"""The cache of the Hugging Face hub: repositories as the libraries find them, and what is claimed of the real ones."""
from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HUB = "huggingface/hub"


@dataclass(frozen=True)
class Repository:
    """What is planted for one repository, and what `python -m tests.offline check` asks of the real one.

    `fill(folder)` writes the files; `use(repo_id, revision)` loads them inside the world by the library's own call and
    asserts what a reader would see. `revision` is the 40 digits of a commit of the real repository, the one notebooks
    pin, or None where the library always takes the main branch. `refs` are its branches and tags.

    Claims: `licence` as the card's metadata name it; `files` that the real repository holds, among them all that are
    planted; `lacks`, files that it has not; `config`, values of its JSON files, as {"config.json": {"image_size": 224,
    "id2label.281": "tabby, tabby cat"}} (a dot steps into an object or a list). None and empty claim nothing.
    """

    revision: str | None
    fill: Callable[[Path], None]
    use: Callable[[str, str | None], None]
    licence: str | None = None
    files: Sequence[str] = ()
    lacks: Sequence[str] = ()
    config: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    refs: Sequence[str] = ("main",)
    kind: str = "model"


UNPINNED = "0" * 40  # the commit of a planted main branch that nothing pins


def folder_of(root: Path, repo_id: str, repository: Repository) -> Path:
    """Where the files of a planted repository lie below `root`."""
    name = f"{repository.kind}s--{repo_id.replace('/', '--')}"
    return root / HUB / name / "snapshots" / (repository.revision or UNPINNED)


def home() -> Path:
    """The folder of the world, in a process that runs inside it."""
    return Path(os.environ["HF_HUB_CACHE"]).parents[1]


def plant(root: Path, repo_id: str, repository: Repository) -> None:
    """Write a repository into the cache below `root`."""
    snapshot = folder_of(root, repo_id, repository)
    snapshot.mkdir(parents=True)
    refs = snapshot.parent.parent / "refs"
    refs.mkdir()
    for ref in (*repository.refs, snapshot.name[:7]):  # pipeline() knows its default models by seven digits
        (refs / ref).write_text(snapshot.name)
    repository.fill(snapshot)


def value_at(values: Any, path: str) -> Any:
    """What stands at a dotted path in the contents of a JSON file; LookupError where nothing does."""
    for step in path.split("."):
        values = values[int(step)] if isinstance(values, list) else values[step]
    return values


def planted(root: Path, repo_id: str, repository: Repository) -> None:
    """Assert that what is planted below `root` is what is claimed of the real repository: files, and values in them."""
    folder = folder_of(root, repo_id, repository)
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert not files - \
        set(repository.files), f"planted, but not claimed of the real one: {files - set(repository.files)}"
    assert not files & set(repository.lacks), f"planted, but the real one lacks it: {files & set(repository.lacks)}"
    for file, claims in repository.config.items():
        values = json.loads((folder / file).read_text(encoding="utf-8"))
        for path, claimed in claims.items():
            assert value_at(
    values, path) == claimed, f"{file}: {path} is {value_at(values, path)!r}, claimed {claimed!r}"
