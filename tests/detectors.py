"""All detectors that were trained on the same photos, side by side: a table and a figure from their stored results.

A notebook takes part by `detector` in its metadata under `shelf`: a `name`, and for each of VALUES the name of one of
its results, or a list of names that are to be added up (proposals and network). What it does not name, or has not
measured with the code that it has now, is not there: `–` in the table, no point in the figure.

tests.catalogue writes the table between the two marks in a README, and the figure beside it. The figure is text, so
that its bytes follow from the results alone.
"""
from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote
from xml.sax.saxutils import escape

from nbformat import NotebookNode

from tests.notebooks import NotebookError, is_current

BEGIN, END = "<!-- detectors:begin -->", "<!-- detectors:end -->"
FIGURE = "detectors.svg"
VALUES = ("mAP50", "mAP50_std", "mAP", "mAP_std", "ms", "ms_of_8", "parameters")
NEEDED = ("mAP50", "mAP")
HEADER = ("detector", "mAP50", "mAP", "ms a photo", "ms a photo, 8 at once", "parameters")
ABSENT = "–"
WIDTH, HEIGHT = 760, 440  # of the figure, pixels
LEFT, RIGHT, TOP, BOTTOM = 70, 730, 70, 370  # of its axes
COLORS = ("#0072B2", "#009E73", "#D55E00", "#CC79A7", "#E69F00", "#56B4E9", "#000000")  # Okabe and Ito's


@dataclass(frozen=True)
class Detector:
    """A detector, where its notebook is, what it measured (a part of VALUES), and on which device."""

    name: str
    notebook: str
    values: dict[str, float] = field(default_factory=dict)
    device: str = ""


def detector_of(notebook: NotebookNode, name: str) -> Detector | None:
    """What the notebook says of its detector; None where it has none. Raises NotebookError where that is malformed."""
    said = notebook.metadata.shelf.get("detector")
    if said is None:
        return None
    unknown = {*said} - {"name", *VALUES}
    if unknown or not isinstance(said.get("name"), str) or not all(key in said for key in NEEDED):
        raise NotebookError(f"{name}: shelf.detector needs a name, {', '.join(NEEDED)}, and may have "
                            f"{', '.join(VALUES)}; it is {dict(said)}")
    run = notebook.metadata.shelf.get("measured", {}).get("cpu")
    if run is None or not is_current(run, notebook):
        return Detector(said["name"], name)
    values = {key: _sum(run["results"], said[key], f"{name}: shelf.detector.{key}") for key in VALUES if key in said}
    return Detector(said["name"], name, values, run["device"])


def _sum(results: dict[str, float], keys: Any, place: str) -> float:
    keys = [keys] if isinstance(keys, str) else keys
    missing = [key for key in keys if key not in results]
    if missing:
        raise NotebookError(f"{place} asks for {', '.join(missing)}, not among the results: {', '.join(results)}")
    return sum(results[key] for key in keys)


# ---- the table


def table(detectors: Iterable[Detector]) -> str:
    """A markdown table, one row a detector, the figure below it, and what the numbers are."""
    detectors = list(detectors)
    rows = [HEADER, ("---",) * len(HEADER), *map(_row, detectors)]
    return "\n".join(["| " + " | ".join(row) + " |" for row in rows] + [
        "", f"![{escape(headline(detectors))}]({FIGURE})", "", _legend(detectors)])


def _row(one: Detector) -> tuple[str, ...]:
    values = one.values
    return (f"[{one.name}](../{quote(one.notebook)})", _score(values, "mAP50"), _score(values, "mAP"),
            f"{values['ms']:.1f}" if "ms" in values else ABSENT,
            f"{values['ms_of_8']:.1f}" if "ms_of_8" in values else ABSENT,
            f"{values['parameters'] / 1e6:.2f} M" if "parameters" in values else ABSENT)


def _score(values: dict[str, float], key: str) -> str:
    if key not in values:
        return ABSENT
    spread = values.get(f"{key}_std")
    return f"{values[key]:.3f}" + (f" ± {spread:.3f}" if spread is not None else "")


def _legend(detectors: list[Detector]) -> str:
    devices = sorted({one.device for one in detectors if one.device})
    return (f"*mAP on the same test photos; ± is the standard deviation over seeds, where a notebook trained several "
            f"times. Times: median, one photo at a time, non-maximum suppression included"
            f"{' (' + '; '.join(devices) + ')' if devices else ''}. {ABSENT}: not measured.*")


# ---- the figure


def headline(detectors: list[Detector]) -> str:
    """The figure's title: a sentence with the most accurate and the fastest detector."""
    shown = drawn(detectors)
    if not shown:
        return "No detector is measured yet"
    best, fast = max(shown, key=lambda one: one.values["mAP"]), min(shown, key=lambda one: one.values["ms"])
    if best is fast:
        return f"{best.name} is the most accurate (mAP {best.values['mAP']:.2f}) and the fastest " \
               f"({best.values['ms']:.1f} ms a photo)"
    return f"{best.name} is the most accurate: mAP {best.values['mAP']:.2f} at {best.values['ms']:.1f} ms a photo; " \
           f"{fast.name} is the fastest: {fast.values['ms']:.1f} ms"


def drawn(detectors: Iterable[Detector]) -> list[Detector]:
    """Those that have what a point needs: mAP, milliseconds, parameters."""
    return [one for one in detectors if all(one.values.get(key, 0) > 0 for key in ("mAP", "ms", "parameters"))]


def radius(parameters: float) -> float:
    """Of a point, pixels: its area is proportional to the number of parameters."""
    return 9 * math.sqrt(parameters / 1e6)


def axes(detectors: list[Detector]) -> tuple[tuple[float, float], tuple[float, float]]:
    """Ends of the axis of milliseconds (logarithmic) and of that of mAP, with room around all points."""
    ms, scores = ([one.values[key] for one in detectors] for key in ("ms", "mAP"))
    return (min(ms) / 1.5, max(ms) * 1.5), (max(0, min(scores) - 0.06), min(1, max(scores) + 0.06))


def place(one: Detector, ends: tuple[tuple[float, float], tuple[float, float]]) -> tuple[float, float]:
    """Where its point lies, pixels from the left and from the top."""
    (a, b), (low, high) = ends
    across = math.log(one.values["ms"] / a) / math.log(b / a)
    return LEFT + across * (RIGHT - LEFT), BOTTOM - (one.values["mAP"] - low) / (high - low) * (BOTTOM - TOP)


def labels(points: list[tuple[str, float, float, float]]) -> list[tuple[float, float, str]]:
    """Where the names of points (name, x, y, radius) stand: left end, base line; each beside its point, not on others.

    The first of right, left, above and below that lies inside the figure and touches no point and no name before it.
    """
    taken = [(x - r, y - r, x + r, y + r) for _, x, y, r in points]
    found = []
    for name, x, y, r in points:
        w, h = 7.2 * len(name), 15
        spots = [(x + r + 5, y + 5), (x - r - 5 - w, y + 5), (x - w / 2, y - r - 6), (x - w / 2, y + r + 15)]
        frames = [(a, b - h + 4, a + w, b + 4) for a, b in spots]
        free = [k for k, (a, b, c, d) in enumerate(frames)
                if a >= LEFT and c <= WIDTH and b >= TOP - 20 and d <= BOTTOM
                and not any(a < t[2] and t[0] < c and b < t[3] and t[1] < d for t in taken)]
        k = free[0] if free else 0
        taken.append(frames[k])
        found.append((*spots[k], name))
    return found


def figure(detectors: Iterable[Detector]) -> str:
    """The figure, SVG: mAP against milliseconds a photo, the area of a point is the number of parameters."""
    detectors = list(detectors)
    shown = drawn(detectors)
    lines = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}" '
             f'viewBox="0 0 {WIDTH} {HEIGHT}" font-family="Helvetica, Arial, sans-serif" font-size="13">',
             f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
             _text(WIDTH / 2, 28, headline(detectors), 'text-anchor="middle" font-size="14" font-weight="bold"'),
             _text(WIDTH / 2, 48, "the area of a point is the number of parameters", 'text-anchor="middle"')]
    if shown:
        ends = axes(shown)
        lines += [*_grid(ends), *_points(shown, ends)]
    return "\n".join([*lines, "</svg>"]) + "\n"


def _text(x: float, y: float, text: str, style: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}"{" " + style if style else ""}>{escape(text)}</text>'


def _grid(ends: tuple[tuple[float, float], tuple[float, float]]) -> list[str]:
    (a, b), (low, high) = ends
    lines = []
    for tick in (m * 10**k for k in range(-2, 5) for m in (1, 2, 5)):
        if a <= tick <= b:
            x = LEFT + math.log(tick / a) / math.log(b / a) * (RIGHT - LEFT)
            lines += [f'<path d="M{x:.1f} {TOP}V{BOTTOM}" stroke="#ddd"/>',
                      _text(x, BOTTOM + 18, f"{tick:g}", 'text-anchor="middle"')]
    for tick in (k / 20 for k in range(21)):
        if low <= tick <= high:
            y = BOTTOM - (tick - low) / (high - low) * (BOTTOM - TOP)
            lines += [f'<path d="M{LEFT} {y:.1f}H{RIGHT}" stroke="#ddd"/>',
                      _text(LEFT - 8, y + 4, f"{tick:.2f}", 'text-anchor="end"')]
    middle = (TOP + BOTTOM) / 2
    return [*lines, f'<path d="M{LEFT} {TOP}V{BOTTOM}H{RIGHT}" stroke="black" fill="none"/>',
            _text((LEFT + RIGHT) / 2, BOTTOM + 42, "milliseconds a photo (one at a time, NMS included; logarithmic)",
                  'text-anchor="middle"'),
            _text(20, middle, "mAP on the test photos",
                  f'text-anchor="middle" transform="rotate(-90 20 {middle:.1f})"')]


def _points(shown: list[Detector], ends: tuple[tuple[float, float], tuple[float, float]]) -> list[str]:
    points = [(one.name, *place(one, ends), radius(one.values["parameters"])) for one in shown]
    circles = [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{r:.1f}" fill="{COLORS[k % len(COLORS)]}" fill-opacity="0.6" '
               f'stroke="{COLORS[k % len(COLORS)]}"><title>{escape(f"{name}: {_said(one)}")}</title></circle>'
               for k, (one, (name, x, y, r)) in enumerate(zip(shown, points, strict=True))]
    return circles + [_text(x, y, name) for x, y, name in labels(points)]


def _said(one: Detector) -> str:
    return (f"mAP {one.values['mAP']:.3f}, {one.values['ms']:.1f} ms a photo, "
            f"{one.values['parameters'] / 1e6:.2f} million parameters")
