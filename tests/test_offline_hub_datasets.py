"""datasets: every data set of the world loads with its columns, splits and pictures.

Each entry's own use asserts what a reader would see; it stands beside the entry, in
tests/offline/families/hub_datasets.py.
"""
from __future__ import annotations

import pytest

from tests.offline import archives
from tests.offline.trial import judge, used_in, world_of

FAMILY = "hub_datasets"
world, used = world_of(FAMILY), used_in(FAMILY)


@pytest.mark.parametrize("name", archives.entries(FAMILY))
def test_it_is_used_as_a_notebook_uses_it(used, name):
    judge(used, name)
