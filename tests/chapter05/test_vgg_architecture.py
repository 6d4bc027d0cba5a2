"""What VGG_architecture.ipynb defines: networks and costs beside torchvision's, receptive fields, top answers."""
import numpy as np
import pytest
import torch
from torch import nn
from torchvision import models

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
