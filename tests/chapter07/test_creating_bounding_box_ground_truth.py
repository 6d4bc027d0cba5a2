"""What Creating_bounding_box_ground_truth.ipynb defines: files of boxes, the audit, photos of the same cells."""
import io
import json
import re
import shutil
import zipfile
from pathlib import Path
from urllib.error import URLError
from urllib.parse import urlparse
from urllib.request import url2pathname
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pycocotools.coco import COCO
from torchvision import ops
from torchvision.datasets import VOCDetection
from torchvision.datasets.utils import extract_archive

from tests.cells import run_cell
from tests.definitions import definitions

CLASSES = ("Platelets", "RBC", "WBC")
WIDTH, HEIGHT = 640, 480
KINDS = ["outside", "no area", "swapped corners", "duplicate", "unknown name", "wrong class"]
lesson = definitions(
    "Chapter07/Creating_bounding_box_ground_truth.ipynb", "bccd_folder", "read_voc", "read_pixels", "write_yolo",
    "read_yolo", "write_coco", "read_coco", "write_voc", "around", "box_table", "duplicates", "size_evidence", "audit",
    "plant", "best_shift", "gray_photo", "agreement", "SAME_FIELD")  # fmt: skip
quickly = settings(deadline=None, derandomize=True, max_examples=40)
pixels = st.integers(-50, 700)
corner_boxes = st.lists(st.tuples(pixels, pixels, pixels, pixels), max_size=6)


def labeled(rows, seed=0):
    """Boxes (k, 4) of tuples, and as many labels."""
    boxes = torch.tensor(rows, dtype=torch.float32).view(-1, 4)
    return boxes, torch.randint(1, 4, (len(boxes),), generator=torch.Generator().manual_seed(seed))


def cells(n=400, seed=0):
    """A table of n cells in 40 photos, of the three sizes, none of which is a fault."""
    rng = np.random.default_rng(seed)
    rows = []
    for k in range(n):
        name = CLASSES[rng.choice(3, p=(0.2, 0.6, 0.2))]
        side = {"Platelets": 35, "RBC": 100, "WBC": 200}[name] * rng.uniform(0.9, 1.1, 2)
        x, y = 10 + (k % 10) * 40, 10 + rng.integers(0, 200)  # neighbors are 40 pixels apart
        rows.append((f"BloodImage_{k // 10:05d}", name, float(x), float(y), float(x + round(side[0])),
                     float(y + round(side[1]))))
    return pd.DataFrame(rows, columns=["photo", "name", "x0", "y0", "x1", "y1"])


# ---- the download


def unpacked(url, root, filename):
    """What torchvision's download_and_extract_archive does, for the address of a file."""
    path = Path(url2pathname(urlparse(url).path))
    if not path.exists():
        raise URLError(url)
    extract_archive(shutil.copy(path, Path(root) / filename), root)


@pytest.fixture
def files_alone(monkeypatch):
    """Archives come from this machine's files."""
    monkeypatch.setitem(lesson.bccd_folder.__globals__, "download_and_extract_archive", unpacked)


def test_the_archive_is_fetched_once_and_may_have_either_layout(tmp_path, monkeypatch, files_alone):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    commit = "a" * 40
    path = tmp_path / f"{commit}.zip"
    for top in ("BCCD/", ""):
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr(f"BCCD_Dataset-{commit}/{top}Annotations/BloodImage_00000.xml", "<annotation/>")
        folder = lesson.bccd_folder(path.as_uri())
        assert (folder / "Annotations/BloodImage_00000.xml").exists()
        path.unlink()
        assert lesson.bccd_folder(path.as_uri()) == folder  # nothing is asked again
        (folder / "Annotations/BloodImage_00000.xml").unlink()
        for part in sorted((tmp_path / "hub/datasets").rglob("*"), reverse=True):
            part.rmdir()


@pytest.mark.parametrize("broken", ["url", "archive", "layout"])
def test_of_a_failed_download_nothing_is_left(tmp_path, monkeypatch, files_alone, broken):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    path = tmp_path / f"{'b' * 40}.zip"
    if broken == "archive":
        path.write_bytes(b"no zip")
    elif broken == "layout":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("elsewhere/file.txt", "")
    error = FileNotFoundError if broken == "layout" else RuntimeError
    with pytest.raises(error, match=None if broken == "layout" else re.escape(path.as_uri())):
        lesson.bccd_folder(path.as_uri())
    assert list((tmp_path / "hub/datasets").iterdir()) == []


# ---- files


@quickly
@given(corner_boxes)
def test_voc_is_written_and_read_as_torchvision_reads_it(rows):
    boxes, labels = labeled(rows)
    text = lesson.write_voc("photo", boxes, labels, CLASSES, WIDTH, HEIGHT)
    again, names = lesson.read_voc(io.StringIO(text), CLASSES)
    assert torch.equal(again, boxes) and torch.equal(names, labels) and names.dtype == torch.int64
    parsed = VOCDetection.parse_voc_xml(ElementTree.fromstring(text))["annotation"]
    assert parsed["size"] == {"width": "640", "height": "480", "depth": "3"}
    for one, box, label in zip(parsed.get("object", []), boxes.tolist(), labels.tolist(), strict=True):
        assert one["name"] == CLASSES[label - 1]
        assert [float(one["bndbox"][side]) for side in ("xmin", "ymin", "xmax", "ymax")] == box


def test_voc_keeps_faults_and_refuses_unknown_names():
    corners = "<bndbox><xmin>5</xmin><ymin>9</ymin><xmax>2</xmax><ymax>9</ymax></bndbox>"
    text = f"<a><object><name>rbc </name>{corners}</object></a>"
    with pytest.raises(ValueError):
        lesson.read_voc(io.StringIO(text), CLASSES)
    boxes, _ = lesson.read_voc(io.StringIO(text.replace("rbc ", "RBC")), CLASSES)
    assert boxes.tolist() == [[5, 9, 2, 9]]


@quickly
@given(corner_boxes, st.integers(2, 8))
def test_yolo_comes_back_within_the_decimals(rows, decimals):
    boxes, labels = labeled(rows)
    text = lesson.write_yolo(boxes, labels, WIDTH, HEIGHT, decimals)
    again, names = lesson.read_yolo(text, WIDTH, HEIGHT)
    assert torch.equal(names, labels) and again.shape == boxes.shape
    assert (again - boxes).abs().max().item() <= WIDTH * 10.0**-decimals + 1e-3 if len(boxes) else text == ""
    for line, box, label in zip(text.splitlines(), boxes, labels.tolist(), strict=True):
        first, *rest = line.split()
        assert int(first) == label - 1
        wanted = ops.box_convert(box, "xyxy", "cxcywh") / torch.tensor([WIDTH, HEIGHT, WIDTH, HEIGHT])
        torch.testing.assert_close(torch.tensor([float(value) for value in rest]), wanted, rtol=0, atol=10.0**-decimals)


@quickly
@given(st.lists(corner_boxes, min_size=1, max_size=4))
def test_coco_is_what_pycocotools_reads(photos):
    annotated = {f"p{k}": labeled(rows, k) for k, rows in enumerate(photos)}
    written = lesson.write_coco(annotated, CLASSES, WIDTH, HEIGHT)
    coco = COCO()
    coco.dataset = json.loads(json.dumps(written))
    coco.createIndex()
    assert {one["name"] for one in coco.loadCats(coco.getCatIds())} == set(CLASSES)
    for image in coco.loadImgs(coco.getImgIds()):
        found = coco.loadAnns(coco.getAnnIds([image["id"]]))
        boxes, labels = annotated[image["file_name"].removesuffix(".jpg")]
        assert [coco.cats[one["category_id"]]["name"] for one in found] == [CLASSES[k - 1] for k in labels]
        assert [one["bbox"] for one in found] == ops.box_convert(boxes, "xyxy", "xywh").tolist()
        assert [one["area"] for one in found] == [one["bbox"][2] * one["bbox"][3] for one in found]
    again = lesson.read_coco(written, CLASSES)
    assert list(again) == list(annotated)
    for name, (boxes, labels) in annotated.items():
        assert torch.equal(again[name][0], boxes) and torch.equal(again[name][1], labels)


def test_coco_is_read_by_id_whatever_the_order():
    written = lesson.write_coco({"a": labeled([(1, 2, 3, 4)]), "b": labeled([(5, 6, 7, 8), (1, 1, 2, 2)], 1)},
                                CLASSES, WIDTH, HEIGHT)
    mixed = {key: rows[::-1] for key, rows in written.items()}
    for one in mixed["categories"]:
        one["id"] = 100 - one["id"]
    for one in mixed["annotations"]:
        one["category_id"] = 100 - one["category_id"]
    for name, (boxes, labels) in lesson.read_coco(written, CLASSES).items():
        other, names = lesson.read_coco(mixed, CLASSES)[name]
        assert torch.equal(other.flip(0), boxes) and torch.equal(names.flip(0), labels)


def test_around_all_formats():
    annotated = {"a": labeled([(1, 1, 640, 480), (3, 5, 20, 31)]), "b": labeled([])}
    voc, coco = lesson.around(annotated, CLASSES, WIDTH, HEIGHT, 6)
    for name, (boxes, labels) in annotated.items():
        assert torch.equal(voc[name][0], boxes) and torch.equal(voc[name][1], labels)
        torch.testing.assert_close(coco[name][0], boxes, rtol=0, atol=1e-3)
    _, rough = lesson.around(annotated, CLASSES, WIDTH, HEIGHT, 2)
    assert (rough["a"][0] - annotated["a"][0]).abs().max() > 0.5


# ---- the audit


def audit(table):
    return lesson.audit(table, CLASSES, WIDTH, HEIGHT, 0.8, 4.0)


def test_a_clean_table_has_no_faults():
    flags = audit(cells())
    assert list(flags) == KINDS and not flags.to_numpy().any()


@pytest.mark.parametrize("kind, change", [
    ("outside", {"x1": 641.0}), ("outside", {"y1": 480.5}), ("outside", {"x0": -1.0}), ("outside", {"y0": -0.5}),
    ("outside", {"x1": float("nan")}), ("outside", {"y1": float("inf")}), ("no area", {"x1": "x0"}),
    ("no area", {"y1": "y0"}), ("swapped corners", {"x0": "x1", "x1": "x0"}),
    ("swapped corners", {"y0": "y1", "y1": "y0"}),
    ("unknown name", {"name": "rbc"}),
    ("unknown name", {"name": "RBC "}),
    ("unknown name", {"name": None})])
def test_each_fault_is_found_where_it_is(kind, change):
    table = cells()
    row = table.index[(table["name"] == "RBC")][7]
    faulty = table.copy()
    for column, value in change.items():
        faulty.loc[row, column] = table.loc[row, value] if value in table else value
    flags = audit(faulty)
    assert flags.index[flags[kind]].tolist() == [row]
    assert not flags.drop(columns=kind).to_numpy().any()


@pytest.mark.parametrize("name, wrong", [("Platelets", "RBC"), ("RBC", "WBC"), ("WBC", "Platelets")])
def test_a_wrong_class_is_found_by_the_size(name, wrong):
    table = cells()
    row = table.index[table["name"] == name][3]
    table.loc[row, "name"] = wrong
    flags = audit(table)
    assert flags.index[flags["wrong class"]].tolist() == [row]


def test_a_cell_at_the_border_has_no_size():
    table = cells()
    rows = table.index[table["name"] == "WBC"][:4]
    for row, (column, value) in zip(rows, (("x0", 1.0), ("y0", 2.0), ("x1", 638.0), ("y1", 480.0))):
        table.loc[row, column] = value
        table.loc[row, "name"] = "Platelets"
    assert not lesson.size_evidence(table, CLASSES, WIDTH, HEIGHT)[rows].any()


def test_size_evidence_is_the_formula():
    table = cells()
    found = lesson.size_evidence(table, CLASSES, WIDTH, HEIGHT)
    areas = (table["x1"] - table["x0"]) * (table["y1"] - table["y0"])
    whole = (table[["x0", "y0"]] > 2).all(axis=1) & (table["x1"] < WIDTH - 2) & (table["y1"] < HEIGHT - 2)
    for row in table.index[whole][:40]:
        values = {}
        for name in CLASSES:
            logs = np.log(areas[whole & (table["name"] == name)])
            spread = 1.48 * np.median(np.abs(logs - np.median(logs)))
            values[name] = -0.5 * ((np.log(areas[row]) - np.median(logs)) / spread) ** 2 - np.log(spread)
        assert found[row] == pytest.approx(max(values.values()) - values[table["name"][row]])


@quickly
@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 12), st.integers(0, 12), st.integers(1, 12),
                          st.integers(1, 12)), min_size=1, max_size=8), st.sampled_from([0.3, 0.5, 0.8]))
def test_duplicates_are_pairs_of_a_photo(rows, threshold):
    table = pd.DataFrame([(f"p{photo}", "RBC", x, y, x + w, y + h) for photo, x, y, w, h in rows],
                         columns=["photo", "name", "x0", "y0", "x1", "y1"])
    table = table.astype(dict.fromkeys(["x0", "y0", "x1", "y1"], float))
    found = lesson.duplicates(table, threshold)
    for k, one in table.iterrows():
        earlier = table[:k][table["photo"][:k] == one["photo"]]
        overlap = ops.box_iou(torch.tensor([one[["x0", "y0", "x1", "y1"]].tolist()], dtype=torch.float64),
                              torch.from_numpy(earlier[["x0", "y0", "x1", "y1"]].to_numpy()))
        assert found[k] == bool((overlap >= threshold).any())


@pytest.mark.parametrize("seed", range(3))
def test_what_is_planted_is_what_is_said(seed):
    table = cells()
    planted, kinds = lesson.plant(table, CLASSES, 15, WIDTH, HEIGHT, seed)
    assert len(planted) == len(kinds) == len(table) + 15
    assert kinds.value_counts().drop("").to_dict() == dict.fromkeys(KINDS, 15)
    pd.testing.assert_frame_equal(planted[:len(table)][kinds[:len(table)] == ""], table[kinds[:len(table)] == ""])
    pd.testing.assert_frame_equal(table, cells())  # the table itself is not changed
    flags = audit(planted)
    for kind in KINDS:
        assert flags.loc[kinds == kind, kind].mean() >= (0.9 if kind == "wrong class" else 1), kind
    assert not flags[kinds == ""].drop(columns="wrong class").to_numpy().any()
    other, _ = lesson.plant(table, CLASSES, 15, WIDTH, HEIGHT, seed + 1)
    assert not other.equals(planted)


def test_the_table_holds_what_stands_in_the_files(tmp_path):
    (tmp_path / "Annotations").mkdir()
    boxes, labels = labeled([(504, 337, 504, 337), (9, 8, 7, 600)])
    for name in ("b", "a"):
        text = lesson.write_voc(name, boxes, labels, CLASSES, WIDTH, HEIGHT)
        (tmp_path / "Annotations" / f"{name}.xml").write_text(text)
    table = lesson.box_table(tmp_path)
    assert table["photo"].tolist() == ["a", "a", "b", "b"]
    assert table[["x0", "y0", "x1", "y1"]].to_numpy().tolist() == boxes.tolist() * 2
    assert table["name"].tolist() == [CLASSES[k - 1] for k in labels] * 2


# ---- photos of the same cells


def texture(height, width, seed):
    noise = np.random.default_rng(seed).normal(size=(height // 4, width // 4))
    return torch.from_numpy(np.array(Image.fromarray(noise.astype(np.float32)).resize((width, height))))


@pytest.mark.parametrize("dx, dy", [(0, 0), (5, 0), (0, -7), (-12, 9), (30, -20), (-41, -3)])
def test_the_shift_is_found_and_the_correlation_is_that_of_the_common_part(dx, dy):
    field = texture(140, 200, 1)
    a = field[40:100, 50:130]
    b = field[40 + dy:100 + dy, 50 + dx:130 + dx] * 1.3 + 20  # another light
    b = b + 0.1 * torch.from_numpy(np.random.default_rng(2).normal(size=b.shape)).float()
    r, shift = lesson.best_shift(a, b, 0.1)
    assert shift == (dx, dy) and r > 0.9  # b's content lies at its own place + (dx, dy) in a
    common_a = a[max(dy, 0):60 + min(dy, 0), max(dx, 0):80 + min(dx, 0)]
    common_b = b[max(-dy, 0):60 + min(-dy, 0), max(-dx, 0):80 + min(-dx, 0)]
    assert r == pytest.approx(np.corrcoef(common_a.flatten(), common_b.flatten())[0, 1], abs=2e-3)


def test_strangers_do_not_correlate_and_flat_photos_do_not_crash():
    assert lesson.best_shift(texture(60, 80, 1), texture(60, 80, 2), 0.25)[0] < 0.8
    assert np.isfinite(lesson.best_shift(torch.zeros(60, 80), texture(60, 80, 2), 0.25)[0])


@pytest.mark.parametrize("shift", [(0, 0), (120, -40), (-200, 90)])
@pytest.mark.parametrize("slip", [0, 3])
def test_agreement_of_equal_labels_is_one(shift, slip):
    generator = torch.Generator().manual_seed(0)
    low = torch.rand(60, 2, generator=generator) * torch.tensor([1000.0, 800.0]) - 200
    world = torch.cat([low, low + 40 + 60 * torch.rand(60, 2, generator=generator)], dim=1)
    labels = torch.randint(1, 4, (60,), generator=generator)

    def seen(dx, dy):
        moved = (world - torch.tensor([dx, dy, dx, dy])).clamp(min=1)
        cut = torch.minimum(moved, torch.tensor([WIDTH, HEIGHT] * 2))
        kept = (cut[:, 2:] - cut[:, :2] > 5).all(dim=1)
        return cut[kept], labels[kept]

    first, second = seen(0, 0), seen(*shift)
    rough = (shift[0] + slip, shift[1] - slip)
    value, kinds, rows, moved = lesson.agreement(first, second, rough, WIDTH, HEIGHT, margin=8)
    assert len(value) > 5 and value.min() > 0.99
    assert torch.equal(kinds, first[1][rows])
    lost = (second[0][1:], second[1][1:])  # a cell that was forgotten
    assert (lesson.agreement(first, lost, rough, WIDTH, HEIGHT, margin=8)[0] > 0.99).sum() >= len(value) - 1


def test_the_groups_are_disjoint():
    numbers = [number for group in lesson.SAME_FIELD for number in group]
    assert len(numbers) == len(set(numbers)) == 63 and len(lesson.SAME_FIELD) == 27
    assert all(list(group) == sorted(group) for group in lesson.SAME_FIELD)


def test_results_are_taken_from_where_they_belong():
    name = "Chapter07/Creating_bounding_box_ground_truth.ipynb"
    agreed = pd.DataFrame({"class": ["RBC", "RBC", "WBC", "WBC"], "iou": [0.8, 0.1, 0.6, 0.7]})
    found = run_cell(name, "missing = 1 - partner.mean()", agreed=agreed)
    assert found["by_class"].loc["RBC"].round(3).tolist()[::2] == [0.8, 2]
    assert found["by_class"]["without a partner (%)"].to_dict() == {"RBC": 50, "WBC": 0}
    results = run_cell(
        name, '"groups_torn_by_own_lists"', table=range(9), shared=7, torn=[1, 2], agreed=agreed,
        partner=found["partner"],
        missing=found["missing"], real=pd.DataFrame({"no area": [True, False], "wrong class": [True, True]}),
        trips=pd.DataFrame({"largest error (px)": [2.0, 0.01], "exact": [0.5, 1.0]}),
        found=pd.DataFrame({"wrong class": [90.0, 100.0], "no area": 100.0, "outside": [100.0, 98.0]}))["results"]
    assert results == pytest.approx({
        "boxes": 9, "boxes_without_area": 1, "largest_error_px": 0.01, "wrong_class_found_percent": 95,
        "other_faults_found_percent": 99.5, "flagged_wrong_class": 2, "photos_of_shared_fields": 7,
        "groups_torn_by_own_lists": 2, "agreement_iou": 0.7, "without_partner_percent": 25})


def test_planted_faults_are_counted_where_they_were_planted():
    """The audit flags row 0 as "a" and every row as "b"; "a" is planted in rows 0 and 1, "b" in row 2."""
    kinds = np.array(["a", "a", "b"])
    found = run_cell(
        "Chapter07/Creating_bounding_box_ground_truth.ipynb", "real = audit(table,", SEEDS=(0, 1), PLANTED=5, W=640,
        H=480, CLASSES=CLASSES, SAME_BOX=0.9, UNUSUAL=2, table="as it is", plant=lambda table, *_: ("planted", kinds),
        audit=lambda table, *_: pd.DataFrame({"a": [True, False, False], "b": table == "planted"}))
    assert found["found"].mean().to_dict() == {"a": 50, "b": 100} and found["real"].sum().to_dict() == {"a": 1, "b": 0}


def test_the_own_lists_tear_groups_whose_photos_stand_in_two_of_them(tmp_path):
    (tmp_path / "ImageSets/Main").mkdir(parents=True)
    for part, numbers in (("train", (1, 2, 3)), ("val", (4,)), ("test", (5, 6))):
        (tmp_path / f"ImageSets/Main/{part}.txt").write_text("\n".join(f"BloodImage_{k:05d}" for k in numbers))
    found = run_cell("Chapter07/Creating_bounding_box_ground_truth.ipynb", "torn = [group for group in known",
                     folder=tmp_path, known=[[1, 2], [3, 4], [5, 6], [2, 5, 6]])
    assert found["torn"] == [[3, 4], [2, 5, 6]]
