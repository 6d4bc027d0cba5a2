"""torchvision.models: every checkpoint of the world loads under its own name, and every network runs.

Each entry's own use asserts what a reader would see; it stands beside the entry, in
tests/offline/families/torchvision_weights.py.
"""
from __future__ import annotations

import pytest

from tests.offline import archives
from tests.offline.trial import judge, used_in, world_of

FAMILY = "torchvision_weights"
world, used = world_of(FAMILY), used_in(FAMILY)


@pytest.mark.parametrize("name", archives.entries(FAMILY))
def test_it_is_used_as_a_notebook_uses_it(used, name):
    judge(used, name)
