"""transformers: every repository of the world loads at its commit, in its real form, and is used.

Each entry's own use asserts what a reader would see; it stands beside the entry, in
tests/offline/families/transformers_models.py.
"""
from __future__ import annotations

import pytest

from tests.offline import archives
from tests.offline.trial import judge, used_in, world_of

FAMILY = "transformers_models"
world, used = world_of(FAMILY), used_in(FAMILY)


@pytest.mark.parametrize("name", archives.entries(FAMILY))
def test_it_is_used_as_a_notebook_uses_it(used, name):
    judge(used, name)
