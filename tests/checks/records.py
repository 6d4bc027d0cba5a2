"""The record of a notebook: what no machine decides of what its quick run told when it was last read and found right.

`tests/records/ChapterNN/Name.json` holds the story of rows and loops, the names of `results` and the expressions over
the notebook's variables that give each, and of its figures the labels, the legends, and which frame, column or array
holds what each line, bar or image draws. It holds no number that was computed: a network trained on another processor
is another network, and its losses, titles and mistakes are others.
"""
from __future__ import annotations

import json
import re
from fractions import Fraction
from pathlib import Path
from typing import Any

from tests.notebooks import ROOT, write_text

FOLDER = ROOT / "tests" / "records"
NUMBER = re.compile(r"(?<![#\w])[-+−±]?\d[\d,.]*(?:[eE][-+]?\d+)?%?(?!\w)")  # but no color
ROUTES = 8  # expressions that are kept of an entry of `results`
GRID = 1000  # rows of the largest set whose shares may be equal by chance
LISTED = 4  # differences that a message lists


def path_of(notebook: str) -> Path:
    return FOLDER / Path(notebook).with_suffix(".json")


def load(notebook: str) -> dict | None:
    path = path_of(notebook)
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def make(told: dict) -> dict:
    """A record of what `watch.finish` told of a run."""
    return {
        "code": told["code"],
        "environment": told["environment"],
        "story": sorted(map(list, told["story"])),
        "results": sorted(told["results"]),
        "routes": {key: texts for key in told["routes"] if (texts := routes(told, key))},
        "from": {cell: found for cell, figures in by_cell(told).items() if (found := sources(figures))},
        "figures": {cell: list(map(outline, figures)) for cell, figures in by_cell(told).items()},
    }


def by_cell(told: dict) -> dict[str, list[dict]]:
    """Number of a code cell -> what was read back from the figures that it shows."""
    cells: dict[str, list] = {}
    for cell, figure in told["figures"]:
        cells.setdefault(str(cell), []).append(figure)
    return cells


def routes(told: dict, key: str) -> list[str]:
    """Expressions that give an entry of `results`.

    A share of few rows may equal others by chance: there the words must speak for it.
    """
    texts = told["routes"][key]
    if on_a_grid(told["results"][key]):
        texts = [text for text in texts if words(key) & words(text)]
    return texts[:ROUTES]


def on_a_grid(value: float) -> bool:
    """Whether a number is a share of few rows, a percentage of them, or a count."""
    return any(abs(float(Fraction(number).limit_denominator(GRID)) - number) < 1e-7 for number in (value, value / 100))


def words(text: str) -> set[str]:
    return set(re.findall(r"[a-z]+", text.lower()))


def sources(figures: list[dict]) -> list:
    """What each artist of a cell's figures is drawn from: [name, texts]."""
    return [item for figure in figures for axes in figure["axes"] for item in axes["from"]]


def outline(figure: dict) -> list[dict]:
    """What of a figure does not follow from numbers: of each axes the labels, the scales, what is drawn by a name."""
    return [{"labels": plain(f"{axes['x']} | {axes['y']} | {axes.get('z', '')}"), "scales": axes["scales"],
             "draws": [f"{kind} {plain(label)} {color}" for kind, label, color in axes["draws"]],
             "legend": [plain(text) for text in axes["legend"]]} for axes in figure["axes"]]


def plain(text: str) -> str:
    """A text without its numbers."""
    return " ".join(NUMBER.sub("…", text).split())


def write(record: dict, notebook: str) -> None:
    """One line for each thing that is told, so that a change can be read in a diff."""
    def lines(value: Any, depth: int) -> str:
        pad = " " * depth
        if depth < 2 and isinstance(value, dict) and value:
            return "{\n" + ",\n".join(f"{pad} {json.dumps(key, ensure_ascii=False)}: {lines(item, depth + 1)}"
                                      for key, item in value.items()) + f"\n{pad}}}"
        if depth < 3 and isinstance(value, list) and value and not isinstance(value[0], str):
            return "[\n" + ",\n".join(f"{pad} {json.dumps(item, ensure_ascii=False)}" for item in value) + f"\n{pad}]"
        return json.dumps(value, ensure_ascii=False)

    path = path_of(notebook)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(lines(record, 0) + "\n", path)


def differences(record: dict, told: dict, learned: bool = False) -> list[str]:
    """What a run tells otherwise than the record, a line each; with other versions only the names of `results`.

    `learned`: how long a training lasts follows from what is learned, and numbers in the story are not compared.
    """
    if record["results"] != sorted(told["results"]):
        return [f"results: recorded {record['results']}, now {sorted(told['results'])}"]
    if record["environment"] != told["environment"]:
        return []
    found = []
    story = sorted(map(list, told["story"]))
    for cell in sorted({line[0] for line in record["story"] + story}):
        was, now = ([plain(text) if learned else text for number, text in lines if number == cell]
                    for lines in (record["story"], story))
        if was != now:
            found.append(f"code cell {cell}, rows and loops: recorded {only(was, now)}, now {only(now, was)}")
    figures = by_cell(told)
    for cell in {**record["figures"], **figures}:
        was, now = record["figures"].get(cell, []), list(map(outline, figures.get(cell, [])))
        if len(was) != len(now):
            found.append(f"code cell {cell}: recorded {len(was)} figures, now {len(now)}")
        elif was != now:
            a, b = next((a, b) for before, after in zip(was, now) if before != after
                        for a, b in zip(before + [{}], after + [{}]) if a != b)
            part = next(part for part in ("labels", "scales", "draws", "legend") if a.get(part) != b.get(part))
            found.append(f"code cell {cell}, {part} of a figure: recorded {a.get(part)}, now {b.get(part)}")
    for cell, was in record["from"].items():
        now = sources(figures.get(cell, []))
        for name, texts in was:
            if not any(set(texts) & set(others) for other, others in now if other == name):
                found.append(f"code cell {cell}, figure: {name.strip()} was drawn from {texts[0]}, and is no more")
    return found + [f"results, {key}: it was {texts[0]}, and is no more" for key, texts in record["routes"].items()
                    if not set(texts) & set(told["routes"].get(key, ()))]


def only(texts: list[str], others: list[str]) -> str:
    return "; ".join(text for text in texts if text not in others) or "nothing more"
