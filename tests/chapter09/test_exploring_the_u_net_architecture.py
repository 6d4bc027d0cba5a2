"""What Exploring_the_U_Net_architecture.ipynb defines: network, transposed convolution, measures, beside libraries."""
import ast

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from scipy.ndimage import distance_transform_cdt
from scipy.stats import pearsonr
from torch import nn
from torchmetrics.functional.classification import binary_jaccard_index
from torchvision import tv_tensors

from tests.definitions import definitions
from tests.notebooks import ROOT, code_cells, read
from tests.stored import assert_shown

NOTEBOOK = "Chapter09/Exploring_the_U_Net_architecture.ipynb"
CPU = torch.device("cpu")
lesson = definitions(
    NOTEBOOK, "load_trimaps", "train_unet", "segment", "double_conv", "upsampler", "UNet", "new_unet", "animal_iou",
    "feature_maps", "receptive_fields", "channel_correlations", "segment_without", "border_distances", "accuracy_at",
    "conv_transpose2d", "random_decoder", "phase_spread", "photo_inputs")


def random_photos(n, side=16, seed=0):
    return torch.randint(0, 256, (n, 3, side, side), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


# ---- the transposed convolution


@pytest.mark.parametrize("kind", ["noise", "zeros", "ties", "huge", "one"])
@pytest.mark.parametrize(("k", "s", "p", "extra"), [
    (1, 1, 0, 0), (2, 2, 0, 0), (3, 2, 1, 1), (4, 2, 1, 0), (3, 1, 1, 0), (5, 3, 2, 2), (2, 3, 0, 1), (3, 1, 2, 0)])
def test_transposed_convolution_equals_pytorchs_forwards_and_backwards(k, s, p, extra, kind):
    generator = torch.Generator().manual_seed(1)
    shape = (1, 1, 1, 1) if kind == "one" and k > 2 * p else (2, 3, 4, 5)
    x, weight, bias = (torch.randn(some, generator=generator, dtype=torch.float64)
                       for some in (shape, (shape[1], 2, k, k + 1), (2,)))
    x = {"zeros": 0 * x, "ties": x.sign(), "huge": 1e8 * x}.get(kind, x)
    found = []
    for function in (lesson.conv_transpose2d, F.conv_transpose2d):
        inputs = [some.clone().requires_grad_() for some in (x, weight, bias)]
        y = function(*inputs, stride=s, padding=p, output_padding=extra)
        upstream = torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view_as(y)
        found.append((y.detach(), *torch.autograd.grad(y, inputs, upstream)))
    torch.testing.assert_close(*found)


def test_transposed_convolution_of_no_photo_and_of_nan():
    weight, bias = torch.randn(3, 2, 3, 3), torch.randn(2)
    empty = lesson.conv_transpose2d(torch.zeros(0, 3, 4, 4), weight, bias, 2)
    assert empty.shape == F.conv_transpose2d(torch.zeros(0, 3, 4, 4), weight, bias, 2).shape
    x = torch.randn(1, 3, 4, 4)
    x[0, 1, 2, 2] = torch.nan
    torch.testing.assert_close(lesson.conv_transpose2d(x, weight, bias, 2), F.conv_transpose2d(x, weight, bias, 2),
                               equal_nan=True)


@pytest.mark.parametrize("kind", ["transposed 2", "transposed 3", "transposed 4", "resize"])
@pytest.mark.parametrize("size", [(1, 1), (3, 5), (8, 8)])
def test_every_upsampler_doubles(kind, size):
    layer = lesson.upsampler(4, 3, kind)
    assert layer(torch.randn(2, 4, *size)).shape == (2, 3, 2 * size[0], 2 * size[1])
    if kind != "resize":
        assert layer.kernel_size == (int(kind[-1]),) * 2 and layer.stride == (2, 2)


def test_resize_and_convolve_gives_one_number_where_its_input_is_one_number():
    x = torch.ones(1, 4, 6, 6)
    torch.manual_seed(0)
    inner = lesson.upsampler(4, 1, "resize")(x)[..., 2:-2, 2:-2]
    torch.testing.assert_close(inner, inner[..., :1, :1].expand_as(inner))
    inner = lesson.upsampler(4, 1, "transposed 2")(x)[..., 2:-2, 2:-2]
    assert inner.std() > 0.01 and torch.allclose(inner, inner[..., :2, :2].repeat(1, 1, 4, 4))


# ---- the network


@pytest.mark.parametrize("skips", [True, False])
@pytest.mark.parametrize("levels", [1, 3])
def test_the_network_is_its_formula(skips, levels):
    torch.manual_seed(0)
    model = lesson.UNet(4, levels, 2, skips).eval()
    x = torch.randn(2, 3, 16, 24)
    z = [model.down[0](x)]
    for down in model.down[1:]:
        z.append(down(F.max_pool2d(z[-1], 2)))
    u = z[-1]
    for level in range(levels - 1, -1, -1):
        up = model.up[level](u)
        u = model.join[level](torch.cat([z[level] if skips else up, up], dim=1))
    torch.testing.assert_close(model(x), model.head(u))
    assert model(x).shape == (2, 2, 16, 24)
    assert [some.shape[1] for some in z] == [4 * 2**level for level in range(levels + 1)]


def test_with_and_without_skips_have_the_same_weights_at_the_start():
    kinds = ((5, True), (5, False), (6, True))
    one, other, third = (lesson.new_unet(seed, 4, 2, CPU, skips=skips) for seed, skips in kinds)
    for (name, p), (other_name, q) in zip(one.named_parameters(), other.named_parameters(), strict=True):
        assert name == other_name and torch.equal(p, q)
    assert not torch.equal(one.head.weight, third.head.weight)


@pytest.mark.parametrize("skips", [True, False])
def test_without_skips_the_photo_arrives_only_through_the_bottom(skips):
    torch.manual_seed(0)
    model = lesson.UNet(4, 2, 2, skips).eval()
    model.down[-1].register_forward_hook(lambda block, x, y: torch.ones_like(y))
    x = torch.randn(1, 3, 8, 8)
    assert torch.equal(model(x), model(2 * x)) != skips


def test_receptive_fields_are_what_gradients_reach():
    """With average pooling and positive weights every path has a gradient."""
    levels, side = 3, 96
    model = lesson.UNet(2, levels, 2)
    for block in model.down:
        for layer in block:
            if isinstance(layer, nn.Conv2d):
                nn.init.ones_(layer.weight)
    x = torch.ones(1, 3, side, side, dtype=torch.float64, requires_grad=True)
    y, found = x, []
    for level, block in enumerate(model.double().eval().down):
        y = block(F.avg_pool2d(y, 2) if level else y)
        middle = y.shape[-1] // 2
        reached = torch.autograd.grad(y[0, 0, middle, middle], x, retain_graph=True)[0][0, 0].abs() > 0
        found.append(int(reached.any(dim=0).sum()))
    assert found == lesson.receptive_fields(levels) == [5, 14, 32, 68]
    assert lesson.receptive_fields(0) == [5]


def test_feature_maps_are_the_outputs_of_the_blocks_and_leave_no_hook():
    model = lesson.new_unet(0, 4, 2, CPU)
    model.train()
    maps = lesson.feature_maps(model, random_photos(2))
    assert {name: len(some) for name, some in maps.items()} == {"down": 3, "up": 2, "join": 2}
    with torch.inference_mode():
        first = model.eval().down[0](lesson.photo_inputs(random_photos(2)))
        torch.testing.assert_close(maps["down"][0], first)
        torch.testing.assert_close(maps["up"][1], model.up[1](maps["down"][2]))
        joined = model.join[1](torch.cat([maps["down"][1], maps["up"][1]], dim=1))
        torch.testing.assert_close(maps["join"][1], joined)
    assert not any(block._forward_hooks for block in model.modules())


@pytest.mark.parametrize("half", [0, 1])
@pytest.mark.parametrize("level", [0, 1])
def test_a_cut_half_says_nothing_about_the_photo(level, half):
    torch.manual_seed(0)
    model, photos = lesson.new_unet(0, 4, 2, CPU), random_photos(3)
    received = []
    handle = model.join[level].register_forward_hook(lambda block, inputs, y: received.append(inputs[0]))
    plain = lesson.segment(model, photos)
    cut = lesson.segment_without(model, photos, level, half)
    handle.remove()
    before, after = (some.chunk(2, dim=1) for some in received)
    torch.testing.assert_close(after[1 - half], before[1 - half])
    mean = before[half].mean(dim=(0, 2, 3), keepdim=True)
    torch.testing.assert_close(after[half], mean.expand_as(after[half]))
    assert cut.shape == plain.shape and torch.equal(lesson.segment(model, photos), plain), "the cut has stayed"


# ---- training


def striped(n, side=16, seed=0):
    """Photos whose bright pixels are the animal; one column of each is 255."""
    photos = random_photos(n, side, seed) // 4
    labels = torch.zeros(n, side, side, dtype=torch.long)
    labels[:, :, : side // 3] = 1
    photos[:, :, :, : side // 3] += 150
    labels[:, :, -1] = 255
    return photos, labels


def test_training_learns_follows_its_seed_and_leaves_255_out():
    photos, labels = striped(8)
    models = [lesson.new_unet(0, 4, 1, CPU) for _ in range(3)]
    losses = [lesson.train_unet(model, photos, labels, 50, 4, 1e-2, seed) for model, seed in zip(models, (0, 0, 1))]
    assert losses[0].shape == (50,) and losses[0][-1] < 0.7 * losses[0][0]
    assert torch.equal(losses[0], losses[1]) and not torch.equal(losses[0], losses[2])
    assert lesson.animal_iou(lesson.segment(models[0], photos), labels) > 50
    last = torch.arange(16) == 15  # the column of 255: a change of its labels is seen, and 255 of nothing is NaN
    with_column = labels.masked_fill(last, 1)
    one, other = (lesson.train_unet(lesson.new_unet(0, 4, 1, CPU), photos, some, 3, 4, 1e-2, 0)
                  for some in (labels, with_column))
    assert not torch.allclose(one, other)
    only = lesson.train_unet(lesson.new_unet(0, 4, 1, CPU), photos, labels.masked_fill(~last, 255), 1, 4, 1e-2, 0)
    assert only.isnan().all()


def test_photo_and_labels_are_mirrored_together():
    class Probe(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(1))

        def forward(self, x):
            bright = x.mean(dim=1, keepdim=True) > -0.3
            return self.scale * 20 * torch.cat([~bright, bright], dim=1).float()

    photos, labels = striped(6)
    losses = lesson.train_unet(Probe(), photos, labels, 4, 3, 1e-6, 0)
    assert (losses < 1e-3).all(), losses


def test_segment_takes_every_photo_once_in_evaluation_mode():
    model, photos = lesson.new_unet(0, 4, 1, CPU), random_photos(53)
    answers = lesson.segment(model.train(), photos)
    assert answers.shape == (53, 16, 16) and not model.training
    with torch.inference_mode():
        torch.testing.assert_close(answers[51:], model(lesson.photo_inputs(photos[51:])).argmax(dim=1))


# ---- measures


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_iou_equals_torchmetrics(share):
    generator = torch.Generator().manual_seed(0)
    answers = (torch.rand(4, 9, 9, generator=generator) < 0.4).long()
    labels = (torch.rand(4, 9, 9, generator=generator) < share).long()
    labels[torch.rand(4, 9, 9, generator=generator) < 0.2] = 255
    theirs = binary_jaccard_index(answers, labels, ignore_index=255).item()
    assert lesson.animal_iou(answers, labels) == pytest.approx(100 * theirs)
    assert lesson.animal_iou(torch.zeros_like(labels), labels.clamp(min=255)) == 0.0


def test_distances_are_those_of_scipy():
    generator = torch.Generator().manual_seed(0)
    trimaps = 1 + (torch.rand(5, 20, 30, generator=generator) < 0.5).long()
    trimaps[torch.rand(5, 20, 30, generator=generator) < 0.01] = 3
    trimaps[4] = 2  # no border at all
    found = lesson.border_distances(trimaps, 6)
    for one, trimap in zip(found[:4], trimaps):
        expected = distance_transform_cdt(trimap.numpy() != 3, metric="chessboard").clip(max=7)
        assert np.array_equal(one.numpy(), expected)
    assert (found[4] == 7).all()


def test_accuracy_at_a_distance_by_hand():
    labels = torch.tensor([[[0, 1, 255, 1]]])
    answers = torch.tensor([[[0, 0, 1, 1]]])
    distances = torch.tensor([[[1, 1, 1, 2]]])
    assert lesson.accuracy_at(answers, labels, distances, 1) == 50.0
    assert lesson.accuracy_at(answers, labels, distances, 2) == 100.0


def test_correlations_are_those_of_scipy():
    generator = torch.Generator().manual_seed(0)
    maps = torch.randn(3, 4, 4, 4, generator=generator)
    maps[:, 2] = 5.0  # a dead channel
    labels = torch.randint(0, 2, (3, 8, 8), generator=generator)
    labels[0, :3] = 255
    found = lesson.channel_correlations(maps, labels)
    large = maps.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
    known = labels != 255
    for channel in (0, 1, 3):
        expected = abs(pearsonr(large[:, channel][known].numpy(), labels[known].numpy()).statistic)
        assert found[channel].item() == pytest.approx(expected, abs=1e-5)
    assert found[2] < 1e-3 and not found.isnan().any()


def test_phase_spread_sees_checkerboards_alone():
    smooth = torch.linspace(0, 1, 64).view(1, 1, 1, 64).expand(1, 1, 64, 64)
    board = ((torch.arange(64)[:, None] + torch.arange(64)) % 2).float()[None, None]
    assert lesson.phase_spread(smooth) < 0.03 and lesson.phase_spread(board) == pytest.approx(1, abs=0.01)
    assert 0.1 < lesson.phase_spread(smooth + 0.1 * board) < 0.3
    assert lesson.phase_spread(torch.ones(1, 1, 16, 16)) == 0
    rows = (torch.arange(64) % 2).float()[None, None, :, None].expand(1, 1, 64, 64)
    assert lesson.phase_spread(rows) == pytest.approx(1, abs=0.01)
    both = torch.cat([smooth, board], dim=1)
    expected = (lesson.phase_spread(smooth) + lesson.phase_spread(board)) / 2
    assert lesson.phase_spread(both) == pytest.approx(expected, abs=1e-5)
    decoder = lesson.random_decoder("transposed 3", 0)
    assert decoder(torch.randn(2, 8, 8, 8)).shape == (2, 1, 64, 64)


# ---- photos


class Pets:
    """Stands for torchvision's OxfordIIITPet: three breeds, wide photos, a trimap with a diagonal border."""

    classes = ["Abyssinian", "Beagle", "Bengal"]
    wrapped = False

    def __init__(self, root, split, target_types, transforms, download):
        assert download and target_types == ("category", "binary-category", "segmentation")
        self.split, self.transforms = split, transforms

    def __len__(self):
        return 9

    def __getitem__(self, k):
        if k >= len(self):
            raise IndexError(k)
        photo = np.full((40, 60, 3), k * 10 + (5 if self.split == "test" else 0), np.uint8)
        trimap = np.ones((40, 60), np.uint8)
        trimap[:, 20:40] = 3
        trimap[:, 40:] = 2
        trimap = Image.fromarray(trimap)
        target = (k % 3, k % 3 % 2, tv_tensors.Mask(trimap) if self.wrapped else trimap)
        return self.transforms(Image.fromarray(photo), target)


def wrap(pets):
    """Stands for torchvision's wrapper."""
    pets.wrapped = True
    return pets


def test_loading_keeps_photo_trimap_and_species_together(monkeypatch):
    load = lesson.load_trimaps
    monkeypatch.setitem(load.__globals__, "OxfordIIITPet", Pets)
    monkeypatch.setitem(load.__globals__, "wrap_dataset_for_transforms_v2", wrap)
    photos, trimaps, species = load("test", ("Beagle", "Bengal"), 20, CPU)
    assert photos.shape == (6, 3, 20, 20) and photos.dtype == torch.uint8
    assert photos[:, 0, 0, 0].tolist() == [15, 25, 45, 55, 75, 85] and species.tolist() == [1, 0] * 3
    assert trimaps.shape == (6, 20, 20) and trimaps.dtype == torch.int64
    row = trimaps[0, 0]
    assert set(row.tolist()) == {1, 2, 3} and (row.diff().abs() > 0).sum() == 2, "labels were mixed"


# ---- the notebook as a whole


def calls_of(function):
    """The arguments, as source, of every call of a function at the top of the notebook's code cells."""
    trees = [ast.parse(cell.source) for cell in code_cells(read(ROOT / NOTEBOOK))]
    return [[ast.unparse(argument) for argument in node.args] for tree in trees for node in ast.walk(tree)
            if isinstance(node, ast.Call) and ast.unparse(node.func) == function]


def test_training_and_test_photos_keep_their_roles():
    assert {tuple(arguments[1:3]) for arguments in calls_of("train_unet")} == {("images", "labels")}
    assert {arguments[1] for arguments in calls_of("segment")} == {"test_images", "images"}  # the second: in a function
    scored = {arguments[1] for arguments in calls_of("animal_iou") + calls_of("accuracy_at")}
    assert scored == {"test_labels"}
    assert definitions(NOTEBOOK, "kinds").kinds == {"with skips": {"skips": True}, "without skips": {"skips": False}}
    assert ["torch.arange(len(images))", "pairs"] in calls_of("without_twins")


def test_results_are_taken_from_what_they_are_named_after():
    cell, = (cell for cell in code_cells(read(ROOT / NOTEBOOK)) if "results" in cell.metadata.get("tags", []))
    ups = ("transposed 2", "transposed 3", "resize")
    columns = ["spread behind it", "spread of the logits", "IoU %"]
    checker = pd.DataFrame([[up, *(10 * k + j for j in range(3))] for k, up in enumerate(ups, start=2)],
                           columns=["upsampler", *columns])
    space = {"iou": {"with skips": 1.0, "without skips": 2.0}, "baseline": 3.0, "gain": pd.Series([4.0, 6.0]),
             "far": pd.Series([7.0]), "cuts": pd.DataFrame({"skip cut": [8.0, 0], "from below cut": [9.0, 0]}),
             "correlations": pd.DataFrame({"skip": [0.1, 0], "from below": [0.2, 0]}), "pairs": [None] * 5,
             "largest": 0.3, "photo_spread": 0.4, "ups": ups, "spreads": dict(zip(ups, (0.5, 0.6, 0.7))), "pd": pd,
             "stats": checker.groupby("upsampler", sort=False)[columns]}
    exec(cell.source, space)
    expected = {"iou_with_skips_percent": 1, "iou_without_skips_percent": 2, "iou_constant_percent": 3,
                "skip_gain_beside_border_points": 5, "skip_gain_beside_border_std": 2**0.5, "skip_gain_far_points": 7,
                "iou_top_skip_cut_percent": 8, "iou_top_below_cut_percent": 9, "correlation_top_skip": 0.1,
                "correlation_top_below": 0.2, "pairs_on_two_sides": 5, "largest_difference_to_pytorch": 0.3,
                "spread_photos": 0.4}
    for k, up in enumerate(("transposed_2", "transposed_3", "resize"), start=2):
        expected |= {f"spread_random_{up}": 0.3 + k / 10, f"spread_behind_{up}": 10 * k,
                     f"spread_logits_{up}": 10 * k + 1, f"iou_{up}_percent": 10 * k + 2}
    assert space["results"] == pytest.approx(expected)


def test_the_stored_run_shows_its_results_and_what_the_text_says_of_them():
    found = assert_shown(
        NOTEBOOK, "IoU {iou_with_skips_percent:.1f} % with skips, {iou_without_skips_percent:.1f} % without, constant "
        "{iou_constant_percent:.1f} %; beside the border the skips bring {skip_gain_beside_border_points:+.1f}")
    assert found["skip_gain_beside_border_points"] > 3 * found["skip_gain_far_points"]
    assert found["correlation_top_skip"] < found["correlation_top_below"]
    assert found["iou_top_below_cut_percent"] < found["iou_top_skip_cut_percent"]
    for up in ("transposed_2", "transposed_3"):
        assert found[f"spread_behind_{up}"] > 5 * found["spread_behind_resize"]
        assert found[f"spread_logits_{up}"] < found["spread_photos"]
