"""OKS, heat maps, peaks, angles, the counter and the stick figures of the pose notebook."""
import ast
import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter
from scipy.stats import multivariate_normal

from tests.definitions import definitions
from tests.notebooks import ROOT, code_cells, parse, read
from tests.stored import assert_shown

NOTEBOOK = "Chapter10/Human_pose_detection.ipynb"
lesson = definitions(
    NOTEBOOK, "oks", "coco_oks", "SIGMAS", "NAMES", "BONES", "FIGURE_BONES", "FIGURE_NAMES", "heat_maps", "peaks",
    "joint_angle", "count_repetitions", "pck", "read_people", "pose_joints", "draw_stick_figure", "draw_poses",
    "squat_clip", "heat_map_loss", "pose_network", "train_heat_maps", "predict_maps", "limb")
quick = settings(deadline=None, max_examples=40)
seeds = st.integers(0, 10**6)


def person(rng, labeled=0.6):
    """A labeled person of pycocotools' form, at least one joint labeled."""
    visibility = rng.integers(1, 3, 17) * (rng.random(17) < labeled)
    visibility[rng.integers(17)] = 2
    joints = rng.uniform(0, 300, (17, 2)) * (visibility > 0)[:, None]
    area, box = rng.uniform(50, 50_000), [10.0, 20.0, 200.0, 250.0]
    return {"joints": joints, "visibility": visibility, "area": area, "box": box}


@quick
@given(seeds, st.sampled_from([0.0, 1.0, 30.0, 1e4]))
def test_oks_is_pycocotools(seed, error):
    rng = np.random.default_rng(seed)
    people = [person(rng) for _ in range(4)]
    guesses = [one["joints"] + rng.normal(0, error, (17, 2)) if error else one["joints"].copy() for one in people]
    for one, guess in zip(people, guesses):  # whatever is said of joints that are not labeled does not count
        guess[one["visibility"] == 0] = rng.uniform(-1e5, 1e5, 2)
    ours = [lesson.oks(guess, one["joints"], one["visibility"], one["area"], lesson.SIGMAS)
            for guess, one in zip(guesses, people)]
    np.testing.assert_allclose(ours, lesson.coco_oks(people, guesses), rtol=1e-9, atol=1e-12)


def test_oks_of_extreme_people():
    one = person(np.random.default_rng(0))
    for change in ({"area": 0.0}, {"area": 1e12}, {"visibility": np.full(17, 1)},
                   {"visibility": np.eye(17, dtype=int)[3]}):
        other = one | change
        guess = other["joints"] + 3.0
        ours = lesson.oks(guess, other["joints"], other["visibility"], other["area"], lesson.SIGMAS)
        assert ours == pytest.approx(lesson.coco_oks([other], [guess])[0], abs=1e-12)
        assert lesson.oks(other["joints"], other["joints"], other["visibility"], other["area"], lesson.SIGMAS) == 1.0
    assert math.isnan(lesson.oks(one["joints"], one["joints"], np.zeros(17), 1.0, lesson.SIGMAS))


def test_names_and_bones_are_cocos():
    wanted = ("nose left_eye right_eye left_ear right_ear left_shoulder right_shoulder left_elbow right_elbow "
              "left_wrist right_wrist left_hip right_hip left_knee right_knee left_ankle right_ankle").split()
    assert [name.replace(" ", "_") for name in lesson.NAMES] == wanted and len(lesson.SIGMAS) == 17
    for names, bones in ((lesson.NAMES, lesson.BONES), (lesson.FIGURE_NAMES, lesson.FIGURE_BONES)):
        for one, other, side in bones:
            sides = {word for k in (one, other) for word in names[k].split() if word in ("left", "right")}
            assert sides == ({side} if side != "middle" else sides) and (side == "middle" or len(sides) == 1)


@quick
@given(seeds, st.floats(0.7, 2.0))
def test_heat_maps_are_scipys_normal_density(seed, sigma):
    joints = torch.from_numpy(np.random.default_rng(seed).uniform(-5, 69, (2, 3, 2)))
    found = lesson.heat_maps(joints, 32, sigma)
    assert found.shape == (2, 3, 32, 32)
    grid = np.stack(np.meshgrid(np.arange(32), np.arange(32)), -1)  # u, v at [v, u]
    for n in range(2):
        for k in range(3):
            center = (joints[n, k].numpy() - 0.5) / 2
            density = multivariate_normal(center, sigma**2).pdf(grid) * 2 * np.pi * sigma**2
            np.testing.assert_allclose(found[n, k].numpy(), density, atol=1e-9)


@quick
@given(seeds)
def test_refined_peaks_come_back_from_their_own_heat_maps(seed):
    joints = torch.from_numpy(np.random.default_rng(seed).uniform(4, 59, (3, 5, 2))).float()
    maps = lesson.heat_maps(joints, 32, 1.0)
    coarse, fine = lesson.peaks(maps, refine=False), lesson.peaks(maps)
    assert (coarse - joints).abs().max() <= 1.001 and (fine - joints).abs().max() < 0.75
    assert (fine - joints).norm(dim=-1).mean() < 0.7 * (coarse - joints).norm(dim=-1).mean()


def test_peaks_at_corners_on_plateaus_and_below_zero():
    for v, u in ((0, 0), (0, 31), (31, 0), (31, 31), (7, 20)):
        maps = torch.full((1, 1, 32, 32), -0.5)
        maps[0, 0, v, u] = 1.0
        for refine in (True, False):
            torch.testing.assert_close(lesson.peaks(maps, refine)[0, 0], torch.tensor([2 * u + 0.5, 2 * v + 0.5]))
    for flat in (0.0, -3.0):
        assert lesson.peaks(torch.full((2, 3, 8, 8), flat)).isfinite().all()
    noise = np.random.default_rng(0).normal(size=(1, 1, 32, 32))
    noise = torch.from_numpy(gaussian_filter(noise, (0, 0, 2, 2))).float()
    distance = lesson.peaks(noise) - lesson.peaks(noise, refine=False)
    assert distance.abs().max() <= 2.0


@quick
@given(seeds)
def test_angles_are_those_of_complex_numbers(seed):
    a, b, c = np.random.default_rng(seed).normal(size=(3, 6, 2))
    complexes = [(point - b) @ [1, 1j] for point in (a, c)]
    np.testing.assert_allclose(lesson.joint_angle(a, b, c), np.abs(np.degrees(np.angle(complexes[0] / complexes[1]))),
                               atol=1e-5)


def test_angles_of_straight_folded_and_missing_limbs():
    a, b = np.array([0.0, 0.0]), np.array([1e-3, 1.0])
    assert lesson.joint_angle(a, b, 2 * b) == pytest.approx(180)
    assert lesson.joint_angle(a, b, a) == pytest.approx(0, abs=1e-5)
    assert np.isnan(lesson.joint_angle(a, a, b)) and lesson.joint_angle(1e9 * a, 1e9 * b, 2e9 * b) == pytest.approx(180)


@pytest.mark.parametrize(("angles", "count"), [
    ([], 0), ([170, 170], 0), ([170, 90], 0), ([90, 170], 1), ([170, 90, 170, 90, 170], 2), ([170, 130, 170], 0),
    ([170, 90, 140, 90, 170], 1), ([90, 149.9, 150.1], 1), ([170, 90, math.nan, math.nan, 170], 1), ([math.nan] * 3, 0),
    ([120, 150], 0), ([119.9, 150.1], 1)])
def test_repetitions(angles, count):
    found, ends = lesson.count_repetitions(np.array(angles), 120, 150)
    assert found == count == len(ends) and all(angles[end] > 150 for end in ends)


@quick
@given(st.integers(0, 12), seeds)
def test_repetitions_of_a_noisy_wave(repetitions, seed):
    wave = 135 + 45 * np.cos(np.linspace(0, 2 * np.pi * repetitions, 400))
    noisy = wave + np.random.default_rng(seed).uniform(-14, 14, 400)
    assert lesson.count_repetitions(noisy, 120, 150)[0] == repetitions


@quick
@given(seeds, st.floats(0.01, 0.5))
def test_pck_by_hand(seed, near):
    rng = np.random.default_rng(seed)
    joints, found = torch.from_numpy(rng.uniform(0, 60, (2, 4, 13, 2)))
    share, error = lesson.pck(found, joints, near)
    right = [math.dist(found[n, k], joints[n, k]) < near * (joints[n, :, 1].max() - joints[n, :, 1].min())
             for n in range(4) for k in range(13)]
    assert share == pytest.approx(np.mean([bool(one) for one in right]))
    assert error == pytest.approx(np.mean([math.dist(found[n, k], joints[n, k]) for n in range(4) for k in range(13)]))


def test_people_of_a_file_without_crowds(tmp_path):
    points = np.arange(51).tolist()
    rows = [{"image_id": 1, "iscrowd": 0, "keypoints": points, "area": 7, "bbox": [1, 2, 3, 4]},
            {"image_id": 1, "iscrowd": 1, "keypoints": points, "area": 7, "bbox": [1, 2, 3, 4]}]
    (tmp_path / "a.json").write_text(json.dumps({"annotations": rows}))
    one, = lesson.read_people(tmp_path / "a.json")
    assert one["joints"][1].tolist() == [3, 4] and one["visibility"][:2].tolist() == [2, 5] and one["area"] == 7.0


@pytest.mark.parametrize("seed", range(4))
def test_figures_are_drawn_where_their_joints_are_and_limbs_keep_their_length(seed):
    images, joints = lesson.draw_poses(8, seed, 64)
    assert images.shape == (8, 3, 64, 64) and images.dtype == torch.float32 and 0 <= images.min() and images.max() <= 1
    points = joints.numpy()
    scale = np.linalg.norm((points[:, 1] + points[:, 2] - points[:, 7] - points[:, 8]) / 2, axis=1)
    shares = {(1, 3): 0.55, (4, 6): 0.5, (7, 9): 0.75, (10, 12): 0.75, (1, 2): 0.6, (7, 8): 0.4}
    for (one, other), share in shares.items():
        np.testing.assert_allclose(np.linalg.norm(points[:, one] - points[:, other], axis=1), share * scale, rtol=1e-4)
    assert (points[:, 0, 1] < points[:, 7, 1]).all()
    assert (points[:, 1, 0] > points[:, 2, 0]).all()  # its left is on our right
    for image, one in zip(images, points):
        x, y = np.round((one[9] + one[11]) / 2).astype(int)  # the middle of the left shank
        if 1 <= x < 62 and 1 <= y < 62:
            patch = image[:, y - 1 : y + 2, x - 1 : x + 2].flatten(1)
            assert (patch - torch.tensor([0.85, 0.4, 0.1])[:, None]).abs().mean(0).min() < 0.15


def test_the_squat_bends_the_knees_as_often_as_it_says():
    clip, joints = lesson.squat_clip(140, 5, np.random.default_rng(0), 64)
    knees = ((7, 9, 11), (8, 10, 12))
    angles = np.mean([lesson.joint_angle(*(joints[:, i] for i in three)) for three in knees], axis=0)
    assert lesson.count_repetitions(angles, 120, 150)[0] == 5 and angles[0] > 170 and angles.min() < 100
    feet = joints[:, 11:, 1]
    assert np.ptp(feet) < 0.5 and clip.shape == (140, 3, 64, 64)  # the feet stay on the floor
    assert joints[:, 7, 1].argmax() in range(10, 130)


def test_the_network_learns_one_picture():
    images, joints = lesson.draw_poses(4, 0, 64)
    torch.manual_seed(0)
    model = lesson.pose_network(8, 13)
    assert model(images).shape == (4, 13, 32, 32)
    maps = lesson.heat_maps(joints, 32, 1.0)
    lesson.train_heat_maps(model, images, maps, 400, 4, 1e-2, 0)
    assert model.training
    found = lesson.peaks(lesson.predict_maps(model, images))
    assert not model.training and lesson.pck(found, joints, 0.1)[0] > 0.6


def test_stored_results_are_what_the_notebook_shows():
    found = assert_shown(NOTEBOOK, "mean OKS {oks_of_noisy_joints:.3f}", "ignored {oks_with_visibility_ignored:.3f}",
                         "PCK {refined_pck_percent:.1f} %, mean pose {mean_pose_pck_percent:.1f} %",
                         "'knees': '{knees_angle_error_degrees:.1f} ±", "'elbows': '{elbows_angle_error_degrees:.1f} ±")
    assert found["refined_error_pixels"] < found["highest_pixel_error_pixels"] < found["mean_pose_error_pixels"]
    assert found["repetitions_counted"] == found["repetitions"]


def test_angles_of_the_notebook_are_at_knees_and_elbows():
    for name, both in definitions(NOTEBOOK, "limbs").limbs.items():
        for three, side in zip(both, ("left", "right")):
            ends = {"knees": ("hip", "knee", "ankle"), "elbows": ("shoulder", "elbow", "wrist")}[name]
            assert [lesson.FIGURE_NAMES[k] for k in three] == [f"{side} {end}" for end in ends]


def test_the_baseline_knows_training_figures_only_and_they_are_not_tested():
    cells = [cell.source for cell in code_cells(read(ROOT / NOTEBOOK))]
    nodes = [node for source in cells for node in ast.walk(parse(source)) if isinstance(node, ast.Call)]
    calls = {ast.unparse(node.args[0]): ast.unparse(node.args[1]) for node in nodes
             if ast.unparse(node.func) == "draw_poses"}
    assert len(calls) == len(set(calls.values())) == 2, calls  # two sets, two seeds
    baseline = next(source for source in cells if '"way": "mean pose"' in source)
    averaged = {ast.unparse(node.func.value) for node in ast.walk(parse(baseline))
                if isinstance(node, ast.Call) and ast.unparse(node.func).endswith(".mean")}
    assert averaged == {"train_joints"}


def test_the_loss_is_cross_entropy_with_soft_targets():
    generator = torch.Generator().manual_seed(0)
    outputs = torch.randn(2, 3, 8, 8, generator=generator, requires_grad=True)
    maps = torch.rand(2, 3, 8, 8, generator=generator)
    target = (maps / maps.sum((2, 3), keepdim=True)).view(6, 64)
    expected = torch.nn.functional.cross_entropy(outputs.view(6, 64), target)
    found = lesson.heat_map_loss(outputs, maps)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(torch.autograd.grad(found, outputs), torch.autograd.grad(expected, outputs))
    assert lesson.heat_map_loss(outputs, torch.zeros(2, 3, 8, 8)) == 0  # a joint far outside teaches nothing
    maps = lesson.predict_maps(lesson.pose_network(2, 3), torch.rand(2, 3, 16, 16))
    torch.testing.assert_close(maps.sum((2, 3)), torch.ones(2, 3))
