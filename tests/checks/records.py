"""The record of a notebook: what no machine decides of what its quick run told when it was last read and found right.

`tests/records/ChapterNN/Name.json` holds the story of rows and loops, the names of `results` and the expressions over
the notebook's variables that give each, and of its figures the labels, the legends, and which frame, column or array
holds what each line, bar or image draws. It holds no number that was computed: a network trained on another processor
is another network, and its losses, titles and mistakes are others.
"""
from __future__ import annotations

import difflib
import itertools
import json
import re
from fractions import Fraction
from pathlib import Path
from typing import Any

from tests.notebooks import ROOT, write_text

FOLDER = ROOT / "tests" / "records"
NUMBER = re.compile(r"(?<![#\w])[-+−±]?\d[\d,.]*(?:[eE][-+]?\d+)?%?(?!\w)")  # but no color
KINDS = ("figures", "tables")
ROUTES = 8  # expressions that are kept of an entry of `results`
GRID = 1000  # rows of the largest set whose shares may be equal by chance
LISTED = 4  # differences that a message lists


def path_of(notebook: str) -> Path:
    return FOLDER / Path(notebook).with_suffix(".json")


def load(notebook: str) -> dict | None:
    path = path_of(notebook)
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def make(told: dict, *others: dict) -> dict:
    """A record of what `watch.finish` told of a run, as far as it is so in the others, too: of another arithmetic.

    What differs between them follows from what was learned, or was equal by chance: nothing is held to it.
    """
    record = of_one(told)
    for other in others:
        record = common(record, of_one(other))
    moved = {key for key, value in told["results"].items()
             if any(other["results"].get(key) != value for other in others)}
    record["routes"] = {key: found for key, texts in record["routes"].items()
                        if (found := texts if key in moved else sure_routes(key, texts, told["results"][key]))}
    record["routes"] = {key: texts[:ROUTES] for key, texts in record["routes"].items()}
    return record


def of_one(told: dict) -> dict:
    drawn = by_cell(told["figures"] + told["tables"])
    shown = {kind: {cell: list(map(outline, figures)) for cell, figures in by_cell(told[kind]).items()}
             for kind in KINDS}
    return {
        "code": told["code"],
        "cells": told["cells"],
        "environment": told["environment"],
        "open": [],
        "story": sorted(map(list, told["story"])),
        "results": sorted(told["results"]),
        "routes": told["routes"],
        "from": {cell: found for cell, figures in drawn.items() if (found := sources(figures))},
        **shown,
    }


def common(record: dict, other: dict) -> dict:
    """What two records have in common; `open` names the cells of which it is not all."""
    open_cells = set(record["open"])
    kept: dict[str, Any] = {"story": [], "figures": {}, "tables": {}}
    for cell in {str(line[0]) for line in record["story"] + other["story"]}:
        lines, others = ([line for line in one["story"] if str(line[0]) == cell] for one in (record, other))
        if lines == others:
            kept["story"] += lines
        else:
            open_cells.add(f"story {cell}")
    for kind in KINDS:
        for cell in {**record[kind], **other[kind]}:
            if record[kind].get(cell) == other[kind].get(cell):
                kept[kind][cell] = record[kind][cell]
            else:
                open_cells.add(f"{kind} {cell}")
    drawn = {cell: [[name, texts] for name, known in found
                    if (texts := [text for text in known if any(text in more for name_of_other, more
                        in other["from"].get(cell, []) if name_of_other == name)])]
             for cell, found in record["from"].items()}
    known = {key: [text for text in texts if text in other["routes"].get(key, ())]
             for key, texts in record["routes"].items()}
    return {**record, **kept, "open": sorted(open_cells), "story": sorted(kept["story"]),
            "from": {cell: found for cell, found in drawn.items() if found},
            "routes": {key: texts for key, texts in known.items() if texts}}


def by_cell(shown: list) -> dict[str, list[dict]]:
    """Number of a code cell -> what was read back from the figures or tables that it shows."""
    cells: dict[str, list] = {}
    for cell, figure in shown:
        cells.setdefault(str(cell), []).append(figure)
    return cells


def sure_routes(key: str, texts: list[str], value: float) -> list[str]:
    """Expressions that give an entry of `results`, of which no other value was seen.

    A share of few rows equals others by chance: the words must speak for it.
    """
    return [text for text in texts if speaks_of(words(key), words(text))] if on_a_grid(value) else texts


def speaks_of(key: set[str], text: set[str]) -> bool:
    return key == text or len(key) > 1 and key <= text


def on_a_grid(value: float) -> bool:
    """Whether a number is a share of few rows or a mean of such, a percentage of them, or a small or a round count."""
    if value == int(value) and abs(value) > GRID and value % 100:
        return False
    return any(abs(float(Fraction(number).limit_denominator(most)) - number) <= near * abs(number)
               for number in (value, value / 100) for most, near in ((GRID, 6e-8), (20 * GRID, 1e-13)))


def words(text: str) -> set[str]:
    return set(re.findall(r"[a-z]+", text.lower()))


def sources(figures: list[dict]) -> list:
    """What each artist of a cell's figures is drawn from: [name, texts]."""
    return [[plain(name), texts] for figure in figures for axes in figure["axes"] for name, texts in axes["from"]]


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
    missing = sorted(set(record["results"]) - set(told["results"]))
    found = [f"results: recorded {', '.join(missing)}, and no more"] if missing else []
    if record["environment"] != told["environment"]:
        return found
    for cell, now_cell in same_cells(record["cells"], told["cells"]).items():
        was = [plain(line) if learned else line for number, line in record["story"] if number == cell]
        now = [plain(line) if learned else line for number, line in sorted(map(list, told["story"]))
               if number == now_cell]
        if was != now and f"story {cell}" not in record["open"]:
            found.append(f"code cell {now_cell}, rows and loops: recorded {only(was, now)}, now {only(now, was)}")
        for kind in KINDS:
            now = list(map(outline, by_cell(told[kind]).get(str(now_cell), [])))
            if f"{kind} {cell}" not in record["open"]:
                found += other_figures(now_cell, kind, record[kind].get(str(cell), []), now)
        known = sources(by_cell(told["figures"] + told["tables"]).get(str(now_cell), []))
        for name, texts in record["from"].get(str(cell), []):
            if not any(set(texts) & set(others) for other, others in known if other == name):
                found.append(f"code cell {now_cell}, {name} was drawn from {texts[0]}, and is no more")
    return found + [f"results, {key}: it was {texts[0]}, and is no more" for key, texts in record["routes"].items()
                    if key in told["results"] and not set(texts) & set(told["routes"].get(key, ()))]


def same_cells(was: list[str], now: list[str]) -> dict[int, int]:
    """Number of a code cell when it was recorded -> its number now.

    By the digests of the cells; of what was edited, where as many cells stand in its place. Others are new.
    """
    pairs = {}
    for _, start, end, start_now, end_now in difflib.SequenceMatcher(None, was, now, autojunk=False).get_opcodes():
        if end - start == end_now - start_now:
            pairs |= {start + k + 1: start_now + k + 1 for k in range(end - start)}
    return pairs


def other_figures(cell: int, kind: str, was: list, now: list) -> list[str]:
    if was == now:
        return []
    if len(was) != len(now):
        return [f"code cell {cell}: recorded {len(was)} {kind}, now {len(now)}"]
    a, b = next((a, b) for before, after in zip(was, now) if before != after
                for a, b in itertools.zip_longest(before, after, fillvalue={}) if a != b)
    part = next(part for part in ("labels", "scales", "draws", "legend") if a.get(part) != b.get(part))
    return [f"code cell {cell}, {part} of its {kind}: recorded {a.get(part)}, now {b.get(part)}"]


def only(texts: list[str], others: list[str]) -> str:
    return "; ".join(text for text in texts if text not in others) or "nothing more"
