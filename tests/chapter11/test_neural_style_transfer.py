"""What neural_style_transfer.ipynb defines: Gram matrices, losses, features, the training of pixels, the judge."""
import re

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import nn
from torchmetrics.functional.image import total_variation
from torchvision.models import vgg19
from torchvision.transforms import v2

from tests.cells import run_cell
from tests.definitions import definitions

NOTEBOOK = "Chapter11/neural_style_transfer.ipynb"
CPU = torch.device("cpu")
lesson = definitions(
    NOTEBOOK, "fetch_picture", "square_picture", "match_colors", "gram", "flip_half", "frozen_layers", "features_of",
    "relative_error", "style_error", "variation", "stylize", "judge_picture", "try_settings",
    "new_trunk")  # fmt: skip
quickly = settings(deadline=None, derandomize=True, max_examples=40)


def small(seed=0, configuration="4 4 M 6"):
    return lesson.frozen_layers(lesson.new_trunk(configuration, seed)[:-2], [0.5], [0.5])


def picture(seed=0, side=12):
    return torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(seed))


# ---- Gram matrices and losses


@quickly
@given(st.integers(1, 3), st.integers(1, 6), st.integers(1, 5), st.integers(1, 5), st.integers(0, 999),
       st.sampled_from([1.0, 1e-4, 1e4]))
def test_gram_is_the_einsum(b, n, h, w, seed, size):
    maps = size * torch.randn(b, n, h, w, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    expected = torch.einsum("bihw,bjhw->bij", maps, maps) / (h * w)
    torch.testing.assert_close(lesson.gram(maps), expected)
    torch.testing.assert_close(lesson.gram(maps), lesson.gram(maps).transpose(1, 2))
    assert torch.linalg.eigvalsh(lesson.gram(maps)).min() >= -1e-9 * size**2  # no negative eigenvalue
    order = torch.randperm(h * w, generator=torch.Generator().manual_seed(seed))
    torch.testing.assert_close(lesson.gram(maps.flatten(2)[:, :, order].view_as(maps)), expected)


def test_the_gradient_of_gram_is_that_of_the_einsum_and_of_finite_differences():
    maps = torch.randn(1, 3, 2, 4, dtype=torch.float64, requires_grad=True)
    weights = torch.randn(1, 3, 3, dtype=torch.float64)
    one, = torch.autograd.grad((weights * lesson.gram(maps)).sum(), maps)
    other, = torch.autograd.grad((weights * torch.einsum("bihw,bjhw->bij", maps, maps) / 8).sum(), maps)
    torch.testing.assert_close(one, other)
    assert torch.autograd.gradcheck(lesson.gram, maps)


def test_gram_of_empty_and_of_special_maps():
    assert lesson.gram(torch.zeros(0, 3, 2, 2)).shape == (0, 3, 3)
    assert torch.equal(lesson.gram(torch.zeros(1, 3, 2, 2)), torch.zeros(1, 3, 3))
    assert lesson.gram(torch.full((1, 2, 2, 2), torch.nan)).isnan().all()
    two = torch.zeros(1, 2, 1, 4)
    two[0, 0, 0, :2] = two[0, 1, 0, 2:] = 3  # never at the same place
    torch.testing.assert_close(lesson.gram(two)[0], torch.diag(torch.tensor([4.5, 4.5])))


def test_gram_does_not_depend_on_the_size_of_the_picture():
    maps = torch.rand(1, 4, 3, 5)
    torch.testing.assert_close(lesson.gram(maps.repeat(1, 1, 2, 3)), lesson.gram(maps))


def test_relative_errors_know_nothing_and_everything():
    x = torch.randn(2, 3, 4)
    assert lesson.relative_error(x, x).item() == 0
    assert lesson.relative_error(torch.zeros_like(x), x).item() == pytest.approx(1)
    assert lesson.relative_error(3 * x, x).item() == pytest.approx(4)
    other = torch.randn(2, 3, 4)
    assert lesson.relative_error(other, x).item() == pytest.approx(
        (torch.dist(other, x) / torch.linalg.vector_norm(x)).item() ** 2, rel=1e-4)


def test_the_style_error_is_the_mean_over_layers_of_gram_matrices():
    found = {"a": torch.randn(1, 3, 4, 4), "b": torch.randn(1, 5, 2, 2), "other": torch.randn(1, 2, 2, 2)}
    wanted = {"a": torch.randn(1, 3, 3), "b": torch.randn(1, 5, 5)}
    parts = [((torch.einsum("bihw,bjhw->bij", found[name], found[name]) / places - wanted[name]) ** 2).sum()
             / (wanted[name] ** 2).sum() for name, places in (("a", 16), ("b", 4))]
    assert lesson.style_error(found, wanted).item() == pytest.approx(sum(parts).item() / 2, rel=1e-5)


@quickly
@given(st.integers(1, 2), st.integers(2, 7), st.integers(2, 7), st.integers(0, 99))
def test_variation_is_torchmetrics_divided_by_its_pairs(b, h, w, seed):
    """Torchmetrics adds up both directions; checked one at a time, with pictures that vary in one only."""
    column = torch.rand(b, 3, h, 1, generator=torch.Generator().manual_seed(seed))
    row = torch.rand(b, 3, 1, w, generator=torch.Generator().manual_seed(seed))
    down, right = column.expand(b, 3, h, w).contiguous(), row.expand(b, 3, h, w).contiguous()
    for one, pairs in ((down, (h - 1) * w), (right, h * (w - 1))):
        assert lesson.variation(one).item() == pytest.approx(total_variation(one).item() / (b * 3 * pairs), rel=1e-4)
    assert lesson.variation(torch.ones(b, 3, h, w)) == 0


# ---- features


def test_layers_of_vgg19_have_their_usual_names():
    names = [name for name, _ in lesson.frozen_layers(vgg19(weights=None).features, [0.5], [0.5]).named_children()]
    assert names[:6] == ["scale", "conv1_1", "relu1_1", "conv1_2", "relu1_2", "pool1"]
    relus = [name for name in names if name.startswith("relu")]
    assert relus == [f"relu{block}_{k}" for block, count in ((1, 2), (2, 2), (3, 4), (4, 4), (5, 4))
                     for k in range(1, count + 1)]
    assert names[-1] == "pool5" and len(names) == 38


def test_features_are_those_of_the_original_and_are_not_overwritten():
    """torchvision's ReLU works in place; ours must not, or what was kept of the convolution changes."""
    torch.manual_seed(0)
    original = vgg19(weights=None).features[:9].eval()
    network, x = lesson.frozen_layers(original, [0.4, 0.5, 0.6], [0.2, 0.3, 0.4]), picture(side=16)
    scaled = v2.functional.normalize(x, [0.4, 0.5, 0.6], [0.2, 0.3, 0.4])
    with torch.no_grad():
        expected = {"conv1_1": original[:1](scaled), "relu1_1": original[:2](scaled), "relu2_2": original(scaled)}
    found = lesson.features_of(network, x, list(expected))
    for name, one in expected.items():
        torch.testing.assert_close(found[name], one)
    assert found["conv1_1"].min() < 0
    for module in network:
        assert not getattr(module, "inplace", False) and not module.training
    assert not any(p.requires_grad for p in network.parameters())


def test_features_stop_at_the_last_layer_asked_for_and_name_what_is_missing():
    network, seen = small(), []
    for name, layer in network.named_children():
        layer.register_forward_hook(lambda *_, name=name: seen.append(name))
    assert set(lesson.features_of(network, picture(), ["relu1_1", "relu1_2", "relu1_1"])) == {"relu1_1", "relu1_2"}
    assert seen[-1] == "relu1_2"
    with pytest.raises(KeyError, match="relu9_1"):
        lesson.features_of(network, picture(), ["relu1_1", "relu9_1"])


# ---- pixels


def test_one_step_moves_the_pixels_against_the_gradient_of_the_whole_loss():
    network, x = small(), 0.2 + 0.6 * picture(1)
    content, style, layers = picture(2), picture(3), (("relu1_1", "relu2_1"), "relu1_2")
    x = x.requires_grad_()
    found = lesson.features_of(network, x, ["relu1_1", "relu1_2", "relu2_1"])
    target, wanted = (lesson.features_of(network, one, ["relu1_1", "relu1_2", "relu2_1"]) for one in (style, content))
    loss = ((found["relu1_2"] - wanted["relu1_2"]) ** 2).sum() / (wanted["relu1_2"] ** 2).sum()
    for name in layers[0]:
        one, other = (torch.einsum("bihw,bjhw->bij", part[name], part[name]) for part in (found, target))
        loss = loss + 7 * ((one - other) ** 2).sum() / (other**2).sum() / 2
    loss = loss + 0.3 * lesson.variation(x)
    gradient, = torch.autograd.grad(loss, x)
    made, history = lesson.stylize(network, x.detach(), content, style, layers, 7, 1, 0.01, 0.3)
    clear = gradient.abs() > 1e-5
    torch.testing.assert_close((made - x.detach())[clear], -0.01 * gradient.sign()[clear], rtol=0.02, atol=1e-5)
    assert history.shape == (1, 2) and not made.requires_grad


@pytest.mark.parametrize("weight", [0.0, 100.0])
def test_content_alone_brings_the_photo_back_and_style_lowers_the_style_loss(weight):
    network, content, style = small(1), picture(2), picture(3).square()
    start = picture(4)
    layers = ("relu1_1", "relu2_1"), "relu1_1"
    made, history = lesson.stylize(network, start, content, style, layers, weight, 80, 0.05)
    assert history.shape == (80, 2) and made.min() >= 0 and made.max() <= 1
    column = 1 if weight else 0
    assert history[-1, column] < 0.3 * history[0, column]
    if not weight:
        assert (made - content).abs().mean() < 0.7 * (start - content).abs().mean()


def test_the_inputs_and_the_network_are_left_as_they_were():
    network, content, style = small(), picture(2), picture(3)
    before = [one.clone() for one in (content, style, *network.state_dict().values())]
    lesson.stylize(network, content, content, style, (("relu1_1",), "relu2_1"), 1.0, 3, 0.1)
    for one, other in zip((content, style, *network.state_dict().values()), before, strict=True):
        assert torch.equal(one, other)
    assert all(p.grad is None for p in network.parameters())


def test_smoothing_smooths():
    network, content, style = small(), picture(2), picture(3)
    layers = (("relu1_1",), "relu1_1")
    rough, smooth = (lesson.stylize(network, content, content, style, layers, 1.0, 30, 0.03, value)[0]
                     for value in (0, 50))
    assert lesson.variation(smooth) < 0.7 * lesson.variation(rough)


# ---- pictures


def test_matched_colors_have_mean_and_standard_deviation_of_the_painting():
    content = 0.4 + 0.2 * picture(0, 40)
    style = 0.3 + 0.3 * picture(1, 40) * torch.tensor([1, 0.5, 0.8]).view(1, 3, 1, 1)
    found = lesson.match_colors(content, style)
    torch.testing.assert_close(found.mean((2, 3)), style.mean((2, 3)), atol=5e-3, rtol=0)
    torch.testing.assert_close(found.std((2, 3)), style.std((2, 3)), atol=5e-3, rtol=0)
    for channel in range(3):  # the same photo: brighter stays brighter
        assert np.corrcoef(found[0, channel].flatten(), content[0, channel].flatten())[0, 1] > 0.99
    dark = lesson.match_colors(picture(2), torch.zeros(1, 3, 4, 4))
    assert torch.equal(dark, torch.zeros_like(dark))


@pytest.mark.parametrize(("mode", "size"), [("RGB", (9, 9)), ("L", (20, 11)), ("RGBA", (11, 20)), ("P", (8, 30))])
def test_pictures_of_any_kind_become_squares_of_their_middle(mode, size):
    found = lesson.square_picture(Image.new(mode, size), 6)
    assert found.shape == (1, 3, 6, 6) and found.dtype == torch.float32
    wide = np.zeros((4, 12, 3), dtype=np.uint8)
    wide[:, 4:8] = 255
    assert lesson.square_picture(Image.fromarray(wide), 4).min() == 1


def test_pictures_are_fetched_once_and_nothing_is_left_of_a_failure(tmp_path):
    source = tmp_path / "source" / "a.jpg"
    source.parent.mkdir()
    Image.new("RGB", (4, 4)).save(source)
    path = lesson.fetch_picture(source.as_uri(), tmp_path / "kept")
    assert path == tmp_path / "kept/a.jpg" and path.read_bytes() == source.read_bytes()
    source.unlink()
    assert lesson.fetch_picture(source.as_uri(), tmp_path / "kept") == path
    with pytest.raises(RuntimeError, match=re.escape(source.as_uri())):
        lesson.fetch_picture(source.as_uri(), tmp_path / "new")
    assert list((tmp_path / "new").iterdir()) == []


@pytest.mark.parametrize("count", [2, 5])
def test_half_of_a_batch_is_mirrored(count):
    x = torch.arange(count * 12).view(count, 3, 2, 2)
    found, half = lesson.flip_half(x), count // 2
    assert torch.equal(found[:half], x[:half]) and torch.equal(found[half:].flip(3), x[half:])


# ---- who makes and who judges


def test_the_judge_measures_by_its_own_features():
    judge, layers = small(5), (("relu1_1", "relu2_1"), "relu1_2")
    content, style = picture(2), picture(3)
    same = lesson.judge_picture(judge, content, content, style, layers)
    assert same["content error"] == 0 and same["style error"] > 0
    painting = lesson.judge_picture(judge, style.flip(3).flip(3), content, style, layers)
    assert painting["style error"] == pytest.approx(0, abs=1e-9) and painting["content error"] > 0
    names = ["relu1_1", "relu1_2", "relu2_1"]
    found, wanted, target = (lesson.features_of(judge, one, names) for one in (picture(4), content, style))
    result = lesson.judge_picture(judge, picture(4), content, style, layers)
    assert result["content error"] == pytest.approx(
        lesson.relative_error(found["relu1_2"], wanted["relu1_2"]).item(), rel=1e-5)
    errors = [lesson.relative_error(lesson.gram(found[name]), lesson.gram(target[name])).item() for name in layers[0]]
    assert result["style error"] == pytest.approx(np.mean(errors), rel=1e-5)


def test_no_network_judges_its_own_picture():
    made = []

    def judge_picture(judge, shown, *_):
        made.append((judge, shown))
        return {"style error": 1.0, "content error": 2.0}

    found = run_cell(
        NOTEBOOK, "judge = learned[SEEDS[k - 1]]", SEEDS=(0, 1, 2), learned={0: "L0", 1: "L1", 2: "L2"},
        content="photo", random={0: "R0", 1: "R1", 2: "R2"}, style="painting", matched="colors", layers=0, settings={},
        stylize=lambda network, start, content, *_: (f"{network} from {start}", None), judge_picture=judge_picture)
    assert [judge for judge, _ in made] == 4 * ["L2"] + 4 * ["L0"] + 4 * ["L1"]
    assert [shown for _, shown in made[:4]] == ["photo", "colors", "R0 from photo", "L0 from photo"]
    assert found["judged"].index.tolist() == ["photo", "colors matched", "random weights", "trained weights"]


def test_random_networks_stay_random_and_trained_ones_are_frozen_copies_of_trained_layers():
    trained = []
    networks = iter(nn.Sequential(nn.Identity()) for _ in range(4))
    found = run_cell(NOTEBOOK, "trained, untrained = {}, {}", SEEDS=(0, 1), device=CPU,
                     data={"train": (0, 0), "test": (0, 0)}, TRAINING_STEPS=1, flip_half=None,
                     classifier=lambda *_: next(networks),
                     train=lambda model, *rest: trained.append((model, rest[-2])),
                     evaluate=lambda model, *_: (0.0, 0.5))
    assert [(model is found["trained"][seed], seed) for model, seed in trained] == [(True, 0), (True, 1)]
    assert all(model is not other for model, _ in trained for other in found["untrained"].values())
    layers = run_cell(NOTEBOOK, "learned, random = ({seed", SEEDS=(0,), device=CPU, content=0, style=picture(),
                      trained={0: [torch.ones(5)]}, untrained={0: [torch.zeros(5)]}, gram=lambda maps: [0],
                      frozen_layers=lambda part, mean, std: part, draw_grams=lambda *_: None,
                      features_of=lambda *_: {"relu2_1": 0})
    assert layers["learned"][0].tolist() == [1, 1, 1] and layers["random"][0].tolist() == [0, 0, 0]
    assert layers["network"] is layers["learned"][0]


def test_variants_change_what_they_say():
    seen = []

    def stylize(network, start, content, style, layers, weight, smoothing=0.0):
        seen.append((layers, weight, smoothing))
        return torch.zeros(1, 3, 4, 4), None

    change = definitions(NOTEBOOK, "try_settings", stylize=stylize,
                         judge_picture=lambda judge, shown, content, style, layers: {"style error": layers})
    variants = {"a": {"weight": 5}, "b": {"layers": 2}, "c": {"smoothing": 3}}
    pictures, table = change.try_settings(0, variants, 0, 0, 0, 1, {"weight": 10})
    assert seen == [(1, 5, 0.0), (2, 10, 0.0), (1, 10, 3)] and list(pictures) == ["a", "b", "c"]
    assert table["style error"].tolist() == [1, 1, 1]  # all judged by the same layers


def test_results_are_taken_from_where_they_belong():
    columns = pd.MultiIndex.from_product([["style error", "content error"], ["mean", "std"]])
    judged = pd.DataFrame([[0.9, 9, 0.0, 9], [0.5, 9, 0.2, 9], [0.4, 9, 0.3, 9], [0.1, 9, 0.25, 9]], columns=columns,
                          index=["photo", "colors matched", "random weights", "trained weights"])
    sweep = pd.DataFrame({"style error": [0.3, 0.2, 0.1], "content error": [0.4, 0.5, 0.6]})
    found = run_cell(NOTEBOOK, '"style_loss_factor": factor', factor=20.0, right=[0.6, 0.7], judged=judged,
                     sweep=sweep)["results"]
    assert found == pytest.approx({
        "style_loss_factor": 20, "classifier_percent": 65, "photo_style_error": 0.9, "photo_content_error": 0,
        "colors_matched_style_error": 0.5, "colors_matched_content_error": 0.2, "random_weights_style_error": 0.4,
        "random_weights_content_error": 0.3, "trained_weights_style_error": 0.1, "trained_weights_content_error": 0.25,
        "weight_low_style_error": 0.3, "weight_high_style_error": 0.1, "weight_low_content_error": 0.4,
        "weight_high_content_error": 0.6})


@pytest.mark.parametrize(("factor", "passes"), [(9.0, True), (2.0, False)])
def test_the_check_wants_a_falling_loss(factor, passes):
    columns = pd.MultiIndex.from_product([["style error"], ["mean"]])
    names = ["photo", "colors matched", "trained weights"]
    judged = pd.DataFrame([[0.8], [0.1], [0.2]], index=names, columns=columns)

    def check():
        run_cell(NOTEBOOK, "assert factor >= REQUIRED_FACTOR", factor=factor, REQUIRED_FACTOR=5.0, judged=judged)

    if passes:
        check()
    else:
        with pytest.raises(AssertionError):
            check()
