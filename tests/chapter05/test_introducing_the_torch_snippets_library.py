"""What Introducing_the_torch_snippets_library.ipynb says of the library, and its twins, on hostile inputs."""
import builtins
import json
from types import SimpleNamespace

import matplotlib
import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn
from torch_snippets import BB, Glob, Report, read, stem

from tests.cells import run_cell
from tests.definitions import definitions

NOTEBOOK = "Chapter05/Introducing_the_torch_snippets_library.ipynb"
lesson = definitions(NOTEBOOK, "show_plain", "loss_and_accuracy", "origin")


@pytest.mark.parametrize("shape", [(1, 1, 3), (5, 7, 3), (3, 3, 3), (40, 20, 3)])
def test_read_and_pillow_give_the_same_pixels(shape, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    assert (read(tmp_path / "photo.png") == pixels).all()


def test_glob_and_stem_are_those_of_pathlib(tmp_path):
    for name in ("b.png", "a.png", "c.jpg", "two.dots.png"):
        (tmp_path / name).touch()
    assert sorted(map(str, Glob(str(tmp_path), extns=["png"]))) == sorted(map(str, tmp_path.glob("*.png")))
    assert all(stem(file) == file.stem for file in tmp_path.iterdir())


@pytest.mark.parametrize("box", [(0, 0, 10, 10), (3, 4, 9, 20), (1, 1, 1, 1)])
@pytest.mark.parametrize("size", [(30, 30), (20, 50), (64, 16)])
def test_relative_boxes_divide_by_width_and_height(box, size):
    h, w = size
    np.testing.assert_allclose(tuple(BB(box).relative(size)), np.array(box) / [w, h, w, h])
    assert BB(box).area == (box[2] - box[0]) * (box[3] - box[1])


def test_remap_confuses_the_axes_where_the_shape_changes_only():
    box, size = (10, 20, 30, 40), (100, 200)
    assert tuple(BB(box).remap(size, (200, 400))) == (20, 40, 60, 80)  # the same shape: right
    assert tuple(BB(box).remap(size, (50, 200))) == (5, 20, 15, 40)  # right would be (10, 10, 30, 20)


def test_a_report_keeps_what_it_is_given(capsys):
    report = Report(3)
    for epoch in range(3):
        report.record(epoch + 1, trn_loss=1 / (epoch + 1), val_loss=float("nan") if epoch == 1 else 2.0, end="\r")
    np.testing.assert_allclose(report.history("trn_loss"), [1, 1 / 2, 1 / 3])
    np.testing.assert_allclose(report.history("val_loss"), [2, float("nan"), 2])


def test_the_plain_twin_draws_every_box_with_its_label():
    drawn = []
    with matplotlib.rc_context():
        plt = lesson.show_plain.__globals__["plt"]
        plt.switch_backend("agg")
        lesson.show_plain(np.zeros((20, 30, 3), dtype=np.uint8), [(2, 3, 10, 15), (0, 0, 29, 19)], ["a", "b"], "title")
        ax = plt.gcf().axes[0]
        drawn = [(*patch.get_xy(), patch.get_width(), patch.get_height()) for patch in ax.patches]
        assert drawn == [(2, 3, 8, 12), (0, 0, 29, 19)]
        assert [text.get_text() for text in ax.texts] == ["a", "b"] and ax.get_title() == "title"
        with pytest.raises(ValueError):
            lesson.show_plain(np.zeros((20, 30, 3), dtype=np.uint8), [(2, 3, 10, 15)], [])
        plt.close("all")


def test_loss_and_accuracy_are_of_evaluation_mode():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.9), nn.Linear(8, 3)).train()
    inputs, labels = torch.randn(50, 4), torch.arange(50) % 3
    loss, accuracy = lesson.loss_and_accuracy(model, inputs, labels)
    logits = model.eval()(inputs)
    assert loss == pytest.approx(F.cross_entropy(logits, labels).item(), rel=1e-5)
    assert accuracy == pytest.approx((logits.argmax(dim=1) == labels).float().mean().item())


def test_the_origin_of_a_name():
    assert lesson.origin(json) == "json" and lesson.origin("cpu") == "'cpu'" and lesson.origin(json.loads) == "json"


# ---- what figures and results say


def test_both_panels_show_the_losses():
    report, rows = Report(3), []
    for epoch in range(3):
        rows.append({"epoch": epoch + 1, "trn_loss": 1.0 / (epoch + 1), "val_loss": 2.0 / (epoch + 1), "val_acc": 0.5})
        report.record(epoch + 1, **{name: rows[-1][name] for name in ("trn_loss", "val_loss", "val_acc")}, end="\r")
    history = pd.DataFrame(rows).set_index("epoch")
    axes = run_cell(NOTEBOOK, "report.plot(", report=report, history=history, get_ipython=lambda: Silent())["axes"]
    expected = [[1, 1 / 2, 1 / 3], [2, 1, 2 / 3]]
    for ax in axes:
        assert sorted([round(y, 9) for y in line.get_ydata()] for line in ax.lines) == [
            [round(y, 9) for y in values] for values in expected]


class Silent:
    """Takes a magic and does nothing."""

    def run_line_magic(self, *arguments):
        return None


def test_boxes_are_divided_by_width_and_height_of_a_photo_that_is_not_square():
    face = (10, 20, 50, 80)
    found = run_cell(NOTEBOOK, "face, box_tensor = BB(FACE)", astronaut=np.zeros((100, 200, 3)), FACE=face)
    assert found["relative"].tolist() == [0.05, 0.2, 0.25, 0.8] and found["absolute"].tolist() == list(face)
    assert found["area"] == 40 * 60
    found = run_cell(NOTEBOOK, "wanted = tuple(", relative=found["relative"], face=BB(face), h=100, w=200)
    assert found["wanted"] == (10, 10, 50, 40), "the height was halved"


def test_the_network_learns_from_training_digits_and_is_measured_on_the_others():
    class Recorder(nn.Linear):
        """Remembers the first number of every input: it is the number of the digit."""

        def forward(self, x):
            seen.extend(x[:, 0].long().tolist())
            return super().forward(x)

    seen, measured = [], []
    model = Recorder(2, 3)

    def loss_and_accuracy(model, inputs, labels):
        measured.append((inputs[:, 0].long().tolist(), labels.tolist()))
        return 0.5, 0.75

    inputs = torch.stack([torch.arange(20.0), torch.zeros(20)], dim=1)
    found = run_cell(NOTEBOOK, "report, history = Report(EPOCHS)", EPOCHS=2, BATCH_SIZE=5, model=model, inputs=inputs,
                     labels=torch.arange(20) % 3, train_rows=torch.arange(12), val_rows=torch.arange(12, 20),
                     optimizer=torch.optim.SGD(model.parameters(), 1e-3), loss_and_accuracy=loss_and_accuracy)
    assert sorted(seen) == sorted(2 * list(range(12)))
    assert measured == 2 * [(list(range(12, 20)), [k % 3 for k in range(12, 20)])]
    assert found["history"]["val_loss"].tolist() == [0.5, 0.5] and found["history"]["val_acc"].tolist() == [0.75, 0.75]


def test_a_name_of_pythons_own_is_replaced_where_the_library_has_another(capsys):
    library = SimpleNamespace(format=json.loads, print=print, mine=3, _hidden=1)
    found = run_cell(NOTEBOOK, "exported = {name: value", torch_snippets=library, BUILTIN_NAMES=set(vars(builtins)))
    assert found["hidden"] == ["format"] and set(found["exported"]) == {"format", "print", "mine"}


def test_results_are_taken_from_where_they_belong():
    history = pd.DataFrame({"val_acc": [0.5, 0.75]})
    found = run_cell(NOTEBOOK, '"names_added_to_builtins"', exported=range(100), hidden=["format"], planted=range(3),
                     overlap=0.25, history=history, most_frequent=0.1)["results"]
    assert found == {"public_names": 100, "python_names_replaced": 1, "names_added_to_builtins": 3,
                     "remap_overlap_iou": 0.25, "val_accuracy": 0.75, "most_frequent_class_accuracy": 0.1}


def test_the_twin_of_read_keeps_the_colors_in_their_order(tmp_path):
    pixels = np.zeros((4, 5, 3), dtype=np.uint8)
    pixels[..., 0], pixels[0, 0] = 250, (1, 2, 3)
    Image.fromarray(pixels).save(tmp_path / "astronaut.png")
    found = run_cell(NOTEBOOK, "same_pixels = bool(", folder=tmp_path, astronaut=read(tmp_path / "astronaut.png"))
    assert found["same_pixels"] is True and (found["plain"] == pixels).all()
    found = run_cell(NOTEBOOK, "same_pixels = bool(", folder=tmp_path, astronaut=pixels[..., ::-1])
    assert found["same_pixels"] is False
