"""The comparison of detectors: its table, its figure, what it refuses; written and found stale by the catalogue."""
from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import nbformat
import pytest

from tests import catalogue, detectors
from tests.detectors import Detector
from tests.notebooks import ROOT, NotebookError, code_digest, read
from tests.test_catalogue import notebook, readme, run

KEYS = {"name": "SSD", "mAP50": "map50", "mAP50_std": "std", "mAP": "map", "ms": ["proposals", "network"],
        "parameters": "number"}
RESULTS = {"map50": 0.8682, "std": 0.0026, "map": 0.509, "proposals": 90.0, "network": 10.25, "number": 392_808}
SVG = "{http://www.w3.org/2000/svg}"


def measured(**detector):
    return notebook("SSD", 1, result="mAP {map:.2f}", detector={**KEYS, **detector},
                    measured={"cpu": run(results=RESULTS, device="a CPU, 2 threads")})


def several():
    """Detectors whose points lie close together, one without milliseconds, one that is not measured."""
    close = [Detector(f"Detector {k}", f"Chapter08/N{k}.ipynb",
                      {"mAP50": 0.8, "mAP": 0.5 + 0.002 * k, "ms": 3.0 + 0.1 * k, "parameters": 4e5}) for k in range(4)]
    slow = {"mAP50": 0.7, "mAP": 0.4, "ms": 150.0, "parameters": 4e6}
    return [*close, Detector("slow & large", "Chapter07/A.ipynb", slow),
            Detector("no clock", "Chapter07/B.ipynb", {"mAP50": 0.7, "mAP": 0.4}),
            Detector("not measured", "Chapter07/C.ipynb")]


def test_values_come_from_the_results_and_lists_are_added_up():
    one = detectors.detector_of(measured(), "Chapter08/SSD.ipynb")
    assert one.values == {"mAP50": 0.8682, "mAP50_std": 0.0026, "mAP": 0.509, "ms": 100.25, "parameters": 392_808}
    assert one.device == "a CPU, 2 threads"
    row, = [line for line in detectors.table([one]).splitlines() if "SSD.ipynb" in line]
    assert row == "| [SSD](../Chapter08/SSD.ipynb) | 0.868 ± 0.003 | 0.509 | 100.2 | – | 0.39 M |"


def test_a_measurement_of_other_code_does_not_count():
    changed = measured()
    changed.cells[1].source = "x = 2"
    assert detectors.detector_of(changed, "A.ipynb").values == {}
    assert detectors.detector_of(notebook("No detector", 1), "A.ipynb") is None


@pytest.mark.parametrize("said, message", [
    ({"mAP": "absent"}, "detector.mAP asks for absent"), ({"ms": ["network", "gone"]}, "asks for gone"),
    ({"speed": "network"}, "needs a name"), ({"name": 3}, "needs a name")])
def test_what_is_malformed_is_named(said, message):
    with pytest.raises(NotebookError, match=message):
        detectors.detector_of(measured(**said), "A.ipynb")


def test_only_what_has_all_three_numbers_is_drawn():
    assert [one.name for one in detectors.drawn(several())] == [f"Detector {k}" for k in range(4)] + ["slow & large"]
    for none in ([], several()[-1:]):
        assert ElementTree.fromstring(detectors.figure(none)).findall(f"{SVG}circle") == []


def test_points_lie_where_their_numbers_are():
    shown = detectors.drawn(several())
    circles = ElementTree.fromstring(detectors.figure(several())).findall(f"{SVG}circle")
    assert len(circles) == len(shown)
    x, y, r = ([float(circle.get(key)) for circle in circles] for key in ("cx", "cy", "r"))
    assert x[:4] == sorted(x[:4]) and y[:4] == sorted(y[:4], reverse=True) and x[4] == max(x) and y[4] == max(y)
    assert r[4] ** 2 / r[0] ** 2 == pytest.approx(10, rel=0.02)  # ten times the parameters, ten times the area
    assert all(detectors.LEFT < a < detectors.RIGHT and detectors.TOP < b < detectors.BOTTOM for a, b in zip(x, y))
    one, two, four = (Detector("", "", {"mAP": 0.5, "ms": ms}) for ms in (1.0, 2.0, 4.0))
    a, b, c = (detectors.place(some, ((0.5, 8.0), (0.0, 1.0)))[0] for some in (one, two, four))
    assert b - a == pytest.approx(c - b), "the axis is not logarithmic"


def test_names_stand_apart():
    points = [(f"Detector {k}", 200 + 3 * k, 200 + 2 * k, 6.0) for k in range(3)]
    frames = [(x, y - 11, x + 7.2 * len(name), y + 4) for x, y, name in detectors.labels(points)]
    for k, (a, b, c, d) in enumerate(frames):
        for e, f, g, h in frames[k + 1 :]:
            assert c <= e or g <= a or d <= f or h <= b, "two names overlap"


def test_the_headline_names_the_best_and_the_fastest():
    text = detectors.headline(several())
    assert text == "Detector 3 is the most accurate: mAP 0.51 at 3.3 ms a photo; Detector 0 is the fastest: 3.0 ms"


def test_the_catalogue_writes_both_and_finds_them_stale(tmp_path: Path):
    (tmp_path / "Chapter08").mkdir()
    (tmp_path / "README.md").write_text(readme("Shelf"), encoding="utf-8")
    page = readme("Chapter 8: Detectors").replace("By hand below.", f"{detectors.BEGIN}\n{detectors.END}\n\nThe end.")
    (tmp_path / "Chapter08" / "README.md").write_text(page, encoding="utf-8")
    path = tmp_path / "Chapter08" / "SSD.ipynb"
    nbformat.write(measured(), path)
    assert catalogue.main([], tmp_path) == 0
    text = (tmp_path / "Chapter08" / "README.md").read_text(encoding="utf-8")
    assert "| 0.868 ± 0.003 |" in text and text.endswith("The end.\n") and f"]({detectors.FIGURE})" in text
    assert "<circle" in (tmp_path / "Chapter08" / detectors.FIGURE).read_text(encoding="utf-8")
    assert not any(piece.stale for piece in catalogue.pieces(tmp_path))

    found = read(path)
    found.metadata.shelf.measured.cpu.results["map"] = 0.6
    nbformat.write(found, path)
    assert code_digest(found) == code_digest(read(path))
    stale = {piece.name for piece in catalogue.pieces(tmp_path) if piece.stale}
    assert {"Chapter08/README.md", "Chapter08/detectors.svg"} <= stale


def test_the_shelf_compares_the_detectors_of_both_chapters():
    found = [detectors.detector_of(read(path), path.name) for path in sorted(ROOT.glob("Chapter0[78]/*.ipynb"))]
    found = [one for one in found if one is not None]
    assert len(found) == len({one.name for one in found}) >= 5
    assert all({"mAP50", "mAP", "ms", "parameters"} <= {*one.values} for one in found if one.values)
