"""What Facial_keypoints_detection.ipynb defines: reading faces, the split, positions from maps, moving points, NME."""
import ast
import io
import zipfile

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms import v2

from tests.cells import run_cell
from tests.definitions import definitions
from tests.notebooks import ROOT, code_cells, read

NOTEBOOK = "Chapter05/Facial_keypoints_detection.ipynb"
lesson = definitions(
    NOTEBOOK, "keypoint_folder", "person_of", "face_square", "load_face", "split_by_person", "CoordinateNet",
    "soft_argmax", "HeatMapNet", "nme", "locate", "train_points", "affine_points", "affine_images", "swap_sides",
    "augment_faces", "multiplications", "URL", "REGIONS")
quickly = settings(deadline=None, derandomize=True, max_examples=30)


def flip_order():
    """FLIP, which a loop makes: run the cell's statements about it."""
    cell = next(cell.source for cell in code_cells(read(ROOT / NOTEBOOK)) if "LEFT_RIGHT = (" in cell.source)
    scope = {}
    for node in ast.parse(cell).body:
        if {"LEFT_RIGHT", "FLIP"} & {name.id for name in ast.walk(node) if isinstance(name, ast.Name)}:
            if "augment_faces" not in ast.unparse(node):
                exec(ast.unparse(node), scope)
    return scope["FLIP"]


FLIP = flip_order()


# ---- files


def test_the_archive_is_unpacked_whole_or_not_at_all(tmp_path, monkeypatch):
    scope = lesson.keypoint_folder.__globals__
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    name = f"P1_Facial_Keypoints-{lesson.URL.rpartition('/')[2].removesuffix('.zip')}"

    def broken(url, root, filename):
        (tmp_path / "datasets").joinpath(root, name, "data").mkdir(parents=True)
        raise zipfile.BadZipFile("half a file")

    monkeypatch.setitem(scope, "download_and_extract_archive", broken)
    with pytest.raises(RuntimeError, match="could not be downloaded"):
        lesson.keypoint_folder(lesson.URL)
    assert not list((tmp_path / "datasets").iterdir()), "a part is left, which the next run would take for the whole"

    calls = []

    def works(url, root, filename):
        calls.append(url)
        (tmp_path / "datasets").joinpath(root, name, "data").mkdir(parents=True)

    monkeypatch.setitem(scope, "download_and_extract_archive", works)
    folder = lesson.keypoint_folder(lesson.URL)
    assert folder.is_dir() and folder == lesson.keypoint_folder(lesson.URL) and calls == [lesson.URL]


@quickly
@given(st.integers(1, 600), st.integers(1, 600), st.floats(0.1, 1), st.floats(0, 1))
def test_the_square_lies_inside(width, height, zoom, center):
    left, top, side = lesson.face_square(width, height, zoom, center)
    assert left >= 0 and top >= 0 and left + side <= width + 1e-9 and top + side <= height + 1e-9
    assert side == zoom * min(width, height) and left + side / 2 == pytest.approx(width / 2)


@pytest.mark.parametrize("size", [(120, 160), (160, 120), (100, 100)])
def test_a_transparent_frame_becomes_rgb_and_points_stay_where_they_were(tmp_path, size):
    pixels = np.zeros((size[1], size[0], 4), dtype=np.uint8)
    pixels[..., 3] = 255
    x, y = size[0] // 2 + 7, size[1] // 2 - 11
    pixels[y - 2 : y + 3, x - 2 : x + 3, 0] = 255  # a red spot on an opaque ground
    Image.fromarray(pixels).save(tmp_path / "a.jpg", "PNG")
    image, points = lesson.load_face(tmp_path / "a.jpg", np.tile([x + 0.5, y + 0.5], (68, 1)), 64, 0.8, 0.54)
    assert image.shape == (3, 64, 64) and image.dtype == torch.uint8 and image[1:].max() == 0
    mass = image[0].double() / image[0].sum()
    grid = (torch.arange(64) + 0.5) / 64
    found = torch.stack([(mass.sum(0) * grid).sum(), (mass.sum(1) * grid).sum()])
    torch.testing.assert_close(found, points[0].double(), atol=0.01, rtol=0)


# ---- people


def test_the_person_is_the_name_without_clip_and_frame():
    assert lesson.person_of("Catriona_Le_May_Doan_10.jpg") == "Catriona_Le_May_Doan"


@quickly
@given(st.lists(st.integers(0, 40), min_size=1, max_size=150), st.integers(0, 5))
def test_nobody_is_on_two_sides(numbers, seed):
    people = np.array([f"p{number}" for number in numbers])
    parts = lesson.split_by_person(people, 0.55, 0.15, seed)
    assert list(parts) == ["train", "val", "test"]
    assert sorted(torch.cat(list(parts.values())).tolist()) == list(range(len(people)))
    groups = [set(people[rows.numpy()]) for rows in parts.values()]
    assert sum(map(len, groups)) == len(set(numbers)), "a person is in two parts"
    assert abs(len(groups[0]) - 0.55 * len(set(numbers))) <= 0.5


# ---- positions


@pytest.mark.parametrize("shape", [(16, 16), (8, 24), (1, 1)])
def test_soft_argmax_of_a_sharp_peak_is_its_cell_and_x_is_the_column(shape):
    h, w = shape
    for row, column in [(0, 0), (h - 1, w - 1), (h // 2, w // 3)]:
        logits = torch.full((1, 1, h, w), -50.0)
        logits[0, 0, row, column] = 50
        x, y = lesson.soft_argmax(logits)[0, 0].tolist()
        assert x == pytest.approx((column + 0.5) / w) and y == pytest.approx((row + 0.5) / h)


def test_soft_argmax_is_an_expectation_for_any_logits_and_has_its_gradient():
    logits = 5 * torch.randn(2, 3, 5, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    p = logits.flatten(2).softmax(2).view_as(logits)
    found = lesson.soft_argmax(logits)
    for b, k in np.ndindex(2, 3):
        x = sum(p[b, k, i, j] * (j + 0.5) / 7 for i in range(5) for j in range(7))
        y = sum(p[b, k, i, j] * (i + 0.5) / 5 for i in range(5) for j in range(7))
        torch.testing.assert_close(found[b, k], torch.stack([x, y]), atol=1e-6, rtol=0)
    huge = lesson.soft_argmax(1e30 * logits)
    assert huge.isfinite().all()
    torch.testing.assert_close(lesson.soft_argmax(torch.zeros(1, 1, 4, 4)), torch.full((1, 1, 2), 0.5))


def test_networks_give_points_and_the_coordinates_start_near_the_mean_face():
    face = torch.rand(68, 2, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    coordinates, maps = lesson.CoordinateNet(face, 64, 8).eval(), lesson.HeatMapNet(68, 8).eval()
    x = torch.randn(3, 3, 64, 64)
    assert coordinates(x).shape == maps(x).shape == (3, 68, 2)
    assert (coordinates(x) - face).abs().mean() < 0.1
    assert maps.heat_maps(x).shape == (3, 68, 16, 16)
    assert ((maps(x) > 0) & (maps(x) < 1)).all()


def test_cost_counts_a_multiplication_once():
    assert lesson.multiplications(torch.nn.Conv2d(3, 5, 3, padding=1, bias=False), 10) == pytest.approx(
        3 * 5 * 9 * 100 / 1e6)


# ---- errors


def test_nme_is_the_distance_in_eye_distances_and_does_not_depend_on_scale():
    points = torch.rand(4, 68, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    wrong = points + torch.tensor([3.0, 4.0])
    eyes = ((points[:, 36] - points[:, 45]) ** 2).sum(1).sqrt()
    error = lesson.nme(wrong, points)
    assert error.shape == (4, 68)
    torch.testing.assert_close(error, (5 / eyes)[:, None].expand(-1, 68))
    torch.testing.assert_close(lesson.nme(7 * wrong + 2, 7 * points + 2), error)
    assert lesson.nme(points, points).abs().max() == 0


# ---- moving


def matrices(n, seed=0):
    generator = torch.Generator().manual_seed(seed)
    angle = torch.rand(n, generator=generator, dtype=torch.float64) * 2 - 1
    scale = 0.8 + 0.4 * torch.rand(n, generator=generator, dtype=torch.float64)
    rows = [scale * angle.cos(), -scale * angle.sin(), scale * angle.sin(), scale * angle.cos()]
    shift = 0.2 * torch.rand(n, 2, generator=generator, dtype=torch.float64) - 0.1
    return torch.stack(rows, 1).view(-1, 2, 2), shift, angle, scale


def test_images_and_points_move_alike():
    """A soft spot at the point moves to where the point goes: also with shift, and in images that are not symmetric."""
    matrix, shift, _, _ = matrices(12)
    point = torch.tensor([[0.62, 0.41]], dtype=torch.float64).expand(12, 1, 2)
    grid = (torch.arange(64, dtype=torch.float64) + 0.5) / 64
    spot = torch.exp(-((grid[None] - 0.62) ** 2 + (grid[:, None] - 0.41) ** 2) / 0.002).expand(12, 1, 64, 64)
    moved, target = lesson.affine_images(spot, matrix, shift), lesson.affine_points(point, matrix, shift)
    mass = moved[:, 0] / moved[:, 0].sum((1, 2), keepdim=True)
    found = torch.stack([(mass.sum(1) * grid).sum(1), (mass.sum(2) * grid).sum(1)], 1)
    torch.testing.assert_close(found, target[:, 0], atol=2e-3, rtol=0)


def test_the_same_movement_as_torchvision():
    """A turn by its own affine transform: clockwise angles in degrees, shift in pixels."""
    matrix, shift, angle, scale = matrices(4, seed=3)
    image = F.avg_pool2d(torch.rand(4, 1, 40, 40, dtype=torch.float64), 5, 1, 2)
    ours = lesson.affine_images(image, matrix, shift)
    for k in range(4):
        theirs = v2.functional.affine(
            image[k], angle=float(angle[k].rad2deg()), translate=(40 * shift[k]).tolist(), scale=float(scale[k]),
            shear=[0.0, 0.0], interpolation=v2.InterpolationMode.BILINEAR)
        torch.testing.assert_close(ours[k, :, 12:28, 12:28], theirs[:, 12:28, 12:28], atol=1e-5, rtol=0)


def test_identity_changes_nothing():
    image, points = torch.rand(2, 3, 16, 16), torch.rand(2, 68, 2)
    eye, none = torch.eye(2).expand(2, 2, 2), torch.zeros(2, 2)
    torch.testing.assert_close(lesson.affine_images(image, eye, none), image)
    torch.testing.assert_close(lesson.affine_points(points, eye, none), points)


def test_names_are_swapped_in_pairs_of_the_same_region():
    assert sorted(FLIP) == list(range(68)) and [FLIP[k] for k in FLIP] == list(range(68))
    middle = [k for k in range(68) if FLIP[k] == k]
    assert middle == [8, 27, 28, 29, 30, 33, 51, 57, 62, 66]
    assert FLIP[36] == 45 and FLIP[39] == 42 and FLIP[41] == 46 and FLIP[48] == 54 and FLIP[0] == 16
    for first, last in ((0, 17), (17, 27), (27, 36), (36, 48), (48, 60), (60, 68)):
        assert {FLIP[k] for k in range(first, last)} == set(range(first, last))


def test_a_drawn_symmetric_face_is_its_own_mirror_image():
    from tests.offline.drawing.faces import landmarks

    face = torch.from_numpy(landmarks()).float()
    face[27:31, 0] = 0.5  # the drawn bridge of the nose leans a little
    mirrored = lesson.affine_points(face[None], torch.tensor([[[-1.0, 0], [0, 1]]]), torch.zeros(1, 2))
    eyes = [*range(0, 17), *range(27, 48), 48, 54]
    torch.testing.assert_close(lesson.swap_sides(mirrored, FLIP)[0, eyes], face[eyes], atol=0.03, rtol=0)


def augmented(images, points, seed=0, **changes):
    options = {"rotation": 20, "scale": 1.2, "shift": 0.08, "light": 0.3, "order": FLIP} | changes
    return lesson.augment_faces(images, points, torch.Generator().manual_seed(seed), **options)


def test_augmentation_is_drawn_for_each_face_keeps_its_input_and_can_be_repeated():
    images, points = torch.rand(20, 3, 32, 32), torch.rand(20, 68, 2)
    kept = images.clone(), points.clone()
    one, two, other = augmented(images, points), augmented(images, points), augmented(images, points, seed=1)
    assert torch.equal(images, kept[0]) and torch.equal(points, kept[1])
    assert all(torch.equal(a, b) for a, b in zip(one, two)) and not torch.equal(one[1], other[1])
    same = augmented(images[:1].expand(20, -1, -1, -1), points[:1].expand(20, -1, -1))
    assert same[1].flatten(1).unique(dim=0).shape[0] == 20


def test_without_strength_only_mirroring_is_left_and_it_swaps_the_names():
    images, points = torch.rand(40, 3, 32, 32), torch.rand(40, 68, 2)
    moved, target = augmented(images, points, rotation=0, scale=1.0, shift=0, light=0)
    mirrored = (moved - images.flip(3)).abs().amax((1, 2, 3)) < 1e-5
    assert 8 < mirrored.sum() < 32
    torch.testing.assert_close(moved[~mirrored], images[~mirrored], atol=1e-5, rtol=0)
    torch.testing.assert_close(target[~mirrored], points[~mirrored])
    expected = (torch.tensor([1.0, 0]) + torch.tensor([-1.0, 1]) * points)[:, FLIP]
    torch.testing.assert_close(target[mirrored], expected[mirrored])


# ---- training


def test_training_learns_uses_only_its_rows_and_looks_at_validation_in_evaluation_mode():
    torch.manual_seed(0)
    images = torch.randint(0, 256, (24, 3, 32, 32), dtype=torch.uint8)
    points = torch.rand(24, 68, 2)
    points[:, 36], points[:, 45] = torch.tensor([0.2, 0.4]), torch.tensor([0.8, 0.4])
    rows, val, seen = torch.arange(12), torch.arange(12, 24), []

    def change(x, target, generator):
        assert isinstance(generator, torch.Generator)
        seen.extend(tuple(one.flatten()[:4].tolist()) for one in target)
        return x, target

    model = lesson.HeatMapNet(68, 4)
    before = lesson.nme(lesson.locate(model, images, rows), points[rows]).mean()
    log = lesson.train_points(model, images, points, rows, val, 30, 6, 1e-2, 0, change, 10)
    assert [row["step"] for row in log] == [10, 20, 30]
    allowed = {tuple(one.flatten()[:4].tolist()) for one in points[rows]}
    assert set(seen) == allowed and len(seen) == 180
    assert lesson.nme(lesson.locate(model, images, rows), points[rows]).mean() < before
    on_val = 100 * lesson.nme(lesson.locate(model, images, val), points[val]).mean().item()
    assert log[-1]["nme"] == pytest.approx(on_val)
    model.train()
    whole, parts = (lesson.locate(model, images, val, size) for size in (12, 5))
    torch.testing.assert_close(whole, parts)
    assert not model.training


def test_show_as_jpeg_is_not_needed_to_read_a_frame():
    """A real JPEG, without transparency, is read as well."""
    file = io.BytesIO()
    Image.new("RGB", (90, 120), (10, 200, 30)).save(file, "JPEG")
    file.seek(0)
    image, _ = lesson.load_face(file, np.zeros((68, 2)), 32, 0.8, 0.54)
    assert image[1].float().mean() > 150


# ---- which faces go where, and what tables, figures and results say


PARTS = {"train": torch.arange(0, 6), "val": torch.arange(6, 9), "test": torch.arange(9, 12)}


def numbered_points():
    """Points (12, 68, 2) of twelve faces: those of face n are all n."""
    return torch.arange(12.0)[:, None, None].expand(12, 68, 2)


def test_the_baseline_knows_training_faces_only_and_the_first_network_too(monkeypatch):
    asked = []
    found = run_cell(
        NOTEBOOK, "mean_face = points[parts", points=numbered_points(), images="images", parts=PARTS, device="cpu",
        augment_faces=lesson.augment_faces, ROTATION=20, SCALE=1.2, SHIFT=0.1, LIGHT=0.3, SEEDS=(5,), WIDTH=4, STEPS=1,
        BATCH_SIZE=1, LEARNING_RATE=1, EVERY=1, HeatMapNet=lesson.HeatMapNet, nme=lambda found, truth: found - truth,
        train_points=lambda model, images, points, rows, val, *rest: asked.append((rows.tolist(), val.tolist())),
        locate=lambda model, images, rows: numbered_points()[rows] + 0.25)
    assert found["mean_face"].unique().tolist() == [2.5] and asked == [([0, 1, 2, 3, 4, 5], [6, 7, 8])]
    assert found["first_nme"] == pytest.approx(25)


def test_regions_are_those_of_the_annotation():
    members = [list(some) for some in lesson.REGIONS.values()]
    assert list(lesson.REGIONS) == ["jaw", "brows", "nose", "eyes", "mouth"]
    assert sum(members, []) == list(range(68)) and [len(some) for some in members] == [17, 10, 9, 12, 20]


def test_known_people_are_counted_among_those_held_out(tmp_path):
    """All frames of a person but one: dealt out, nearly every test frame shows somebody known."""
    names = [f"{person}_{frame}0.jpg" for person in ("A_B", "C", "D") for frame in range(10)] + [
        f"once{k}_00.jpg" for k in range(30)]
    for file, some in (("training", names), ("test", ["A_B_99.jpg", "Nobody_00.jpg"])):
        pd.DataFrame({"frame": some, "0": 0}).to_csv(tmp_path / f"{file}_frames_keypoints.csv", index=False)
    found = run_cell(NOTEBOOK, "known = every[order[cut:]]", folder=tmp_path, person_of=lesson.person_of,
                     TRAIN_SHARE=0.55, VALIDATION_SHARE=0.15)
    people = np.array([lesson.person_of(name) for name in names])
    order = np.random.default_rng(0).permutation(60)
    train, test = people[order[:42]], people[order[42:]]
    assert found["known"] == pytest.approx(np.mean([person in train for person in test]))


def test_every_run_learns_from_training_faces_with_the_change_that_its_name_says():
    asked = []

    def train_points(network, images, points, rows, val, steps, batch_size, rate, seed, change, every):
        asked.append((network, rows.tolist(), val.tolist(), seed, change))
        return [{"step": steps, "nme": 0.0}]

    found = run_cell(
        NOTEBOOK, "networks[kind, change, seed] = new_network", SEEDS=(3, 4), costs={"coordinates": 0, "heat maps": 0},
        as_stored="no change", augmented="a change", images=0, points=0, parts=PARTS, mean_face=0, wide=7, STEPS=9,
        BATCH_SIZE=1, LEARNING_RATE=1, EVERY=1, train_points=train_points,
        new_network=lambda kind, seed, mean_face, width: (kind, seed, width))
    assert all(rows == [0, 1, 2, 3, 4, 5] and val == [6, 7, 8] for _, rows, val, *_ in asked)
    for (kind, _, seed), network in found["networks"].items():
        assert network == (kind, seed, 7)
    expected = {(kind, change, seed) for kind in ("coordinates", "heat maps") for change in ("as stored", "augmented")
                for seed in (3, 4)}
    assert set(found["networks"]) == expected == set(
        found["history"][["kind", "change", "seed"]].itertuples(index=False, name=None))
    rows = found["history"].to_dict("records")
    assert all((call[4] == "a change") == (row["change"] == "augmented") and call[3] == row["seed"]
               for call, row in zip(asked, rows, strict=True))


LAST = pd.Series({(kind, change, seed): base + seed for (kind, change), base in {
    ("coordinates", "as stored"): 30.0, ("coordinates", "augmented"): 18.0, ("heat maps", "as stored"): 29.0,
    ("heat maps", "augmented"): 15.0}.items() for seed in (0, 1)}).rename_axis(["kind", "change", "seed"])


def test_differences_are_what_their_names_say():
    pairs = run_cell(NOTEBOOK, "pairs = {", last=LAST, means=LAST.groupby(["kind", "change"]).mean(), SEEDS=(0, 1),
                     costs={"coordinates": 0, "heat maps": 0}, changes={"as stored": 0, "augmented": 0})["pairs"]
    assert {name: difference.tolist() for name, difference in pairs.items()} == {
        "heat maps minus coordinates, augmented": [-3, -3], "augmented minus as stored, coordinates": [-12, -12],
        "augmented minus as stored, heat maps": [-14, -14]}


def test_test_errors_are_of_test_faces_of_the_best_change_and_of_each_region():
    """Network k errs at point p by k (p + 1) / 100."""
    def locate(network, images, rows):
        assert rows.tolist() == [9, 10, 11]
        return network

    networks = {(kind, change, seed): (1 + (kind == "coordinates")) * (1 if change == "augmented" else 9)
                for kind, change, seed in LAST.index}
    found = run_cell(
        NOTEBOOK, "best_kind, best_change = means", means=LAST.groupby(["kind", "change"]).mean(), parts=PARTS,
        costs={"coordinates": 0, "heat maps": 0}, networks=networks, SEEDS=(0, 1), images=None,
        points=numbered_points(), mean_face=torch.zeros(68, 2), REGIONS=lesson.REGIONS, locate=locate,
        nme=lambda k, points: (k if isinstance(k, int) else 5) * (torch.arange(68.0)[None] + 1).expand(3, -1) / 100)
    assert (found["best_kind"], found["best_change"]) == ("heat maps", "augmented")
    for name, k in (("heat maps", 1), ("coordinates", 2), ("mean face", 5)):
        for region, (first, last) in {"all": (0, 68), "jaw": (0, 17), "eyes": (36, 48), "mouth": (48, 68)}.items():
            expected = k * np.arange(first + 1, last + 1).mean()
            assert found["by_region"].loc[region, name] == pytest.approx(expected, rel=1e-5)


def test_pck_rises_from_none_to_all():
    errors = {"heat maps": torch.full((1, 2, 68), 0.1), "coordinates": torch.full((1, 2, 68), 0.2),
              "mean face": torch.full((1, 2, 68), 0.9)}
    table = pd.DataFrame({name: {"all": 1.0, "jaw": 2.0, "eyes": 3.0} for name in errors})
    found = run_cell(NOTEBOOK, "pck = {name", errors=errors, by_region=table)
    lines = {line.get_label(): line.get_xydata() for line in found["axes"][0].lines}
    for name, step in (("heat maps", 10), ("coordinates", 20), ("mean face", 41)):
        assert [y for x, y in lines[name]] == [float(x > step + 0.1) for x, y in lines[name]]


def test_results_are_taken_from_where_they_belong():
    errors = {"heat maps": torch.stack([torch.full((2, 68), 0.05), torch.full((2, 68), 0.15)])}
    table = pd.DataFrame({"heat maps": {"all": 10.0, "eyes": 1.0}, "coordinates": {"all": 12.0, "eyes": 2.0}})
    pairs = {name: pd.Series([value]) for name, value in (
        ("heat maps minus coordinates, augmented", -3.0), ("augmented minus as stored, coordinates", -12.0),
        ("augmented minus as stored, heat maps", -14.0))}
    found = run_cell(NOTEBOOK, '"test_pck_10_percent"', by_region=table, best_kind="heat maps", errors=errors,
                     SEEDS=(0, 1), mean_nme=30.0, pairs=pairs, table=range(7))["results"]
    assert found == pytest.approx({
        "test_nme_percent": 10, "test_nme_std_points": 100 * 0.1 / 2**0.5, "test_nme_other_kind_percent": 12,
        "mean_face_nme_percent": 30, "heat_maps_minus_coordinates_points": -3, "augmentation_coordinates_points": -12,
        "augmentation_heat_maps_points": -14, "test_pck_10_percent": 50, "frames": 7}, rel=1e-5)


def test_frames_that_are_at_hand_are_parted_by_person(tmp_path):
    """Every fourth of forty frames is missing; the people have four frames each, in clips of their own."""
    (tmp_path / "training").mkdir()
    names = [f"Person_{k // 4}_{k % 4}{k}.jpg" for k in range(40)]
    for name in names[1:]:
        if int(name.split("_")[2][1:-4]) % 4:
            (tmp_path / "training" / name).touch()
    pd.DataFrame({str(k): range(40) for k in range(136)}, index=names).to_csv(
        tmp_path / "training_frames_keypoints.csv")
    found = run_cell(
        NOTEBOOK, "parts = {part: rows.to(device)", keypoint_folder=lambda url: tmp_path, URL="", SIDE=8, ZOOM=1,
        CENTER=0.5,
        device=torch.device("cpu"), TRAIN_SHARE=0.5, VALIDATION_SHARE=0.2, person_of=lesson.person_of,
        split_by_person=lesson.split_by_person,
        load_faces=lambda folder, table, *_: (torch.zeros(len(table), 3, 8, 8), torch.zeros(len(table), 68, 2)))
    assert found["labeled"] == 40 and len(found["table"]) == len(found["images"]) == 30
    people = {part: {names[int(found["table"].iloc[row, 0])].rpartition("_")[0] for row in rows.tolist()}
              for part, rows in found["parts"].items()}
    assert sorted(torch.cat(list(found["parts"].values())).tolist()) == list(range(30))
    assert [len(some) for some in people.values()] == [5, 2, 3] and len(set.union(*people.values())) == 10
