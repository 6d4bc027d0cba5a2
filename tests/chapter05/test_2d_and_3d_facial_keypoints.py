"""What 2D_and_3D_facial_keypoints.ipynb defines: factorization, alignment, pose, spoiled photos, the second part."""
import sys
import types

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.spatial import procrustes
from scipy.spatial.transform import Rotation

from tests.cells import run_cell
from tests.definitions import definitions

NOTEBOOK = "Chapter05/2D_and_3D_facial_keypoints.ipynb"
lesson = definitions(
    NOTEBOOK, "unit_size", "metric_upgrade", "rotations_of", "factorize", "mirror_depth", "nose_first", "best_fit",
    "angle_between", "camera_for", "head_pose", "yaw_pitch_roll", "rotatable", "synthetic_head", "random_views",
    "recovery_error", "rotate", "blur", "cover", "face_mesh", "nme", "soft_argmax", "load_face")


def body(n=30, seed=0):
    return np.random.default_rng(seed).normal(size=(n, 3))


def views_of(shape, count=40, noise=0.0, seed=0):
    return lesson.random_views(shape, count, noise, np.random.default_rng(seed))


@pytest.mark.parametrize("seed", range(4))
def test_any_rigid_body_comes_back_up_to_scale_and_reflection(seed):
    shape = body(seed=seed)
    turns, views = views_of(shape, seed=seed)
    found, rotations = lesson.factorize(views)
    assert procrustes(shape, found)[2] < 1e-12  # scipy's alignment may reflect
    np.testing.assert_allclose(np.linalg.det(rotations), 1)
    np.testing.assert_allclose(rotations.mean(axis=0), rotations.mean(axis=0).T, atol=1e-8)  # the mean is no turn
    errors = []
    for solid, some in ((found, rotations), lesson.mirror_depth(found, rotations)):
        aligned, between = lesson.best_fit(solid, shape)
        errors.append((np.abs(aligned - shape).max(), lesson.angle_between(some @ between.T, turns).max()))
    assert min(errors) < (1e-6, 1e-4) and min(error[1] for error in errors) < 0.01


def test_scale_and_shift_of_each_frame_do_not_matter():
    shape = body()
    turns, views = views_of(shape)
    changed = views * np.random.default_rng(1).uniform(0.1, 9, (40, 1, 1)) + 100
    np.testing.assert_allclose(lesson.unit_size(changed), lesson.unit_size(views), atol=1e-10)
    np.testing.assert_allclose((lesson.unit_size(views) ** 2).sum(2).mean(1), 1)


def test_motion_after_the_upgrade_has_square_rows_of_equal_length():
    _, views = views_of(body())
    w = lesson.unit_size(views).transpose(0, 2, 1).reshape(-1, 30)
    u, s, _ = np.linalg.svd(w, full_matrices=False)
    motion = (u[:, :3] * np.sqrt(s[:3])).reshape(-1, 2, 3)
    i, j = (motion @ lesson.metric_upgrade(motion)).transpose(1, 0, 2)
    np.testing.assert_allclose((i * j).sum(1), 0, atol=1e-9)
    np.testing.assert_allclose((i**2).sum(1), (j**2).sum(1))


@pytest.mark.parametrize("case", ["planar turns", "one pose"])
def test_views_without_depth_are_refused(case):
    shape = body()
    if case == "planar turns":
        turns = Rotation.from_euler("z", np.linspace(-1, 1, 20)[:, None]).as_matrix()
    else:
        turns = np.repeat(Rotation.from_euler("xyz", [0.1, 0.3, 0.2]).as_matrix()[None], 20, axis=0)
    views = np.einsum("fij,nj->fni", turns[:, :2], shape)
    with pytest.raises((ValueError, np.linalg.LinAlgError)):
        lesson.factorize(views)


def test_the_mirror_has_the_same_views_and_is_a_rotation():
    shape = body()
    turns, _ = views_of(shape)
    other, others = lesson.mirror_depth(shape, turns)
    np.testing.assert_allclose(turns[:, :2] @ shape.T, others[:, :2] @ other.T)
    np.testing.assert_allclose(np.linalg.det(others), 1)
    np.testing.assert_allclose(others @ others.transpose(0, 2, 1), np.eye(3)[None].repeat(40, 0), atol=1e-12)


def face():
    from tests.offline.drawing.faces import landmarks

    flat = landmarks()
    return lesson.synthetic_head((flat - flat[27]) / np.linalg.norm(flat[36] - flat[45]))


def test_the_nose_sticks_out_whatever_the_sign():
    head = face()
    assert head[30, 2] < head[[36, 45], 2].mean()  # toward the camera, which looks along z
    turns, _ = views_of(head)
    for solid, some in ((head, turns), lesson.mirror_depth(head, turns)):
        shape, rotations = lesson.nose_first(solid, some)
        assert shape[30, 2] < shape[[36, 45], 2].mean()
        assert np.linalg.norm(shape[36] - shape[45]) == pytest.approx(1)
        np.testing.assert_allclose(rotations, turns, atol=1e-12)


@pytest.mark.parametrize("d", [2, 3])
def test_best_fit_undoes_a_similarity_and_never_mirrors(d):
    rng = np.random.default_rng(d)
    shape = rng.normal(size=(12, d))
    turn = np.linalg.qr(rng.normal(size=(d, d)))[0]
    turn[:, 0] *= np.linalg.det(turn)
    fit, rotation = lesson.best_fit(shape, 3.3 * shape @ turn.T + 5)
    np.testing.assert_allclose(fit, 3.3 * shape @ turn.T + 5)
    np.testing.assert_allclose(rotation, turn, atol=1e-12)
    mirrored = shape * np.append(np.ones(d - 1), -1)
    fit, rotation = lesson.best_fit(shape, mirrored)
    assert np.linalg.det(rotation) == pytest.approx(1) and np.abs(fit - mirrored).max() > 0.1


def test_angles():
    turns = Rotation.random(50, random_state=0)
    others = Rotation.random(50, random_state=1)
    theirs = np.degrees((turns * others.inv()).magnitude())
    np.testing.assert_allclose(lesson.angle_between(turns.as_matrix(), others.as_matrix()), theirs, atol=1e-6)
    assert lesson.angle_between(np.eye(3), np.eye(3)) == 0


def test_yaw_pitch_and_roll_mean_what_they_say():
    """The nose of a face turned by a positive yaw lies to the right of the eyes' middle, by a positive pitch higher."""
    head = face()
    for axis, sign, k in (("y", -1, 0), ("x", 1, 1)):
        turn = Rotation.from_euler(axis, sign * 25, degrees=True).as_matrix()
        angles = lesson.yaw_pitch_roll(turn)
        moved = head @ turn.T
        offset = moved[30] - moved[[36, 45]].mean(axis=0)
        straight = head[30] - head[[36, 45]].mean(axis=0)
        assert abs(abs(angles[k]) - 25) < 1e-6 and all(abs(angles[m]) < 1e-6 for m in range(3) if m != k)
        direction = offset[k] - straight[k]
        assert np.sign(direction) == (np.sign(angles[k]) if k == 0 else -np.sign(angles[k]))
    assert lesson.yaw_pitch_roll(Rotation.from_euler("z", 20, degrees=True).as_matrix())[2] == pytest.approx(20)


@pytest.mark.parametrize("angles", [(0, 0, 0), (5, 30, -10), (-15, -40, 20)])
def test_the_pose_of_a_projected_head_is_found_within_two_degrees(angles):
    head = face()
    turn = Rotation.from_euler("xyz", angles, degrees=True).as_matrix()
    solid = head @ turn.T + [0.3, -0.2, 34.0]  # 20 widths of about 1.7 eye distances away
    points = 900 * solid[:, :2] / solid[:, 2:] + [120, 140]
    found, landed = lesson.head_pose(head, points, 20.0)
    assert lesson.angle_between(found, turn) < 2
    assert np.linalg.norm(landed - points, axis=1).mean() < 0.02 * np.linalg.norm(points[36] - points[45])
    camera = lesson.camera_for(points, 20.0)
    np.testing.assert_allclose(camera[:2, 2], points.mean(axis=0))
    assert camera[0, 0] == camera[1, 1] == 20 * np.ptp(points[:, 0])


def test_recovery_gets_worse_with_noise_and_says_nan_without_depth():
    head = face()
    errors = [lesson.recovery_error(head, views_of(head, 60, noise)[1]) for noise in (0, 0.02, 0.2)]
    assert errors[0] < 1e-6 < errors[1] < errors[2]
    flat = np.repeat(head[None, :, :2], 10, axis=0)
    assert np.isnan(lesson.recovery_error(head, flat + np.random.default_rng(0).normal(0, 1e-12, flat.shape)))


def test_the_rotatable_picture_holds_all_points_and_asks_nobody():
    text = lesson.rotatable(face(), "a title").data
    assert "a title" in text and "http" not in text and text.count("<script>") == 1
    assert len(text) < 20_000 and text.count("[") > 68


# ---- spoiled photos


def test_spoiling_changes_what_it_says():
    x = torch.randn(3, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    target = 0.3 + 0.4 * torch.rand(3, 68, 2, generator=torch.Generator().manual_seed(1))
    for spoil in (lesson.rotate, lesson.blur, lesson.cover):
        same, points = spoil(x, target, 0)
        torch.testing.assert_close(same, x, atol=1e-4, rtol=0)
        torch.testing.assert_close(points, target)
    moved, points = lesson.rotate(x, target, 90)
    torch.testing.assert_close(points, torch.stack([1 - target[..., 1], target[..., 0]], -1))  # clockwise
    torch.testing.assert_close(moved, x.rot90(-1, (2, 3)), atol=1e-4, rtol=0)
    smooth, points = lesson.blur(x, target, 2)
    assert smooth.std() < 0.5 * x.std() and torch.equal(points, target)
    kept = x.clone()
    hidden, points = lesson.cover(x, target, 0.5)
    assert torch.equal(x, kept) and torch.equal(points, target)
    for k in range(3):
        rows = torch.nonzero((hidden[k] == 0).all(0))[:, 0]
        top, bottom = 64 * target[k, :, 1].min(), 64 * target[k, :, 1].max()
        assert abs(rows.min() - (top + bottom) / 2) < 2 and abs(rows.max() - bottom) < 2


# ---- second part


def test_the_mesh_is_in_pixels_with_depth_on_the_scale_of_x(monkeypatch):
    class Point:
        def __init__(self, x, y, z):
            self.x, self.y, self.z = x, y, z

    class Landmarker:
        faces = [[Point(0.5, 0.25, -0.1)] * 478]

        def __enter__(self):
            return self

        def __exit__(self, *error):
            return None

        def detect(self, image):
            assert image.data.shape == (100, 200, 3)
            return types.SimpleNamespace(face_landmarks=self.faces)

    mp = types.SimpleNamespace(Image=lambda image_format, data: types.SimpleNamespace(data=data),
                               ImageFormat=types.SimpleNamespace(SRGB="srgb"))
    vision = types.SimpleNamespace(
        FaceLandmarkerOptions=lambda base_options, num_faces: (base_options, num_faces),
        FaceLandmarker=types.SimpleNamespace(create_from_options=lambda options: Landmarker()))
    tasks = types.SimpleNamespace(BaseOptions=lambda model_asset_path: model_asset_path)
    for name, module in (("", mp), (".tasks.python", tasks), (".tasks.python.vision", vision)):
        monkeypatch.setitem(sys.modules, f"mediapipe{name}", module)
    asked = []
    monkeypatch.setitem(lesson.face_mesh.__globals__, "hf_hub_download",
                        lambda repository, name, revision: asked.append((repository, name, revision)) or "a path")
    image = np.zeros((100, 200, 3), dtype=np.uint8)
    mesh = lesson.face_mesh(image, "someone/model", "a" * 40)
    assert mesh.shape == (478, 3) and asked == [("someone/model", "face_landmarker.task", "a" * 40)]
    np.testing.assert_allclose(mesh[0], [100, 25, -20])
    monkeypatch.setattr(Landmarker, "faces", [])
    assert lesson.face_mesh(image, "someone/model", "a" * 40).shape == (0, 3)


# ---- which faces go where, and what tables and results say


def test_positions_and_colors_are_those_of_the_lesson_before(tmp_path):
    """x is the column of a heat map, y its row; a frame's red stays red."""
    from PIL import Image

    logits = torch.full((1, 1, 8, 16), -50.0)
    logits[0, 0, 2, 11] = 50
    torch.testing.assert_close(lesson.soft_argmax(logits)[0, 0], torch.tensor([11.5 / 16, 2.5 / 8]))
    Image.new("RGBA", (60, 40), (250, 100, 10, 255)).save(tmp_path / "a.png")
    image, points = lesson.load_face(tmp_path / "a.png", np.full((68, 2), 20.0), 16, 1.0, 0.5)
    assert image[:, 8, 8].tolist() == [250, 100, 10] and points[0].tolist() == [0.25, 0.5]


PEOPLE = np.array(["a", "a", "b", "b", "c", "c", "d", "d"])


def test_the_shape_comes_from_half_of_the_people():
    given = []
    run_cell(NOTEBOOK, "half = np.isin(people", people=PEOPLE, names=np.unique(PEOPLE), points=np.arange(8),
             factorize=lambda some: given.append(some) or (np.zeros((68, 3)), 0),
             nose_first=lambda shape, turns: (shape, 0))
    assert len(set(PEOPLE[given[0]])) == 2 and len(given[0]) == 4, "whole people"


def test_poses_and_both_fits_are_of_the_other_half():
    half = np.array([True, True, False, False])
    shape, points, asked = np.arange(204.0).reshape(68, 3), np.arange(4), []
    found = run_cell(
        NOTEBOOK, "unseen = np.flatnonzero", half=half, shape=shape, points=points, DISTANCE=20,
        head_pose=lambda solid, seen, distance: (np.full((3, 3), seen), solid + seen),
        best_fit=lambda flat, seen: asked.append(flat) or (flat + seen, 0), yaw_pitch_roll=lambda poses: (poses, 0, 0))
    assert found["unseen"].tolist() == [2, 3] and found["poses"][:, 0, 0].tolist() == [2, 3]
    np.testing.assert_array_equal(found["fits"][1], shape + 3)
    np.testing.assert_array_equal(found["flat_fits"][0], shape[:, :2] + 2)  # x and y, what a picture shows


def test_errors_by_yaw_stand_in_their_columns():
    """Two heads turned by 5 and 25 degrees; the solid face is off by 0.1 eye distances, the flat one by 0.4."""
    points = np.random.default_rng(0).normal(size=(4, 68, 2))
    points[:, 36], points[:, 45] = [0, 0], [0, 2]
    unseen = np.array([1, 3])
    found = run_cell(NOTEBOOK, "by_yaw = pd.DataFrame", points=points, unseen=unseen, yaw=np.array([5.0, -25]),
                     pitch=np.array([45.0, 45]), roll=np.array([0.0, 0]), fits=points[unseen] + [0.2, 0],
                     flat_fits=points[unseen] + [0, 0.8])
    assert found["by_yaw"]["3-D face"].tolist() == pytest.approx([10, 10])
    assert found["by_yaw"]["flat face"].tolist() == pytest.approx([40, 40])
    assert found["by_yaw"].index.tolist() == ["0–10°", "20–30°"] and found["by_yaw"]["frames"].tolist() == [1, 1]


def test_networks_learn_from_the_people_of_the_shape_and_are_tested_on_others(tmp_path):
    (tmp_path / "training").mkdir()
    names = [f"{person}_{k}.jpg" for k, person in enumerate(PEOPLE)]
    for name in names[1:]:  # one is not at hand
        (tmp_path / "training" / name).touch()
    asked = []
    found = run_cell(
        NOTEBOOK, "photos = table[[", folder=tmp_path, table=pd.DataFrame({"x": range(8)}, index=names), people=PEOPLE,
        half=np.isin(PEOPLE, ["b", "d"]), SIDE=8, ZOOM=1, CENTER=0.5, SEEDS=(0, 1), WIDTH=4, STEPS=1, BATCH_SIZE=1,
        LEARNING_RATE=1, person_of=lambda name: name.partition("_")[0], augment_faces=None,
        load_faces=lambda folder, some, *_: (torch.arange(len(some)), torch.arange(len(some))),
        HeatMapNet=lambda keypoints, width: torch.nn.Identity(),
        train_points=lambda model, images, points, rows, test, *_: asked.append((rows.tolist(), test.tolist())))
    assert asked == 2 * [([1, 2, 5, 6], [0, 3, 4])] and found["test"].tolist() == [0, 3, 4]


def test_results_are_taken_from_where_they_belong():
    shape = np.zeros((68, 3))
    shape[30, 2], shape[[36, 45], 2] = -0.5, 0.25
    clean = pd.DataFrame({"NME (%)": [10.0, 12], "pose error (degrees)": [3.0, 5]})
    found = run_cell(
        NOTEBOOK, '"straight_ahead_pose_error_degrees"', shape_error=np.array([1.0, 2]),
        pose_error=np.array([0.5, 1.5]), solid_error=np.array([6.0, 8]), flat_error=np.array([16.0, 18]),
        halves=np.array([3.0, 4]), shape=shape,
        clean=clean, ahead=20.0, points=range(9))["results"]
    assert found == pytest.approx({
        "synthetic_shape_error_percent": 1.5, "synthetic_pose_error_degrees": 1.5, "reprojection_error_percent": 7,
        "flat_face_error_percent": 17, "halves_differ_percent": 3.5, "nose_in_front_of_eyes": 0.75,
        "network_nme_percent": 11, "network_pose_error_degrees": 4, "straight_ahead_pose_error_degrees": 20,
        "frames": 9})
