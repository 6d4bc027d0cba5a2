"""The record of a notebook: what its quick run told when it was last read and found right.

`tests/records/ChapterNN/Name.json` holds what a reader sees (printed lines, tables, figures read back from their axes,
results), the story of rows and loops, what the notebook's names hold at its end, and where that comes from. It is made
from two runs, the second of them shaken: clocks run unevenly, and networks begin a ten-thousandth beside where they
would. So the record knows what hangs on time (it is free) and what hangs on how a machine rounds: from the first cell
on in which the shaking moved anything a later run is held to its numbers only roughly, whatever machine it runs on.

With other versions of the libraries only the names of `results` are compared.
"""
from __future__ import annotations

import json
import math
import re
from fractions import Fraction
from pathlib import Path
from typing import Any

from tests.notebooks import ROOT, write_text

FOLDER = ROOT / "tests" / "records"
FREE = "…"  # stands for what time decides, and for what shaking moved far
FAR = 0.05  # a number that shaking moved by more than this share of it is free
CLOSE = 1e-3  # relative tolerance of a number that no rounding reaches
ROUGH = 0.05  # of one that shaking did not move, after the first that it moved: it may count rows
SHARE = 0.03  # as much may a share of rows differ there; a percentage a hundred times that
COUNT = 1  # and a count
WIDE = 8  # times as far as shaking moved a number it may go
NUMBER = re.compile(r"(?<![\w.])[-+−]?(?:\d[\d,]*\.?\d*(?:[eE][-+]?\d+)?|\.\d+|nan|inf)(?![\w])"
                    r"|(?<=[A-Za-z_=(])\d+\.\d+")
UNITS = {"s", "ms", "µs", "μs", "ns", "seconds", "second", "milliseconds", "minutes", "min", "hours"}  # of time
TIMES = {"time", "times", "elapsed", "took", "start", "started", "clock", "duration", "speed", "latency", "throughput"}
TRAINING = re.compile(r"(?:a training|\d+ trainings)\b")  # how a line of the story begins that is of steps
VERSION = re.compile(r"\b\d+\.\d+\.\d+[\w.+-]*")
ROUTES = 8  # expressions that are kept of an entry of `results`
LISTED = 4  # differences that a message lists


def path_of(notebook: str) -> Path:
    return FOLDER / Path(notebook).with_suffix(".json")


def load(notebook: str) -> dict | None:
    path = path_of(notebook)
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


# --- texts


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


def is_time(parts: list[str], k: int) -> bool:
    """Whether a token is a number of seconds, which may be equal in two runs by chance."""
    after = parts[k + 1].strip(".,;:()/") if k + 1 < len(parts) else ""
    return value_of(parts[k]) is not None and after in UNITS


def is_timed(name: str) -> bool:
    """Whether a name says that what it holds is time."""
    return bool(set(re.findall(r"[a-zµμ]+", name.lower())) & (UNITS | TIMES))


# --- making a record


def merge(values: list[Any]) -> Any:
    """What two runs have in common: equal parts as they are, numbers with how far they moved, the rest free."""
    first = values[0]
    kinds = {type(value) for value in values}
    if kinds <= {int, float}:
        return with_spread([values])[0]
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
            return with_spread(list(zip(*values)))
        return [merge(list(items)) for items in zip(*values)]
    if isinstance(first, str):
        return merged_text([tokens(value) for value in values]) if not equal(values) or timed(first) else first
    return first if equal(values) else FREE


def equal(values: list[Any]) -> bool:
    return all(value == values[0] for value in values)


def timed(text: str) -> bool:
    parts = tokens(text)
    return any(is_time(parts, k) for k in range(len(parts)))


def with_spread(groups: list) -> list:
    """Numbers of one sequence over the runs: each as it is where it never moved, else with how far, or free.

    What moved has moved as far as what moved most: two runs tell how far a sequence goes, not each of its numbers.
    """
    moved = [max(abs(value - group[0]) for value in group) for group in groups]
    sizes = [max(abs(value) for value in group) for group in groups]
    most = max((spread / size for spread, size in zip(moved, sizes) if spread == spread and spread and size), default=0)
    found: list[Any] = []
    for group, spread, size in zip(groups, moved, sizes):
        if spread == 0:
            found.append(group[0])
        else:
            far = not most <= FAR or not spread <= FAR * size
            found.append(FREE if far else {"~": [group[0], float(f"{max(spread, 0.4 * most * size):.2g}")]})
    return found


def merged_text(parts: list[list[str]]) -> Any:
    """The tokens of a text over the runs."""
    if any(len(part) != len(parts[0]) for part in parts):
        return FREE
    groups = list(zip(*parts))
    moved = [k for k, group in enumerate(groups) if len(set(group)) > 1]
    numeric = [k for k in moved if None not in map(value_of, groups[k])]
    spreads = dict(zip(numeric, with_spread([[float(value_of(token)) for token in groups[k]] for k in numeric])))
    merged: list[Any] = []
    for k, group in enumerate(groups):
        if is_time(parts[0], k) or k in moved and not isinstance(spreads.get(k), dict):
            merged.append(FREE)
        else:
            merged.append([group[0], spreads[k]["~"][1]] if k in moved else group[0])
    return {"text": merged}


def by_cell(told: list) -> dict[str, list]:
    cells: dict[str, list] = {}
    for cell, kind, what in told:
        cells.setdefault(f"{cell} {kind}", []).append(what)
    return cells


def moves(values: list[Any]) -> list[float]:
    """By what shares the numbers of two runs differ; infinite for what is no number."""
    first = values[0]
    if equal(values):
        return []
    if all(isinstance(value, (int, float)) for value in values):
        size = max(map(abs, values))
        return [(max(values) - min(values)) / size] if size and size == size else []
    if all(isinstance(value, dict) and value.keys() == first.keys() for value in values):
        return [share for key in first for share in moves([value[key] for value in values])]
    if all(isinstance(value, list) and len(value) == len(first) for value in values):
        return [share for items in zip(*values) for share in moves(list(items))]
    if all(isinstance(value, str) for value in values):
        parts = [tokens(value) for value in values]
        if all(len(part) == len(parts[0]) for part in parts):
            numbers = [[value_of(token) for token in group] for group in zip(*parts) if len(set(group)) > 1]
            return [share for group in numbers for share in (
                [math.inf] if None in group else moves([float(value) for value in group]))]
    return [math.inf]


def first_moved(told: list[dict], story: list, networks: bool) -> int | None:
    """The first code cell in which rounding moves something, None where it moves nothing.

    Before the first training what moved far was moved by the clock. Where no `networks` were shaken it is the first
    training.
    """
    trained = min((line[0] for line in story if TRAINING.match(line[1])), default=math.inf)
    found = []
    for key in told[0]:
        cell = int(key.partition(" ")[0])
        shares = moves([cells.get(key) for cells in told])
        if shares and (cell >= trained or min(shares) <= FAR):
            found.append(cell)
    if not networks and trained < math.inf:
        found.append(int(trained))
    return min(found, default=None)


def make(runs: list[dict]) -> dict:
    """A record from the runs that `watch.finish` told of; the first is the notebook as it is."""
    told = [by_cell(run["told"]) for run in runs]
    results = merge([run["results"] for run in runs])
    if isinstance(results, dict):
        results = {key: FREE if is_timed(key) else value for key, value in results.items()}
    return {
        "code": runs[0].get("code"),
        "environment": runs[0]["environment"],
        "rounding": first_moved(told, runs[0]["story"], runs[-1].get("shake", 0) % 2 == 1),
        "story": merge([[list(line) for line in sorted(run["story"])] for run in runs]),
        "results": results,
        "routes": {key: common for key in runs[0]["routes"] if (common := routes(runs, key))},
        "from": {key: merged for key in told[0] if key.endswith(" figure") and (merged := sources(
            [cells.get(key, []) for cells in told]))},
        "told": {key: merge([without_sources(cells[key]) for cells in told]) if all(key in cells for cells in told)
                 else FREE for key in {key: None for cells in told for key in cells}},
        "state": {name: merge([run["state"][name] for run in runs]) for name in runs[0]["state"]
                  if all(name in run["state"] for run in runs) and not is_timed(name)},
    }


def routes(runs: list[dict], key: str) -> list[str]:
    """The expressions that gave an entry of `results` in every run.

    A share of few rows that was the same in all of them may equal others by chance: there the words must speak for it.
    """
    common = in_each([run["routes"].get(key, []) for run in runs])
    value = runs[0]["results"][key]
    if equal([run["results"].get(key) for run in runs]) and on_a_grid(value):
        common = [text for text in common if words(key) & words(text)]
    return common[:ROUTES]


def on_a_grid(value: float, most: int = 1000) -> bool:
    """Whether a number is a share of at most so many rows, or a small count of them."""
    return abs(float(Fraction(value).limit_denominator(most)) - value) < 6e-8


def words(text: str) -> set[str]:
    return set(re.findall(r"[a-z]+", text.lower()))


def in_each(lists: list[list]) -> list:
    return [item for item in lists[0] if all(item in other for other in lists)]


def without_sources(told: list) -> list:
    return [{**what, "axes": [{key: value for key, value in axes.items() if key != "from"} for axes in what["axes"]]}
            if isinstance(what, dict) else what for what in told]


def sources(runs: list[list]) -> list | None:
    """What each artist of a cell's figures was drawn from in every run; None where the runs drew other things."""
    drawn = [[item for figure in figures for axes in figure["axes"] for item in axes["from"]] for figures in runs]
    if not drawn[0] or any([name for name, _ in run] != [name for name, _ in drawn[0]] for run in drawn):
        return None
    return [[items[0][0], common] for items in zip(*drawn) if (common := in_each([found for _, found in items]))]


def write(record: dict, notebook: str) -> None:
    """One line for each thing that is told, so that a change can be read in a diff."""
    def lines(value: Any, depth: int) -> str:
        pad = " " * depth
        if depth < 3 and isinstance(value, dict) and value:
            return "{\n" + ",\n".join(f"{pad} {json.dumps(key, ensure_ascii=False)}: {lines(item, depth + 1)}"
                                      for key, item in value.items()) + f"\n{pad}}}"
        if depth < 3 and isinstance(value, list) and value and not isinstance(value[0], (int, float)):
            return "[\n" + ",\n".join(f"{pad} {json.dumps(item, ensure_ascii=False)}" for item in value) + f"\n{pad}]"
        return json.dumps(value, ensure_ascii=False)

    path = path_of(notebook)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(lines(record, 0) + "\n", path)


# --- comparing


class Comparison:
    def __init__(self):
        self.different: list[str] = []
        self.rough = False  # what is compared comes after rounding has moved something
        self.size = 0.0  # of the sequence that a number stands for

    def say(self, where: str, was: Any, now: Any) -> None:
        self.different.append(f"{where}: recorded {brief(was)}, now {brief(now)}")

    def near(self, was: float, now: float, spread: float = 0.0, least: float = 0.0) -> bool:
        """`least`: what may differ where numbers are held roughly, whatever their size."""
        tolerance = max(CLOSE * abs(was), WIDE * spread, 1e-6 * self.size, 1e-9)
        if self.rough and not spread:
            tolerance = max(tolerance, ROUGH * max(abs(was), self.size), least)
        return abs(now - was) <= tolerance or now != now

    def compare(self, was: Any, now: Any, where: str) -> None:
        if was == FREE or was == now:
            return
        if isinstance(was, dict) and was.keys() == {"text"}:
            self.text(was["text"], now, where)
        elif isinstance(was, str) and isinstance(now, str):
            self.text(tokens(was), now, where)
        elif isinstance(was, dict) and was.keys() == {"~"} or isinstance(was, (int, float)):
            value, spread = was["~"] if isinstance(was, dict) else (was, 0.0)
            least = COUNT if abs(value) > 1 and value == int(value) else SHARE
            if not isinstance(now, (int, float)) or not self.near(value, now, spread, 0.0 if self.size else least):
                self.say(where, value, now)
        elif isinstance(was, list) and isinstance(now, list) and len(was) == len(now):
            if is_summary(was):
                self.summary(was, now, where)
                return
            parts = DATA.get(was[0], {}) if was and isinstance(was[0], str) else {}
            for k, (a, b) in enumerate(zip(was, now)):
                name = parts.get(k) or (named(b, k) if isinstance(b, list) else f"{k + 1}")
                self.compare(a, b, f"{where}, {name}" if not isinstance(a, (int, float)) else where)
        elif isinstance(was, dict) and isinstance(now, dict) and was.keys() == now.keys():
            for key in was:
                self.compare(was[key], now[key], f"{where}, {key}")
        else:
            self.say(where, was, now)

    def summary(self, was: list, now: list, where: str) -> None:
        """Of data that differ one number says it."""
        before = len(self.different)
        self.size = max((abs(item["~"][0] if isinstance(item, dict) else item) for item in was[2:]
                         if not isinstance(item, str)), default=0.0)
        for name, a, b in zip(STATISTICS, was, now):
            if len(self.different) == before:
                self.compare(a, b, f"{where}, {name}")
        self.size = 0.0

    def text(self, was: list, now: Any, where: str) -> None:
        parts = tokens(now) if isinstance(now, str) else []
        if len(parts) != len(was):
            self.say(where, joined(was), now)
            return
        for k, (a, b) in enumerate(zip(was, parts)):
            if a == FREE or a == b:
                continue
            token, spread = a if isinstance(a, list) else (a, 0.0)
            old, new = value_of(token), value_of(b)
            if old is not None and new is not None:
                unit = max(quantum(token), quantum(b))  # a last digit may fall to the other side
                new -= math.copysign(min(abs(new - old), unit if spread or unit < 1 else 0.0), new - old)
                if self.near(old, new, spread, least_of(token, parts[k + 1] if k + 1 < len(parts) else "")):
                    continue
            self.say(where, joined(was), now)
            return


def least_of(token: str, after: str) -> float:
    """What a printed number may differ by where numbers are held roughly."""
    if after.startswith(("%", "point")):
        return 100 * SHARE
    return SHARE if quantum(token) < 1 else COUNT


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


def is_elsewhere(record: dict, run: dict) -> bool:
    """Whether a run was made with other versions or on another system than the record."""
    return record["environment"] != run["environment"]


def differences(record: dict, run: dict) -> list[str]:
    """What a run tells otherwise than the record, a line each."""
    if isinstance(record["results"], dict) and sorted(record["results"]) != sorted(run["results"]):
        return [f"results: recorded {sorted(record['results'])}, now {sorted(run['results'])}"]
    if is_elsewhere(record, run):
        return []
    comparison = Comparison()
    rounding = math.inf if record["rounding"] is None else record["rounding"]
    told = by_cell(run["told"])
    for key in [*record["told"], *(key for key in told if key not in record["told"])]:
        cell, _, kind = key.partition(" ")
        where, was, now = f"code cell {cell}, {kind}", record["told"].get(key), without_sources(told.get(key, []))
        comparison.rough = int(cell) >= rounding
        if was is None or was != FREE and not now:
            comparison.say(where, was or "nothing", now or "nothing")
        elif was != FREE and len(was) != len(now):
            comparison.say(where, f"{len(was)} times", f"{len(now)} times")
        else:
            comparison.compare(was, now, where)
    story = [list(line) for line in sorted(run["story"])]
    if isinstance(record["story"], list) and len(record["story"]) != len(story):
        comparison.say("rows and loops", [line for line in record["story"] if line not in story] or "nothing more",
                       [line for line in story if line not in record["story"]] or "nothing more")
    elif isinstance(record["story"], list):
        comparison.rough = False
        for was, line in zip(record["story"], story):
            comparison.compare(was, line, f"code cell {line[0]}, rows and loops")
    comparison.rough = rounding < math.inf
    comparison.compare(record["results"], run["results"], "results")
    for name, was in record["state"].items():
        if was == FREE:
            continue
        comparison.rough = was[0] == FREE or was[0] >= rounding
        if name not in run["state"]:
            comparison.say(f"the name {name}", was[1], "nothing")
        else:
            comparison.compare(was[1], run["state"][name][1], f"what {name} holds at the end")
    return [*comparison.different, *lost(record, run, told)]


def lost(record: dict, run: dict, told: dict) -> list[str]:
    """Entries of `results` and drawn data that no longer come from where they came from. No rounding changes that."""
    found = [f"results, {key}: it was {texts[0]}, and is no more" for key, texts in record["routes"].items()
             if key in run["results"] and not set(texts) & set(run["routes"].get(key, ()))]
    for key, was in record["from"].items():
        now = [item for figure in told.get(key, []) for axes in figure["axes"] for item in axes["from"]]
        for name, texts in was:
            if not any(set(texts) & set(others) for other, others in now if other == name):
                cell = key.partition(" ")[0]
                found.append(f"code cell {cell}, figure: {name} was drawn from {texts[0]}, and is no more")
    return found
