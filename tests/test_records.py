"""What a notebook's quick run told when it was read (tests/checks), and how a later run is compared with that."""
from __future__ import annotations

import copy
import json

import pytest

from tests.checks import records
from tests.notebooks import name_of, notebooks


def test_every_record_has_a_notebook():
    """Not the other way round: a notebook may have no record yet."""
    known = {records.path_of(name_of(path)) for path in notebooks()}
    assert set(records.FOLDER.glob("*/*.json")) <= known, "git rm the others"


FIGURE = {"title": "Ends at 0.51", "axes": [{
    "title": "", "x": "epoch", "y": "loss", "scales": "linear linear 00",
    "draws": [["line", "train", "#0072b2 - None", [3, 0, 1.0, 3.0, 1.0, 3.0, 2.0, 0.4, 0.8],
               [3, 0, 0.9, 0.51, 0.51, 0.9, 0.7, -0.1, 0.15]]],
    "from": [["line train", ["history['loss']", "losses"]]]}]}


def run(loss=0.5123456, accuracy=0.8, rows=500, printed="accuracy 80.0% after 3 epochs", seconds=1.0, steps=8):
    figure = copy.deepcopy(FIGURE)
    figure["axes"][0]["draws"][0][4][4:5] = [loss]
    return {"environment": {"torch": "2.9"}, "code": "5e", "errors": [], "findings": [],
            "story": [[2, f"a training: SGD, {steps} steps"]],
            "told": [[1, "printed", f"{rows} rows"], [2, "figure", figure], [3, "printed", printed],
                     [4, "printed", f"took {seconds:.2f} s"]],
            "results": {"accuracy": accuracy, "seconds": seconds}, "routes": {"accuracy": ["found[0]", "max accuracy"]},
            "state": {"rows": [1, rows], "seconds": [4, seconds]}}


@pytest.fixture
def record():
    """Of a notebook whose losses rounding moves from the second cell on."""
    return json.loads(json.dumps(records.make([run(), run(loss=0.5133477, seconds=9.0) | {"shake": 1}])))


def test_a_run_equals_its_own_record(record):
    assert record["rounding"] == 2
    assert records.differences(record, run()) == []


def test_times_are_free_and_rounding_is_tolerated(record):
    assert record["results"]["seconds"] == records.FREE
    assert records.differences(record, run(loss=0.5149, seconds=70.0)) == []


def test_after_rounding_numbers_are_held_roughly(record):
    """A few rows of a small set may fall to the other side on another machine."""
    assert records.differences(record, run(loss=0.518, accuracy=0.78, printed="accuracy 78.0% after 3 epochs")) == []


@pytest.mark.parametrize("change, words", [
    ({"loss": 0.7}, "line 'train', y, smallest: recorded 0.5123456, now 0.7"),
    ({"rows": 501}, "code cell 1, printed"),
    ({"accuracy": 0.6}, "results, accuracy: recorded 0.8, now 0.6"),
    ({"printed": "accuracy 60.0% after 3 epochs"}, "code cell 3, printed"),
    ({"steps": 16}, "code cell 2, rows and loops"),
    ({"printed": "error 80.0% after 3 epochs"}, "recorded accuracy 80.0 % after 3 epochs, now error"),
])
def test_what_changed_is_said(record, change, words):
    said = records.differences(record, run(**change))
    assert said and any(words in line for line in said), said


def test_data_drawn_from_elsewhere_are_said(record):
    other = run()
    other["told"][1][2]["axes"][0]["from"] = [["line train", ["val_losses"]]]
    other["routes"] = {"accuracy": ["val min"]}
    assert records.differences(record, other) == [
        "results, accuracy: it was max accuracy, and is no more",
        "code cell 2, figure: line train was drawn from history['loss'], and is no more"]


def test_equal_by_chance_is_no_source():
    """0.8 twice may be chance, unless the words say the same; 0.8013 and 0.8021 may not."""
    routes = {"accuracy": ["found[0]", "best accuracy"]}
    same = [run() | {"routes": routes}, run() | {"routes": routes}]
    assert records.make(same)["routes"] == {"accuracy": ["best accuracy"]}
    moved = [run(accuracy=value) | {"routes": routes} for value in (0.8013456, 0.8021456)]
    assert records.make(moved)["routes"] == routes


def test_another_order_of_trainings_and_cells_is_said(record):
    other = run()
    other["told"][2][0] = 5
    said = records.differences(record, other)
    assert [line.partition(":")[0] for line in said] == ["code cell 3, printed", "code cell 5, printed"], said


def test_a_number_of_seconds_is_free_even_where_two_runs_took_as_long():
    made = records.make([run(seconds=1.0), run(seconds=1.0)])
    assert made["results"]["seconds"] == records.FREE
    assert records.differences(made, run(seconds=2.0)) == []


def test_the_clock_is_no_rounding():
    untrained = [run() | {"story": []}, run(seconds=9.0) | {"story": []}]
    assert records.make(untrained)["rounding"] is None


def test_where_networks_could_not_be_shaken_rounding_begins_with_the_first_training():
    assert records.make([run(), run(seconds=9.0) | {"shake": 2}])["rounding"] == 2
    assert records.make([run(), run(seconds=9.0) | {"shake": 1}])["rounding"] == 4


def test_with_other_versions_only_the_names_of_results_are_held(record):
    other = run(loss=0.9, accuracy=0.6, printed="one wins after 2 epochs")
    other["environment"] = {"torch": "2.10"}
    other["routes"] = {}
    assert records.differences(record, other) == []
    del other["results"]["accuracy"]
    said, = records.differences(record, other)
    assert "results" in said
