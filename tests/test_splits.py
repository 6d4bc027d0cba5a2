"""No photo stands on two sides: parts keep their names, training and choices never look at the test set."""
import ast

import pytest

from tests.notebooks import ROOT, code_cells, name_of, parse, read

PARTS = {"train", "val", "test"}
NOTEBOOKS = [path for chapter in ("Chapter05", "Chapter06", "Chapter07", "Chapter08")
             for path in sorted((ROOT / chapter).glob("*.ipynb"))]
CHOICES_ALONE = [path for path in NOTEBOOKS if path.stem in (  # what is chosen stands in cells of its own
    "Mean_average_precision", "Non_max_suppression", "Understanding_selectivesearch")]
MEASURED_WHILE_TRAINED = {"Chapter05/2D_and_3D_facial_keypoints.ipynb"}  # its train_points takes rows to measure, too


def part_of(name):
    """The part that a name says it is of: "train" for train and train_photos; None where it says nothing."""
    first = name.partition("_")[0]
    return first if first in PARTS else None


def parts_in(node):
    """The names of parts that code looks up or reads: rows["val"], test, test_photos."""
    return {one.value for one in ast.walk(node) if isinstance(one, ast.Constant) and one.value in PARTS} | {
        part_of(one.id) for one in ast.walk(node)
        if isinstance(one, ast.Name) and isinstance(one.ctx, ast.Load) and part_of(one.id)}


def assignments(node):
    """Pairs (name, value) of an assignment: a = x, and a, b = x, y or a, b = (f(k) for k in (x, y))."""
    target, value = node.targets[0], node.value
    if isinstance(target, ast.Name):
        return [(target.id, value)]
    if isinstance(value, ast.GeneratorExp):
        value = value.generators[0].iter
    both = isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple)
    return [(name.id, one) for name, one in zip(target.elts, value.elts) if isinstance(name, ast.Name)] if both else []


@pytest.mark.parametrize("path", NOTEBOOKS, ids=name_of)
def test_a_part_keeps_its_name(path):
    for cell in code_cells(read(path)):
        for node in ast.walk(parse(cell.source)):
            for name, value in assignments(node) if isinstance(node, ast.Assign) else ():
                if part_of(name):
                    assert parts_in(value) <= {part_of(name)}, f"`{ast.unparse(node)}` gives a part another's name"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=name_of)
def test_photos_of_a_part_are_those_of_its_rows(path):
    """train_photos is photos[parts["train"]], not as many photos from the start."""
    for cell in code_cells(read(path)):
        for node in ast.walk(parse(cell.source)):
            for name, value in assignments(node) if isinstance(node, ast.Assign) else ():
                if part_of(name) and isinstance(value, ast.Subscript) and ast.unparse(value.value) in ("photos",
                                                                                                       "images"):
                    rows = ast.unparse(value.slice)
                    assert rows.startswith(f"parts['{part_of(name)}']"), f"{name} are photos[{rows}]"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=name_of)
def test_nothing_is_trained_with_the_test_set(path):
    for cell in code_cells(read(path)):
        for node in ast.walk(parse(cell.source)):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id.startswith("train"):
                given = set().union(*(parts_in(one) for one in (*node.args, *node.keywords)))
                allowed = {"test"} if name_of(path) in MEASURED_WHILE_TRAINED else set()
                assert "test" not in given - allowed, f"`{ast.unparse(node)}` trains with the test set"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=name_of)
def test_what_is_chosen_or_best_does_not_follow_from_the_test_photos(path):
    for cell in code_cells(read(path)):
        for node in ast.walk(parse(cell.source)):
            if isinstance(node, ast.Assign) and not isinstance(node.value, ast.Dict):
                names = {one.id.partition("_")[0] for target in node.targets for one in ast.walk(target)
                         if isinstance(one, ast.Name)}
                assert not (names & {"best", "chosen"} and "test" in parts_in(node.value)), ast.unparse(node)


@pytest.mark.parametrize("path", CHOICES_ALONE, ids=name_of)
def test_choices_do_not_look_at_the_test_photos(path):
    for cell in code_cells(read(path)):
        names = {one.id for one in ast.walk(parse(cell.source))
                 if isinstance(one, ast.Name) and isinstance(one.ctx, ast.Store)}  # fmt: skip
        if "chosen" in names:
            assert "test" not in parts_in(parse(cell.source)), f"a choice looks at test photos:\n{cell.source}"
