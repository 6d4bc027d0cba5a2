"""The record of a notebook: what its quick run told when it was last read and found right.

`tests/records/ChapterNN/Name.json` holds what a reader sees (printed lines, tables, figures read back from their axes,
results), the story of rows and loops, and what the notebook's names hold at its end. It is made from two runs: as the
notebook is, and with clocks that run unevenly and the arithmetic of another processor. What differs between them
(times, numbers that a rounding error turns over) is known by that: it is kept with a tolerance, or as free.

A later run is compared with the record, numbers within their tolerance, where the same machine computes with the same
versions. Another processor rounds otherwise in ways that no run here has shown: there, from the first cell on in which
rounding moved anything, only what does not follow from numbers is compared. With other versions, only the names of
`results`.
"""
from __future__ import annotations

import json
import math
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
ROUTES = 8  # expressions that are kept of an entry of `results`
UNITS = {"s", "ms", "µs", "μs", "ns", "seconds", "second", "milliseconds", "minutes", "min", "hours"}  # of time
TIMES = {"time", "times", "elapsed", "took", "start", "started", "clock", "duration", "speed", "latency", "throughput"}
TRAINING = re.compile(r"(?:a training|\d+ trainings)\b")  # how a line of the story begins that is of steps
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
        return timeless(first)
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
    most = max(shares, default=0.0)
    found = []
    for group, spread, size in zip(groups, moved, sizes):
        if spread == 0:
            found.append(group[0])
        elif not most <= LOOSE or not spread <= LOOSE * size:  # where one moved far, others moved little by chance
            found.append(FREE)
        else:
            found.append({"~": [group[0], float(f"{max(WIDE * spread, 3 * most * size):.2g}")]})
    return found


def merged_text(parts: list[list[str]]) -> Any:
    """The tokens of a text over the runs."""
    if any(len(part) != len(parts[0]) for part in parts):
        return FREE
    groups = list(zip(*parts))
    moved = [k for k, group in enumerate(groups) if len(set(group)) > 1 or is_time(parts[0], k)]
    numeric = [k for k in moved if None not in map(value_of, groups[k])]
    common = dict(zip(numeric, with_tolerance([[float(value_of(token)) for token in groups[k]] for k in numeric])))
    merged: list[Any] = []
    for k, group in enumerate(groups):
        if k not in moved:
            merged.append(group[0])
        elif is_time(parts[0], k) or not isinstance(common.get(k), dict):
            merged.append(FREE)
        else:
            merged.append([group[0], common[k]["~"][1] + 2 * max(map(quantum, group))])
    return {"text": merged}


def is_timed(name: str) -> bool:
    """Whether a name says that what it holds is time."""
    return bool(set(re.findall(r"[a-zµμ]+", name.lower())) & (UNITS | TIMES))


def is_time(parts: list[str], k: int) -> bool:
    """Whether a token is a number of seconds, which may be equal in two runs by chance."""
    after = parts[k + 1].strip(".,;:()/") if k + 1 < len(parts) else ""
    return value_of(parts[k]) is not None and after in UNITS


def by_cell(told: list) -> dict[str, list]:
    cells: dict[str, list] = {}
    for cell, kind, what in told:
        whole = what if kind == "printed" else None
        cells.setdefault(f"{cell} {kind}", []).extend(
            [what] if whole is None else [line for line in whole.splitlines() if line.strip()])
    return cells


def timeless(value: Any) -> Any:
    """What was equal in all runs, but for numbers of seconds in its texts."""
    if isinstance(value, dict):
        return {key: timeless(item) for key, item in value.items()}
    if isinstance(value, list):
        return [timeless(item) for item in value]
    if isinstance(value, str):
        parts = tokens(value)
        if any(is_time(parts, k) for k in range(len(parts))):
            return merged_text([parts])
    return value


def moves(values: list[Any]) -> list[float]:
    """By what shares the numbers of several runs differ; infinite for what is no number."""
    first = values[0]
    if all(type(value) is type(first) and value == first for value in values):
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


def first_moved(told: list[dict], story: list) -> int | None:
    """The first code cell in which rounding moved something, None where it moved nothing.

    Before the first training what moved far was moved by the clock.
    """
    trained = min((line[0] for line in story if TRAINING.match(line[1])), default=math.inf)
    found = []
    for key in told[0]:
        cell = int(key.partition(" ")[0])
        shares = moves([cells.get(key) for cells in told])
        if shares and (cell >= trained or min(shares) <= LOOSE):
            found.append(cell)
    return min(found, default=None)


def make(runs: list[dict]) -> dict:
    """A record from the runs that `watch.finish` told of; the first is the notebook as it is."""
    told = [by_cell(run["told"]) for run in runs]
    keys = [key for key in told[0] if all(key in cells for cells in told)]
    stories = [sorted(map(tuple, run["story"])) for run in runs]
    results = merge([run["results"] for run in runs])
    if isinstance(results, dict):
        results = {key: FREE if is_timed(key) else value for key, value in results.items()}
    return {
        "code": runs[0].get("code"),
        "environment": runs[0]["environment"],
        "rounding": first_moved(told, stories[0]),
        "story": merge([[list(line) for line in story] for story in stories]),
        "results": results,
        "routes": {key: common for key in runs[0]["routes"] if (common := common_routes(runs, key))},
        "told": {key: merge([cells[key] for cells in told]) for key in keys},
        "state": {name: merge([run["state"][name] for run in runs]) for name in runs[0]["state"]
                  if all(name in run["state"] for run in runs)},
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
        f' "code": {compact(record["code"])}',
        f' "environment": {compact(record["environment"])}',
        f' "rounding": {compact(record["rounding"])}',
        part("story", [f"  {compact(line)}" for line in story], "[]") if isinstance(story, list)
        else f' "story": {compact(story)}',
        f' "results": {compact(record["results"])}',
        part("routes", [f"  {compact(key)}: {compact(texts)}" for key, texts in record["routes"].items()], "{}"),
        part("told", told, "{}"),
        part("state", [f"  {compact(name)}: {compact(what)}" for name, what in record["state"].items()], "{}"),
    ])
    path = path_of(notebook)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text("{\n" + text + "\n}\n", path)
    is_made(notebook)


def missing() -> list[str]:
    """The notebooks that tests/records/missing.txt says to have no record yet."""
    path = FOLDER / "missing.txt"
    return path.read_text(encoding="utf-8").splitlines() if path.exists() else []


def is_made(notebook: str) -> None:
    """Take it off that list."""
    names, path = missing(), FOLDER / "missing.txt"
    if notebook in names:
        names.remove(notebook)
        write_text("".join(f"{name}\n" for name in names), path) if names else path.unlink()


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


def elsewhere(record: dict, run: dict) -> str | None:
    """What is other than when the record was made: the `versions`, only the `processor`, or nothing."""
    was, now = record["environment"], run["environment"]
    other = {name for name in was.keys() | now.keys() if was.get(name) != now.get(name)}
    return "versions" if other - {"arithmetic"} else "processor" if other else None


def differences(record: dict, run: dict) -> list[str]:
    """What a run tells otherwise than the record, a line each.

    With other versions of the libraries only the names of `results` are compared. On another processor all is up to the
    cell in which rounding first moved something; from there on what does not follow from numbers: which cells print,
    show a table or a figure, the labels of axes; and everywhere what rows went where, and that one of the expressions
    that gave an entry of `results` still gives it.
    """
    where = elsewhere(record, run)
    if where == "versions":
        return names_of_results(record, run)
    if where == "processor" and record["rounding"] is not None:
        early, late = ({key: told for key, told in record["told"].items()
                        if (int(key.partition(" ")[0]) < record["rounding"]) == before} for before in (True, False))
        now_early, now_late = ([item for item in run["told"] if (item[0] < record["rounding"]) == before]
                               for before in (True, False))
        whole = isinstance(record["story"], list) and all(isinstance(line[0], int) for line in record["story"])
        story = [line for line in record["story"] if line[0] < record["rounding"]] if whole else FREE
        now_story = [line for line in run["story"] if line[0] < record["rounding"]]
        found = compared(record | {"results": FREE, "state": {}, "told": early, "story": story},
                         run | {"told": now_early, "story": now_story})
        was, now = (kinds_of_story(told["story"]) for told in (record, run)) if whole else (set(), set())
        if was != now and FREE not in str(was):
            found.append(f"rows and loops: recorded {was - now or 'nothing more'}, now {now - was or 'nothing more'}")
        return [*found, *structural(late, now_late), *names_of_results(record, run)]
    return compared(record if where is None else record | {"state": {}}, run)


def kinds_of_story(story: list) -> set[str]:
    """The story without its numbers: an early stop may come at another step."""
    return {f"code cell {cell}: {' '.join(sorted(words - {'/'}))}" for cell, text in story for words in [
        {part for part in tokens(text if isinstance(text, str) else joined(text["text"])) if value_of(part) is None}
        - {"a", "training", "trainings", "from", "starting", "points", "in", "orders", "rows:", "training:"}]}


def names_of_results(record: dict, run: dict) -> list[str]:
    if isinstance(record["results"], dict) and sorted(record["results"]) != sorted(run["results"]):
        return [f"results: recorded {sorted(record['results'])}, now {sorted(run['results'])}"]
    return []


def compared(record: dict, run: dict) -> list[str]:
    """All that is told, and the expressions."""
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
    for name, was in record["state"].items():
        if name not in run["state"]:
            comparison.say(f"the name {name}", was, "nothing")
        elif not is_timed(name):
            comparison.compare(was, run["state"][name], f"what {name} holds at the end")
    return [*comparison.different, *lost_routes(record, run)]


def lost_routes(record: dict, run: dict) -> list[str]:
    """Entries of `results` that none of the expressions gives any more that gave them."""
    return [f"results, {key}: it was {texts[0]}, and is no more" for key, texts in record["routes"].items()
            if key in run["results"] and not set(texts) & set(run["routes"].get(key, ()))]


def structural(told: dict, run_told: list) -> list[str]:
    """What differs between what was told and is told that no number explains."""
    was, now = outline(told), outline(by_cell(run_told))
    return [f"code cell {key.replace(' ', ', ', 1)}: recorded {brief(was.get(key, 'nothing'))}, "
            f"now {brief(now.get(key, 'nothing'))}"
            for key in sorted(was.keys() | now.keys()) if was.get(key) != now.get(key) and FREE not in
            (was.get(key), now.get(key))]


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
