"""The cache of the Hugging Face hub: a repository of the world as its libraries find it."""
from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

HUB = "huggingface/hub"


@dataclass(frozen=True)
class Repository:
    """What is planted for one repository: `fill(folder)` writes its files, served at `revision` and at `refs`.

    `revision` is the 40 hex digits of a commit of the real repository, the one notebooks pin; `refs` are its branches
    and tags.
    """

    revision: str
    fill: Callable[[Path], None]
    refs: Sequence[str] = ("main",)


def plant(root: Path, repo_id: str, repository: Repository, kind: str = "model") -> None:
    """Write a repository (`kind`: model or dataset) into the cache below `root`."""
    folder = root / HUB / f"{kind}s--{repo_id.replace('/', '--')}"
    snapshot = folder / "snapshots" / repository.revision
    snapshot.mkdir(parents=True)
    (folder / "refs").mkdir()
    for ref in (*repository.refs, repository.revision[:7]):  # pipeline() knows its default models by seven digits
        (folder / "refs" / ref).write_text(repository.revision)
    repository.fill(snapshot)
