"""Label files, head, DFL and reading of boxes of the ultralytics notebook."""
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision import ops
from ultralytics import YOLO
from ultralytics.utils.loss import DFLoss
from ultralytics.utils.tal import make_anchors

from tests.cells import run_cell
from tests.definitions import definitions
from tests.stored import assert_said

lesson = definitions(
    "Chapter08/Training_YOLO_v8.ipynb", "yolo_lines", "write_dataset", "bccd_targets", "read_yolo", "photo_paths",
    "head_outputs", "dfl_distances", "places", "head_boxes", "dfl_loss", "as_dict", "Recorder", "find")  # fmt: skip
quick = settings(deadline=None, max_examples=30)
seeds = st.integers(0, 10**6)


def random_boxes(count, generator, size):
    """Boxes (count, 4) xyxy within a photo of `size` (w, h)."""
    limits = torch.tensor(size, dtype=torch.float32)
    corner = torch.rand(count, 2, generator=generator) * (limits - 2)
    return torch.cat([corner, corner + 1 + torch.rand(count, 2, generator=generator) * (limits - 1 - corner)], dim=1)


@quick
@given(seeds, st.integers(0, 9), st.sampled_from([(640, 480), (37, 200)]))
def test_label_lines_round_trip(seed, count, size):
    generator = torch.Generator().manual_seed(seed)
    boxes, labels = random_boxes(count, generator, size), torch.randint(1, 4, (count,), generator=generator)
    lines = lesson.yolo_lines(boxes, labels, size).splitlines()
    values = np.array([line.split() for line in lines], dtype=float).reshape(-1, 5)
    assert values[:, 0].astype(int).tolist() == [label - 1 for label in labels.tolist()]
    assert ((values[:, 1:] >= 0) & (values[:, 1:] <= 1)).all()
    back = ops.box_convert(torch.tensor(values[:, 1:]) * torch.tensor([*size, *size]), "cxcywh", "xyxy")
    torch.testing.assert_close(back.float(), boxes, atol=1e-3, rtol=0)


def test_a_line_by_hand():
    line = lesson.yolo_lines(torch.tensor([[64.0, 48.0, 192.0, 96.0]]), torch.tensor([3]), (640, 480))
    assert line == "2 0.200000 0.150000 0.200000 0.100000\n"


def test_detections_are_read_in_pixels(tmp_path):
    (tmp_path / "a.txt").write_text("2 0.2 0.15 0.2 0.1 0.75\n0 0.5 0.5 1 1 0.25\n")
    found = lesson.read_yolo(tmp_path / "a.txt", (640, 480))
    assert found["labels"].tolist() == [3, 1] and found["scores"].tolist() == [0.75, 0.25]
    torch.testing.assert_close(found["boxes"], torch.tensor([[64.0, 48, 192, 96], [0, 0, 640, 480]]))
    for path in (tmp_path / "none.txt", tmp_path / "empty.txt"):
        found = lesson.read_yolo(path, (640, 480))
        assert found["boxes"].shape == (0, 4) and len(found["scores"]) == len(found["labels"]) == 0
        (tmp_path / "empty.txt").write_text("")


def voc(path, objects):
    """A VOC file of objects (name, corners)."""
    sides = ("xmin", "ymin", "xmax", "ymax")
    path.write_text("<annotation>" + "".join(
        f"<object><name>{name}</name><bndbox>" + "".join(f"<{s}>{v}</{s}>" for s, v in zip(sides, corners))
        + "</bndbox></object>" for name, corners in objects) + "</annotation>")  # fmt: skip


def test_the_data_set(tmp_path):
    source = tmp_path / "source"
    for folder in ("Annotations", "JPEGImages"):
        (source / folder).mkdir(parents=True)
    for k in range(4):
        Image.new("RGB", (80, 60)).save(source / f"JPEGImages/BloodImage_0000{k}.jpg")
        voc(source / f"Annotations/BloodImage_0000{k}.xml", [("WBC", (k, 0, 40, 30)), ("RBC", (5, 5, 5, 5))])
    names, targets, fields = lesson.bccd_targets(source, ("Platelets", "RBC", "WBC"), ((1, 3),))
    assert fields.tolist() == [0, 1, 2, 1] and targets[2]["size"] == (80, 60)
    assert all(t["labels"].tolist() == [3] for t in targets)  # the box without area is gone
    parts = {"train": torch.tensor([0]), "val": torch.tensor([2]), "test": torch.tensor([1, 3])}
    config = lesson.write_dataset(tmp_path / "set", source, names, targets, parts, ("Platelets", "RBC", "WBC"))
    described = yaml.safe_load(config.read_text())
    assert described["names"] == {0: "Platelets", 1: "RBC", 2: "WBC"}
    assert len({described[part] for part in parts}) == 3
    for part, rows in parts.items():
        stems = [path.stem for path in lesson.photo_paths(config, part)]
        assert stems == [names[row] for row in rows]
        for row, stem in zip(rows.tolist(), stems):
            text = (tmp_path / "set" / described[part].replace("images", "labels") / f"{stem}.txt").read_text()
            assert text == lesson.yolo_lines(targets[row]["boxes"], targets[row]["labels"], (80, 60))


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return YOLO("yolo11n.yaml", verbose=False).model.float().eval()


@pytest.mark.parametrize("shape", [(1, 3, 64, 96), (2, 3, 32, 32)])
def test_head_boxes_equal_ultralytics(network, shape):
    x = torch.rand(shape, generator=torch.Generator().manual_seed(1))
    z, classes, maps, decoded = lesson.head_outputs(network, x)
    assert z.shape[1] == 64 and len(maps) == 3 and z.shape[2] == classes.shape[2] == decoded.shape[2]
    own = lesson.head_boxes(z, maps, network.stride.tolist())
    theirs = ops.box_convert(decoded[:, :4].transpose(1, 2), "cxcywh", "xyxy").transpose(1, 2)
    torch.testing.assert_close(own, theirs, rtol=1e-4, atol=1e-2)
    torch.testing.assert_close(classes.sigmoid(), decoded[:, 4:])


@pytest.mark.parametrize("scale", [0.0, 1.0, 50.0])
def test_distances_equal_ultralytics(network, scale):
    z = scale * torch.randn(2, 64, 21, generator=torch.Generator().manual_seed(2))
    ours = lesson.dfl_distances(z)
    torch.testing.assert_close(ours, network.model[-1].dfl(z))
    assert ours.shape == (2, 4, 21) and (ours >= 0).all() and (ours <= 15).all()
    if scale == 0:
        torch.testing.assert_close(ours, torch.full_like(ours, 7.5))


def test_places_equal_ultralytics():
    maps = [torch.zeros(1, 5, 4, 6), torch.zeros(1, 5, 2, 3), torch.zeros(1, 5, 1, 2)]
    c, t = lesson.places(maps, (8, 16, 32))
    anchors, strides = make_anchors(maps, torch.tensor([8.0, 16.0, 32.0]), 0.5)
    torch.testing.assert_close(c, anchors.T)
    torch.testing.assert_close(t, strides[:, 0])


@quick
@given(seeds, st.integers(1, 20), st.sampled_from([0.01, 1.0, 100.0]))
def test_dfl_and_its_gradient_equal_ultralytics(seed, count, scale):
    generator = torch.Generator().manual_seed(seed)
    z = (scale * torch.randn(count, 16, generator=generator)).requires_grad_()
    y = torch.rand(count, generator=generator) * 20 - 1  # beyond both ends, too
    kept = y.clone()
    ours, theirs = lesson.dfl_loss(z, y), DFLoss(16)(z, y.clone()[:, None])[:, 0]
    torch.testing.assert_close(ours, theirs)
    assert torch.equal(y, kept), "the true distances were changed"
    torch.testing.assert_close(*(torch.autograd.grad(loss.sum(), z, retain_graph=True) for loss in (ours, theirs)))


def test_dfl_at_whole_distances_is_cross_entropy():
    z, y = torch.randn(15, 16, generator=torch.Generator().manual_seed(0)), torch.arange(15.0)
    torch.testing.assert_close(lesson.dfl_loss(z, y), F.cross_entropy(z, y.long(), reduction="none"))


def test_answers_count_from_1():
    class Boxes:
        xyxy, conf, cls = torch.tensor([[1.0, 2, 3, 4]]), torch.tensor([0.5]), torch.tensor([2.0])

        def cpu(self):
            return self

    class Answer:
        boxes = Boxes()

    one = lesson.as_dict(Answer())
    assert one["labels"].tolist() == [3] and one["labels"].dtype == torch.int64
    assert one["boxes"].tolist() == [[1, 2, 3, 4]] and one["scores"].tolist() == [0.5]


def test_times_are_of_the_test_photos_as_ultralytics_reads_them():
    """One photo at a time and eight, with as many threads as before, in OpenCV's order of colors."""
    asked, timed, threads = [], [], torch.get_num_threads()
    photos = {f"{part}{k}": torch.tensor([k, 100, 200], dtype=torch.uint8)[:, None, None].expand(3, 4, 6)
              for part in ("val", "test") for k in range(60)}

    def predict(images, imgsz, **options):
        assert imgsz == 320 and all(isinstance(one, np.ndarray) for one in images)
        asked.append([one[0, 0].tolist() for one in images])

    def milliseconds(answer, some, batch):
        timed.append((len(some), batch, torch.get_num_threads()))
        answer(some[:batch])
        return 10.0 / batch

    torch.set_num_threads(threads + 1)  # as ultralytics may do
    found = run_cell(
        "Chapter08/Training_YOLO_v8.ipynb", "speed = {batch: milliseconds(", config=None, IMGSZ=320, threads=threads,
        photo_paths=lambda config, part: [f"{part}{k}" for k in range(60)], read_photo=photos.get,
        model=SimpleNamespace(predict=predict), milliseconds=milliseconds, device=torch.device("cpu"))
    assert found["speed"] == {1: 10, 8: 1.25} and timed == [(21, 1, threads), (48, 8, threads)]
    assert asked == [[[200, 100, 0]], [[200, 100, 0]], [[200, 100, k] for k in range(8)]]


def test_results_are_taken_from_where_they_belong():
    classes, names = ("Platelets", "RBC", "WBC"), ["mAP50", "mAP", "Platelets", "RBC", "WBC"]
    table = pd.DataFrame({"yolo11n from scratch": [80.0, 50, 30, 40, 60], "copied boxes": 1.0}, index=names)
    compared = pd.DataFrame({"ultralytics": [0.8, 0.51, 0, 0, 0], "torchmetrics": [0.8, 0.52, 0, 0, 0],
                             "torchmetrics, cut at the border": [0.8, 0.55, 0, 0, 0]}, index=names)
    found = run_cell("Chapter08/Training_YOLO_v8.ipynb", '"border_gain_points"', table=table, CLASSES=classes,
                     best_baseline=0.02, compared=compared, speed={1: 9.0, 8: 4.0}, parameters=7,
                     seconds=90.0)["results"]
    assert found == pytest.approx({
        "test_map50": 0.8, "test_map": 0.5, "test_map_platelets": 0.3, "test_map_rbc": 0.4, "test_map_wbc": 0.6,
        "baseline_map50": 0.02, "ultralytics_map": 0.51, "torchmetrics_map": 0.52, "border_gain_points": 3,
        "ms_per_photo": 9, "ms_per_photo_batch_8": 4, "parameters": 7, "training_minutes": 1.5})


def test_the_text_says_what_the_stored_runs_found():
    assert_said("Chapter08/Training_YOLO_v8.ipynb", "a photo takes {ms_per_photo:.1f} ms alone and "
                "{ms_per_photo_batch_8:.1f} ms in a batch of eight")
