"""What Resnet_block_architecture.ipynb defines: blocks and networks beside torchvision's, training, gradients, cuts."""
import copy

import matplotlib.pyplot as plt
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torchvision.models import resnet, resnet18

from tests.cells import run_cell
from tests.definitions import definitions

NOTEBOOK = "Chapter05/Resnet_block_architecture.ipynb"
CPU = torch.device("cpu")
lesson = definitions(
    NOTEBOOK, "BasicBlock", "Bottleneck", "new_resnet", "small_network", "correction_sizes", "block_gradient_lengths",
    "cut_along_gradient", "blocks_of", "load_cifar10", "train_sgd", "evaluate", "photo_inputs", "assert_same_network",
    "million_multiplications", "draw_depths", "draw_cuts", WIDTH=4)


def theirs(kind, inputs, channels, stride):
    """torchvision's block, with a projection where the shape changes."""
    downsample = None
    if stride != 1 or inputs != channels * kind.expansion:
        downsample = nn.Sequential(resnet.conv1x1(inputs, channels * kind.expansion, stride),
                                   nn.BatchNorm2d(channels * kind.expansion))
    return kind(inputs, channels, stride, downsample)


def hostile(kind, shape):
    """Inputs of a kind, float64."""
    generator = torch.Generator().manual_seed(1)
    noise = torch.randn(shape, generator=generator, dtype=torch.float64)
    return {"noise": noise, "zeros": 0 * noise, "ties": noise.sign(), "huge": 1e8 * noise, "tiny": 1e-12 * noise}[kind]


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("kind", ["noise", "zeros", "ties", "huge", "tiny"])
@pytest.mark.parametrize(("name", "inputs", "channels", "stride", "side"), [
    ("BasicBlock", 8, 8, 1, 5), ("BasicBlock", 4, 8, 2, 7), ("BasicBlock", 8, 8, 2, 6), ("BasicBlock", 6, 8, 1, 1),
    ("Bottleneck", 16, 4, 1, 5), ("Bottleneck", 8, 4, 2, 7), ("Bottleneck", 4, 4, 1, 3)])
def test_a_block_equals_torchvisions(name, inputs, channels, stride, side, kind, training):
    torch.manual_seed(0)
    other = theirs(getattr(resnet, name), inputs, channels, stride).double()
    for layer in other.modules():
        if isinstance(layer, nn.BatchNorm2d):  # no neutral values
            nn.init.normal_(layer.weight)
            nn.init.normal_(layer.bias)
            nn.init.normal_(layer.running_mean)
            nn.init.uniform_(layer.running_var, 0.5, 2)
    ours = getattr(lesson, name)(inputs, channels, stride).double()
    ours.load_state_dict(other.state_dict())
    found = []
    for block in (ours, other):
        x = hostile(kind, (3, inputs, side, side)).requires_grad_()
        y = block.train(training)(x)
        y.backward(torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view_as(y))
        gradients = {n: p.grad for n, p in block.named_parameters()}
        found.append((y.detach(), x.grad, gradients, dict(block.named_buffers())))
    torch.testing.assert_close(found[0], found[1], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", ["BasicBlock", "Bottleneck"])
def test_without_skip_the_block_is_its_branch(name):
    block = getattr(lesson, name)(8, 4, 2, skip=False).eval()
    x = torch.randn(2, 8, 6, 6)
    assert torch.equal(block(x), torch.relu(block.branch(x)))
    assert not any("downsample" in key for key in block.state_dict())


def test_the_comparison_of_networks_notices_one_changed_layer():
    torch.manual_seed(0)
    ours = lesson.new_resnet(lesson.BasicBlock, (2, 2, 2, 2), 64, 1000).double()
    other = resnet18(weights=None).double()
    images = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    assert lesson.assert_same_network(copy.deepcopy(ours), other, images) < 1e-9
    ours.layer3[0].conv1.stride, ours.layer3[0].downsample[0].stride = (1, 1), (1, 1)
    with pytest.raises(AssertionError):
        lesson.assert_same_network(ours, other, images)


def test_small_networks_have_their_depth_and_follow_from_the_seed():
    for depth in (8, 20, 56):
        for skip in (False, True):
            model = lesson.small_network(depth, skip, 0, CPU)
            layers = [name for name, layer in model.named_modules()
                      if isinstance(layer, (nn.Conv2d, nn.Linear)) and "downsample" not in name]
            assert len(layers) == depth and len(lesson.blocks_of(model)) == (depth - 2) // 2
            assert model(torch.zeros(2, 3, 32, 32)).shape == (2, 10)
            shapes = [tuple(model.layer1[0].conv1.weight.shape), tuple(model.layer3[0].conv2.weight.shape)]
            assert shapes == [(4, 4, 3, 3), (16, 16, 3, 3)]
    a, b, c = (lesson.small_network(8, True, seed, CPU) for seed in (0, 0, 1))
    assert torch.equal(a.conv1.weight, b.conv1.weight) and not torch.equal(a.conv1.weight, c.conv1.weight)
    weight = lesson.small_network(8, True, 0, CPU).layer3[0].conv2.weight
    assert weight.std().item() == pytest.approx((2 / (16 * 9)) ** 0.5, rel=0.1)  # He et al. 2015


def photos(n, seed=0):
    """n noisy photos of ten classes; a class has its own brightness and color."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % 10
    noise = torch.randint(0, 60, (n, 3, 32, 32), generator=generator)
    noise[:, 0] += (labels * 18)[:, None, None]
    noise[:, 1] += ((labels * 7 % 10) * 18)[:, None, None]
    return noise.to(torch.uint8), labels


def test_gradient_lengths_are_those_of_autograd_at_every_block():
    images, labels = photos(6)
    model = lesson.small_network(14, True, 0, CPU)
    twin = copy.deepcopy(model).train()
    x = twin.maxpool(twin.relu(twin.bn1(twin.conv1(lesson.photo_inputs(images)))))
    outputs = []
    for block in lesson.blocks_of(twin):
        x = block(x)
        outputs.append(x)
    loss = F.cross_entropy(twin.fc(x.mean(dim=(2, 3))), labels, reduction="sum")
    expected = [g.flatten(1).norm(dim=1).mean() for g in torch.autograd.grad(loss, outputs)]
    found = lesson.block_gradient_lengths(model, images, labels)
    torch.testing.assert_close(found, torch.stack(expected), rtol=1e-4, atol=1e-6)
    assert not any(block._forward_hooks for block in lesson.blocks_of(model))


def test_correction_sizes_are_relative_to_the_skip():
    images, _ = photos(4)
    model = lesson.small_network(8, True, 0, CPU).eval()
    for block in lesson.blocks_of(model):
        nn.init.zeros_(block.bn2.weight)
    assert lesson.correction_sizes(model, images) == [0.0] * 3
    nn.init.constant_(model.layer1[0].bn2.bias, 2.0)  # F(x) = 2 everywhere
    x = model.relu(model.bn1(model.conv1(lesson.photo_inputs(images))))
    expected = 2 * x[0].numel() ** 0.5 / x.flatten(1).norm(dim=1).mean().item()
    assert lesson.correction_sizes(model, images)[0] == pytest.approx(expected, rel=1e-4)
    nn.init.constant_(model.layer2[0].bn2.bias, 2.0)
    carried = model.layer2[0].downsample(model.layer1(x))  # what the projection brings, not x itself
    expected = 2 * carried[0].numel() ** 0.5 / carried.flatten(1).norm(dim=1).mean().item()
    assert lesson.correction_sizes(model, images)[1] == pytest.approx(expected, rel=1e-4)


def test_the_cut_follows_the_gradient_and_leaves_the_network_alone():
    images, labels = photos(20)
    model = lesson.small_network(8, True, 0, CPU)
    before = copy.deepcopy(model.state_dict())
    losses, length = lesson.cut_along_gradient(model, images, labels, (0.0, 1e-3, 0.0))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    loss = F.cross_entropy(copy.deepcopy(model).train()(lesson.photo_inputs(images)), labels)
    assert losses[0].item() == pytest.approx(loss.item(), rel=1e-5) and torch.equal(losses[0], losses[2])
    assert (losses[0] - losses[1]).item() / 1e-3 == pytest.approx(length, rel=0.1)  # the tangent's promise


def test_training_learns_in_training_mode_with_the_schedule():
    images, labels = photos(40)
    model, twin = (lesson.small_network(8, True, 0, CPU) for _ in range(2))
    losses = lesson.train_sgd(model.eval(), images, labels, 3, 8, 0.1, 5)
    optimizer = torch.optim.SGD(twin.parameters(), 0.1, momentum=0.9, nesterov=True, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=3, pct_start=0.1)
    generator = torch.Generator().manual_seed(5)
    for step in range(3):
        rows = torch.randint(40, (8,), generator=generator)
        loss = F.cross_entropy(twin.train()(lesson.photo_inputs(images[rows])), labels[rows])
        assert losses[step].item() == pytest.approx(loss.item(), rel=1e-3)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    assert lesson.evaluate(model, images, labels)[0] == pytest.approx(
        F.cross_entropy(model.eval()(lesson.photo_inputs(images)), labels).item(), rel=1e-4)
    model = lesson.small_network(8, True, 0, CPU)
    lesson.train_sgd(model, images, labels, 60, 16, 0.1, 0)
    assert lesson.evaluate(model, *photos(40, seed=1))[1] > 0.6


def test_multiplications_are_counted_once_for_each_place():
    model = nn.Sequential(nn.Conv2d(3, 5, 3, padding=1), nn.Flatten(), nn.Linear(5 * 8 * 8, 10))
    image = torch.zeros(3, 8, 8, dtype=torch.uint8)
    assert lesson.million_multiplications(model, image) == pytest.approx((8 * 8 * 9 * 3 * 5 + 320 * 10) / 1e6)


def test_loading_keeps_labels_with_their_photos_and_takes_at_most_so_many(monkeypatch):
    from datasets import ClassLabel, Dataset, Features, Image
    from PIL import Image as Pillow

    names = [f"class {k}" for k in range(10)]
    features = Features({"img": Image(), "label": ClassLabel(names=names)})

    def load(name, split, revision):
        n, mode = (30, "RGB") if split == "train" else (12, "L")
        pictures = [Pillow.new(mode, (32, 32), (k, k, k + 100) if mode == "RGB" else k) for k in range(n)]
        return Dataset.from_dict({"img": pictures, "label": [k * 7 % 10 for k in range(n)]}, features=features)

    monkeypatch.setitem(lesson.load_cifar10.__globals__, "load_dataset", load)
    data, found = lesson.load_cifar10("some/name", "0" * 40, {"train": 20, "test": 50}, CPU)
    assert found == names and [len(images) for images, _ in data.values()] == [20, 12]
    for images, labels in data.values():
        assert images.dtype == torch.uint8 and images.shape[1:] == (3, 32, 32)
        assert (images == images[:, :, :1, :1]).all()
        numbers = images[:, 0, 0, 0].long()
        assert (images[:, 2] == (images[:, 0] + 100 if len(images) == 20 else images[:, 0])[:, :1, :1]).all()
        assert torch.equal(labels, numbers * 7 % 10) and len(numbers.unique()) == len(numbers)


# ---- what tables, figures and results say


KINDS = {"plain": False, "residual": True}


def runs():
    """Runs of two depths, both kinds and two seeds: the loss is 0.1 per layer, with skips half of it."""
    return pd.DataFrame([
        {"kind": kind, "depth": depth, "seed": seed, "training loss": 0.1 * depth / (1 + skip) + 0.02 * seed,
         "test accuracy %": 90.0 - depth + 5 * skip + seed}
        for depth in (8, 32) for kind, skip in KINDS.items() for seed in (0, 1)])


def test_every_network_is_measured_on_both_sets():
    networks = {(kind, depth, seed): (kind, depth, seed) for kind in KINDS for depth in (8, 32) for seed in (0, 1)}
    found = run_cell(NOTEBOOK, "runs = pd.DataFrame", networks=networks, data={"train": ("train",), "test": ("test",)},
                     evaluate=lambda network, part: {"train": (network[1] / 10, 0.9), "test": (7.0, network[1] / 100)}[
                         part])["runs"]
    assert found["training loss"].tolist() == [key[1] / 10 for key in networks]
    assert found["test accuracy %"].tolist() == [key[1] for key in networks]
    assert list(found[["kind", "depth", "seed"]].itertuples(index=False, name=None)) == list(networks)


def table():
    return runs().groupby(["depth", "kind"])[["training loss", "test accuracy %"]].agg(["mean", "std"])


def test_the_gap_is_what_the_skips_save():
    losses = {(kind, depth, seed): torch.full((20,), float(seed))
              for kind in KINDS for depth in (8, 32) for seed in (0, 1)}
    drawn = []
    found = run_cell(NOTEBOOK, "gap = {depth", DEPTHS=(8, 32), SEEDS=(0, 1), kinds=KINDS, losses=losses, table=table(),
                     draw_depths=lambda *arguments: drawn.extend(arguments))
    assert found["gap"] == pytest.approx({8: 0.4, 32: 1.6}) and found["curves"]["plain"].tolist() == [0.5] * 20
    assert drawn[2] == "Skips lower the training loss by 0.40 with 8 layers, by 1.60 with 32"


def test_depths_are_drawn_on_their_axes(monkeypatch):
    monkeypatch.setattr(plt, "show", lambda: None)
    lesson.draw_depths(table(), {"plain": torch.arange(20.0), "residual": torch.zeros(20)}, "a title")
    axes = plt.gcf().axes
    for ax, name in zip(axes, ("training loss", "test accuracy %")):
        assert name.split()[1] in ax.get_ylabel()
        for bars, kind in zip(ax.containers, KINDS):
            expected = table()[name]["mean"].xs(kind, level="kind").tolist()
            assert bars[0].get_ydata().tolist() == pytest.approx(expected)
    assert axes[2].lines[0].get_xydata().tolist() == [[5, 4.5], [10, 9.5], [15, 14.5]]
    plt.close("all")


def test_growth_and_drops_are_what_their_names_say():
    drawn, lengths = [], {"plain": [8.0, 4, 2], "residual": [3.0, 2, 1]}
    found = run_cell(
        NOTEBOOK, "growth = {kind", data={"train": (range(9), range(9))}, CUT_PHOTOS=4, kinds=KINDS, SEEDS=(0, 1),
        DEEPEST=56, device=CPU, small_network=lambda depth, skip, seed, device: "residual" if skip else "plain",
        block_gradient_lengths=lambda kind, *_: torch.tensor(lengths[kind]),
        draw_gradients=lambda *arguments: drawn.extend(arguments))
    assert found["growth"] == {"plain": 4, "residual": 3} and len(found["cut_data"][0]) == 4
    assert drawn[1] == "On the way to the first block the gradient grows 4-fold without skips, 3-fold with them"
    found = run_cell(
        NOTEBOOK, "drops = pd.DataFrame", DEPTHS=(8, 20, 32), DEEPEST=56, kinds=KINDS, SEEDS=(0, 1), device=CPU,
        cut_data=(), DISTANCES=(0, 1, 2), small_network=lambda depth, skip, seed, device: depth + skip,
        cut_along_gradient=lambda size, distances: (torch.tensor([2.0, 2 - size / 100, 9.0]), size))
    drops = found["drops"].groupby(["depth", "kind"])["largest drop of the loss"].mean()
    assert drops.to_dict() == pytest.approx({(8, "plain"): 0.08, (8, "residual"): 0.09, (20, "plain"): 0.2,
                                             (20, "residual"): 0.21, (56, "plain"): 0.56, (56, "residual"): 0.57})


def test_the_check_demands_that_skips_help_and_results_are_taken_from_where_they_belong():
    data = {"train": (0, torch.tensor([1, 1, 2])), "test": (0, torch.tensor([1, 2, 2, 3]))}
    names = {"data": data, "runs": runs(), "gap": {8: 0.4, 32: 1.6}, "deep": 32, "REQUIRED_GAP": 0.15}
    found = run_cell(NOTEBOOK, "most_frequent = data", **names)
    assert found["baseline"] == 25
    with pytest.raises(AssertionError):
        run_cell(NOTEBOOK, "most_frequent = data", **names | {"gap": {8: 0.4, 32: 0.1}})
    best = pd.Series({(56, "plain"): 0.1, (56, "residual"): 0.3})
    results = run_cell(
        NOTEBOOK, '"deepest_plain_percent"', accuracy=found["accuracy"], gap=names["gap"], DEEPEST=56, best=best,
        growth={"plain": 4.0, "residual": 3.0}, kinds=KINDS, baseline=25.0, deep=32,
        differences={"resnet18": 1e-9, "resnet50": 2e-9})["results"]
    assert results == pytest.approx({
        "plain_8_test_accuracy_percent": 82.5, "residual_8_test_accuracy_percent": 87.5,
        "plain_32_test_accuracy_percent": 58.5, "residual_32_test_accuracy_percent": 63.5,
        "gap_training_loss_8": 0.4, "gap_training_loss_32": 1.6, "gradient_growth_plain": 4,
        "gradient_growth_residual": 3, "cut_drop_plain": 0.1, "cut_drop_residual": 0.3,
        "most_frequent_class_percent": 25, "deepest_gap_training_loss": 1.6, "deepest_plain_percent": 58.5,
        "deepest_residual_percent": 63.5, "largest_difference_to_torchvision": 2e-9})
