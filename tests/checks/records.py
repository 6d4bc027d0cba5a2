"""The record of a notebook: what its quick run told when it was last read and found right.

`tests/records/ChapterNN/Name.json` holds what a reader sees (printed lines, tables, figures read back from their axes,
results) and the story of rows and loops. It is made from three runs: as the notebook is, and twice with parameters
moved by a millionth and clocks that run unevenly. What differs between them (times, numbers that a rounding error
turns over) is known by that: it is kept with a tolerance, or as free.

A later run is compared with the record, numbers within their tolerance. Where a library has another version than when
the record was made, numbers may differ by right: then only what does not follow from numbers is compared.
"""
from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from tests.notebooks import ROOT, write_text

FOLDER = ROOT / "tests" / "records"
FREE = "…"  # stands for what differed between the runs
LOOSE = 0.05  # a number that moved by more than this share is free
WIDE = 8  # times as far as it moved a number may go
TIGHT = 1e-5  # the least relative tolerance
NUMBER = re.compile(r"(?<![\w.])[-+−]?(?:\d[\d,]*\.?\d*(?:[eE][-+]?\d+)?|\.\d+|nan|inf)(?![\w])"
                    r"|(?<=[A-Za-z_=(])\d+\.\d+")
ROUTES = 4  # expressions that are kept of an entry of `results`
VERSION = re.compile(r"\b\d+\.\d+\.\d+[\w.+-]*")
LISTED = 6  # differences that a message lists


def path_of(notebook: str) -> Path:
    return FOLDER / Path(notebook).with_suffix(".json")


def tokens(text: str) -> list[str]:
    """Words and numbers of a text, in order; white space does not count."""
    text = VERSION.sub("version", text)
    found, start = [], 0
    for match in NUMBER.finditer(text):
        found += text[start:match.start()].split() + [match.group()]
        start = match.end()
    return found + text[start:].split()


def value_of(token: str) -> float | None:
    try:
        return float(token.replace(",", "").replace("−", "-"))
    except ValueError:
        return None


def quantum(token: str) -> float:
    """What one unit of the last printed digit is worth."""
    mantissa, _, exponent = token.lower().partition("e")
    return 10.0 ** (int(exponent or 0) - len(mantissa.partition(".")[2]))


# --- making a record


def merge(values: list[Any]) -> Any:
    """What several runs have in common: exact parts as they are, numbers with a tolerance, the rest free."""
    first = values[0]
    if all(type(value) is type(first) and value == first for value in values):
        return first
    kinds = {type(value) for value in values}
    if kinds <= {int, float}:
        return with_tolerance([values])[0]
    if len(kinds) > 1:
        return FREE
    if isinstance(first, dict):
        if any(value.keys() != first.keys() for value in values):
            return FREE
        return {key: merge([value[key] for value in values]) for key in first}
    if isinstance(first, list):
        if any(len(value) != len(first) for value in values):
            return FREE
        if all(isinstance(item, (int, float)) for value in values for item in value):
            return with_tolerance(list(zip(*values)))
        return [merge(list(items)) for items in zip(*values)]
    if isinstance(first, str):
        return merged_text([tokens(value) for value in values])
    return FREE


def with_tolerance(groups: list) -> list:
    """Numbers of one sequence over the runs: each as it is where it never moved, else with a tolerance, or free.

    What moved has the tolerance of what moved most: two runs more tell how far a sequence goes, not each number.
    """
    moved = [max(abs(value - group[0]) for value in group) for group in groups]
    sizes = [max(abs(value) for value in group) for group in groups]
    shares = [spread / size for spread, size in zip(moved, sizes) if spread == spread and spread and size]
    most = max((share for share in shares if share <= LOOSE), default=0.0)
    found = []
    for group, spread, size in zip(groups, moved, sizes):
        if spread == 0:
            found.append(group[0])
        elif not spread <= LOOSE * size:
            found.append(FREE)
        else:
            found.append({"~": [group[0], float(f"{max(WIDE * spread, 3 * most * size):.2g}")]})
    return found


def merged_text(parts: list[list[str]]) -> Any:
    """The tokens of a text over the runs."""
    if any(len(part) != len(parts[0]) for part in parts):
        return FREE
    groups = list(zip(*parts))
    moved = [k for k, group in enumerate(groups) if len(set(group)) > 1]
    numeric = [k for k in moved if None not in map(value_of, groups[k])]
    common = dict(zip(numeric, with_tolerance([[float(value_of(token)) for token in groups[k]] for k in numeric])))
    merged: list[Any] = []
    for k, group in enumerate(groups):
        if k not in moved:
            merged.append(group[0])
        elif not isinstance(common.get(k), dict):
            merged.append(FREE)
        else:
            merged.append([group[0], common[k]["~"][1] + 2 * max(map(quantum, group))])
    return {"text": merged}


def by_cell(told: list) -> dict[str, list]:
    cells: dict[str, list] = {}
    for cell, kind, what in told:
        whole = what if kind == "printed" else None
        cells.setdefault(f"{cell} {kind}", []).extend(
            [what] if whole is None else [line for line in whole.splitlines() if line.strip()])
    return cells


def make(runs: list[dict]) -> dict:
    """A record from the runs that `watch.finish` told of; the first is the notebook as it is."""
    told = [by_cell(run["told"]) for run in runs]
    keys = [key for key in told[0] if all(key in cells for cells in told)]
    stories = [sorted(map(tuple, run["story"])) for run in runs]
    return {
        "environment": runs[0]["environment"],
        "story": merge([[list(line) for line in story] for story in stories]),
        "results": merge([run["results"] for run in runs]),
        "routes": {key: common for key in runs[0]["routes"] if (common := common_routes(runs, key))},
        "told": {key: merge([cells[key] for cells in told]) for key in keys},
    }


def common_routes(runs: list[dict], key: str) -> list[str]:
    """The shortest expressions that gave an entry of `results` in every run."""
    return [text for text in runs[0]["routes"][key]
            if all(text in run["routes"].get(key, ()) for run in runs)][:ROUTES]


def write(record: dict, notebook: str) -> None:
    """One line for each thing that is told, so that a change can be read in a diff."""
    def part(name: str, items: list[str], brackets: str) -> str:
        return f' "{name}": {brackets[0]}\n' + ",\n".join(items) + f"\n {brackets[1]}"

    def compact(value: Any) -> str:
        return json.dumps(value, ensure_ascii=False)

    told = [f"  {compact(key)}: [\n" + ",\n".join(f"   {compact(item)}" for item in items) + "\n  ]"
            if isinstance(items, list) and items else f"  {compact(key)}: {compact(items)}"
            for key, items in record["told"].items()]
    story = record["story"]
    text = ",\n".join([
        f' "environment": {compact(record["environment"])}',
        part("story", [f"  {compact(line)}" for line in story], "[]") if isinstance(story, list)
        else f' "story": {compact(story)}',
        f' "results": {compact(record["results"])}',
        part("routes", [f"  {compact(key)}: {compact(texts)}" for key, texts in record["routes"].items()], "{}"),
        part("told", told, "{}"),
    ])
    path = path_of(notebook)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text("{\n" + text + "\n}\n", path)


def load(notebook: str) -> dict | None:
    path = path_of(notebook)
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


# --- comparing


class Comparison:
    def __init__(self):
        self.different: list[str] = []
        self.floor = 1e-9  # the least absolute tolerance

    def say(self, where: str, was: Any, now: Any) -> None:
        self.different.append(f"{where}: recorded {brief(was)}, now {brief(now)}")

    def number(self, was: float, now: float, tolerance: float, where: str) -> None:
        if not abs(now - was) <= max(tolerance, TIGHT * abs(was), self.floor) and now == now:
            self.say(where, was, now)

    def compare(self, was: Any, now: Any, where: str) -> None:
        if was == FREE:
            return
        if isinstance(was, dict) and was.keys() == {"~"}:
            if isinstance(now, (int, float)):
                self.number(*[was["~"][0], now, was["~"][1]], where)
            else:
                self.say(where, was["~"][0], now)
        elif isinstance(was, dict) and was.keys() == {"text"}:
            self.text(was["text"], now, where)
        elif isinstance(was, str):
            self.text(tokens(was), now, where, was)
        elif isinstance(was, bool) or was is None:
            if was != now:
                self.say(where, was, now)
        elif isinstance(was, (int, float)):
            if isinstance(now, (int, float)):
                self.number(was, now, 0.0, where)
            else:
                self.say(where, was, now)
        elif isinstance(was, list):
            if not isinstance(now, list) or len(now) != len(was):
                self.say(where, was, now)
                return
            if is_summary(was) and is_summary(now):
                self.summary(was, now, where)
                return
            parts = DATA.get(was[0], {}) if was and isinstance(was[0], str) else {}
            for k, (a, b) in enumerate(zip(was, now)):
                name = parts.get(k) or (named(b, k) if isinstance(b, list) else f"{k + 1}")
                self.compare(a, b, f"{where}, {name}" if not isinstance(a, (int, float)) else where)
        elif isinstance(was, dict):
            if not isinstance(now, dict) or was.keys() != now.keys():
                self.say(where, sorted(was), sorted(now) if isinstance(now, dict) else now)
                return
            for key in was:
                self.compare(was[key], now[key], f"{where}, {key}")

    def summary(self, was: list, now: list, where: str) -> None:
        """Of data that differ one number says it."""
        before = len(self.different)
        sizes = [abs(item["~"][0] if isinstance(item, dict) else item) for item in was[2:] if not isinstance(item, str)]
        self.floor = max(1e-9, 1e-6 * max(sizes, default=0.0))  # a mean that is nothing but rounding
        for name, a, b in zip(STATISTICS, was, now):
            if len(self.different) == before:
                self.compare(a, b, f"{where}, {name}")
        self.floor = 1e-9

    def text(self, was: list, now: Any, where: str, whole: str | None = None) -> None:
        if not isinstance(now, str):
            self.say(where, was, now)
            return
        if whole == now:
            return
        parts = tokens(now)
        if len(parts) != len(was):
            self.say(where, joined(was), now)
            return
        for a, b in zip(was, parts):
            if a == FREE or a == b:
                continue
            token, tolerance = a if isinstance(a, list) else (a, None)
            old, new = value_of(token), value_of(b)
            if old is not None and new is not None:
                if tolerance is None:  # a last digit may fall to the other side
                    unit = max(quantum(token), quantum(b))
                    tolerance = 1.01 * unit if unit < 0.011 * abs(old) and unit < 1 else TIGHT * abs(old)
                if abs(new - old) <= tolerance:
                    continue
            self.say(where, joined(was), now)
            return


def joined(parts: list) -> str:
    return " ".join(part[0] if isinstance(part, list) else part for part in parts)


STATISTICS = ("count", "not finite", "first", "last", "smallest", "largest", "mean", "order", "spread")
DATA = {"line": {2: "style", 3: "x", 4: "y"}, "mesh": {3: "values"},
        "points": {2: "color", 3: "x", 4: "y", 5: "values"},
        "bars": {2: "colors", 3: "x", 4: "y", 5: "width", 6: "height"}, "patches": {3: "x", 4: "y"},
        "image": {2: "shape", 3: "values", 4: "limits", 5: "extent"}, "texts": {1: "text", 3: "places"}}


def is_summary(value: list) -> bool:
    """Whether this is what figures.py tells of a sequence of numbers."""
    return len(value) == len(STATISTICS) and all(isinstance(item, (int, float)) or item in (FREE, "nan", "inf", "-inf")
                                                 or isinstance(item, dict) and item.keys() == {"~"} for item in value)


def named(item: list, position: int) -> str:
    """`line "train"` for an artist of a figure."""
    if len(item) > 2 and isinstance(item[0], str) and isinstance(item[1], str):
        return f"{item[0]} {item[1]!r}" if item[1] else f"{item[0]} {position + 1}"
    return str(position + 1)


def brief(value: Any, length: int = 160) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    text = " ".join(text.split())
    return text if len(text) <= length else f"{text[:length]} …"


def differences(record: dict, run: dict) -> list[str]:
    """What a run tells otherwise than the record, a line each.

    With other versions of the libraries only what does not follow from numbers is compared: which cells print, show a
    table or a figure, the labels and legends of figures, what rows went where, the names of `results`, and that one of
    the expressions that gave an entry still gives it.
    """
    if record["environment"] != run["environment"]:
        return [*structural(record, run), *lost_routes(record, run)]
    comparison = Comparison()
    now = by_cell(run["told"])
    for key, was in record["told"].items():
        cell, _, kind = key.partition(" ")
        where = f"code cell {cell}, {kind}"
        if was == FREE:
            continue
        if key not in now:
            comparison.say(where, was, "nothing")
        elif isinstance(was, list) and len(was) != len(now[key]):
            comparison.say(where, f"{len(was)} times", f"{len(now[key])} times")
        else:
            comparison.compare(was, now[key], where)
    for key in now:
        if key not in record["told"]:
            cell, _, kind = key.partition(" ")
            comparison.say(f"code cell {cell}, {kind}", "nothing", now[key][0])
    story = [list(line) for line in sorted(map(tuple, run["story"]))]
    if isinstance(record["story"], list):
        if len(record["story"]) != len(story):
            old = [line for line in record["story"] if line not in story]
            new = [line for line in story if line not in record["story"]]
            comparison.say("rows and loops", old or "nothing more", new or "nothing more")
        else:
            for was, line in zip(record["story"], story):
                comparison.compare(was, line, f"code cell {line[0]}, rows and loops")
    comparison.compare(record["results"], run["results"], "results")
    return [*comparison.different, *lost_routes(record, run)]


def lost_routes(record: dict, run: dict) -> list[str]:
    """Entries of `results` that none of the expressions gives any more that gave them."""
    return [f"results, {key}: it was {texts[0]}, and is no more" for key, texts in record["routes"].items()
            if key in run["results"] and not set(texts) & set(run["routes"].get(key, ()))]


def structural(record: dict, run: dict) -> list[str]:
    """What differs between a record and a run with other versions that no number explains."""
    was, now = outline(record["told"]), outline(by_cell(run["told"]))
    found = [f"code cell {key.replace(' ', ', ', 1)}: recorded {brief(was.get(key, 'nothing'))}, "
             f"now {brief(now.get(key, 'nothing'))}"
             for key in sorted(was.keys() | now.keys()) if was.get(key) != now.get(key) and FREE not in
             (was.get(key), now.get(key))]
    names = sorted(record["results"]) if isinstance(record["results"], dict) else None
    if names is not None and names != sorted(run["results"]):
        found.append(f"results: recorded {names}, now {sorted(run['results'])}")
    return found


def outline(cells: dict[str, Any]) -> dict[str, Any]:
    """What of the things told in each cell does not follow from numbers."""
    found = {}
    for key, items in cells.items():
        kind = key.partition(" ")[2]
        if items == FREE or kind != "figure":
            found[key] = FREE if items == FREE else "something"
            continue
        found[key] = [[[words_of(ax["x"]), words_of(ax["y"]), ax["scales"], kinds_of(ax["draws"])]
                       for ax in figure["axes"]] if isinstance(figure, dict) and isinstance(figure["axes"], list)
                      else FREE for figure in items]
        if FREE in found[key]:
            found[key] = FREE
    return found


def words_of(text: Any) -> str:
    """A label without its numbers."""
    parts = text["text"] if isinstance(text, dict) else tokens(text) if isinstance(text, str) else []
    return " ".join(part for part in parts if isinstance(part, str) and value_of(part) is None and part != FREE)


def kinds_of(draws: Any) -> list[str]:
    """The kinds of artists that are drawn."""
    return sorted({draw[0] for draw in draws if isinstance(draw, list)} - {"texts"}) if isinstance(draws, list) else []
