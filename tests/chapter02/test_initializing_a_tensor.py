"""What Initializing_a_tensor.ipynb defines, against PyTorch's own strides, storages and conversions."""
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.definitions import definitions

lesson = definitions("Chapter02/Initializing_a_tensor.ipynb", "position", "contiguous_stride", "reading_order",
                     "shares_memory", "dice", "small_network", "describe")
fixed = settings(deadline=None, max_examples=200)
shapes = st.lists(st.integers(0, 4), max_size=5).map(tuple)


@st.composite
def views(draw):
    """A view of a numbered tensor: some axes permuted, sliced with a step, fixed, expanded or new."""
    view = torch.arange(4 * 3 * 2 * 5).reshape(4, 3, 2, 5).permute(draw(st.permutations(range(4))))
    index = []
    for size in view.shape:
        start = draw(st.integers(0, size))
        choices = [slice(start, None, 1), slice(start, None, 2), slice(0, start), start % size]
        index.append(draw(st.sampled_from(choices)))
    view = view[tuple(index)]
    if draw(st.booleans()):
        view = view[None].expand(3, *view.shape)
    return view


@fixed
@given(shapes)
def test_strides_of_a_contiguous_tensor(shape):
    assert lesson.contiguous_stride(shape) == torch.empty(shape).stride()


@fixed
@given(views())
def test_every_element_is_where_the_formula_says(view):
    storage = torch.arange(4 * 3 * 2 * 5)  # the value of an element is its place
    order = lesson.reading_order(view)
    assert storage[order].tolist() == view.flatten().tolist()


@fixed
@given(st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 10**6)), max_size=6), st.integers(0, 10**6))
def test_position_is_an_inner_product(pairs, offset):
    index, stride = [i for i, _ in pairs], [s for _, s in pairs]
    walked = np.dot(np.array(index, dtype=object), np.array(stride, dtype=object))
    assert lesson.position(index, stride, offset) == offset + walked


def test_position_of_the_only_element_and_of_a_wrong_index():
    assert lesson.position((), (), 7) == 7
    with pytest.raises(ValueError):
        lesson.position((1, 2), (1,))


def test_reading_order_of_overlapping_windows():
    windows = torch.arange(6).unfold(0, 3, 1)
    assert lesson.reading_order(windows) == windows.flatten().tolist()


@pytest.mark.parametrize(("make", "expected"), [
    (torch.tensor, False), (torch.from_numpy, True), (torch.as_tensor, True),
    (lambda a: torch.asarray(a, copy=True), False), (lambda a: torch.from_numpy(a)[:2], True),
    (lambda a: torch.from_numpy(a).half(), False)])
def test_the_sharing_experiment_agrees_with_the_addresses(make, expected):
    array = np.zeros(3)
    assert (make(array).data_ptr() == array.ctypes.data) is expected
    assert lesson.shares_memory(make) is expected


def test_dice_neither_touch_nor_follow_the_global_generator():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    numbers = torch.rand(5, generator=lesson.dice(3))
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(99)
    assert torch.equal(torch.rand(5, generator=lesson.dice(3)), numbers)
    assert not torch.equal(torch.rand(5, generator=lesson.dice(4)), numbers)


def test_the_small_network_is_that_of_chapter_1():
    W1, b1, W2, b2 = lesson.small_network(21)
    assert [w.shape for w in (W1, b1, W2, b2)] == [(3, 2), (3,), (1, 3), (1,)]
    hidden = 1 / (1 + np.exp(-(W1 @ np.ones(2) + b1)))
    prediction = (W2 @ hidden + b2)[0]
    assert prediction == pytest.approx(1.3895, abs=5e-5) and prediction**2 == pytest.approx(1.9306, abs=5e-5)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.float16, torch.bfloat16, torch.float64])
def test_describe_tells_bytes_and_the_gap_after_one(dtype):
    row = lesson.describe(dtype)
    assert row["bytes"] == torch.empty((), dtype=dtype).element_size()
    one = torch.ones((), dtype=dtype)
    following = torch.nextafter(one, 2 * one) if dtype.is_floating_point else one + 1
    assert float(row["gap after 1"]) == pytest.approx(float(following - one), rel=0.05)
