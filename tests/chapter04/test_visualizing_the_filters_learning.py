"""Receptive fields, patches, hooks and gradient ascent of the notebook on what filters learn."""
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tests.definitions import definitions

NOTEBOOK = "Chapter04/Visualizing_the_filters'_learning.ipynb"
LESSON = definitions(NOTEBOOK, "receptive_field_of", "map_extent", "top_places", "cut_field", "capture", "new_model",
                     "up_to", "total_variation", "maximise", "unit_score", "letter_score", "filter_aucs",
                     "neighbours_agree")
WINDOW = st.tuples(st.sampled_from(["conv", "avg"]), st.integers(1, 4), st.integers(1, 3), st.integers(0, 1),
                   st.integers(1, 2))


def stack(windows):
    """Layers with positive weights, so that every path from a pixel to a unit has a gradient."""
    layers = []
    for kind, kernel, stride, padding, dilation in windows:
        if kind == "conv":
            layers.append(nn.Conv2d(1, 1, kernel, stride, padding, dilation, bias=False))
            nn.init.ones_(layers[-1].weight)
        else:
            layers.append(nn.AvgPool2d(kernel, stride, min(padding, kernel // 2)))
    return nn.Sequential(*layers).double()


@settings(deadline=None, max_examples=50)
@given(st.lists(WINDOW, min_size=1, max_size=4))
def test_the_receptive_field_is_where_autograd_has_a_gradient(windows):
    layers = stack(windows)
    size, jump, start = LESSON.receptive_field_of(layers)
    n = 4 * size + 8 * jump  # large enough for a unit far from all borders
    x = torch.ones(1, 1, n, n, dtype=torch.float64, requires_grad=True)
    maps = layers(x)
    row = column = math.ceil((size - start) / jump)
    column += 1
    maps[0, 0, row, column].backward()
    rows, columns = x.grad[0, 0].nonzero().T
    assert (rows.min(), rows.max()) == (start + row * jump, start + row * jump + size - 1)
    assert (columns.min(), columns.max()) == (start + column * jump, start + column * jump + size - 1)


def test_a_linear_layer_has_no_field():
    with pytest.raises(ValueError):
        LESSON.receptive_field_of(nn.Sequential(nn.Conv2d(1, 1, 3), nn.Flatten(), nn.Linear(4, 2)))


def test_the_map_lies_centred_on_the_fields():
    left, right, bottom, top = LESSON.map_extent((10, 2, 0), 10)
    assert (left, right, bottom, top) == (3.5, 23.5, 23.5, 3.5)  # first unit in the middle of pixels 0 … 9, at 4.5


def test_places_have_rows_and_columns_in_order_and_images_once():
    maps = torch.zeros(4, 3, 7)
    maps[2, 1, 6], maps[2, 0, 0], maps[0, 2, 3], maps[3, 0, 4] = 9, 8, 5, 7
    images, rows, columns = LESSON.top_places(maps, 3)
    assert (images.tolist(), rows.tolist(), columns.tolist()) == ([2, 3, 0], [1, 0, 2], [6, 4, 3])


def test_a_patch_is_cut_where_it_belongs_with_zeros_in_the_padding():
    image = torch.arange(1, 31, dtype=torch.uint8).reshape(5, 6)
    assert torch.equal(LESSON.cut_field(image, (3, 2, 0), 1, 0), image[2:5, 0:3])
    corner = LESSON.cut_field(image, (3, 1, -1), 0, 0)
    assert torch.equal(corner[1:, 1:], image[:2, :2]) and not corner[0].any() and not corner[:, 0].any()


@pytest.mark.parametrize("layer, output", [("conv1", "relu1"), ("conv2", "relu2"), ("conv3", "relu3")])
def test_a_patch_alone_gives_the_activation_of_its_unit(layer, output):
    model = LESSON.new_model(3, torch.device("cpu")).eval()
    image = torch.rand(28, 28, generator=torch.Generator().manual_seed(0))
    field, part = LESSON.receptive_field_of(LESSON.up_to(model, layer)), LESSON.up_to(model, output)
    with torch.inference_mode():
        maps = part(image[None, None])[0]
        row, column = maps.shape[1] - 1, maps.shape[2] // 2
        alone = part(LESSON.cut_field(image, field, row, column)[None, None])[0]
    torch.testing.assert_close(alone, maps[:, row : row + 1, column : column + 1])


def test_hooks_are_removed_also_after_an_error_and_keep_copies():
    model = nn.Sequential(nn.Linear(3, 3), nn.ReLU(inplace=True))
    with pytest.raises(RuntimeError), LESSON.capture(model, "0", "1"):
        model(torch.zeros(1, 4))
    with LESSON.capture(model, "0") as outputs:
        model(torch.randn(50, 3, generator=torch.Generator().manual_seed(0)))
    assert (outputs["0"] < 0).any() and not outputs["0"].requires_grad
    assert not any(layer._forward_hooks for layer in model.modules())


@pytest.mark.parametrize("smoothness", [0.0, 0.05])
def test_the_ascent_finds_the_maximum_of_a_linear_score(smoothness):
    weight = torch.ones(1, 6, 6)
    weight[:, :, :3] = -1  # best: left half black, right half white
    start = torch.full((2, 1, 6, 6), 0.5)
    images, scores = LESSON.maximise(lambda x: (weight * x).sum((1, 2, 3)), start, 300, 0.3, smoothness)
    torch.testing.assert_close(images, (weight > 0).float().expand(2, 1, 6, 6), rtol=0, atol=0.01)
    assert scores.shape == (301, 2) and scores[0].tolist() == [0, 0] and (scores[-1] > 17.5).all()
    assert torch.equal(start, torch.full((2, 1, 6, 6), 0.5)), "the start was changed"


def test_the_ascent_leaves_the_network_alone_and_images_do_not_mix():
    model = LESSON.new_model(0, torch.device("cpu")).eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    start = torch.rand(3, 1, 28, 28, generator=torch.Generator().manual_seed(1))
    score = LESSON.letter_score(model, 1)
    images, scores = LESSON.maximise(score, start, 20, 0.5, 0.0)
    alone, _ = LESSON.maximise(score, start[1:2], 20, 0.5, 0.0)
    assert (scores[-1] > scores[0]).all() and images.min() >= 0 and images.max() <= 1
    torch.testing.assert_close(alone, images[1:2], rtol=1e-3, atol=1e-3)
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_dead_score_moves_nothing():
    start = torch.rand(1, 1, 5, 5)
    images, _ = LESSON.maximise(lambda x: 0 * x.sum((1, 2, 3)), start, 3, 0.5, 0.0)
    assert torch.equal(images, start)


def test_scores_are_those_of_the_network():
    model = LESSON.new_model(0, torch.device("cpu")).eval()
    x = torch.rand(2, 1, 28, 28, generator=torch.Generator().manual_seed(2))
    logits = model(x)
    torch.testing.assert_close(LESSON.letter_score(model, 0)(x), logits[:, 0] - logits[:, 1])
    torch.testing.assert_close(LESSON.letter_score(model, 1)(x), logits[:, 1] - logits[:, 0])
    torch.testing.assert_close(LESSON.unit_score(model, "conv2", 3)(x), model[:4](x)[:, 3, 5, 5])


def test_total_variation_counts_both_directions_and_each_image():
    images = torch.zeros(2, 1, 3, 4)
    images[1, 0, 1, 1] = 2  # four neighbours
    assert LESSON.total_variation(images).tolist() == [0, 8]


def test_aucs_count_pairs_and_do_not_care_for_the_direction():
    labels = torch.tensor([0, 0, 1, 1])
    maps = torch.zeros(4, 4, 2, 2)
    maps[:, 0, 1, 0] = torch.tensor([1.0, 2, 3, 4])  # perfect for label 1
    maps[:, 1, 0, 1] = torch.tensor([4.0, 3, 2, 1])  # perfect for label 0
    maps[:, 2, 0, 0] = torch.tensor([1.0, 3, 2, 4])  # three of four pairs
    np.testing.assert_allclose(LESSON.filter_aucs(maps, labels), [1, 1, 0.75, 0.5])  # the last never fires


def test_neighbours_are_other_points():
    features = torch.tensor([[0.0], [1.0], [1.1], [5.0]])
    assert LESSON.neighbours_agree(features, torch.tensor([0, 1, 1, 1])) == 0.75
    assert LESSON.neighbours_agree(features, torch.tensor([0, 1, 2, 3])) == 0
