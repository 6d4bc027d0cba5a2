"""`python -m tests.offline check`: compare what the registries claim of the real world with the hub and the servers.

Every entry of every family is asked about with cheap requests: a repository's commit, files, licence and a few values
of its configurations; a dataset's columns, splits and one row; a file's size. What differs is one line of the table,
and so is what could not be asked. The network must be open.
"""
from __future__ import annotations

import argparse
import io
import json
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from http.client import HTTPException
from typing import Any

from tests.offline import archives
from tests.offline.downloads import Size
from tests.offline.families.__main__ import load
from tests.offline.hub import Repository, value_at

HUB = "https://huggingface.co"
ROWS = "https://datasets-server.huggingface.co"
OK, DIFFERS, NOT_ASKED = "ok", "DIFFERS", "not asked"
AGAIN = (408, 425, 429, 500, 502, 503, 504)  # answers after which a second try may succeed


@dataclass(frozen=True)
class Line:
    """One claim and what became of it."""

    entry: str
    what: str
    claimed: Any
    found: Any
    outcome: str


class Unasked(Exception):
    """A question that got no answer; the message says why."""


class Absent(Exception):
    """The server says that there is no such thing; the message names the URL."""


class Client:
    """Asks servers, again where that may help. `through` is a server that is asked instead, as /HOST/PATH."""

    def __init__(self, through: str | None = None, timeout: float = 20, tries: int = 3, pause: float = 2):
        self.through, self.timeout, self.tries, self.pause = through, timeout, tries, pause

    def ask(self, url: str, take: Callable[[Any], Any], method: str = "GET") -> Any:
        """What `take` makes of the answer. Raises Absent where that is 401, 404 or 410, Unasked where there is none."""
        if self.through:
            parts = urllib.parse.urlsplit(url)
            url = f"{self.through}/{parts.netloc}{parts.path}" + (f"?{parts.query}" if parts.query else "")
        request = urllib.request.Request(url, method=method, headers={"User-Agent": "mcvp-check/1"})
        reason = ""
        for number in range(self.tries):
            if number:
                time.sleep(self.pause * 2 ** (number - 1))
            try:
                with urllib.request.urlopen(request, timeout=self.timeout) as answer:
                    return take(answer)
            except urllib.error.HTTPError as error:
                if error.code in (401, 404, 410):  # the hub answers 401 for what it does not have
                    raise Absent(f"{error.code} for {url}") from None
                reason = f"HTTP {error.code}"
                if error.code not in AGAIN:
                    break
            except (OSError, HTTPException) as error:  # no route, no name, reset, timed out, cut off
                cause = getattr(error, "reason", error)
                reason = "timed out" if isinstance(cause, TimeoutError) else f"{type(cause).__name__}: {cause}"
        raise Unasked(f"{reason} ({url})")

    def read(self, url: str) -> bytes:
        """The body of an answer."""
        return self.ask(url, lambda answer: answer.read())

    def json(self, url: str) -> Any:
        """The contents of a JSON answer."""
        try:
            return json.loads(self.read(url))
        except ValueError:
            raise Unasked(f"no JSON ({url})") from None

    def size(self, url: str) -> int | None:
        """How many bytes a URL answers with, without fetching them; None where the server does not tell."""
        told = self.ask(url, lambda answer: answer.headers.get("Content-Length"), "HEAD")
        return int(told) if told is not None else None


def compared(entry: str, what: str, claimed: Any, found: Any, same: bool | None = None) -> Line:
    """The line of a claim: `same`, or whether both are equal, tells the outcome."""
    fits = claimed == found if same is None else same
    return Line(entry, what, claimed, found, OK if fits else DIFFERS)


def asked(entry: str, what: str, claimed: Any, question: Callable[[], Iterable[Line]]) -> list[Line]:
    """The lines of a question, or the one line that says why it has no answer."""
    try:
        return list(question())
    except Absent as error:
        return [Line(entry, what, claimed, f"absent: {error}", DIFFERS)]
    except Unasked as error:
        return [Line(entry, what, claimed, str(error), NOT_ASKED)]


# --- a repository of the hub ------------------------------------------------------------------------------------------

def licence_of(about: dict) -> str | None:
    """The licence in a repository's metadata."""
    licence = (about.get("cardData") or {}).get("license")
    if licence is None:
        tags = [tag.removeprefix("license:") for tag in about.get("tags", ()) if tag.startswith("license:")]
        licence = tags[0] if tags else None
    return ", ".join(licence) if isinstance(licence, list) else licence


def about_of(client: Client, kind: str, repo_id: str, revision: str | None) -> dict:
    """What the hub says of a repository at a commit. Raises Absent, which tells a missing commit from a missing id."""
    home = f"{HUB}/api/{kind}s/{repo_id}"
    try:
        return client.json(f"{home}/revision/{revision}" if revision else home)
    except Absent:
        if revision:
            client.json(home)  # raises Absent again where the repository itself is missing
            raise Absent(f"the repository is there, the commit {revision} is not") from None
        raise


def repository(client: Client, repo_id: str, claims: Repository) -> list[Line]:
    """All lines of a repository."""
    revision = claims.revision or "main"

    def identity() -> Iterator[Line]:
        about = about_of(client, claims.kind, repo_id, claims.revision)
        yield compared(repo_id, "commit", claims.revision, about.get("sha") if claims.revision else None)
        if claims.licence is not None:
            yield compared(repo_id, "licence", claims.licence, licence_of(about))
        yield compared(repo_id, "gated", False, about.get("gated", False))
        files = {one["rfilename"] for one in about.get("siblings", ())}
        missing = sorted(set(claims.files) - files)
        told = f"missing: {', '.join(missing)}" if missing else "all"
        yield compared(repo_id, "files", f"{len(claims.files)} files", told, not missing)
        surplus = sorted(set(claims.lacks) & files)
        told = f"there: {', '.join(surplus)}" if surplus else "none"
        yield compared(repo_id, "files it lacks", ", ".join(claims.lacks), told, not surplus)

    def branches() -> Iterator[Line]:
        told = client.json(f"{HUB}/api/{claims.kind}s/{repo_id}/refs")
        names = {one["name"] for one in (*told.get("branches", ()), *told.get("tags", ()))}
        for ref in claims.refs:
            yield compared(repo_id, f"branch {ref}", ref, ref if ref in names else f"only {', '.join(sorted(names))}")

    def configuration(file: str) -> Iterator[Line]:
        prefix = "" if claims.kind == "model" else f"{claims.kind}s/"
        values = client.json(f"{HUB}/{prefix}{repo_id}/resolve/{revision}/{file}")
        for path, claimed in claims.config[file].items():
            try:
                found = value_at(values, path)
            except (LookupError, TypeError, ValueError):
                found = "absent"
            yield compared(repo_id, f"{file}: {path}", claimed, found)

    lines = asked(repo_id, "id and commit", claims.revision or "main", identity)
    if len(lines) == 1 and lines[0].outcome != OK:
        return lines  # nothing more can be said of what is not there
    if tuple(claims.refs) != ("main",):
        lines += asked(repo_id, "branches", ", ".join(claims.refs), branches)
    for file in claims.config:
        lines += asked(repo_id, file, "a configuration", partial(configuration, file))
    return lines


# --- a dataset of the hub ---------------------------------------------------------------------------------------------

def described(feature: Any) -> str:
    """A column's type in a few words; label names in their order."""
    import datasets

    if isinstance(feature, datasets.ClassLabel):
        return f"ClassLabel({', '.join(feature.names)})"
    if isinstance(feature, (datasets.List, datasets.LargeList)):
        return f"list of {described(feature.feature)}"
    if isinstance(feature, dict):
        return "{" + ", ".join(f"{name}: {described(one)}" for name, one in sorted(feature.items())) + "}"
    return feature.dtype if isinstance(feature, datasets.Value) else type(feature).__name__


def dataset(client: Client, entry: str, repo_id: str, claims: Any) -> list[Line]:
    """All lines of a dataset: `claims` is a Prepared of the family hub_datasets."""
    import datasets
    from PIL import Image

    named = urllib.parse.urlencode({"dataset": repo_id, "config": claims.config})

    def identity() -> Iterator[Line]:
        about = about_of(client, "dataset", repo_id, claims.revision)
        yield compared(entry, "commit", claims.revision, about.get("sha") if claims.revision else None)
        if claims.licence is not None:
            yield compared(entry, "licence", claims.licence, licence_of(about))
        yield compared(entry, "gated", False, about.get("gated", False))

    def columns() -> Iterator[Line]:
        told = client.json(f"{ROWS}/info?{named}")["dataset_info"]
        found = {name: described(one) for name, one in datasets.Features.from_dict(told["features"]).items()}
        claimed = {name: described(one) for name, one in claims.features.items()}
        yield compared(entry, "columns", ", ".join(claimed), ", ".join(found), set(claimed) == set(found))
        for name in claimed.keys() & found.keys():
            yield compared(entry, f"column {name}", claimed[name], found[name])
        rows = {split: one["num_examples"] for split, one in told["splits"].items()}
        yield compared(entry, "splits", ", ".join(claims.counts), ", ".join(rows), set(claims.counts) == set(rows))
        for split in claims.counts.keys() & rows.keys():
            if claims.counts[split] is not None:
                yield compared(entry, f"rows of {split}", claims.counts[split], rows[split])

    def pictures() -> Iterator[Line]:
        split = next(iter(claims.counts))
        told = client.json(f"{ROWS}/first-rows?{named}&split={split}")
        row = told["rows"][0]["row"]
        for column, (mode, size) in claims.pictures.items():
            if not isinstance(row.get(column), dict) or "src" not in row[column]:
                yield compared(entry, f"picture {column}", mode, "no picture in the first row", False)
                continue
            if size is not None:
                found = (row[column]["width"], row[column]["height"])
                yield compared(entry, f"size of {column}", "{} × {}".format(*size), "{} × {}".format(*found))
            image = Image.open(io.BytesIO(client.read(row[column]["src"])))
            yield compared(entry, f"mode of {column}", mode, image.mode)

    lines = asked(entry, "id and commit", claims.revision or "main", identity)
    if len(lines) == 1 and lines[0].outcome != OK:
        return lines
    lines += asked(entry, "columns and splits", ", ".join(claims.features), columns)
    if claims.pictures:
        lines += asked(entry, "first row", ", ".join(claims.pictures), pictures)
    return lines


# --- files by URL -----------------------------------------------------------------------------------------------------

def file(client: Client, entry: str, url: str, size: Size | None) -> list[Line]:
    """The line of a URL: it answers, and with as many bytes as are claimed."""
    def question() -> Iterator[Line]:
        found = client.size(url)
        if size is None or found is None:
            told = "answers" if found is None else f"answers, {found:,} bytes"
            yield compared(entry, url, "answers", told, True)
        else:
            yield compared(entry, url, size, f"{found:,} bytes", size.fits(found))
    return asked(entry, url, size or "answers", question)


# --- all --------------------------------------------------------------------------------------------------------------

def questions(client: Client, families: Iterable[str]) -> Iterator[Callable[[], list[Line]]]:
    """What is to be asked, entry by entry."""
    for family in families:
        module = load(archives.FAMILIES / f"{family}.py")
        name_of = getattr(module, "repository_id", lambda name: name)
        for name, entry in module.ENTRIES.items():
            if isinstance(entry, Repository):
                yield partial(repository, client, name_of(name), entry)
            elif hasattr(entry, "features"):
                yield partial(dataset, client, name, name_of(name), entry)
            else:
                urls = module.urls(name) if hasattr(module, "urls") else entry.urls
                for url, size in urls.items():
                    yield partial(file, client, name, url, size)


def table(lines: list[Line], every: bool) -> str:
    """The lines as a table: what is not right first of all, or every claim; and the sum."""
    shown = [line for line in lines if every or line.outcome != OK]
    rows = [("", "entry", "claim", "claimed", "found")] if shown else []
    rows += [(line.outcome, line.entry, line.what, str(line.claimed), str(line.found)) for line in shown]
    widths = [max((len(row[column]) for row in rows), default=0) for column in range(4)]
    text = ["  ".join([*(cell.ljust(width) for cell, width in zip(row, widths)), row[4]]).rstrip() for row in rows]
    counts = {outcome: sum(line.outcome == outcome for line in lines) for outcome in (OK, DIFFERS, NOT_ASKED)}
    entries = len({line.entry for line in lines})
    return "\n".join([*text, f"{entries} entries, {len(lines)} claims: {counts[OK]} hold, {counts[DIFFERS]} differ, "
                             f"{counts[NOT_ASKED]} could not be asked"])


def main(arguments: list[str]) -> int:
    """Exit code 0 where every claim holds, 1 where one differs, 3 where none differs but some could not be asked."""
    parser = argparse.ArgumentParser("python -m tests.offline check", description=__doc__.split("\n\n")[0])
    parser.add_argument("families", nargs="*", help=f"of {', '.join(archives.families())}; all without")
    parser.add_argument("--every", action="store_true", help="show the claims that hold, too")
    parser.add_argument("--through", metavar="URL", help="ask this server instead of each host, as URL/HOST/PATH")
    parser.add_argument("--timeout", type=float, default=20, metavar="SECONDS", help="for each answer (%(default)g)")
    parser.add_argument("--tries", type=int, default=3, help="for each request (%(default)s)")
    parser.add_argument("--pause", type=float, default=2, metavar="SECONDS", help="before the second try (%(default)g)")
    options = parser.parse_args(arguments)
    unknown = set(options.families) - set(archives.families())
    if unknown:
        parser.error(f"no such family: {', '.join(sorted(unknown))}")
    client = Client(options.through and options.through.rstrip("/"), options.timeout, options.tries, options.pause)
    jobs = list(questions(client, options.families or archives.families()))
    with ThreadPoolExecutor(max_workers=8) as pool:
        lines = [line for found in pool.map(lambda job: job(), jobs) for line in found]
    print(table(lines, options.every))
    outcomes = {line.outcome for line in lines}
    return 1 if DIFFERS in outcomes else 3 if NOT_ASKED in outcomes else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
