"""The profiles of tests/conftest.py: the same random inputs by default, new ones where a run asks for them."""
import subprocess
import sys

import pytest

from tests.notebooks import ROOT

TEST = """
from pathlib import Path
from hypothesis import given, settings, strategies as st

@settings(deadline=None, max_examples=5)
@given(st.integers())
def test_drawn(number):
    with Path("drawn.txt").open("a") as file:
        file.write(f"{number} ")
"""


@pytest.mark.parametrize("options, same", [((), True), (("--hypothesis-profile", "random"), False)])
def test_what_is_drawn(options, same, tmp_path):
    (tmp_path / "conftest.py").write_text((ROOT / "tests" / "conftest.py").read_text(encoding="utf-8"))
    (tmp_path / "test_drawn.py").write_text(TEST)
    drawn = []
    for _ in range(2):
        (tmp_path / "drawn.txt").write_text("")
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *options]
        subprocess.run(command, cwd=tmp_path, check=True)
        drawn.append((tmp_path / "drawn.txt").read_text().split()[1:])  # the first is always the simplest
    assert (drawn[0] == drawn[1]) == same
