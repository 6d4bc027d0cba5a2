"""What is planted in place of files that come by plain URL, and what is claimed of the real ones."""
from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Size:
    """How many bytes a URL answers with, give or take `within`."""

    number: int
    within: int = 0

    def fits(self, number: int) -> bool:
        """Whether a file of this many bytes is meant."""
        return abs(number - self.number) <= self.within

    def __str__(self) -> str:
        return f"{self.number:,} bytes" + (f" (± {self.within})" if self.within else "")


@dataclass(frozen=True)
class Files:
    """Files below the world: `plant(root)` writes them, `use()` loads them by the library's own call and asserts.

    Claims: `urls`, where the real ones come from, with their size where it is known; `licence`, which no server tells
    and a reader of the registry wants to know.
    """

    plant: Callable[[Path], None]
    use: Callable[[], None]
    urls: Mapping[str, Size | None] = field(default_factory=dict)
    licence: str | None = None
