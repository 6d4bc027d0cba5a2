"""What Time_comparison_of_augmentation_scenario.ipynb defines: a change per image as the library's, a clock."""
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.transforms import v2

from tests.definitions import definitions

NOTEBOOK = "Chapter04/Time_comparison_of_augmentation_scenario.ipynb"
CPU = torch.device("cpu")
lesson = definitions(NOTEBOOK, "new_transform", "draw_changes", "affine_each", "augment_batch", "new_loader",
                     "seconds_of_a_pass", "train_on", "new_cnn")
fixed = settings(deadline=None, max_examples=40)


@fixed
@given(n=st.integers(1, 4), c=st.integers(1, 3), side=st.integers(2, 30), seed=st.integers(0, 9999),
       degrees=st.sampled_from([0.0, 10.0, 90.0, 180.0]), pixels=st.integers(0, 8))
def test_every_image_is_changed_as_by_the_library(n, c, side, seed, degrees, pixels):
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(n, c, side, side, generator=generator)
    angles, shifts = lesson.draw_changes(n, degrees, pixels, generator)
    ours = lesson.affine_each(images, angles, shifts)
    for image, mine, angle, move in zip(images, ours, angles.tolist(), shifts.tolist()):
        theirs = v2.functional.affine(image, angle=-angle, translate=move, scale=1.0, shear=[0.0, 0.0],
                                      interpolation=v2.InterpolationMode.BILINEAR)
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-3)


def test_signs_right_down_and_counter_clockwise():
    image = torch.zeros(1, 1, 5, 5)
    image[0, 0, 2, 4] = 1  # right of the centre
    turned = lesson.affine_each(image, torch.tensor([90.0]), torch.zeros(1, 2))
    assert turned.round().nonzero().tolist() == [[0, 0, 0, 2]]  # now above it
    moved = lesson.affine_each(image, torch.zeros(1), torch.tensor([[-1.0, 2.0]]))
    assert moved.round().nonzero().tolist() == [[0, 0, 4, 3]]


def test_draws_follow_the_library_and_differ_within_a_batch():
    angles, shifts = lesson.draw_changes(4000, 10.0, 4, torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    move = lesson.new_transform(10.0, 4).transforms[-1]
    drawn = [move.make_params([torch.zeros(1, 28, 28)]) for _ in range(4000)]
    theirs = torch.tensor([[-one["angle"], *one["translate"]] for one in drawn])
    assert angles.abs().max() <= 10 and set(shifts.flatten().tolist()) == set(range(-4, 5))
    assert abs((shifts.abs() == 4).float().mean() - 1 / 8) < 0.02  # rounding makes the ends half as likely
    places = torch.arange(-10, 11, dtype=torch.float32)
    for mine, other in zip((angles, *shifts.T), theirs.T):
        gap = ((mine[:, None] <= places).float().mean(0) - (other[:, None] <= places).float().mean(0)).abs().max()
        assert gap < 1.95 * (2 / 4000) ** 0.5
    copies = torch.randint(0, 256, (1, 28, 28), dtype=torch.uint8).repeat(16, 1, 1)
    batch = lesson.augment_batch(copies, 10.0, 4, torch.Generator().manual_seed(0))
    assert batch.shape == (16, 1, 28, 28) and len(batch.flatten(1).unique(dim=0)) == 16
    assert 0 <= batch.min() and batch.max() <= 1 + 1e-6 and batch.max() > 0.5


def test_the_library_draws_once_for_a_batch():
    torch.manual_seed(0)
    copies = torch.randint(0, 256, (1, 1, 28, 28), dtype=torch.uint8).repeat(8, 1, 1, 1)
    assert len(lesson.new_transform(10.0, 4)(v2.functional.to_image(copies)).flatten(1).unique(dim=0)) == 1


@pytest.mark.parametrize("workers", [0, 1])
def test_a_loader_delivers_the_first_images_in_order_and_can_be_pickled(workers):
    items = [(torch.full((1, 2, 2), float(k)), k) for k in range(9)]
    loader = lesson.new_loader(items, 7, 3, workers)
    for _ in range(2):  # workers live on
        batches = list(loader)
        assert [y.tolist() for _, y in batches] == [[0, 1, 2], [3, 4, 5], [6]]
    assert b"__main__" not in pickle.dumps(lesson.new_transform(10.0, 4))


def test_the_clock_counts_images_and_training_uses_every_batch():
    x, y = torch.rand(10, 1, 28, 28), torch.arange(10)
    model = lesson.new_cnn(0, CPU).eval()
    before = [p.clone() for p in model.parameters()]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    seconds, count = lesson.seconds_of_a_pass(lesson.train_on(model, optimizer, x.split(4), y, 4), CPU)
    assert seconds > 0 and count == 10
    assert {int(layer.num_batches_tracked) for layer in model if hasattr(layer, "running_mean")} == {3}
    assert all(not torch.equal(p, q) for p, q in zip(model.parameters(), before) if p.ndim == 4)
    with pytest.raises(ValueError):
        lesson.seconds_of_a_pass(lesson.train_on(model, optimizer, x.split(4), y[:4], 4), CPU)
