"""`python -m tests.links`: ask every link of the READMEs and of the notebooks' text whether it still leads somewhere.

A link is broken where its server says that there is nothing (404, 410) or where its host has no address. A server that
keeps programs out (401, 403, 429 and the like) or does not answer in time is named, and does not fail the run.
"""
from __future__ import annotations

import argparse
import re
import socket
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPException
from pathlib import Path

from tests.notebooks import ROOT, notebooks, read

LINK = re.compile(r"""https?://[^\s<>"'`\\|]+""")
LOCAL = re.compile(r"https?://(localhost|127\.|0\.0\.0\.0|\[?::1|example\.(org|com)|.*[{}…])")
BROKEN, UNCLEAR, GOOD = "BROKEN", "unclear", "ok"


def links_in(text: str) -> list[str]:
    """The web addresses in Markdown text, without what belongs to the sentence around them, each once."""
    found = []
    for link in LINK.findall(text):
        link = link.partition("#")[0].rstrip(".,;:!?*_")
        while link.endswith(")") and link.count(")") > link.count("("):  # the bracket of a Markdown link
            link = link[:-1].rstrip(".,;:!?*_")
        while link.endswith("]") and link.count("]") > link.count("["):
            link = link[:-1]
        if "](" in link:  # a badge within a link
            found += links_in(link.replace("](", " "))
        elif not LOCAL.match(link):
            found.append(link)
    return list(dict.fromkeys(found))


def documents(root: Path) -> dict[str, str]:
    """The Markdown of every README below `root` and of every notebook, by the file's name."""
    files = [path for path in sorted(root.rglob("*.md"))
             if not any(part.startswith(".") for part in path.relative_to(root).parts)]
    found = {path.relative_to(root).as_posix(): path.read_text(encoding="utf-8") for path in files}
    for path in notebooks(root):
        cells = [cell.source for cell in read(path).cells if cell.cell_type == "markdown"]
        found[path.relative_to(root).as_posix()] = "\n".join(cells)
    return found


def ask(link: str, timeout: float, tries: int, pause: float) -> tuple[str, str]:
    """Whether a link leads somewhere, and what its server said."""
    said, method = "", "HEAD"
    for number in range(tries + 1):  # a HEAD, and as many tries with GET: some servers know no HEAD
        if number > 1:
            time.sleep(pause * 2 ** (number - 2))
        request = urllib.request.Request(link, method=method, headers={"User-Agent": "Mozilla/5.0 (mcvp link check)"})
        method = "GET"
        try:
            with urllib.request.urlopen(request, timeout=timeout) as answer:
                return GOOD, str(answer.status)
        except urllib.error.HTTPError as error:
            said = f"HTTP {error.code}"
            if error.code in (404, 410) and number:
                return BROKEN, said
            if error.code in (401, 403, 429, 999) and number:
                return UNCLEAR, said
        except (OSError, HTTPException, ValueError) as error:
            cause = getattr(error, "reason", error)
            said = "timed out" if isinstance(cause, TimeoutError) else f"{type(cause).__name__}: {cause}"
            if isinstance(cause, socket.gaierror) and number == tries:
                return BROKEN, said
    return UNCLEAR, said


def main(arguments: list[str]) -> int:
    """Exit code 1 where a link is broken, else 0."""
    parser = argparse.ArgumentParser("python -m tests.links", description=__doc__.split("\n\n")[0])
    parser.add_argument("--root", type=Path, default=ROOT, help="the folder of the shelf")
    parser.add_argument("--timeout", type=float, default=20, metavar="SECONDS")
    parser.add_argument("--tries", type=int, default=3)
    parser.add_argument("--pause", type=float, default=2, metavar="SECONDS")
    options = parser.parse_args(arguments)
    where: dict[str, list[str]] = {}
    for name, text in documents(options.root).items():
        for link in links_in(text):
            where.setdefault(link, []).append(name)
    with ThreadPoolExecutor(max_workers=8) as pool:
        answers = list(pool.map(lambda link: ask(link, options.timeout, options.tries, options.pause), where))
    for link, (outcome, said) in zip(where, answers):
        if outcome != GOOD:
            print(f"{outcome}  {link}  {said}  in {', '.join(where[link])}")
    counts = {outcome: sum(found == outcome for found, _ in answers) for outcome in (GOOD, UNCLEAR, BROKEN)}
    print(f"{len(where)} links: {counts[GOOD]} lead somewhere, {counts[BROKEN]} are broken, "
          f"{counts[UNCLEAR]} are unclear")
    return 1 if counts[BROKEN] else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
