"""Rays and boxes, maps from above, rotated IoU, targets, average precision, KITTI's coordinates: the 3-D notebook."""
import ast
import math
import re

import cv2
import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation
from scipy.stats import binned_statistic_2d

from tests.cells import run_cell
from tests.definitions import definitions
from tests.notebooks import ROOT, code_cells, parse, read
from tests.stored import assert_said, assert_shown
from tests.structure import output_texts

NOTEBOOK = "Chapter10/3D_object_detection.ipynb"
lesson = definitions(
    NOTEBOOK, "corners_of", "corners_3d", "ray_box", "laser_directions", "scan",
    "random_world", "map_from_above", "cut", "shoelace", "overlap", "rotated_iou", "encode_angle", "decode_angle",
    "targets_of", "decode", "suppress", "detector", "detection_loss", "train_detector_3d", "mirrored", "simulate",
    "detect_3d", "match_found", "precision_recall", "clump_boxes", "camera_to_lidar", "lidar_to_photo",
    "read_calibration", "read_labels", "read_kitti", "turnable", "count_real", "github_folder")
quick = settings(deadline=None, max_examples=60)
seeds = st.integers(0, 10**6)
PRIOR = (3.9, 1.65, 1.55)
WAY = "sine and cosine"


def random_boxes(count, rng, spread=2.0):
    """Boxes (count, 7) near the origin."""
    centers, sizes = rng.normal(0, spread, (count, 3)), rng.uniform(0.2, 5, (count, 3))
    return np.column_stack([centers, sizes, rng.uniform(-7, 7, count)])


def shapely_iou(one, other):
    """IoU from above by shapely."""
    geometry = pytest.importorskip("shapely.geometry")
    affinity = pytest.importorskip("shapely.affinity")

    def polygon(box):
        flat = geometry.box(-box[3] / 2, -box[4] / 2, box[3] / 2, box[4] / 2)
        turned = affinity.rotate(flat, box[6], origin=(0, 0), use_radians=True)
        return affinity.translate(turned, box[0], box[1])

    a, b = polygon(one), polygon(other)
    shared = a.intersection(b).area
    union = a.area + b.area - shared
    return shared / union if union > 0 else 0.0


@quick
@given(seeds, st.sampled_from([0.0, 0.5, 2.0, 6.0]))
def test_rotated_iou_is_shapelys(seed, spread):
    one, other = random_boxes(2, np.random.default_rng(seed), spread)
    found = lesson.rotated_iou(one, other)
    assert found == pytest.approx(shapely_iou(one, other), abs=1e-9)
    assert found == pytest.approx(lesson.rotated_iou(other, one), abs=1e-9) and 0 <= found <= 1


BASE = np.array([0, 0, 0, 4.0, 2.0, 1.5, 0.3])


@pytest.mark.parametrize("change", [
    {}, {6: 0.3 + math.pi}, {6: 0.3 + math.pi / 2}, {3: 2.0, 4: 1.0}, {3: 8.0, 4: 4.0}, {0: 100.0},
    {0: 4 * math.cos(0.3), 1: 4 * math.sin(0.3)}, {3: 0.0}, {3: 0.0, 4: 0.0}, {3: 1e-9}, {3: 1e4, 4: 1e-3},
    {6: 0.3 + 1e-9}, {0: 1e-12}, {3: 4.0, 4: 2.0, 0: math.cos(0.3), 1: math.sin(0.3)}])
def test_rotated_iou_of_degenerate_pairs(change):
    other = BASE.copy()
    for place, value in change.items():
        other[place] = value
    for far in (0.0, 1e5):  # and far away from the origin
        shift = np.array([far, -far, 0, 0, 0, 0, 0])
        pair = BASE + shift, other + shift
        assert lesson.rotated_iou(*pair) == pytest.approx(shapely_iou(BASE, other), abs=1e-6)


def test_two_boxes_without_area_do_not_overlap():
    nothing = np.array([0, 0, 0, 0.0, 0.0, 0.0, 0.0])
    assert lesson.rotated_iou(nothing, nothing) == 0.0 == lesson.rotated_iou(nothing, nothing, space=True)


@quick
@given(seeds)
def test_iou_in_space_is_the_share_of_common_points(seed):
    rng = np.random.default_rng(seed)
    one, other = random_boxes(2, rng, 0.6)
    points = rng.uniform(-6, 6, (40_000, 3))

    def inside(box):
        local = Rotation.from_euler("z", -box[6]).apply(points - box[:3])
        return (np.abs(local) <= box[3:6] / 2).all(1)

    a, b = inside(one), inside(other)
    if (a | b).sum() > 500:
        share = (a & b).sum() / (a | b).sum()
        error = 4 * math.sqrt(0.25 / (a | b).sum())
        assert abs(lesson.rotated_iou(one, other, space=True) - share) < error


def test_boxes_above_one_another_share_nothing_in_space():
    above = BASE + np.array([0, 0, 2.0, 0, 0, 0, 0])
    assert lesson.rotated_iou(BASE, above) == pytest.approx(1) and lesson.rotated_iou(BASE, above, space=True) == 0.0
    half = BASE + np.array([0, 0, 0.75, 0, 0, 0, 0])
    assert lesson.rotated_iou(BASE, half, space=True) == pytest.approx(1 / 3)


@quick
@given(seeds)
def test_corners_are_scipys_rotation_counterclockwise_from_the_front_left(seed):
    boxes = random_boxes(3, np.random.default_rng(seed))
    flat, solid = lesson.corners_of(boxes), lesson.corners_3d(boxes)
    for box, corners, corners_3d in zip(boxes, flat, solid):
        signs = np.array([[1, 1], [-1, 1], [-1, -1], [1, -1]])
        for z, level in ((-1, corners_3d[:4]), (1, corners_3d[4:])):
            local = np.column_stack([signs, np.full(4, z)]) / 2 * box[3:6]
            expected = Rotation.from_euler("z", box[6]).apply(local) + box[:3]
            np.testing.assert_allclose(level, expected, atol=1e-9)
        np.testing.assert_allclose(corners, expected[:, :2], atol=1e-9)
        assert lesson.shoelace(corners) == pytest.approx(box[3] * box[4])


@quick
@given(seeds)
def test_a_ray_enters_where_points_along_it_do(seed):
    rng = np.random.default_rng(seed)
    boxes = random_boxes(4, rng, 6.0)
    directions = rng.normal(size=(6, 3))
    directions[0] = boxes[0, :3]  # one that surely hits
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    found = lesson.ray_box(directions, boxes)
    steps = np.linspace(0, 60, 12_001)
    for d, row in zip(directions, found):
        for box, distance in zip(boxes, row):
            local = Rotation.from_euler("z", -box[6]).apply(d * steps[:, None] - box[:3])
            inside = (np.abs(local) <= box[3:6] / 2).all(1)
            if inside[0]:
                assert np.isinf(distance)  # the laser stands in it
            elif inside.any():
                assert distance == pytest.approx(steps[inside.argmax()], abs=0.011)
            elif np.isfinite(distance):  # a corner so thin that the steps miss it
                local = Rotation.from_euler("z", -box[6]).apply(d * distance - box[:3])
                assert (np.abs(local) <= box[3:6] / 2 + 1e-6).all()


def test_rays_parallel_to_a_side_and_rays_away_from_a_box():
    boxes = np.array([[5.0, 0, 0, 2, 2, 2, 0], [5.0, 3, 0, 2, 2, 2, 0], [-5.0, 0, 0, 2, 2, 2, 0]])
    assert lesson.ray_box(np.array([[1.0, 0, 0]]), boxes).tolist() == [[4.0, math.inf, math.inf]]
    assert lesson.ray_box(np.array([[1.0, 0, 0]]), boxes + [0, 0, 0, 0, 0, 0, math.pi / 2])[0, 0] == pytest.approx(4)


def test_the_fan_of_pulses():
    found = lesson.laser_directions(3, -10, 10, 0.5, 20).reshape(3, 81, 3)
    np.testing.assert_allclose(np.linalg.norm(found, axis=-1), 1)
    np.testing.assert_allclose(np.degrees(np.arcsin(found[:, :, 2]))[:, 0], [-10, 0, 10], atol=1e-9)
    around = np.degrees(np.arctan2(found[1, :, 1], found[1, :, 0]))
    np.testing.assert_allclose(around, np.linspace(-20, 20, 81), atol=1e-9)


@pytest.mark.parametrize("seed", range(3))
def test_every_point_of_a_scan_lies_on_something(seed):
    rng = np.random.default_rng(seed)
    world = lesson.random_world(rng, 1.73)
    cars, boxes, owners, reflectances, ground = world
    points, seen = lesson.scan(world, lesson.laser_directions(20, -15, 2, 0.5, 40), rng, 10)
    assert points.dtype == np.float32 and ((points[:, 3] >= 0) & (points[:, 3] <= 1)).all()
    to_ground = np.abs(points[:, 2] - (ground[0] + points[:, :2] @ ground[1:]))
    nearest = to_ground.copy()
    for box in boxes:
        local = np.abs(Rotation.from_euler("z", -box[6]).apply(points[:, :3] - box[:3])) - box[3:6] / 2
        outside, within = np.linalg.norm(np.maximum(local, 0), axis=1), np.minimum(local.max(axis=1), 0)
        nearest = np.minimum(nearest, np.abs(outside + within))
    assert np.quantile(nearest, 0.999) < 0.1
    assert (points[:, 2] - (ground[0] + points[:, :2] @ ground[1:])).min() > -0.1  # nothing below the ground
    for car in cars:  # a car is reported if and only if enough points lie on it
        local = Rotation.from_euler("z", -car[6]).apply(points[:, :3] - car[:3])
        count = ((np.abs(local) < car[3:6] / 2 + 0.1).all(1) & (to_ground > 0.15)).sum()
        reported = any(np.array_equal(car, other) for other in seen)
        assert reported or count < 25
        assert not reported or count > 3


def test_what_stands_behind_is_hidden():
    front, behind = [8.0, 0, 0, 0.5, 6, 3, 0], [16.0, 0, -1, 4, 1.6, 1.5, 0]
    ground = np.array([-1.73, 0, 0])
    directions = lesson.laser_directions(30, -15, 2, 0.25, 40)

    def count(boxes, owners):
        world = np.array([behind]), np.array(boxes), np.array(owners), np.full(len(boxes), 0.9), ground
        return len(lesson.scan(world, directions, np.random.default_rng(0), 10)[1])

    assert count([behind], [0]) == 1 and count([front, behind], [-1, 0]) == 0


def test_worlds_have_no_collisions_and_cars_stand_on_the_ground():
    for seed in range(10):
        cars, boxes, owners, reflectances, ground = lesson.random_world(np.random.default_rng(seed), 1.73)
        assert len(boxes) == len(owners) == len(reflectances) and owners.max() == len(cars) - 1
        assert all((owners == k).sum() == 2 for k in range(len(cars)))
        bodies = [*cars, *boxes[owners < 0]]
        assert all(lesson.rotated_iou(a, b) == 0 for k, a in enumerate(bodies) for b in bodies[:k])
        floor = cars[:, 2] - cars[:, 5] / 2
        np.testing.assert_allclose(floor, ground[0] + cars[:, :2] @ ground[1:], atol=1e-9)
        for k, car in enumerate(cars):
            body, cabin = boxes[owners == k]
            assert body[2] - body[5] / 2 == pytest.approx(car[2] - car[5] / 2)
            assert cabin[2] + cabin[5] / 2 == pytest.approx(car[2] + car[5] / 2)
            forward = np.array([math.cos(car[6]), math.sin(car[6])])
            assert (cabin[:2] - body[:2]) @ forward < 0  # the cabin sits toward the rear


@quick
@given(seeds, st.integers(0, 300))
def test_maps_are_scipys_binned_statistics(seed, count):
    rng = np.random.default_rng(seed)
    points = np.column_stack([rng.uniform(-2, 12, count), rng.uniform(-7, 7, count), rng.uniform(-3, 3, count),
                              rng.random(count)]).astype(np.float32)
    found = lesson.map_from_above(points, 0.5, 20, 1.73).numpy().astype(float)
    kept = points[points[:, 2] + np.float32(1.73) < 3].astype(float)
    edges = [np.arange(21) * 0.5, np.arange(21) * 0.5 - 5]
    if len(kept):
        expected = [binned_statistic_2d(kept[:, 0], kept[:, 1], values, how, bins=edges).statistic for values, how in (
            ((kept[:, 2] + 1.73).clip(0) / 3, "max"), (kept[:, 3], "max"), (None, "count"))]
        np.testing.assert_allclose(found[0], np.nan_to_num(expected[0]), atol=1e-5)
        np.testing.assert_allclose(found[1], np.nan_to_num(expected[1]), atol=1e-5)
        np.testing.assert_allclose(found[2], np.minimum(np.log(expected[2] + 1) / np.log(64), 1), atol=1e-5)
    else:
        assert not found.any()


def test_a_map_has_forward_rows_and_left_columns():
    point = np.array([[9.9, 4.9, -1.0, 0.7]], dtype=np.float32)  # far and left
    found = lesson.map_from_above(point, 0.5, 20, 1.73)
    assert found[:, 19, 19].min() > 0 and (found > 0).sum() == 3
    assert found[0, 19, 19].item() == pytest.approx(0.73 / 3, abs=1e-6)


@pytest.mark.parametrize("way", [WAY, "angle itself"])
@given(seed=seeds)
@quick
def test_targets_decode_to_the_boxes(way, seed):
    rng = np.random.default_rng(seed)
    row, column = np.divmod(rng.choice(36, 5, replace=False), 6) * np.array([4]) + 1  # four places apart
    boxes = np.column_stack([(row + rng.uniform(0.01, 0.99, 5)) * 1.6, (column + rng.uniform(0.01, 0.99, 5) - 12) * 1.6,
                             rng.uniform(-2, 0, 5), rng.uniform(1, 6, (5, 3)), rng.uniform(-3.1, 3.1, 5)])
    target = lesson.targets_of(boxes, 1.6, 24, PRIOR, way)
    assert target[0].unique().tolist() == [0, 1] and (target[1:, target[0] == 0] == 0).all()
    answering = (target[0] > 0).nonzero().numpy()
    distance = np.abs(answering[:, None] + 0.5 - np.stack([boxes[:, 0] / 1.6, boxes[:, 1] / 1.6 + 12], 1)).max(-1)
    assert (distance.min(1) < 0.75).all() and (target[0, row, column] == 1).all()
    assert all(1 <= (distance[:, k] < 0.75).sum() <= 4 for k in range(5))
    output = target.clone()
    output[0] = torch.where(target[0] > 0, torch.rand(24, 24) + 1, torch.tensor(-20.0))
    found, scores = lesson.decode(output, 1.6, PRIOR, way, 0.5)
    assert (np.diff(scores) <= 0).all() and found.shape == (len(answering), 7)
    gaps = found[:, None] - boxes
    gaps[..., 6] = np.sin(gaps[..., 6])  # front and rear are not told apart
    gaps = np.abs(gaps).max(-1)
    assert gaps.min(1).max() < 1e-4 and gaps.min(0).max() < 1e-4


def test_boxes_outside_the_map_and_scenes_without_cars():
    outside = np.array([[50.0, 0, -1, *PRIOR, 0], [5.0, 19.3, -1, *PRIOR, 0], [-1.0, 0, -1, *PRIOR, 0]])
    assert not lesson.targets_of(outside[:2], 1.6, 24, PRIOR, WAY).any()
    empty = lesson.targets_of(np.zeros((0, 7)), 1.6, 24, PRIOR, WAY)
    assert not empty.any()
    found, scores = lesson.decode(empty - 20, 1.6, PRIOR, WAY, 0.5)
    assert found.shape == (0, 7) and scores.shape == (0,) and lesson.suppress(found, scores, 0.2) == []
    loss = lesson.detection_loss(torch.full((2, 9, 4, 4), -3.0), torch.zeros(2, 9, 4, 4))
    assert torch.isfinite(loss)


@given(st.floats(-math.pi, math.pi))
def test_angles_survive_and_only_sine_and_cosine_have_no_seam(yaw):
    angle = torch.tensor(yaw, dtype=torch.float64)
    for way in (WAY, "angle itself"):
        back = lesson.decode_angle(torch.stack(list(lesson.encode_angle(angle, way))), way).item()
        assert math.cos(2 * (back - yaw)) == pytest.approx(1, abs=1e-9) and abs(back) <= math.pi / 2 + 1e-9
        pair = [torch.stack(list(lesson.encode_angle(angle + turn, way))) for turn in (0, math.pi)]
        assert abs(pair[0] - pair[1]).max() < 1e-9 or (way != WAY and abs(pair[0] - pair[1])[0] > 1.99)  # the seam


def test_the_loss_is_cross_entropy_over_all_places_and_errors_where_cars_are():
    generator = torch.Generator().manual_seed(0)
    output = torch.randn(3, 9, 4, 4, generator=generator, requires_grad=True)
    target = torch.randn(3, 9, 4, 4, generator=generator)
    target[:, 0] = (torch.rand(3, 4, 4, generator=generator) < 0.2).float()
    cars = int(target[:, 0].sum())
    expected = F.binary_cross_entropy_with_logits(output[:, 0], target[:, 0], reduction="sum")
    for b, r, c in (target[:, 0] > 0).nonzero().tolist():
        expected = expected + 2 * F.l1_loss(output[b, 1:, r, c], target[b, 1:, r, c], reduction="sum")
    torch.testing.assert_close(lesson.detection_loss(output, target), expected / cars)
    gradient = torch.autograd.grad(lesson.detection_loss(output, target), output)[0]
    assert (gradient[:, 1:].abs().sum(1)[target[:, 0] == 0] == 0).all() and (gradient[:, 0] != 0).all()


def test_suppression_is_greedy_and_rotated():
    boxes = np.array([[10, 0, -1, 4, 2, 1.5, 0.0], [10.3, 0.1, -1, 4, 2, 1.5, 0.1], [10, 0, -1, 4, 0.2, 1.5, 1.57],
                      [20, 0, -1, 4, 2, 1.5, 0.0]])
    assert lesson.suppress(boxes, np.array([0.5, 0.9, 0.4, 0.1]), 0.2) == [1, 2, 3]
    assert lesson.suppress(boxes, np.array([0.5, 0.9, 0.4, 0.1]), 0.9) == [1, 0, 2, 3]


@pytest.mark.parametrize("seed", range(3))
def test_a_mirrored_scene_is_the_mirrored_map(seed):
    rng = np.random.default_rng(seed)
    points, cars = lesson.scan(lesson.random_world(rng, 1.73), lesson.laser_directions(16, -15, 2, 1.0, 40), rng, 1)
    points = points[abs(points[:, 1]) > 1e-3]  # the middle is on the border of two cells
    other, boxes = lesson.mirrored(points, cars)
    maps = [lesson.map_from_above(some, 0.4, 96, 1.73) for some in (points, other)]
    assert ((maps[0].flip(2) - maps[1]).abs() > 1e-5).float().mean() < 1e-3  # but for points on the border of a cell
    flipped = lesson.corners_of(cars) * [1, -1]
    for one, two in zip(flipped, lesson.corners_of(boxes)):
        assert {tuple(np.round(p, 6)) for p in one} == {tuple(np.round(p, 6)) for p in two}
    front = [lesson.corners_of(some)[:, [0, 3]].mean(1) for some in (cars, boxes)]
    np.testing.assert_allclose(front[0] * [1, -1], front[1], atol=1e-6)


def by_hand(found, truths, threshold, space=False):
    """Average precision by the definition: for each recall level the best precision at it or beyond."""
    items = sorted(((s, scene, b) for scene, (boxes, scores) in enumerate(found) for b, s in zip(boxes, scores)),
                   key=lambda item: -item[0])
    free, hits = {(scene, k) for scene, cars in enumerate(truths) for k in range(len(cars))}, []
    for _, scene, box in items:
        overlaps = [(lesson.rotated_iou(box, truths[s][k], space), k) for s, k in free if s == scene]
        best = max(overlaps, default=(0, None))
        hits.append(best[0] >= threshold)
        if hits[-1]:
            free.remove((scene, best[1]))
    cars, total = sum(map(len, truths)), 0.0
    precision = np.cumsum(hits) / np.arange(1, len(hits) + 1)
    for place, hit in enumerate(hits):
        total += hit * precision[place:].max()
    return total / cars


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("space", [False, True])
def test_average_precision_by_its_definition(seed, space):
    rng = np.random.default_rng(seed)
    truths = [random_boxes(rng.integers(0, 4), rng, 5.0) for _ in range(6)]
    found = []
    for cars in truths:
        near = [car + rng.normal(0, 0.15, 7) for car in cars if rng.random() < 0.8] + [random_boxes(1, rng, 5.0)[0]]
        near = np.array(near)
        near[:, 3:6] = np.abs(near[:, 3:6])
        found.append((near, rng.random(len(near))))
    right, errors = lesson.match_found(found, truths, 0.5, space)
    recall, precision, ap = lesson.precision_recall(right, sum(map(len, truths)))
    assert ap == pytest.approx(by_hand(found, truths, 0.5, space)) and np.isnan(errors[~right]).all()
    assert (np.diff(precision) <= 0).all() and (np.diff(recall) >= 0).all()


def test_a_car_is_found_once_and_a_turned_one_is_found():
    car = np.array([10, 0, -1, 4, 2, 1.5, 3.0])
    turned = car + [0, 0, 0, 0, 0, 0, math.pi]
    shifted = car + [0, 0, 0, 0, 0, 0, 0.2 - 2 * math.pi]
    right, errors = lesson.match_found([(np.stack([shifted, turned]), np.array([0.9, 0.8]))], [car[None]], 0.5)
    assert right.tolist() == [True, False] and errors[0] == pytest.approx(math.degrees(0.2))
    right, errors = lesson.match_found([(turned[None], np.array([0.8]))], [car[None]], 0.5)
    assert right.tolist() == [True] and errors[0] == pytest.approx(0, abs=1e-6)
    right, errors = lesson.match_found([(np.zeros((0, 7)), np.zeros(0))], [car[None]], 0.5)
    assert len(right) == 0 and lesson.precision_recall(right, 1)[2] == 0
    assert lesson.match_found([(car[None], np.array([0.5]))], [np.zeros((0, 7))], 0.5)[0].tolist() == [False]


def test_boxes_of_clumps_lie_along_them_behind_their_near_side():
    maps = torch.zeros(3, 96, 96)
    maps[0, 20:24, 70:75] = 0.4  # 1.2 m × 1.6 m between the middles of its outer cells
    maps[0, 60:70, 10] = 0.4  # 3.6 m long, seen as a line
    maps[0, 5, 5] = 0.4  # too small
    maps[0, 80:84, 20:24] = 0.1  # too low
    boxes, scores = lesson.clump_boxes(maps, 0.4, PRIOR, 1.73)
    order = np.argsort(scores)
    np.testing.assert_allclose(scores[order], [1 / (1 + 3.9 - 1.6), 1 / (1 + 3.9 - 3.6)], atol=1e-5)
    centers = np.array([[22 * 0.4, (72.5 - 48) * 0.4], [65 * 0.4, (10.5 - 48) * 0.4]])
    away = np.array([(1.65 - 1.2) / 2, 1.65 / 2])[:, None] * centers / np.linalg.norm(centers, axis=1, keepdims=True)
    np.testing.assert_allclose(boxes[order][:, :2], centers + away, atol=1e-4)
    np.testing.assert_allclose(np.abs(np.cos(boxes[order][:, 6])), [0, 1], atol=1e-5)
    assert (boxes[:, 3:6] == PRIOR).all() and np.allclose(boxes[:, 2] - boxes[:, 5] / 2, -1.73)
    found, scores = lesson.clump_boxes(torch.zeros(3, 96, 96), 0.4, PRIOR, 1.73)
    assert found.shape == (0, 7) and scores.shape == (0,)


def test_labels_of_the_camera_become_boxes_of_the_laser():
    """Corners in the camera's coordinates as KITTI defines them, moved by the calibration, are our corners."""
    rng = np.random.default_rng(0)
    R0 = Rotation.from_euler("xyz", [0.01, -0.007, 0.004]).as_matrix()
    axes = np.array([[0, -1, 0], [0, 0, -1], [1, 0, 0]])
    T = np.column_stack([axes, [0.01, -0.08, -0.27]])
    locations = np.column_stack([rng.uniform(-9, 9, 6), rng.uniform(1, 2, 6), rng.uniform(6, 30, 6)])
    turns = rng.uniform(-3.1, 3.1, 6)
    sizes = rng.uniform(1, 5, (6, 3))
    boxes = lesson.camera_to_lidar(locations, sizes, turns, np.eye(3), T)
    tilted = lesson.camera_to_lidar(locations, sizes, turns, R0, T)
    assert np.abs(tilted - boxes)[:, :3].max() > 0.02  # the rectification is undone
    for box, place, (height, width, length), turn in zip(boxes, locations, sizes, turns):
        x = length / 2 * np.array([1, -1, -1, 1] * 2)  # front is +x for r_y = 0
        z = width / 2 * np.array([1, 1, -1, -1] * 2)
        y = np.array([0] * 4 + [-height] * 4)
        camera = Rotation.from_euler("y", turn).apply(np.stack([x, y, z], 1)) + place
        laser = np.linalg.solve(T[:, :3], (camera - T[:, 3]).T).T
        ours = lesson.corners_3d(box[None])[0]
        distance = np.linalg.norm(ours[:, None] - laser, axis=-1)
        assert distance.min(1).max() < 1e-6 and distance.min(0).max() < 1e-6
        front = [corners[[0, 3, 4, 7]].mean(0) for corners in (ours, laser)]
        np.testing.assert_allclose(*front, atol=1e-6)
        assert -math.pi <= box[6] <= math.pi
    assert lesson.camera_to_lidar(np.zeros((0, 3)), np.zeros((0, 3)), np.zeros(0), R0, T).shape == (0, 7)


@quick
@given(seeds)
def test_the_way_to_the_photo_is_opencvs(seed):
    rng = np.random.default_rng(seed)
    R0, turn = (Rotation.from_rotvec(rng.normal(0, size, 3)).as_matrix() for size in (0.01, 0.05))
    T = np.column_stack([turn @ [[0, -1, 0], [0, 0, -1], [1, 0, 0]], rng.normal(0, 0.3, 3)])
    K = np.array([[700.0, 0, 600], [0, 710, 170], [0, 0, 1]])
    P = np.column_stack([K, K @ rng.normal(0, 0.1, 3)])
    points = np.column_stack([rng.uniform(5, 60, 9), rng.uniform(-20, 20, (9, 2))])
    places, depth = lesson.lidar_to_photo(points, P, R0, T)
    shift = R0 @ T[:, 3] + np.linalg.solve(K, P[:, 3])
    theirs, _ = cv2.projectPoints(points, cv2.Rodrigues(R0 @ T[:, :3])[0], shift, K, None)
    np.testing.assert_allclose(places, theirs[:, 0], rtol=1e-6, atol=1e-6)
    assert (depth > 0).all() and (lesson.lidar_to_photo(-points, P, R0, T)[1] < 0).all()
    assert lesson.lidar_to_photo(np.zeros((0, 3)), P, R0, T)[0].shape == (0, 2)


def test_a_frame_keeps_the_points_that_the_camera_sees(tmp_path):
    from PIL import Image

    for part in ("calib", "image_2", "velodyne", "label_2"):
        (tmp_path / part).mkdir()
    (tmp_path / "calib/000007.txt").write_text(
        "P0: 0 0 0 0 0 0 0 0 0 0 0 0\nP2: 700 0 600 0 0 700 170 0 0 0 1 0\nR0_rect: 1 0 0 0 1 0 0 0 1\n"
        "Tr_velo_to_cam: 0 -1 0 0 0 0 -1 0 1 0 0 0\n\n")
    Image.new("L", (1242, 375), 90).save(tmp_path / "image_2/000007.png")
    points = [[10, 0, 0, 0.1], [-10, 0, 0, 0.2], [10, 9, 0, 0.3], [10, 0, 5, 0.4], [10, -3, -1, 0.5]]
    np.array(points, np.float32).tofile(tmp_path / "velodyne/000007.bin")
    (tmp_path / "label_2/000007.txt").write_text(
        "Car 0.00 0 0 0 0 1 1 1.5 1.6 4.0 2 1.7 20 -1.57\n"
        "DontCare -1 -1 -10 0 0 1 1 -1 -1 -1 -1000 -1000 -1000 -10\n\n")
    kept, photo, boxes, names = lesson.read_kitti(tmp_path, "000007")
    assert kept[:, 3].tolist() == pytest.approx([0.1, 0.5]) and photo.mode == "RGB" and names == ["Car"]
    np.testing.assert_allclose(boxes[0], [20, -2, -1.7 + 0.75, 4.0, 1.6, 1.5, 0], atol=2e-3)
    names, numbers = lesson.read_labels(tmp_path, "000007")
    assert names == ["Car"] and numbers.tolist() == [[0, 0, 1, 1, 1.5, 1.6, 4.0, 2, 1.7, 20, -1.57]]
    P, R0, T = lesson.read_calibration(tmp_path, "000007")
    assert P[1].tolist() == [0, 700, 170, 0] and R0.tolist() == np.eye(3).tolist() and T[2].tolist() == [1, 0, 0, 0]
    (tmp_path / "label_2/000007.txt").write_text("")
    assert lesson.read_kitti(tmp_path, "000007")[2].shape == (0, 7)


def test_real_cars_out_of_range_do_not_count():
    boxes = np.array([[10.0, 0, -1, *PRIOR, 0], [60.0, 0, -1, *PRIOR, 0], [20.0, 5, -1, *PRIOR, 0]])
    frame = (None, None, boxes, ["Car", "Car", "Cyclist"])
    found = [(boxes[[0, 2]], np.array([0.9, 0.8]))]
    assert lesson.count_real([frame], found, 38.4, 0.5) == {"labeled cars in range": 1, "found": 1, "false alarms": 1}


def test_an_untrained_network_says_no_and_training_makes_it_find():
    rng = np.random.default_rng(0)
    directions = lesson.laser_directions(16, -15, 2, 0.6, 40)
    scenes = [lesson.scan(lesson.random_world(rng, 1.73), directions, rng, 10) for _ in range(6)]
    maps = torch.stack([lesson.map_from_above(points, 0.4, 96, 1.73) for points, _ in scenes])
    targets = torch.stack([lesson.targets_of(cars, 1.6, 24, PRIOR, WAY) for _, cars in scenes])
    torch.manual_seed(0)
    model = lesson.detector(6)
    before = lesson.detect_3d(model, maps, 1.6, PRIOR, WAY, least=0.5)
    assert all(len(boxes) == 0 for boxes, _ in before) and not model.training
    first = lesson.detection_loss(model(maps), targets).item()
    lesson.train_detector_3d(model, maps, targets, 150, 6, 1e-2, 0)
    assert model.training and lesson.detection_loss(model(maps), targets).item() < 0.5 * first
    assert model(maps).shape == (6, 9, 24, 24)


def test_the_picture_that_turns_is_whole_and_needs_nothing():
    points, boxes = np.random.default_rng(0).normal(0, 5, (12_000, 4)), random_boxes(2, np.random.default_rng(1))
    page = lesson.turnable(points, boxes).data
    assert "DATA" not in page and "HEIGHT" not in page and "http" not in page and "NaN" not in page
    assert len(page) < 200_000


def test_opencv_agrees_about_overlaps_that_share_an_edge():
    one, other = np.array([0, 0, 0, 2.0, 2.0, 1, 0.0]), np.array([2.0, 0, 0, 2.0, 2.0, 1, 0.0])
    area, _ = cv2.intersectConvexConvex(*lesson.corners_of(np.stack([one, other])).astype(np.float32))
    assert lesson.rotated_iou(one, other) == pytest.approx(area, abs=1e-9) == 0.0


def test_no_world_is_in_training_and_test():
    """The notebook's own lines, with the simulator replaced by one that tells its seed."""
    cell = next(cell.source for cell in code_cells(read(ROOT / NOTEBOOK)) if cell.source.startswith("counts = {"))
    space = {"simulate": lambda count, seed, *_: [(f"world {seed}", count)] * count,
             "mirrored": lambda *scene: (*scene, "mirrored"), "TRAIN_SCENES": 3, "TEST_SCENES": 2, "directions": None,
             "SENSOR_HEIGHT": None, "LEAST_POINTS": None}
    exec(compile(ast.Module(parse(cell).body[:3], []), NOTEBOOK, "exec"), space)
    scenes = space["scenes"]
    assert len(scenes["train"]) == 6 and len(scenes["test"]) == 2
    assert not {scene[0] for scene in scenes["train"]} & {scene[0] for scene in scenes["test"]}
    assert [len(scene) for scene in scenes["train"]] == [2] * 3 + [3] * 3  # each also mirrored


def test_stored_results_are_what_the_notebook_shows():
    found = assert_shown(NOTEBOOK, "AP {sine_cosine_ap_from_above:.3f}, clumps {clumps_ap_from_above:.3f}",
                         "'labeled cars in range': {kitti_labeled_cars_in_range:.0f}, 'found': {kitti_found:.0f}, "
                         "'false alarms': {kitti_false_alarms:.0f}")
    lines = [line for cell in code_cells(read(ROOT / NOTEBOOK)) for text in output_texts(cell)
             for line in text.splitlines()]
    for way, name in (("sine and cosine", "sine_cosine"), ("angle itself", "angle"), ("clumps", "clumps")):
        rows = [line.removeprefix(way) for line in lines if re.match(rf"{way} +[\d.]", line)]  # a wide table is broken
        means = [float(value) for row in rows for value in row.split()][::2]
        stored = [found[f"{name}_{column}"] for column in (
            "ap_from_above", "ap_in_space", "within_15_degrees_percent", "off_by_over_30_degrees_percent")]
        assert means == pytest.approx(stored, abs=0.006)
        assert found[f"{name}_ap_in_space"] < found[f"{name}_ap_from_above"]
    assert found["kitti_least_overlap_of_projected_boxes"] > 0.8


def test_the_prose_says_what_the_stored_run_showed():
    assert_said(NOTEBOOK, "an AP of {sine_cosine_ap_from_above:.2f} from above and {sine_cosine_ap_in_space:.2f} in "
                "space, the rule on clumps {clumps_ap_from_above:.2f} and {clumps_ap_in_space:.2f}",
                "the network reaches {angle_ap_from_above:.2f}: {angle_within_15_degrees_percent:.0f} % of the boxes",
                "sine and cosine {sine_cosine_within_15_degrees_percent:.0f} %", "is a pedestrian, "
                "{kitti_least_overlap_of_projected_boxes:.2f}")


def test_each_way_to_state_the_angle_has_its_own_targets():
    asked, trained = [], []
    space = run_cell(
        NOTEBOOK, "ways, models = ", CELL=0.4, STRIDE=4, CELLS=96, PRIOR=PRIOR, SEEDS=(0, 1), WIDTH=4, STEPS=5,
        BATCH_SIZE=2, LEARNING_RATE=0.1, device=torch.device("cpu"), scenes={"train": [(None, "cars")], "test": []},
        inputs={"train": "maps"}, detector=lesson.detector,
        targets_of=lambda cars, step, places, prior, way: (asked.append((cars, step, places, way))
                                                           or torch.tensor(len(asked))),
        train_detector_3d=lambda model, maps, targets, *rest: trained.append((maps, targets.tolist(), rest)))
    assert asked == [("cars", 1.6, 24, way) for way in space["ways"]]
    assert trained == [("maps", [k], (5, 2, 0.1, seed)) for k in (1, 2) for seed in (0, 1)]
    starts = [next(model.parameters()) for model in space["models"].values()]
    assert torch.equal(starts[0], starts[2]) and not torch.equal(starts[0], starts[1])  # paired by seed


def test_columns_of_the_table_are_from_above_and_in_space():
    errors = np.array([1.0, 40, 20, math.nan])

    def match(some, truths, threshold, space=False):
        assert threshold == 0.5 and truths == "truths"
        return np.array([True, not space, True, False]), errors

    space = run_cell(NOTEBOOK, "rows, curves = [], {}", found={("one way", 0): "boxes"}, match_found=match,
                     truths="truths", IOU=0.5, precision_recall=lesson.precision_recall, cars_in_test=4)
    row, = space["rows"]
    assert row == {"way": "one way", "AP from above": pytest.approx(0.75), "AP in space": pytest.approx(0.25 + 2 / 12),
                   "within 15° (%)": pytest.approx(100 / 3), "off by over 30° (%)": pytest.approx(100 / 3)}
    assert space["curves"]["one way"][0].tolist() == [0.25, 0.5, 0.75, 0.75]


def test_results_are_what_their_names_say():
    columns = {"AP from above": "ap_from_above", "AP in space": "ap_in_space",
               "within 15° (%)": "within_15_degrees_percent", "off by over 30° (%)": "off_by_over_30_degrees_percent"}
    ways = {WAY: "sine_cosine", "angle itself": "angle", "clumps": "clumps"}
    table = pd.DataFrame(np.arange(12.0).reshape(3, 4), index=list(ways), columns=list(columns))
    runs = pd.DataFrame({"way": [WAY, WAY, "clumps"], "AP from above": [0.2, 0.4, 0.9]})
    found = run_cell(NOTEBOOK, "results = {", means=table, runs=runs, ways=list(ways)[:2], cars_in_test=9,
                     overlaps=[0.9, 0.8],
                     real_counts={"labeled cars in range": 1, "found": 0, "false alarms": 3})["results"]
    expected = {f"{ways[way]}_{columns[column]}": table[column][way] for way in ways for column in columns}
    assert found == pytest.approx(expected | {
        "ap_from_above_std": np.std([0.2, 0.4], ddof=1), "test_cars": 9, "kitti_least_overlap_of_projected_boxes": 0.8,
        "kitti_labeled_cars_in_range": 1, "kitti_found": 0, "kitti_false_alarms": 3})
