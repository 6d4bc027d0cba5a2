"""What Class_activation_maps.ipynb defines: reading and splitting cells, five kinds of maps, and the tests of maps."""
import hashlib
import io
import re
import zipfile

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import nn
from torchvision.models import mobilenet_v3_small, resnet18, vgg11

from tests.cells import run_cell
from tests.definitions import definitions

CPU = torch.device("cpu")
NOTEBOOK = "Chapter06/Class_activation_maps.ipynb"
lesson = definitions(
    NOTEBOOK, "fetch_cells", "patient_of", "load_cells", "split_groups", "cell_model",
    "photo_inputs", "predict", "evaluate", "enlarge", "blank", "plant_spots", "hits", "randomized", "correlation",
    "edges", "stamp", "class_activation_map", "activations_and_gradients", "grad_cam", "grad_cam_plus_plus",
    "occlusion", "integrated_gradients", "replace_hottest")  # fmt: skip
quickly = settings(deadline=None, derandomize=True, max_examples=30)


def png(color, size=(60, 50)):
    file = io.BytesIO()
    Image.new("RGB", size, color).save(file, "PNG")
    return file.getvalue()


def archive(folder):
    """A zip of two cells and a stray file; its path and SHA-256."""
    path = folder / "source.zip"
    with zipfile.ZipFile(path, "w") as opened:
        opened.writestr("cell_images/Parasitized/C33P1thinF_IMG_1_cell_1.png", png((90, 10, 10)))
        opened.writestr("cell_images/Uninfected/C1_thinF_IMG_1_cell_1.png", png((10, 90, 10)))
        opened.writestr("cell_images/Uninfected/Thumbs.db", b"not a picture")
    return path.as_uri(), hashlib.sha256(path.read_bytes()).hexdigest()


# ---- the data


def test_cells_are_fetched_once_and_read(tmp_path):
    url, digest = archive(tmp_path)
    folder = lesson.fetch_cells(url, digest, tmp_path / "malaria")
    assert folder == tmp_path / "malaria/cell_images"
    assert lesson.fetch_cells("file:///nowhere.zip", digest, tmp_path / "malaria") == folder  # nothing is asked again
    assert [path.name for path in folder.parent.iterdir()] == ["cell_images"]
    images, labels, patients = lesson.load_cells(folder, 16)
    assert images.shape == (2, 3, 16, 16) and images.dtype == torch.uint8
    assert labels.tolist() == [0, 1] and patients.tolist() == [1, 33]
    assert images[:, :, 8, 8].tolist() == [[10, 90, 10], [90, 10, 10]]


@pytest.mark.parametrize("broken", ["hash", "url", "archive"])
def test_of_a_failed_download_nothing_is_left(tmp_path, broken):
    url, digest = archive(tmp_path)
    if broken == "hash":
        digest = "0" * 64
    elif broken == "url":
        url = (tmp_path / "absent.zip").as_uri()
    else:
        (tmp_path / "source.zip").write_bytes(b"no zip")
        digest = hashlib.sha256(b"no zip").hexdigest()
    with pytest.raises(RuntimeError, match=re.escape(url)):
        lesson.fetch_cells(url, digest, tmp_path / "malaria")
    assert list((tmp_path / "malaria").iterdir()) == []


@pytest.mark.parametrize(("name", "patient"), [
    ("C33P1thinF_IMG_20150619_114756a_cell_179.png", 33), ("C100P61ThinF_IMG_20150918_144104_cell_162.png", 100),
    ("C1_thinF_IMG_1_cell_1.png", 1), ("C12NThinF_IMG_1_cell_1.png", 12), ("C37BP2_thinF_IMG_1_cell_1.png", 37),
    ("C47P8thin_Original_Motic_IMG_1_cell_1.png", 47), ("C47P8thinOriginalOlympusCX21_IMG_1_cell_1.png", 47)])
def test_a_patient_has_one_number_whatever_the_spelling(name, patient):
    assert lesson.patient_of(name) == patient


def test_a_name_without_a_patient_is_an_error():
    with pytest.raises(TypeError):
        lesson.patient_of("IMG_C12.png")


@quickly
@given(st.lists(st.integers(0, 30), min_size=8, max_size=80), st.integers(0, 5))
def test_whole_groups_stand_in_one_part(groups, seed):
    groups = torch.tensor(groups)
    parts = lesson.split_groups(groups, 0.2, 0.3, seed)
    assert torch.equal(torch.cat(list(parts.values())).sort().values, torch.arange(len(groups)))
    names = {part: set(groups[rows].tolist()) for part, rows in parts.items()}
    assert not (names["train"] & names["val"] or names["train"] & names["test"] or names["val"] & names["test"])
    total = len(set(groups.tolist()))
    assert len(names["val"]) == int(0.2 * total) and len(names["test"]) == int(0.3 * total)


# ---- maps


def net(seed=0, width=4):
    """A network with batch norm statistics that are not trivial."""
    model = lesson.cell_model(seed, CPU, width)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(), module.running_var.uniform_(0.5, 2), nn.init.normal_(module.bias)
    return model


def inputs(n=3, side=32, seed=0):
    return torch.rand(n, 3, side, side, generator=torch.Generator().manual_seed(seed)) * 2 - 1


@pytest.mark.parametrize("label", [0, 1])
def test_cam_averages_to_the_logit_and_is_grad_cam(label):
    model, x = net(), inputs()
    cam = lesson.class_activation_map(model, x, label)
    assert cam.shape == (3, 8, 8)
    expected = model.eval()(x)[:, label]
    torch.testing.assert_close(cam.mean((1, 2)) + model[-1].bias[label], expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(lesson.grad_cam(model, model[0], x, label) * 64, cam.relu(), rtol=1e-4, atol=1e-4)


def by_parts(front, back, x, label):
    """Activations and their gradients of a network in two parts, without hooks."""
    A = front(x).detach().requires_grad_()
    back(A)[:, label].sum().backward()
    return A.detach(), A.grad


def parts_of(name):
    """A torchvision network with random weights, a layer of it, and the same network cut there."""
    torch.manual_seed(1)
    if name == "vgg11":
        model = vgg11(weights=None).eval()
        return model, model.features, model.features, nn.Sequential(model.avgpool, nn.Flatten(), model.classifier)
    if name == "mobilenet":
        model = mobilenet_v3_small(weights=None).eval()
        return (model, model.features[8], model.features[:9],
                nn.Sequential(model.features[9:], model.avgpool, nn.Flatten(), model.classifier))
    model = resnet18(weights=None).eval()
    children = list(model.children())
    cut = {"layer2": 6, "layer4": 8}[name]
    tail = nn.Sequential(*children[cut:9], nn.Flatten(), children[9])
    return model, children[cut - 1], nn.Sequential(*children[:cut]), tail


@pytest.mark.parametrize("name", ["layer2", "layer4", "mobilenet", "vgg11"])
@pytest.mark.parametrize("frozen", [False, True])
def test_hooks_catch_the_activations_and_their_gradients(name, frozen):
    model, layer, front, back = parts_of(name)
    for parameter in model.parameters():
        parameter.requires_grad_(not frozen)
    x = inputs(2, 64)
    A, gradient = lesson.activations_and_gradients(model, layer, x, 7)
    A_too, gradient_too = by_parts(front, back, x, 7)
    torch.testing.assert_close(A, A_too)
    torch.testing.assert_close(gradient, gradient_too, rtol=1e-3, atol=1e-5 * gradient_too.abs().max().item())
    expected = sum(gradient_too[:, k].mean((1, 2))[:, None, None] * A_too[:, k] for k in range(A.shape[1])).clamp(min=0)
    torch.testing.assert_close(lesson.grad_cam(model, layer, x, 7), expected, rtol=1e-3,
                               atol=1e-5 * expected.max().item())
    assert not layer._forward_hooks and not x.requires_grad


def test_no_gradient_is_left_in_the_weights_and_evaluation_mode_is_used():
    model, x = net(), inputs()
    model.train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    one = lesson.grad_cam(model, model[0], x, 1)
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    torch.testing.assert_close(one[:1], lesson.grad_cam(model, model[0], x[:1], 1), rtol=1e-4, atol=1e-6)


def test_the_hook_goes_even_after_an_error():
    model = net()
    with pytest.raises(RuntimeError):
        lesson.grad_cam(model, model[0], torch.zeros(1, 5, 32, 32), 1)
    assert not model[0]._forward_hooks


def test_captum_agrees():
    captum = pytest.importorskip("captum.attr")
    model, layer, _, _ = parts_of("layer4")
    x = inputs(2, 64)
    theirs = captum.LayerGradCam(model, layer).attribute(x, target=3, relu_attributions=True).squeeze(1).detach()
    torch.testing.assert_close(lesson.grad_cam(model, layer, x, 3), theirs, rtol=1e-3, atol=1e-5 * theirs.max().item())


def test_grad_cam_plus_plus_is_its_formula_place_by_place():
    model, layer, front, back = parts_of("layer2")
    x = inputs(2, 48)
    A, g = by_parts(front, back, x, 4)
    expected = torch.zeros(2, *A.shape[2:])
    for b in range(2):
        for k in range(A.shape[1]):
            alpha, total = 0.0, A[b, k].sum().item()
            for value in g[b, k].flatten().tolist():
                share = value**2 / (2 * value**2 + value**3 * total) if value else 0
                alpha += share * max(value, 0)
            expected[b] += alpha * A[b, k]
    ours = lesson.grad_cam_plus_plus(model, layer, x, 4)
    torch.testing.assert_close(ours, expected.clamp(min=0), rtol=1e-3, atol=1e-5 * expected.abs().max().item())


def test_zero_gradients_give_a_zero_map_and_no_nan():
    model = net()
    nn.init.zeros_(model[-1].weight)
    for method in (lesson.grad_cam, lesson.grad_cam_plus_plus):
        assert torch.equal(method(model, model[0], inputs(), 1), torch.zeros(3, 8, 8))


def cells(n=3, side=24, seed=0):
    """Uint8 cells of noise on a black ground."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(90, 220, (n, 3, side, side), generator=generator, dtype=torch.uint8)
    images[:, :, :3] = images[:, :, -3:] = images[..., :3] = images[..., -3:] = 0
    return images


def test_blank_cells_have_their_own_median_and_keep_the_ground():
    images = cells()
    made = lesson.blank(images)
    assert made.dtype == torch.uint8 and (made[:, :, :3] == 0).all()
    for b in range(3):
        for c in range(3):
            inside = made[b, c, 3:-3, 3:-3]
            assert inside.unique().numel() == 1
            assert abs(inside[0, 0].item() - np.median(images[b, c, 3:-3, 3:-3])) <= 1
    assert torch.equal(lesson.blank(torch.zeros_like(images)), torch.zeros_like(images))  # nothing there


def test_occlusion_is_the_mean_fall_of_the_covers():
    model, images, size, stride = net(), cells(2), 6, 4
    cover, before = lesson.blank(images), lesson.predict(model, images)[:, 1]
    expected, count = torch.zeros(2, 24, 24), torch.zeros(24, 24)
    for top in range(0, 19, stride):
        for left in range(0, 19, stride):
            changed = images.clone()
            changed[:, :, top : top + size, left : left + size] = cover[:, :, top : top + size, left : left + size]
            fall = before - lesson.predict(model, changed)[:, 1]
            for b in range(2):
                expected[b, top : top + size, left : left + size] += fall[b]
            count[top : top + size, left : left + size] += 1
    found = lesson.occlusion(model, images, 1, size, stride)
    torch.testing.assert_close(found, expected / count.clamp(min=1), rtol=1e-4, atol=1e-5)


def test_integrated_gradients_are_exact_on_a_quadratic_and_complete_on_a_network():
    class Quadratic(nn.Module):
        def forward(self, x):
            return torch.stack([0 * x.sum((1, 2, 3)), (x**2).sum((1, 2, 3))], 1)

    x, start = inputs(2, 8), inputs(2, 8, seed=1)
    ours = lesson.integrated_gradients(Quadratic(), x, start, 1, 5)
    torch.testing.assert_close(ours, (x**2 - start**2).sum(1), rtol=1e-4, atol=1e-5)
    model = net()
    gap = (model.eval()(x.repeat(1, 1, 4, 4)) - model(start.repeat(1, 1, 4, 4)))[:, 1].detach()
    total = lesson.integrated_gradients(model, x.repeat(1, 1, 4, 4), start.repeat(1, 1, 4, 4), 1, 400).sum((1, 2))
    torch.testing.assert_close(total, gap, rtol=0.05, atol=0.02)


def test_enlarging_puts_a_place_over_its_pixels():
    maps = torch.zeros(1, 12, 12)
    maps[0, 2, 7] = 1
    large = lesson.enlarge(maps, 48)[0]
    row, column = divmod(large.argmax().item(), 48)
    assert 8 <= row < 12 and 28 <= column < 32


# ---- the tests of maps


def test_spots_are_where_the_centers_say():
    images = torch.full((40, 3, 48, 48), 150, dtype=torch.uint8)
    planted, labels, centers = lesson.plant_spots(images, 3, 0)
    assert labels.tolist() == [0, 1] * 20 and (images == 150).all()
    for k in range(40):
        dark = (planted[k, 0] < 150).nonzero()
        assert (planted[k, 0] > 150).sum() == 29  # every cell has its bright spot, a disc of radius 3
        if labels[k]:
            assert len(dark) == 29 and dark.float().mean(0).tolist() == centers[k].tolist()
        else:
            assert len(dark) == 0 and centers[k].tolist() == [-1, -1]
    assert torch.equal(planted, lesson.plant_spots(images, 3, 0)[0])
    assert not torch.equal(planted, lesson.plant_spots(images, 3, 1)[0])


def test_hits_know_rows_from_columns():
    heat = torch.zeros(2, 48, 48)
    heat[0, 5, 20] = heat[1, 40, 8] = 1
    right = torch.tensor([[5, 20], [40, 8]])
    assert lesson.hits(heat, right, 0) == 1 and lesson.hits(heat, right.flip(1), 5) == 0
    assert lesson.hits(heat, right + 3, 3) == 1 and lesson.hits(heat, right + torch.tensor([4, 0]), 3) == 0
    assert lesson.hits(heat, torch.tensor([[5, 20], [8, 40]]), 2) == 0.5


def test_randomized_changes_only_what_is_named_and_only_in_the_copy():
    model = net()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    other = lesson.randomized(model, ["3", "0.3"], 0)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    changed = {name for name, value in other.state_dict().items() if not torch.equal(value, before[name])}
    assert {"3.weight", "3.bias", "0.3.0.weight", "0.3.1.running_mean"} <= changed
    assert all(name.startswith(("3.", "0.3.")) for name in changed)


def test_correlation():
    a = torch.rand(5, 6, 6)
    assert lesson.correlation(a, 3 * a + 1) == pytest.approx(1, abs=1e-5)
    assert lesson.correlation(a, -a) == pytest.approx(-1, abs=1e-5)
    assert lesson.correlation(a, torch.ones(5, 6, 6)) == pytest.approx(0, abs=1e-5)
    b = torch.rand(5, 6, 6)
    expected = np.mean([np.corrcoef(x.flatten(), y.flatten())[0, 1] for x, y in zip(a, b)])
    assert lesson.correlation(a, b) == pytest.approx(expected, abs=1e-5)


def test_edges_and_stamp():
    images = torch.zeros(2, 3, 10, 10, dtype=torch.uint8)
    images[..., 5:] = 100
    assert (lesson.edges(images)[:, :, 4:6] == 100).all() and lesson.edges(images)[:, :, :4].sum() == 0
    made = lesson.stamp(images, torch.tensor([False, True]), 4)
    assert torch.equal(made[0], images[0]) and images[1, :, :5, :5].sum() == 0
    assert (made[1, :, 2:6, 2:6] == 220).all() and (made[1] != images[1]).sum() == 3 * 16


class Dark(nn.Module):
    """Class 1 by the number of dark pixels."""

    def forward(self, x):
        return torch.stack([torch.zeros(len(x)), (x < 0).float().mean((1, 2, 3)) * 9 - 3], 1)


def test_the_hottest_pixels_are_replaced_first():
    start = torch.full((2, 3, 8, 8), 10, dtype=torch.uint8)
    start[:, :, 4:] = 250
    end, shares = torch.full_like(start, 250), torch.tensor([0, 0.5, 1.0])
    heat = torch.arange(64.0).view(1, 8, 8).expand(2, -1, -1)
    for one, middle in ((-heat, 0.0), (heat, 0.5)):
        found = lesson.replace_hottest(Dark(), start, end, one, shares, 1)
        expected = torch.sigmoid(torch.tensor([0.5, middle, 0.0]) * 9 - 3)
        torch.testing.assert_close(found, expected)


def test_evaluate_is_loss_and_accuracy():
    model, images, labels = net(), cells(5), torch.tensor([0, 1, 1, 0, 1])
    logits = model.eval()(lesson.photo_inputs(images)).detach()
    loss, accuracy = lesson.evaluate(model, (images, labels))
    assert loss == pytest.approx(F.cross_entropy(logits, labels).item(), rel=1e-4)
    assert accuracy == pytest.approx((logits.argmax(1) == labels).float().mean().item())


# ---- which cells and networks go where, and what tables and results say


PARTS = {part: (torch.full((n, 3, 8, 8), value, dtype=torch.uint8), torch.arange(n) % 2)
         for part, n, value in (("train", 6, 10), ("val", 4, 20), ("test", 8, 30))}


def value_of(images):
    """The value of the pixels in the middle, which names the part."""
    return images[0, 0, 4, 4].item()


def network_of(seed, device, width):
    """Stands for an untrained network: a list of what it was trained on; its first layer is itself."""
    return Network([seed])


class Network(list):
    def __getitem__(self, k):
        return self


def test_patients_are_split_and_none_stands_in_two_parts():
    patients = torch.arange(20).repeat_interleave(5)
    found = run_cell(NOTEBOOK, "part_rows = split_groups", URL="", SHA256="", SIDE=8, VALIDATION=0.2, TEST=0.3,
                     fetch_cells=lambda *_: None, split_groups=lesson.split_groups, device=CPU, WHOLE=1,
                     load_cells=lambda folder, side: (torch.arange(100), torch.arange(100) % 2, patients))
    assert {part: len(some) for part, some in found["people"].items()} == {"val": 4, "test": 6, "train": 10}
    assert {part: len(labels) for part, (_, labels) in found["parts"].items()} == {"val": 20, "test": 30, "train": 50}
    for part, (images, labels) in found["parts"].items():
        assert set(patients[images].tolist()) == found["people"][part] and torch.equal(images % 2, labels)


def test_networks_learn_from_training_cells_and_their_accuracy_is_of_test_cells():
    def train(network, images, labels, *rest):
        network.append(value_of(images))

    labels = {"train": torch.tensor([1, 1, 1, 0, 0, 1]), "test": torch.tensor([1] * 2 + [0] * 6)}
    found = run_cell(
        NOTEBOOK, "most_frequent = parts", SEEDS=(0, 1), device=CPU, WIDTH=1, STEPS=1, BATCH_SIZE=1, LEARNING_RATE=1,
        cell_model=network_of, train=train, parts={part: (PARTS[part][0], some) for part, some in labels.items()},
        evaluate=lambda network, part: (0.0, {10: 0.9, 20: 0.8, 30: 0.7}[value_of(part[0])]))
    assert found["models"] == {0: [0, 10], 1: [1, 10]} and found["accuracy"].tolist() == pytest.approx([70, 70])
    assert found["baseline"] == pytest.approx(25)  # infected, as most training cells are


def test_the_pointing_game_is_played_on_test_cells_by_the_networks_that_its_names_say():
    """A map is full of the network's number: untrained 0, trained on spots of training cells 10."""
    planted = []

    def plant_spots(images, radius, seed):
        planted.append((value_of(images), seed))
        return images, torch.arange(len(images)) % 2, torch.arange(2 * len(images)).view(-1, 2)

    def maps(network, *_):
        return torch.full((2, 8, 8), float(sum(network)))

    scored = []
    found = run_cell(
        NOTEBOOK, "pointing.append({method", RADIUS=3, SIDE=8, SEEDS=(0,), EXPLAINED=9, parts=PARTS, device=CPU,
        WIDTH=1, STEPS=1, BATCH_SIZE=1, LEARNING_RATE=1, cell_model=network_of, plant_spots=plant_spots,
        train=lambda network, images, *_: network.append(value_of(images)), grad_cam=maps,
        enlarge=lambda one, side: one,
        all_maps=lambda network, images, label: {"Grad-CAM": maps(network)},
        hits=lambda one, centers, reach: scored.append((one.max().item(), centers.tolist(), reach)) or 0.5,
        photo_inputs=lambda images: images)
    assert planted == [(10, 0), (30, 100)]
    expected = [[2, 3], [6, 7]]  # of the cells with a dark spot
    assert [(value, centers) for value, centers, _ in scored[:2]] == [(10, expected), (0, expected)]
    assert found["pointing"] == [{"Grad-CAM": 50, "Grad-CAM, untrained": 50, "random place": 50}]


def test_circles_are_drawn_where_the_evidence_is():
    """Centers are (row, column); a circle wants (x, y)."""
    import matplotlib.pyplot as plt

    def gallery(rows, title):
        fig, axes = plt.subplots(1, 6, squeeze=False)
        return fig, axes

    centers = torch.arange(12).view(6, 2)
    found = run_cell(NOTEBOOK, "ax.add_patch(Circle(", cells=torch.zeros(6, 3, 8, 8), RADIUS=3, gallery=gallery,
                     found={"Grad-CAM": torch.zeros(6)}, pointing=pd.DataFrame({"Grad-CAM": [90.0, 94]}),
                     centers=centers, show_as_jpeg=lambda fig: None)
    drawn = [tuple(ax.patches[0].center) for ax in found["axes"][0]]
    assert drawn == [(column, row) for row, column in centers.tolist()]
    assert "92%" in found["title"]


def test_layers_lose_their_weights_one_after_the_other():
    names = []
    run_cell(
        NOTEBOOK, 'stages = {"none": None', photo_inputs=lambda images: images, blank=lambda images: images,
        SEEDS=(0,), infected=0, models={0: Network()}, IG_STEPS=1, grad_cam=lambda *_: 0,
        integrated_gradients=lambda *_: 0, correlation=lambda a, b: 0.0, edges=lambda images: 0,
        randomized=lambda model, some, seed: names.append(some) or model)
    blocks = ["3", "0.3", "0.2", "0.1", "0.0"]  # from the last layer to the first
    assert names == [blocks[:k] for k in range(6)]


def test_deletion_starts_with_the_cell_and_insertion_with_the_blank_one():
    infected = torch.full((2, 3, 12, 12), 100, dtype=torch.uint8)
    starts = {}

    def replace_hottest(model, start, end, heat, shares, label):
        assert value_of(start) != value_of(end)
        return (torch.linspace(0.9, 0.1, 21) if value_of(start) == 100 else torch.full((21,), 0.5))

    found = run_cell(
        NOTEBOOK, 'curves.append({"method"', SEEDS=(0,), models={0: None}, infected=infected, device=CPU, SIDE=12,
        all_maps=lambda *_: {"Grad-CAM": torch.zeros(2, 12, 12)}, enlarge=lambda one, side: one,
        blank=lambda images: images // 2, replace_hottest=replace_hottest)["curves"]
    for row in found:
        starts.setdefault(row["kind"], []).append(row["area"])
    assert starts["deletion"] == pytest.approx([0.5] * 3) and starts["insertion"] == pytest.approx([0.5] * 3)
    assert all((row["p"][0] > 0.8) == (row["kind"] == "deletion") for row in found)
    assert {row["method"] for row in found} == {"Grad-CAM", "random", "darkest first"}


def test_only_infected_cells_are_stamped_and_the_test_has_no_stamps():
    measured = []
    found = run_cell(
        NOTEBOOK, "laboratory = {name", parts=PARTS, MARK=2, SEEDS=(0,), device=CPU, WIDTH=1, STEPS=1, BATCH_SIZE=1,
        LEARNING_RATE=1, stamp=lesson.stamp, cell_model=network_of,
        train=lambda network, images, *_: network.append(images),
        evaluate=lambda network, part: measured.append(part) or (0.0, 0.25 * len(measured)))
    stamped = {part: (images == 220).flatten(1).any(1).long() for part, (images, _) in found["laboratory"].items()}
    assert all(torch.equal(stamped[part], PARTS[part][1]) for part in PARTS)
    assert torch.equal(list(found["cheats"][0])[1], found["laboratory"]["train"][0])
    assert measured[0] is found["laboratory"]["val"] and measured[1] is PARTS["test"]
    assert found["shortcut"] == [{"validation, with stamp": 25, "test, no stamp": 50}]


def test_honest_and_cheating_networks_keep_their_names():
    cheats, models = {0: Network([1])}, {0: Network([2])}
    laboratory = {"val": PARTS["val"]}
    names = {"cheats": cheats, "models": models, "SEEDS": (0,), "laboratory": laboratory, "EXPLAINED": 9, "SIDE": 8,
             "photo_inputs": lambda images: images, "enlarge": lambda one, side: one,
             "grad_cam": lambda network, layer, images, label: torch.full((6,), float(sum(network)))}
    drawn = []
    laboratory["val"] = torch.zeros(12, 3, 8, 8, dtype=torch.uint8), torch.tensor([1, 0] * 6)
    run_cell(NOTEBOOK, "nets = {", gallery=lambda rows, title: drawn.extend(rows) or (None, None),
             show_as_jpeg=lambda fig: None, **names)
    assert [(row[0][2], row[0][1].item()) for row in drawn] == [("cheating", 1), ("honest", 2)]
    found = run_cell(
        NOTEBOOK, "corner, reach = torch.full", marked=laboratory["val"][0][:3], MARK=5, parts=PARTS,
        shortcut=[{"validation, with stamp": 100.0, "test, no stamp": 40.0}],
        mean_and_std=lambda table, unit: table, hits=lambda peaks, corner, reach: peaks[0].item() / 4,
        evaluate=lambda network, part: (0.0, 0.9), **names)
    assert found["shortcut"].iloc[0].to_dict() == {
        "validation, with stamp": 100, "test, no stamp": 40, "peak at the stamp, cheating": 25,
        "peak at the stamp, honest": 50, "test, honest": 90}


def test_results_are_taken_from_where_they_belong():
    kinds = pd.MultiIndex.from_product([["mean", "std"], ["deletion", "insertion"]])
    found = run_cell(
        NOTEBOOK, '"pointing_grad_cam_percent"', accuracy=torch.tensor([90.0, 92]), baseline=53.0, drop=50.0,
        pointing=pd.DataFrame({"Grad-CAM": [90.0, 94], "occlusion": [80.0, 84], "integrated gradients": [70.0, 74],
                               "random place": [10.0, 14]}),
        sanity=pd.DataFrame({("Grad-CAM", "mean"): [1.0, 0.1], ("Grad-CAM", "std"): [0.0, 0.5]}),
        areas=pd.DataFrame([[0.2, 0.8, 0, 0], [0.6, 0.7, 0, 0]], index=["Grad-CAM", "random"], columns=kinds),
        shortcut=pd.DataFrame({"validation, with stamp": [100.0], "test, no stamp": [47.0],
                               "peak at the stamp, cheating": [99.0], "peak at the stamp, honest": [2.0]}))["results"]
    assert found == pytest.approx({
        "test_accuracy_percent": 91, "most_frequent_class_percent": 53, "pointing_grad_cam_percent": 92,
        "pointing_occlusion_percent": 82, "pointing_integrated_gradients_percent": 72, "pointing_random_percent": 12,
        "correlation_all_random_grad_cam": 0.1, "deletion_area_grad_cam": 0.2, "deletion_area_random": 0.6,
        "shortcut_validation_percent": 100, "shortcut_test_percent": 47, "shortcut_drop_points": 50,
        "shortcut_peak_percent": 99})
