"""What Operations_on_tensors.ipynb defines, against PyTorch, torchvision and NumPy."""
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.utils import make_grid

from tests.definitions import definitions

lesson = definitions("Chapter02/Operations_on_tensors.ipynb", "center_square", "difference", "broadcast_shape",
                     "gather_rows", "grid_of", "tiles_of", "block_mean", "matmul_loops", "brighten", "brighten_")
fixed = settings(deadline=None, max_examples=150)
shapes = st.lists(st.sampled_from([0, 1, 1, 2, 3]), max_size=4).map(tuple)
sizes = st.integers(1, 4)
CRUEL = (0.0, -0.0, 1e-40, 1e-300, 1.0, -3.5, 1e300)


def numbered(*shape):
    """A tensor of that shape whose elements are all different."""
    return torch.arange(int(np.prod(shape)), dtype=torch.float32).reshape(shape)


@fixed
@given(shapes, shapes)
def test_broadcast_shape_is_that_of_torch_or_an_error(a, b):
    try:
        expected = tuple(torch.broadcast_shapes(a, b))
    except RuntimeError:
        with pytest.raises(ValueError):
            lesson.broadcast_shape(a, b)
    else:
        assert lesson.broadcast_shape(a, b) == expected == (np.empty(a) + np.empty(b)).shape


@fixed
@given(st.data(), st.integers(0, 4), sizes, st.integers(0, 5))
def test_gather_rows(data, n, m, k):
    index = torch.tensor(data.draw(st.lists(st.integers(0, m - 1), min_size=n * k, max_size=n * k)), dtype=torch.int64)
    values, index = numbered(n, m), index.reshape(n, k)
    assert torch.equal(lesson.gather_rows(values, index), values.gather(1, index))


@fixed
@given(sizes, sizes, st.integers(1, 3), sizes, sizes)
def test_grid_is_torchvisions(rows, columns, c, h, w):
    batch = numbered(rows * columns, c, h, w)
    grid = lesson.grid_of(batch, rows, columns)
    if c == 3 and rows * columns > 1:  # torchvision makes three channels of one
        assert torch.equal(grid, make_grid(batch, nrow=columns, padding=0))
    for i in range(rows * columns):
        top, left = i // columns * h, i % columns * w
        assert torch.equal(grid[:, top:top + h, left:left + w], batch[i])


@fixed
@given(sizes, sizes, st.integers(1, 3), sizes)
def test_tiles_are_the_crops_and_the_grid_undoes_them(down, across, c, size):
    image = numbered(c, down * size, across * size)
    tiles = lesson.tiles_of(image, size)
    corners = [(y, x) for y in range(0, down * size, size) for x in range(0, across * size, size)]
    crops = [image[:, y:y + size, x:x + size] for y, x in corners]
    assert torch.equal(tiles, torch.stack(crops))
    assert torch.equal(lesson.grid_of(tiles, down, across), image)


@fixed
@given(sizes, sizes, st.integers(1, 3), sizes)
def test_block_mean_is_average_pooling(down, across, c, factor):
    image = torch.from_numpy(np.random.default_rng(1).normal(size=(c, down * factor, across * factor)))
    torch.testing.assert_close(lesson.block_mean(image, factor), torch.nn.functional.avg_pool2d(image, factor))


def test_tiles_and_blocks_that_do_not_fit_are_refused():
    with pytest.raises(RuntimeError):
        lesson.tiles_of(numbered(3, 7, 8), 4)
    with pytest.raises(RuntimeError):
        lesson.block_mean(numbered(3, 8, 7), 2)


@fixed
@given(st.data(), st.integers(0, 3), st.integers(0, 3), st.integers(0, 3))
def test_matmul_loops(data, n, k, m):
    A, B = (torch.tensor(data.draw(st.lists(st.sampled_from(CRUEL), min_size=a * b, max_size=a * b)),
                         dtype=torch.float64).reshape(a, b) for a, b in ((n, k), (k, m)))
    torch.testing.assert_close(lesson.matmul_loops(A, B), A @ B, equal_nan=True)


def test_matmul_loops_keeps_nan_to_its_row():
    A, B = torch.ones(2, 2), torch.eye(2)
    A[0, 1] = torch.nan
    assert lesson.matmul_loops(A, B).isnan().tolist() == [[True, True], [False, False]]


@pytest.mark.parametrize(("height", "width"), [(300, 451), (451, 300), (96, 96), (97, 500), (191, 192)])
def test_center_square_is_centered_and_scaled(height, width):
    photo = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    square = lesson.center_square(photo, 96)
    step = min(height, width) // 96
    assert square.shape == (3, 96, 96) and square.dtype == torch.float32
    top, left = (height - 96 * step) // 2, (width - 96 * step) // 2
    assert abs(top - (height - top - 96 * step)) <= 1 and abs(left - (width - left - 96 * step)) <= 1
    expected = photo[top:, left:][: 96 * step : step, : 96 * step : step].transpose(2, 0, 1) / np.float32(255)
    np.testing.assert_allclose(square.numpy(), expected, rtol=1e-6)


def test_difference_sees_shapes_values_and_nan():
    assert lesson.difference(torch.tensor([1.0, 2.0]), np.array([1.0, 4.5])) == 2.5
    assert lesson.difference(torch.empty(0, 3), np.empty((0, 3))) == 0
    assert lesson.difference(torch.tensor([True]), np.array([True])) == 0
    assert np.isnan(lesson.difference(torch.tensor([torch.nan]), np.array([0.0])))
    assert lesson.difference(torch.tensor([1], dtype=torch.uint8), np.array([2], dtype=np.uint8)) == 1
    for shape in ((1,), (2, 1), (1, 2)):
        with pytest.raises(ValueError):
            lesson.difference(torch.zeros(2), np.zeros(shape))


@pytest.mark.parametrize("amount", [-2.0, -0.25, 0.0, 0.25, 2.0, float("inf")])
def test_brighten_leaves_its_argument_and_brighten_in_place_does_not(amount):
    image = torch.tensor([[0.0, 0.3], [0.7, 1.0]])
    expected = np.clip(image.numpy() + np.float32(amount), 0, 1)
    kept = image.clone()
    assert np.array_equal(lesson.brighten(image, amount).numpy(), expected) and torch.equal(image, kept)
    assert lesson.brighten_(image, amount) is image and np.array_equal(image.numpy(), expected)
