"""All detectors of chapters 7 and 8 that read BCCD are compared on the same photos: one split, by field of view."""
import re

import numpy as np
import pytest
import torch
from scipy import stats

from tests.definitions import definitions
from tests.notebooks import code_cells, name_of, notebooks, read

SOURCES = {name: "\n".join(cell.source for cell in code_cells(read(path))) for path in notebooks()
           if (name := name_of(path)).startswith(("Chapter07/", "Chapter08/"))}  # fmt: skip
DETECTORS = [name for name, source in SOURCES.items() if "test_map50" in source and "SAME_FIELD" in source]


def constant(name, what):
    """A constant of a notebook."""
    return getattr(definitions(name, what), what)


def test_there_are_some():
    assert len(DETECTORS) >= 3


@pytest.mark.parametrize("name", DETECTORS)
@pytest.mark.parametrize("what", ["URL", "CLASSES", "VALIDATION", "TEST", "SAME_FIELD"])
def test_they_have_the_same(what, name):
    assert constant(name, what) == constant(DETECTORS[0], what)


@pytest.mark.parametrize("name", DETECTORS)
def test_they_split_by_field(name):
    assert re.search(r"\bsplit_groups\(fields, VALIDATION, TEST\)", SOURCES[name])
    lesson = definitions(name, "field_of", "split_groups", "SAME_FIELD")
    fields = torch.tensor([lesson.field_of(f"BloodImage_{k:05d}", lesson.SAME_FIELD) for k in range(411)])
    parts = lesson.split_groups(fields, 0.15, 0.25)
    assert sorted(torch.cat(list(parts.values())).tolist()) == list(range(411))
    for group in lesson.SAME_FIELD:
        assert len({part for part, rows in parts.items() if set(group) & set(rows.tolist())}) == 1, group


@pytest.mark.parametrize("name", [name for name, source in SOURCES.items() if "def flipped_batch(" in source])
def test_boxes_stay_on_what_they_enclose(name):
    lesson = definitions(name, "flip", "flipped_batch")
    image = torch.zeros(3, 40, 60, dtype=torch.uint8)
    image[:, 5:15, 30:50] = 255
    target = {"boxes": torch.tensor([[30.0, 5.0, 50.0, 15.0]]), "labels": torch.tensor([2])}
    places = set()
    for seed in range(12):
        generator = torch.Generator().manual_seed(seed)
        (moved,), (found,) = lesson.flipped_batch(image[None], [target], torch.tensor([0]), generator)
        y, x = (moved[0] > 100).nonzero().T
        assert found["boxes"][0].tolist() == [x.min(), y.min(), x.max() + 1, y.max() + 1]
        places.add(tuple(found["boxes"][0].tolist()))
    assert len(places) == 4
    _, none = lesson.flip(image, torch.zeros(0, 4), True, True)
    assert none.shape == (0, 4)


@pytest.mark.parametrize("name", [name for name, source in SOURCES.items() if "def verdict(" in source])
@pytest.mark.parametrize("values", [[1.0, 2.0], [1.0, 2, 3, 4, 5], [-1.0, -1.2, -0.9], [-1.0, -1.2, -0.9, -1.1, -1.0],
                                    [3.0, 2.9, 3.1, 3.0, 3.0]])
def test_the_verdict_is_that_of_a_paired_t_test(name, values):
    low, high = stats.t.interval(0.95, len(values) - 1, np.mean(values), stats.sem(values))
    expected = "within noise" if low <= 0 <= high else "helps" if low > 0 else "harms"
    said = definitions(name, "verdict").verdict(np.array(values))
    assert said.endswith(expected) and said.startswith(f"{np.mean(values):+.1f} ± {(high - low) / 2:.1f}")
