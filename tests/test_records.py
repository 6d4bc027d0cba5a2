"""Every notebook has a record of what its quick run tells (tests/checks), each record a notebook; how they compare."""
from __future__ import annotations

import copy
import json

import pytest

from tests.checks import records
from tests.notebooks import name_of, notebooks


def test_every_notebook_has_a_record():
    """But for those that tests/records/missing.txt names."""
    missing = [name_of(path) for path in notebooks() if records.load(name_of(path)) is None]
    new = sorted(set(missing) - set(records.missing()))
    assert not new, f"without a record: python -m tests.checks {' '.join(new)}"
    assert missing == records.missing(), "a record there is, or a notebook there is not: take it off missing.txt"


def test_every_record_has_a_notebook():
    known = {records.path_of(name_of(path)) for path in notebooks()}
    assert set(records.FOLDER.glob("*/*.json")) <= known, "git rm the others"


FIGURE = {"title": "Ends at 0.51", "axes": [{
    "title": "", "x": "epoch 1", "y": "loss", "scales": "linear linear 00",
    "draws": [["line", "train", "#0072b2 - None", [3, 0, 1.0, 3.0, 1.0, 3.0, 2.0, 0.4, 0.8],
               [3, 0, 0.9, 0.51, 0.51, 0.9, 0.7, -0.1, 0.15]]]}]}


def run(loss=0.5123456, accuracy=0.8, printed="accuracy 80.0% after 3 epochs", seconds=1.0, steps=8):
    figure = copy.deepcopy(FIGURE)
    figure["axes"][0]["draws"][0][4][4:5] = [loss]
    return {"environment": {"torch": "2.9", "arithmetic": "a"}, "code": "5e", "errors": [], "findings": [],
            "story": [[2, "a training: SGD, 8 steps"]],
            "told": [[2, "printed", printed], [3, "figure", figure], [4, "printed", f"took {seconds:.2f} s"]],
            "results": {"accuracy": accuracy, "seconds": seconds}, "routes": {"accuracy": ["found[0]", "val max"]},
            "state": {"steps": steps, "seconds": seconds}}


@pytest.fixture
def record():
    made = records.make([run(), run(loss=0.5123477, seconds=9.0), run(loss=0.5123470, seconds=3.0)])
    return json.loads(json.dumps(made))


def test_a_run_equals_its_own_record(record):
    assert records.differences(record, run()) == []


def test_times_are_free_and_rounding_is_tolerated(record):
    assert record["results"]["seconds"] == records.FREE
    assert records.differences(record, run(loss=0.512349, seconds=70.0)) == []


@pytest.mark.parametrize("change, words", [
    ({"loss": 0.52}, "line 'train', y, smallest: recorded 0.5123456, now 0.52"),
    ({"accuracy": 0.81}, "results, accuracy: recorded 0.8, now 0.81"),
    ({"printed": "accuracy 81.0% after 3 epochs"}, "code cell 2, printed"),
    ({"steps": 16}, "what steps holds at the end: recorded 8, now 16"),
    ({"printed": "error 80.0% after 3 epochs"}, "recorded accuracy 80.0 % after 3 epochs, now error"),
])
def test_what_changed_is_said(record, change, words):
    said = records.differences(record, run(**change))
    assert len(said) == 1 and words in said[0], said


def test_another_order_of_trainings_and_cells_is_said(record):
    other = run()
    other["story"] = [[2, "a training: SGD, 16 steps"]]
    other["told"][0][0] = 5
    said = records.differences(record, other)
    assert [line.partition(":")[0] for line in said] == [
        "code cell 2, printed", "code cell 5, printed", "code cell 2, rows and loops, 2"], said


def test_nine_axes_are_not_nine_numbers(record):
    several = run()
    several["told"][1][2]["axes"] *= 9
    nine = records.make([several, several])
    assert records.differences(nine, several) == []
    assert "recorded" in records.differences(nine, run())[0]


def test_a_number_of_seconds_is_free_even_where_two_runs_took_as_long():
    made = records.make([run(seconds=1.0), run(seconds=1.0)])
    assert made["results"]["seconds"] == records.FREE
    assert records.differences(made, run(seconds=2.0)) == []


def test_rounding_begins_where_it_first_moved_something(record):
    """Not where only the clock moved: that moves far."""
    assert record["rounding"] == 3
    untrained = [run() | {"story": []}, run(seconds=9.0) | {"story": []}]
    assert records.make(untrained)["rounding"] is None
    assert records.make([run(), run(printed="accuracy 81.0% after 3 epochs")])["rounding"] == 2


def test_another_processor_rounds_otherwise(record):
    """From the first cell on in which rounding moved something numbers are free there, labels are not."""
    other = run(loss=0.7, accuracy=0.6, steps=16)
    other["environment"]["arithmetic"] = "b"
    assert records.differences(record, other) == []
    other["told"][1][2]["axes"][0]["x"] = "step 1"
    other["told"][0][2] = "accuracy 81.0% after 3 epochs"
    other["routes"] = {"accuracy": ["val min"]}
    other["story"] = [[2, "a training: SGD, 9 steps"], [3, "a training: Adam, 7 steps"]]
    said = records.differences(record, other)
    assert len(said) == 5 and "code cell 2, printed" in said[0] and "rows and loops" in said[1], said
    assert "no more" in said[2] and "Adam" in said[3] and "code cell 3, figure" in said[4], said


def test_with_other_versions_only_the_names_of_results_are_held(record):
    other = run(loss=0.7, accuracy=0.6, printed="one wins after 2 epochs")
    other["environment"]["torch"] = "2.10"
    other["routes"] = {}
    assert records.differences(record, other) == []
    del other["results"]["accuracy"]
    said, = records.differences(record, other)
    assert "results" in said
