"""No photo stands on two sides: the parts keep their names, and choices never look at the test photos."""
import ast

import pytest

from tests.notebooks import ROOT, code_cells, name_of, parse, read

PARTS = {"train", "val", "test"}
NOTEBOOKS = [ROOT / "Chapter07" / f"{name}.ipynb"
             for name in ("Mean_average_precision", "Non_max_suppression", "Understanding_selectivesearch")]


def parts_in(node):
    """The names of parts that code looks up or reads: rows["val"], test."""
    return {one.value for one in ast.walk(node) if isinstance(one, ast.Constant) and one.value in PARTS} | {
        one.id for one in ast.walk(node) if isinstance(one, ast.Name) and one.id in PARTS}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=name_of)
def test_a_part_keeps_its_name(path):
    for cell in code_cells(read(path)):
        for node in parse(cell.source).body:
            if isinstance(node, ast.Assign) and len(node.targets) == 1:
                target = node.targets[0]
                pairs = [(target, node.value)]
                if isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
                    pairs = list(zip(target.elts, node.value.elts))
                for name, value in pairs:
                    if isinstance(name, ast.Name) and name.id in PARTS:
                        assert parts_in(value) <= {name.id}, f"`{ast.unparse(node)}` gives a part another's name"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=name_of)
def test_choices_do_not_look_at_the_test_photos(path):
    for cell in code_cells(read(path)):
        names = {one.id for one in ast.walk(parse(cell.source))
                 if isinstance(one, ast.Name) and isinstance(one.ctx, ast.Store)}  # fmt: skip
        if "chosen" in names:
            assert "test" not in parts_in(parse(cell.source)), f"a choice looks at test photos:\n{cell.source}"
