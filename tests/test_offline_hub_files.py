"""huggingface_hub: every repository of plain files in the world is fetched at its commit and used.

Each entry's own use asserts what a reader would see; it stands beside the entry, in
tests/offline/families/hub_files.py.
"""
from __future__ import annotations

import pytest

from tests.offline import archives
from tests.offline.trial import judge, used_in, world_of

FAMILY = "hub_files"
world, used = world_of(FAMILY), used_in(FAMILY)


@pytest.mark.parametrize("name", archives.entries(FAMILY))
def test_it_is_used_as_a_notebook_uses_it(used, name):
    judge(used, name)
