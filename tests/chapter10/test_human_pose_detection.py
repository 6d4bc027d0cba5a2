"""OKS, heat maps, peaks, angles, the counter and the stick figures of the pose notebook."""
import ast
import json
import math

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter
from scipy.stats import multivariate_normal

from tests.cells import run_cell
from tests.definitions import definitions
from tests.notebooks import ROOT, code_cells, parse, read
from tests.stored import assert_said, assert_shown

NOTEBOOK = "Chapter10/Human_pose_detection.ipynb"
lesson = definitions(
    NOTEBOOK, "oks", "coco_oks", "SIGMAS", "NAMES", "BONES", "FIGURE_BONES", "FIGURE_NAMES", "heat_maps", "peaks",
    "joint_angle", "count_repetitions", "pck", "read_people", "pose_joints", "draw_stick_figure", "draw_poses",
    "squat_clip", "heat_map_loss", "pose_network", "coordinate_network", "train_pose", "raw_outputs", "predict_maps",
    "limb", "mean_angle")
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
    lesson.train_pose(model, images, maps, lesson.heat_map_loss, 400, 4, 1e-2, 0)
    assert model.training
    found = lesson.peaks(lesson.predict_maps(model, images))
    assert not model.training and lesson.pck(found, joints, 0.1)[0] > 0.6


def test_the_competitor_puts_out_shares_of_the_side_and_learns():
    images, joints = lesson.draw_poses(4, 0, 64)
    torch.manual_seed(0)
    model = lesson.coordinate_network(8, 13, 64)
    assert lesson.raw_outputs(model, images).shape == (4, 13, 2) and not model.training
    convolutions = [[tuple(m.weight.shape) for m in some.modules() if isinstance(m, torch.nn.Conv2d)]
                    for some in (model, lesson.pose_network(8, 13))]
    assert convolutions[0] == convolutions[1][:4]  # the first half is the same
    lesson.train_pose(model, images, joints / 64, torch.nn.functional.l1_loss, 100, 4, 1e-2, 0)
    assert lesson.pck(64 * lesson.raw_outputs(model, images), joints, 0.1)[0] > 0.6


def test_parts_of_a_hundred_are_put_together_in_their_order():
    images = torch.arange(230.0).view(230, 1, 1, 1)
    model = torch.nn.BatchNorm2d(1)  # in training mode the answer would depend on the others
    torch.testing.assert_close(lesson.raw_outputs(model, images), images, rtol=1e-4, atol=1e-4)


def test_the_mean_angle_leaves_out_what_cannot_be_told():
    joints = np.zeros((2, 6, 2))
    joints[:, 0], joints[:, 2] = (0, -1), (1, 0)  # a right angle at joint 1
    joints[0, 3], joints[0, 5] = (0, -1), (0, 1)  # a straight limb at joint 4; in the second frame all in one place
    np.testing.assert_allclose(lesson.mean_angle(joints, ((0, 1, 2), (3, 4, 5))), [135, 90])


def test_stored_results_are_what_the_notebook_shows():
    found = assert_shown(NOTEBOOK, "mean OKS {oks_of_noisy_joints:.3f}", "ignored {oks_with_visibility_ignored:.3f}",
                         "PCK {refined_pck_percent:.1f} %, mean pose {mean_pose_pck_percent:.1f} %",
                         "'knees': '{knees_angle_error_degrees:.1f} ±", "'elbows': '{elbows_angle_error_degrees:.1f} ±")
    assert found["refined_error_pixels"] < found["highest_pixel_error_pixels"] < found["mean_pose_error_pixels"]
    assert found["refined_pck_percent"] > found["coordinates_pck_percent"] > found["mean_pose_pck_percent"]
    assert found["two_thresholds_right_percent"] >= found["one_threshold_right_percent"]
    assert found["repetitions_counted"] == found["repetitions"]


def test_the_prose_says_what_the_stored_run_showed():
    assert_said(NOTEBOOK, "found {refined_pck_percent:.1f} % of the joints, "
                "coordinates {coordinates_pck_percent:.1f} %, and the mean pose {mean_pose_pck_percent:.1f} %",
                "from {highest_pixel_error_pixels:.2f} to {refined_error_pixels:.2f} pixels",
                "knees are off by {knees_angle_error_degrees:.1f}° and elbows by {elbows_angle_error_degrees:.1f}°",
                "a single one in {one_threshold_right_percent:.0f} % of them")


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
    baseline = next(source for source in cells if '("mean pose", 0, ' in source)
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


def test_each_way_is_judged_by_its_own_answers():
    joints = torch.full((2, 13, 2), 7.0)
    space = run_cell(
        NOTEBOOK, "answers = [(", train_joints=torch.ones(5, 13, 2), test_joints=joints, test_images="tested",
        SEEDS=(3, 4), models={3: "m3", 4: "m4"}, competitors={3: 0.5, 4: 0.25}, SIDE=64, NEAR=0.1,
        predict_maps=lambda model, images: f"{model} {images}", peaks=lambda maps, refine=True: (maps, refine),
        raw_outputs=lambda model, images: model, pck=lambda found, true, near: (found, true is joints and near))
    found = {(row["way"], row["seed"]): row["PCK (%)"] for row in space["rows"]}
    assert torch.equal(found.pop(("mean pose", 0)), torch.ones(2, 13, 2))
    assert found == {**{("heat maps, refined", k): (f"m{k} tested", True) for k in (3, 4)},
                     **{("heat maps, highest pixel", k): (f"m{k} tested", False) for k in (3, 4)},
                     ("coordinates", 3): 32.0, ("coordinates", 4): 16.0}
    assert all(row["error (pixels)"] == 0.1 for row in space["rows"])


def test_both_networks_learn_from_the_same_pictures_in_the_same_order():
    calls, joints, pictures = [], torch.rand(4, 13, 2) * 64, torch.rand(4, 3, 64, 64)
    run_cell(NOTEBOOK, "models, competitors = {}, {}", heat_maps=lesson.heat_maps, train_joints=joints,
             train_images=pictures, SIDE=64, SPREAD=1.0, SEEDS=(5,), WIDTH=2, STEPS=9, BATCH_SIZE=3, LEARNING_RATE=0.1,
             device=torch.device("cpu"), pose_network=lesson.pose_network, coordinate_network=lesson.coordinate_network,
             heat_map_loss=lesson.heat_map_loss, train_pose=lambda *given: calls.append(given))
    (first, images, maps, loss, *rest), (other, same, shares, distance, *others) = calls
    assert rest == others == [9, 3, 0.1, 5] and torch.equal(images, same) and torch.equal(images, pictures)
    torch.testing.assert_close(maps, lesson.heat_maps(joints, 32, 1.0))
    torch.testing.assert_close(shares, joints / 64)
    assert loss is lesson.heat_map_loss and distance is torch.nn.functional.l1_loss
    assert torch.equal(next(first.parameters()), next(other.parameters()))  # they start alike


def test_angle_errors_are_those_of_found_against_true_joints():
    rng = np.random.default_rng(0)
    true = torch.from_numpy(rng.uniform(0, 60, (6, 13, 2)))
    moved = true + torch.from_numpy(rng.normal(0, 2, (6, 13, 2)))
    space = run_cell(NOTEBOOK, "angle_errors = ", models={0: 0, 1: 1}, test_images=None, test_joints=true,
                     predict_maps=lambda model, images: model, peaks=lambda model: (true, moved)[model],
                     joint_angle=lesson.joint_angle)
    for name, both in space["limbs"].items():
        errors = [np.abs(lesson.joint_angle(*(moved[:, i].numpy() for i in three))
                         - lesson.joint_angle(*(true[:, i].numpy() for i in three))).mean() for three in both]
        assert space["angle_errors"][name] == pytest.approx([0, np.mean(errors)])


def test_counters_get_the_knees_and_their_own_thresholds():
    limbs, asked = definitions(NOTEBOOK, "limbs").limbs, set()

    def count(angles, low, high):
        asked.add((low, high))
        return (3 if low < high else 5), [0]

    given = {"CLIP_FRAMES": 12, "SIDE": 64, "BENT": 100.0, "STRAIGHT": 140.0, "limbs": limbs, "SEEDS": (0,),
             "models": {0: "m", 1: "n"}, "predict_maps": lambda model, pictures: pictures, "count_repetitions": count}
    space = run_cell(NOTEBOOK, "clip, clip_joints = ", REPETITIONS=2, squat_clip=lesson.squat_clip,
                     joint_angle=lesson.joint_angle, peaks=lambda maps: torch.rand(12, 13, 2), **given)
    assert asked == {(100.0, 140.0), (120.0, 120.0)} and (space["count"], space["naive"]) == (3, 5)
    true = space["mean_angle"](space["clip_joints"], limbs["knees"])
    np.testing.assert_allclose(space["true_knees"], true)
    assert np.abs(space["knees"] - true).max() > 1
    ways = run_cell(NOTEBOOK, "counters, rows = ", CLIPS=4, middle=120.0, peaks=lambda maps: torch.zeros(1),
                    squat_clip=lambda frames, repetitions, rng, side: (None, None),
                    mean_angle=lambda joints, both: asked.add(both), **given)
    assert asked == {(100.0, 140.0), (120.0, 120.0), limbs["knees"]} and len(ways["rows"]) == 16
    wanted = [int(np.random.default_rng(100 + k).integers(2, 10)) for k in range(4)]
    assert min(wanted) >= 2 and ways["counter_table"]["error"].to_dict() == {
        "two thresholds": np.mean([abs(3 - n) for n in wanted]), "one threshold": np.mean([abs(5 - n) for n in wanted])}
    assert ways["counter_table"]["right (%)"]["one threshold"] == 100 * np.mean([n == 5 for n in wanted])


def test_results_are_what_their_names_say():
    ways = {"heat maps, refined": "refined", "heat maps, highest pixel": "highest_pixel", "coordinates": "coordinates",
            "mean pose": "mean_pose"}
    table = pd.DataFrame({"PCK (%)": range(4), "error (pixels)": range(10, 14)}, index=list(ways))
    found = run_cell(NOTEBOOK, "results = {", ours=np.array([0.5, 0.7]), careless=np.array([0.2]),
                     theirs=np.array([0.5]), means=table, angle_errors={"knees": [1, 3], "elbows": [5]}, REPETITIONS=7,
                     count=6, naive=9, counters={"two thresholds": 0, "one threshold": 0}, counter_table=pd.DataFrame(
                         {"right (%)": [80.0, 20]}, index=["two thresholds", "one threshold"]))["results"]
    expected = {f"{name}_{column}": start + k for k, name in enumerate(ways.values())
                for column, start in (("pck_percent", 0), ("error_pixels", 10))}
    expected |= {"oks_of_noisy_joints": 0.6, "oks_with_visibility_ignored": 0.2, "largest_oks_difference": 0.2,
                 "knees_angle_error_degrees": 2, "elbows_angle_error_degrees": 5, "repetitions": 7,
                 "repetitions_counted": 6, "one_threshold_counted": 9, "two_thresholds_right_percent": 80,
                 "one_threshold_right_percent": 20}
    assert found == pytest.approx(expected)
