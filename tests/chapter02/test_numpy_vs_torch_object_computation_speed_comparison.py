"""What the speed comparison of NumPy and PyTorch defines: its formulas, and a stopwatch that can be trusted."""
import time

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.definitions import definitions

lesson = definitions("Chapter02/Numpy_Vs_Torch_object_computation_speed_comparison.ipynb", "add_loop", "clock",
                     "measure", "race", "who_is_faster", "pick", "product_intensity", "roof", "there_and_back",
                     "break_even_side")
fixed = settings(deadline=None, max_examples=100)
positive = st.floats(1e-3, 1e15)
SHORT = {"threads": 1, "min_run_time": 0.005}


@fixed
@given(st.integers(1, 6), st.integers(1, 6), st.integers(1, 6), st.sampled_from([2, 4, 8]))
def test_intensity_is_operations_counted_one_by_one_over_bytes(n, k, m, itemsize):
    operations = sum(2 for _ in range(n) for _ in range(m) for _ in range(k))  # a product, and adding it to the sum
    a, b = np.zeros((n, k)), np.zeros((k, m))
    numbers = a.size + b.size + (a @ b).size
    assert lesson.product_intensity(n, k, m, itemsize) == pytest.approx(operations / (itemsize * numbers))


@fixed
@given(positive, positive, positive)
def test_roof_is_the_lower_of_two_limits_and_bends_at_the_balance(intensity, peak, bandwidth):
    found = lesson.roof(intensity, peak, bandwidth)
    assert found <= peak and found <= intensity * bandwidth * (1 + 1e-12) and found in (peak, intensity * bandwidth)
    assert lesson.roof(peak / bandwidth, peak, bandwidth) == pytest.approx(peak)


def test_roof_takes_arrays():
    assert lesson.roof(np.array([0.0, 1.0, 10.0]), 4.0, 2.0).tolist() == [0, 2, 4]


@fixed
@given(positive, positive)
def test_at_the_break_even_both_take_the_same_time(flops, link):
    n = lesson.break_even_side(flops, link)
    assert 2 * n**3 / flops == pytest.approx(3 * 4 * n**2 / link)


@fixed
@given(st.lists(st.tuples(st.floats(), st.floats()), max_size=20))
def test_add_loop(pairs):
    a, b = [x for x, _ in pairs], [y for _, y in pairs]
    with np.errstate(all="ignore"):
        np.testing.assert_array_equal(lesson.add_loop(a, b), np.array(a, dtype=float) + np.array(b, dtype=float))


def test_add_loop_refuses_lists_of_different_length():
    with pytest.raises(ValueError):
        lesson.add_loop([1.0], [1.0, 2.0])


def test_measure_sees_time_pass_and_sets_the_threads():
    before = torch.get_num_threads()
    seen = []
    median, spread = lesson.measure(lambda: (seen.append(torch.get_num_threads()), time.sleep(0.003)), **SHORT)
    assert 0.003 <= median < 1 and spread >= 0
    assert set(seen) == {1} and torch.get_num_threads() == before


def test_the_clock_waits_for_the_accelerator(monkeypatch):
    calls = []
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "synchronize", lambda: calls.append("waited"))
    first, second = lesson.clock(), lesson.clock()
    assert calls == ["waited", "waited"] and second >= first


@pytest.mark.parametrize("new_result", [True, False])
def test_race_times_both_and_leaves_the_inputs(new_result):
    arrays = np.random.default_rng(0).standard_normal((2, 50), dtype="float32")
    kept = arrays.copy()
    times = lesson.race(np.add, torch.add, arrays, new_result=new_result, **SHORT)
    assert set(times) == {"NumPy", "PyTorch"} and all(median > 0 and iqr >= 0 for median, iqr in times.values())
    assert np.array_equal(arrays, kept)


@pytest.mark.parametrize("wrong", [torch.sub, lambda a, b: torch.add(a, b).double(), lambda a, b: a + b + 0.1,
                                   lambda a, b: torch.full_like(a, torch.nan)])
def test_race_does_not_start_where_the_results_differ(wrong):
    arrays = np.random.default_rng(0).standard_normal((2, 50), dtype="float32")
    with pytest.raises(AssertionError):
        lesson.race(np.add, wrong, arrays, **SHORT)


@pytest.mark.parametrize(("numpys", "torchs", "words"), [
    ((2.0, 0.1), (1.0, 0.1), "PyTorch is 2.00× faster"), ((1.0, 0.1), (3.0, 0.1), "NumPy is 3.00× faster"),
    ((1.0, 0.5), (1.4, 0.5), "no difference"), ((1.0, 0.0), (1.005, 0.0), "no difference"),
    ((1e-9, 0.0), (2e-9, 0.0), "NumPy is 2.00× faster")])
def test_verdict(numpys, torchs, words):
    assert lesson.who_is_faster(numpys, torchs).startswith(words)


def test_pick_wants_exactly_one_row():
    table = pd.DataFrame({"n": [1, 1, 2], "library": ["NumPy", "PyTorch", "NumPy"], "seconds": [0.1, 0.2, 0.3]})
    assert lesson.pick(table, "seconds", n=1, library="PyTorch") == 0.2
    for where in ({"n": 1}, {"n": 3}):
        with pytest.raises(ValueError):
            lesson.pick(table, "seconds", **where)


def test_there_and_back():
    a, b = torch.randn(3, 4, generator=torch.Generator().manual_seed(0)), torch.ones(4, 2)
    torch.testing.assert_close(lesson.there_and_back(a, b, torch.device("cpu")), a @ b)
