"""What Image_augmentation.ipynb defines, against torchvision's transforms and by counting pixels."""
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torchvision import tv_tensors
from torchvision.transforms import v2

from tests.definitions import definitions

lesson = definitions("Chapter04/Image_augmentation.ipynb", "turn", "rotate_image", "rotate_boxes", "flip_boxes",
                     "ellipse", "tight_boxes", "mixup", "cutmix", "toss", "shift", "turn_over", "negative",
                     "overhang", "train", "predict")
fixed = settings(deadline=None, max_examples=40)
seeds = st.integers(0, 2**32 - 1)
degrees = st.floats(-360, 360) | st.sampled_from([0.0, 45.0, 90.0, -90.0, 180.0, 1e-6])
sides = st.integers(2, 40)


@st.composite
def boxes_and_size(draw):
    """Boxes (n, 4) xyxy with n from 0 to 3 inside an image of (h, w) pixels."""
    h, w = draw(sides), draw(sides)
    values = torch.rand(draw(st.integers(0, 3)), 2, 2, generator=torch.Generator().manual_seed(draw(seeds)))
    boxes = torch.cat([values.amin(1), values.amax(1)], dim=1) * torch.tensor([w, h, w, h])
    return boxes, h, w


def typed(boxes, h, w):
    return tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=(h, w))


@fixed
@given(degrees, seeds)
def test_turning_keeps_distances_and_is_undone_by_the_opposite_turn(angle, seed):
    points = torch.randn(5, 3, 2, generator=torch.Generator().manual_seed(seed))
    centre = torch.tensor([1.0, -2.0])
    turned = lesson.turn(points, angle, centre)
    torch.testing.assert_close((turned - centre).norm(dim=-1), (points - centre).norm(dim=-1), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(lesson.turn(turned, -angle, centre), points, rtol=1e-4, atol=1e-4)


def test_a_quarter_turn_takes_the_right_side_to_the_top():
    up = lesson.turn(torch.tensor([2.0, 1.0]), 90, torch.ones(2))
    torch.testing.assert_close(up, torch.tensor([1.0, 0.0]), rtol=0, atol=1e-6)


@fixed
@given(boxes_and_size(), degrees)
def test_boxes_turn_as_in_torchvision(case, angle):
    boxes, h, w = case
    theirs = v2.functional.rotate(typed(boxes, h, w), angle).as_subclass(torch.Tensor)
    ours = lesson.rotate_boxes(boxes, angle, h, w)
    rim = torch.tensor([w, h, w, h])
    torch.testing.assert_close(ours.clamp(min=0).minimum(rim), theirs, rtol=0, atol=1e-2)


@fixed
@given(boxes_and_size())
def test_boxes_flip_as_in_torchvision(case):
    boxes, h, w = case
    before = boxes.clone()
    theirs = v2.functional.horizontal_flip(typed(boxes.clone(), h, w)).as_subclass(torch.Tensor)
    torch.testing.assert_close(lesson.flip_boxes(boxes, w), theirs)
    assert torch.equal(boxes, before)


@fixed
@given(st.integers(1, 3), sides, sides, degrees, seeds)
def test_images_turn_as_in_torchvision(c, h, w, angle, seed):
    image = torch.rand(c, h, w, generator=torch.Generator().manual_seed(seed))
    theirs = v2.functional.rotate(image, angle, interpolation=v2.InterpolationMode.BILINEAR)
    torch.testing.assert_close(lesson.rotate_image(image, angle), theirs, rtol=0, atol=1e-3)


@fixed
@given(sides, sides, seeds)
def test_a_tight_box_holds_the_mask_and_touches_it_on_every_side(h, w, seed):
    masks = torch.rand(3, h, w, generator=torch.Generator().manual_seed(seed)) < 0.1
    assume(masks.flatten(1).any(1).all())
    for mask, (x1, y1, x2, y2) in zip(masks, lesson.tight_boxes(masks).int().tolist()):
        inside = mask[y1:y2, x1:x2]
        assert inside.sum() == mask.sum()
        assert inside[0].any() and inside[-1].any() and inside[:, 0].any() and inside[:, -1].any()


def test_an_ellipse_has_its_area_and_its_place():
    mask = lesson.ellipse((0.25, 0.5), (0.1, 0.3), 400)
    assert mask.float().mean().item() == pytest.approx(torch.pi * 0.1 * 0.3, rel=0.01)
    assert lesson.tight_boxes(mask[None])[0].tolist() == pytest.approx([60, 80, 140, 320], abs=1)


@fixed
@given(st.integers(1, 4), st.floats(0, 1), seeds)
def test_mixup_is_the_librarys_formula(b, share, seed):
    images = torch.rand(b, 2, 3, 5, generator=torch.Generator().manual_seed(seed))
    mixed, targets = lesson.mixup(images, torch.eye(b), share)
    for i in range(b):
        torch.testing.assert_close(mixed[i], share * images[i] + (1 - share) * images[i - 1])
    torch.testing.assert_close(targets.sum(1), torch.ones(b))
    assert b == 1 or targets[0, 0].item() == pytest.approx(share, abs=1e-6)


@fixed
@given(st.integers(2, 4), sides, sides, st.tuples(*[st.floats(0, 1)] * 4))
def test_the_targets_of_cutmix_are_the_shares_of_pixels(b, h, w, box):
    x1, x2 = sorted(round(value * w) for value in box[:2])
    y1, y2 = sorted(round(value * h) for value in box[2:])
    images = torch.eye(b)[:, :, None, None].expand(b, b, h, w).clone()  # channel k of image i is 1 where k = i
    mixed, targets = lesson.cutmix(images, torch.eye(b), (x1, y1, x2, y2))
    torch.testing.assert_close(mixed.mean((2, 3)), targets)
    assert (mixed[:, :, y1:y2, x1:x2] == images.roll(1, 0)[:, :, y1:y2, x1:x2]).all()
    assert torch.equal(images, torch.eye(b)[:, :, None, None].expand(b, b, h, w))  # nothing is changed in place


@fixed
@given(st.integers(0, 3), sides, sides, st.integers(-5, 5), seeds)
def test_a_shift_loses_what_leaves_and_wraps_nothing(b, h, w, dx, seed):
    x = torch.rand(b, 1, h, w, generator=torch.Generator().manual_seed(seed))
    wanted = torch.zeros_like(x)
    for column in range(w):
        if 0 <= column - dx < w:
            wanted[..., column] = x[..., column - dx]
    assume(abs(dx) <= w)
    assert torch.equal(lesson.shift(x, dx), wanted)


@fixed
@given(st.integers(0, 3), sides, sides, seeds)
def test_turning_over_is_a_turn_by_180_degrees(b, h, w, seed):
    x = torch.rand(b, 1, h, w, generator=torch.Generator().manual_seed(seed))
    assert torch.equal(lesson.turn_over(x), torch.rot90(x, 2, (-2, -1)))
    assert torch.equal(lesson.negative(x), 1 - x)


def test_the_coin_is_fair_belongs_to_its_image_and_is_repeatable():
    x = torch.zeros(1000, 1, 8, 8)
    first, second = (lesson.toss(x, lambda v: v + 1, lambda v: v - 1, torch.Generator().manual_seed(0)) for _ in "12")
    changed, coins = first
    assert torch.equal(changed, (2.0 * coins - 1)[:, None, None, None].expand(1000, 1, 8, 8))
    assert 400 < coins.sum() < 600 and torch.equal(coins, second[1])


def test_overhang_measures_in_pixels():
    masks = torch.zeros(2, 20, 20, dtype=torch.bool)
    masks[0, 5:10, 5:10] = True  # the second object has left the picture
    sample = {"masks": tv_tensors.Mask(masks), "boxes": typed(torch.tensor([[5.0, 5, 10, 10], [0, 0, 0, 0]]), 20, 20)}
    assert lesson.overhang(sample) == 0
    for side, moved in enumerate(([8, 5, 10, 10], [5, 8, 10, 10], [5, 5, 7, 10], [5, 5, 10, 7])):
        wrong = sample | {"boxes": typed(torch.tensor([moved, [0, 0, 0, 0]]).float(), 20, 20)}
        assert lesson.overhang(wrong) == 3, side
    assert lesson.overhang(sample | {"masks": tv_tensors.Mask(torch.zeros_like(masks))}) == -float("inf")


def test_training_sees_augmented_images_and_learns_from_labels():
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 10, (200,), generator=generator)
    images = torch.zeros(200, 64).scatter_(1, labels[:, None], 1.0).reshape(-1, 1, 8, 8)
    seen = []

    def augment(x):
        seen.append(len(x))
        return x.flip(-1)

    model = lesson.train(images, labels, augment, 12, 32, 1e-2, 0)
    assert sum(seen) == 12 * 200  # every image once per epoch, the rest of the last batch included
    assert (lesson.predict(model, images.flip(-1)) == labels).float().mean() > 0.95
    assert (lesson.predict(model, images) == labels).float().mean() < 0.5
