"""What VGG_architecture.ipynb defines: networks and costs beside torchvision's, receptive fields, top answers."""
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.colors import to_rgba
from torch import nn
from torchvision import models

from tests.cells import run_cell
from tests.definitions import definitions

NOTEBOOK = "Chapter05/VGG_architecture.ipynb"
lesson = definitions(
    NOTEBOOK, "CONFIGURATIONS", "new_vgg", "layer_costs", "compare_networks", "receptive_field", "pool_fields",
    "measured_field", "square_photo", "top_answers")
VARIANTS = ("vgg11", "vgg13", "vgg16", "vgg19")


@pytest.mark.parametrize("name", VARIANTS)
def test_layers_are_torchvisions_in_kind_order_and_settings(name):
    with torch.device("meta"):
        ours, theirs = lesson.new_vgg(lesson.CONFIGURATIONS[name]), models.get_model(name, init_weights=False)
    assert {key: value.shape for key, value in ours.state_dict().items()} == {
        key: value.shape for key, value in theirs.state_dict().items()}
    for part in ("features", "classifier"):
        pairs = list(zip(getattr(ours, part), getattr(theirs, part), strict=True))
        assert all(repr(one).replace("inplace=True", "") == repr(other).replace("inplace=True", "")
                   for one, other in pairs if not isinstance(other, nn.ReLU | nn.Dropout))
        assert all(type(one) is type(other) for one, other in pairs)
        assert all(one.p == other.p for one, other in pairs if isinstance(other, nn.Dropout))


@pytest.mark.parametrize("kind", ["noise", "zeros", "ones", "huge"])
@pytest.mark.parametrize("shape", [(1, 3, 32, 32), (2, 3, 32, 64), (3, 3, 75, 33)])
def test_a_narrow_vgg_equals_torchvisions_layers_on_hostile_images(kind, shape):
    torch.manual_seed(0)
    ours = lesson.new_vgg("4 M 4 4 M 6 M 6 M 8 M", classes=5).eval()
    theirs = models.VGG(models.vgg.make_layers([4, "M", 4, 4, "M", 6, "M", 6, "M", 8, "M"]), init_weights=False)
    theirs.classifier = ours.classifier  # torchvision's expects 512 channels
    theirs.features.load_state_dict(ours.features.state_dict())
    images = {"noise": torch.randn(shape), "zeros": torch.zeros(shape), "ones": torch.ones(shape),
              "huge": 1e6 * torch.randn(shape)}[kind]
    torch.testing.assert_close(ours(images), theirs.eval()(images))
    assert ours(images).shape == (shape[0], 5)


def test_the_comparison_notices_a_wrong_layer(monkeypatch):
    small = models.VGG(models.vgg.make_layers([8, "M", 8, "M"]), num_classes=3, init_weights=False)
    small.classifier = lesson.new_vgg("8 M 8 M", classes=3).classifier
    images = torch.randn(2, 3, 32, 32)
    make = lesson.new_vgg
    monkeypatch.setitem(lesson.compare_networks.__globals__, "new_vgg", lambda words: make(words, classes=3))
    assert lesson.compare_networks("8 M 8 M", small, images) < 1e-5
    monkeypatch.setitem(lesson.compare_networks.__globals__, "new_vgg",
                        lambda words: make(words, classes=3, pool=nn.AvgPool2d))
    with pytest.raises(AssertionError):
        lesson.compare_networks("8 M 8 M", small, images)


def test_costs_are_those_of_the_definition():
    costs = lesson.layer_costs("4 M 6 M 5", 20)
    assert costs["output"].tolist() == [(4, 20, 20), (6, 10, 10), (5, 5, 5), (4096,), (4096,), (1000,)]
    assert costs["numbers"].tolist() == [1600, 600, 125, 4096, 4096, 1000]
    assert costs["weights"].tolist() == [9 * 3 * 4 + 4, 9 * 4 * 6 + 6, 9 * 6 * 5 + 5, 5 * 49 * 4096 + 4096,
                                         4096 * 4096 + 4096, 4096 * 1000 + 1000]
    assert costs["multiplications"].tolist() == [400 * 9 * 3 * 4, 100 * 9 * 4 * 6, 25 * 9 * 6 * 5, 5 * 49 * 4096,
                                                 4096 * 4096, 4096 * 1000]
    assert lesson.layer_costs(lesson.CONFIGURATIONS["vgg16"], 224)["weights"].sum() == 138_357_544  # torchvision's page


def test_fields_by_formula_and_by_gradient():
    assert lesson.pool_fields(lesson.CONFIGURATIONS["vgg16"]) == [6, 16, 44, 100, 212]  # Araujo et al. 2019, table 1
    for configuration, field in (("8", 3), ("8 8", 5), ("8 8 8", 7), ("8 M", 4), ("8 M 8 M", 10), ("8 M 8 8 M", 14)):
        assert lesson.measured_field(configuration, 48) == field
        assert lesson.receptive_field(
            [(2, 2, 1) if word == "M" else (3, 1, 1) for word in configuration.split()])[-1][0] == field
    assert lesson.measured_field("8 8 8", 5) == 5  # never more than the image


@pytest.mark.parametrize("shape", [(40, 60, 3), (60, 40, 3), (50, 50, 3)])
def test_the_middle_square_is_taken(shape):
    pixels = np.zeros(shape, dtype=np.uint8)
    pixels[shape[0] // 2 - 20 : shape[0] // 2 + 20, shape[1] // 2 - 20 : shape[1] // 2 + 20] = (255, 128, 0)
    photo = lesson.square_photo(pixels, 8)
    assert photo.shape == (3, 8, 8) and photo.dtype == torch.float32
    torch.testing.assert_close(photo[:, 4, 4], torch.tensor([1.0, 128 / 255, 0.0]), rtol=0, atol=1e-3)


def test_top_answers_are_sorted_probabilities():
    model = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())  # logits: mean of each color
    photo = torch.tensor([10, 200, 90], dtype=torch.uint8)[:, None, None].expand(3, 4, 4)
    model.append(nn.Linear(3, 3))
    with torch.no_grad():
        model[2].weight.copy_(torch.eye(3))
        model[2].bias.zero_()
    probabilities, numbers = lesson.top_answers(model, photo, lambda image: image.float() / 100, 2)
    assert numbers.tolist() == [1, 2]
    torch.testing.assert_close(probabilities, torch.tensor([0.1, 2.0, 0.9]).softmax(0)[[1, 2]])


# --- what figures, tables and results say


def drawn_costs():
    """The cell with the first figure, run for VGG-16 at 64 pixels."""
    return run_cell(NOTEBOOK, "shares = costs.groupby(is_linear)", SIDE=64, layer_costs=lesson.layer_costs,
                    CONFIGURATIONS=lesson.CONFIGURATIONS)


def test_bars_are_those_of_their_axes_and_the_linear_layers_stand_out():
    found = drawn_costs()
    for ax, name, unit in zip(found["axes"], ("weights", "multiplications"), (1e6, 1e9)):
        assert name in ax.get_ylabel()
        np.testing.assert_allclose([bar.get_height() for bar in ax.patches], found["costs"][name] / unit)
        colors = [bar.get_facecolor() for bar in ax.patches]
        assert colors == [to_rgba("C0")] * 13 + [to_rgba("C2")] * 3  # C2 is the orange of the notebook's style
    assert found["shares"].loc[True, "weights"] > 0.8 > 0.2 > found["shares"].loc[True, "multiplications"]
    share = found["shares"].loc[True, "weights"]
    assert found["fig"].get_suptitle().startswith(f"VGG-16: linear layers hold {share:.0%} of the weights")


def test_stages_end_with_their_pooling():
    costs = drawn_costs()
    found = run_cell(NOTEBOOK, "stage_of = [", CONFIGURATIONS=lesson.CONFIGURATIONS, costs=costs["costs"],
                     is_linear=costs["is_linear"])["by_stage"]
    assert found.index.tolist() == [1, 2, 3, 4, 5] and found["convolutions"].tolist() == [2, 2, 3, 3, 3]
    assert [output[1] for output in found["output"]] == [64, 32, 16, 8, 4]
    assert found["weights"].sum() == sum(p.numel() for p in models.vgg16(init_weights=False).features.parameters())


def test_totals_are_compared_with_others():
    """torchvision's columns do not come from our own counting."""
    nothing = pd.DataFrame({"weights": [1], "multiplications": [2], "numbers": [3e6]})
    found = run_cell(NOTEBOOK, "totals[name] = {", VARIANTS=("vgg11",), SIDE=224, CONFIGURATIONS={"vgg11": None},
                     layer_costs=lambda configuration, side: nothing)["totals"].loc["vgg11"]
    assert found[["weights", "multiplications", "million numbers kept"]].tolist() == [1, 2, 3]
    assert found["torchvision's"] == 132_863_336 and found["by PyTorch"] == pytest.approx(7.609e9, rel=1e-3)


def test_a_wrong_order_of_colors_is_shown_beside_the_right_one():
    photos = {"red": torch.tensor([200, 0, 90])[:, None, None].expand(3, 4, 4),
              "blue": torch.tensor([0, 90, 200])[:, None, None].expand(3, 4, 4)}

    def top_answers(model, photo, preprocess, top):
        """The brightest color, as probability its value."""
        value, number = photo[:, 0, 0].max(0)
        return [value[None] / 1000, number[None]]

    tables = []
    frame = SimpleNamespace(DataFrame=lambda table: tables.append(pd.DataFrame(table)) or tables[-1])
    found = {name: top_answers(None, photo, None, 1) for name, photo in photos.items()}
    run_cell(NOTEBOOK, "reversed_found = {", names=["r", "g", "b"], found=found, model=None, preprocess=None, TOP=1,
             photos=photos, top_answers=top_answers, pd=frame)
    expected = {"red": {"RGB": "r", "BGR": "b"}, "blue": {"RGB": "b", "BGR": "r"}}
    assert tables[0].loc[["RGB", "BGR"]].to_dict() == expected
    results = run_cell(NOTEBOOK, '_top_probability_bgr"', results={"kept": 1.0}, found={"red": ([0.9], 0)},
                       reversed_found={"red": ([0.2], 0)})["results"]
    assert results == {"kept": 1, "red_top_probability": 0.9, "red_top_probability_bgr": 0.2}


def test_results_are_taken_from_where_they_belong():
    totals = pd.DataFrame({"weights": [3e6, 4e6], "multiplications": [5e9, 6e9]}, index=["vgg11", "vgg16"])
    shares = pd.DataFrame({"weights": [0.1, 0.9], "multiplications": [0.7, 0.3]}, index=[False, True])
    found = run_cell(NOTEBOOK, '"vgg16_linear_share_of_weights"', totals=totals, shares=shares,
                     VARIANTS=("vgg11", "vgg16"), measured={"vgg11": 150, "vgg16": 212},
                     differences={"vgg11": 1e-7, "vgg16": 2e-7})["results"]
    assert found == pytest.approx({
        "vgg11_million_weights": 3, "vgg16_million_weights": 4, "vgg11_billion_multiplications": 5,
        "vgg16_billion_multiplications": 6, "vgg11_field_pixels": 150, "vgg16_field_pixels": 212,
        "vgg16_linear_share_of_weights": 0.9, "vgg16_conv_share_of_multiplications": 0.7,
        "largest_relative_difference": 2e-7})
