"""What Semantic_Segmentation_with_U_Net.ipynb defines: labels, losses, scores, training, beside libraries."""
import ast

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.colors import to_rgb
from sklearn.metrics import confusion_matrix
from torch import nn
from torchmetrics.functional.classification import multiclass_f1_score, multiclass_jaccard_index
from torchvision.models import ResNet18_Weights, resnet18
from torchvision.transforms import v2

from tests.definitions import definitions
from tests.notebooks import ROOT, code_cells, read
from tests.stored import assert_shown
from tests.structure import trees

NOTEBOOK = "Chapter09/Semantic_Segmentation_with_U_Net.ipynb"
CPU = torch.device("cpu")
lesson = definitions(
    NOTEBOOK, "class_labels", "augment_pairs", "train_segmenter", "probabilities_of", "new_segmenter",
    "confusion_counts", "iou_of_classes", "near_border", "scores", "color_numbers", "best_threshold", "dice_loss",
    "both_losses",
    "train_and_score", "try_recipes", "compare", "gains", "rarer_share", "one_species", "ResNetUNet", "photo_inputs",
    "overlay", "double_conv")
quiet = settings(deadline=None, max_examples=40)


def random_labels(shape, classes=3, ignored=0.2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, classes, shape, generator=generator)
    labels[torch.rand(shape, generator=generator) < ignored] = 255
    return labels


def random_trimaps(n=4, side=16, seed=0):
    return torch.randint(1, 4, (n, side, side), generator=torch.Generator().manual_seed(seed))


def random_photos(n=4, side=16, seed=0):
    return torch.randint(0, 256, (n, 3, side, side), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


# ---- labels


def test_labels_of_trimaps():
    trimaps = torch.tensor([[[1, 2, 3]], [[1, 2, 3]]])
    species = torch.tensor([0, 1])
    expected = {"left out": [[1, 0, 255], [2, 0, 255]], "animal": [[1, 0, 1], [2, 0, 2]],
                "own class": [[1, 0, 3], [2, 0, 3]]}
    for border, rows in expected.items():
        assert lesson.class_labels(trimaps, species, border)[:, 0].tolist() == rows
    with pytest.raises(KeyError):
        lesson.class_labels(trimaps, species, "ignored")


def test_photo_and_trimap_are_changed_together_and_no_class_is_invented():
    """Photos that hold their own trimap: after crops, flips and resizing they still agree."""
    trimaps = torch.where(torch.arange(32) < 12, 1, 3).expand(8, 32, 32).contiguous()
    trimaps[:, 20:] = 3
    photos = (trimaps * 80)[:, None].expand(-1, 3, -1, -1).to(torch.uint8).contiguous()
    change = v2.Compose([v2.RandomResizedCrop(32, scale=(0.3, 1.0), antialias=True), v2.RandomHorizontalFlip()])
    torch.manual_seed(0)
    images, labels = lesson.augment_pairs(photos, trimaps, change, group=2)
    assert type(images) is torch.Tensor and type(labels) is torch.Tensor and labels.dtype == torch.int64
    assert images.shape == photos.shape and labels.shape == trimaps.shape and set(labels.unique().tolist()) == {1, 3}
    agree = ((images[:, 0].float() / 80).round() == labels).float().mean()
    assert agree > 0.93, "photo and trimap were changed differently"
    assert not torch.equal(labels, trimaps), "the trimaps were not changed"
    same = [torch.equal(labels[k], labels[k + 1]) for k in (0, 2, 4, 6)]
    assert all(same), "one draw for each group"


# ---- scores


@pytest.mark.parametrize("ignored", [0.0, 0.3])
@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 7, 5), (2, 16, 16)])
def test_iou_equals_torchmetrics_and_counts_equal_scikit_learns(shape, ignored):
    labels, answers = random_labels(shape, 4, ignored, 1), random_labels(shape, 4, 0, 2)
    n = lesson.confusion_counts(answers, labels, 4)
    known = labels != 255
    if known.any():
        assert np.array_equal(n, confusion_matrix(labels[known], answers[known], labels=range(4)))
        theirs = multiclass_jaccard_index(answers, labels, 4, average=None, ignore_index=255)
        torch.testing.assert_close(lesson.iou_of_classes(n).nan_to_num(0).float(), theirs)


def test_iou_of_extremes():
    labels = torch.tensor([[[0, 0, 1, 255]]])
    perfect = lesson.iou_of_classes(lesson.confusion_counts(labels.where(labels != 255, 2), labels, 3))
    assert perfect[:2].tolist() == [1, 1] and perfect[2].isnan(), "an answer where nobody knows is no mistake"
    wrong = lesson.iou_of_classes(lesson.confusion_counts(1 - labels.clamp(max=1), labels, 3))
    assert wrong[:2].tolist() == [0, 0]
    nothing = lesson.iou_of_classes(lesson.confusion_counts(labels[..., :0], labels[..., :0], 3))
    assert nothing.isnan().all()
    n = lesson.confusion_counts(torch.tensor([[[0, 1, 1, 1]]]), torch.tensor([[[0, 0, 1, 1]]]), 2)
    assert n.tolist() == [[1, 1], [0, 2]], "rows are labels"
    assert lesson.iou_of_classes(n).tolist() == [1 / 2, 2 / 3]


def test_near_the_border_by_hand():
    trimaps = torch.full((1, 1, 9), 2)
    trimaps[..., 4] = 3
    for distance, expected in ((1, [3, 5]), (2, [2, 3, 5, 6])):
        assert lesson.near_border(trimaps, distance)[0, 0].nonzero().flatten().tolist() == expected
    assert not lesson.near_border(torch.ones(1, 5, 5, dtype=torch.long), 2).any()
    square = torch.full((1, 7, 7), 1)
    square[0, 3, 3] = 3
    assert lesson.near_border(square, 2).sum() == 24, "king's moves"


def test_scores_by_hand():
    labels = torch.tensor([[[0, 0, 1, 2, 255]]])
    answers = torch.tensor([[[0, 1, 1, 1, 2]]])
    near = torch.tensor([[[False, True, True, False, True]]])
    found = lesson.scores(answers, labels, near)
    expected = {"pixel accuracy": 50.0, "background": 50.0, "cat": 100 / 3, "dog": 0.0, "mean IoU": 250 / 9,
                "boundary accuracy": 50.0}
    assert found == pytest.approx(expected)
    own_class = lesson.scores(torch.tensor([[[0, 3, 1, 3, 3]]]), labels, near)
    assert own_class["pixel accuracy"] == 50 and own_class["cat"] == 100 and own_class["dog"] == 0


# ---- the color threshold


def test_color_numbers_by_hand():
    photos = torch.tensor([[255, 0, 0], [10, 20, 30], [0, 0, 255]], dtype=torch.uint8).T[None, :, None]
    numbers = lesson.color_numbers(photos)[0, :, 0]
    assert numbers.T.tolist() == [[255, 0, 0, 255, 255], [10, 20, 30, 20, 117], [0, 0, 255, 255, 0]]


@pytest.mark.parametrize("seed", range(4))
def test_the_threshold_is_the_best_of_all(seed):
    photos, trimaps = random_photos(2, 6, seed) // 32 * 32, random_trimaps(2, 6, seed + 10)
    number, threshold, above = lesson.best_threshold(photos, trimaps)

    def iou(number, threshold, above):
        chosen = lesson.color_numbers(photos)[:, number]
        answers = ((chosen > threshold) if above else (chosen <= threshold))[trimaps != 3]
        animal = (trimaps == 1)[trimaps != 3]
        return ((answers & animal).sum() / (answers | animal).sum().clamp_min(1)).item()

    best = max(iou(k, t, side) for k in range(5) for t in range(256) for side in (True, False))
    assert iou(number, threshold, above) == pytest.approx(best)


def test_the_threshold_finds_what_color_tells():
    photos, trimaps = random_photos(3), random_trimaps(3)
    photos[:, 2] = torch.where(trimaps == 1, 20, 200).to(torch.uint8)
    number, threshold, above = lesson.best_threshold(photos, trimaps)
    assert (number, above) == (2, False) and 20 <= threshold < 200


# ---- losses


@pytest.mark.parametrize("ignored", [0.0, 0.4])
def test_dice_of_hard_answers_is_torchmetrics_f1(ignored):
    labels, answers = random_labels((2, 9, 9), 3, ignored, 1), random_labels((2, 9, 9), 3, 0, 2)
    logits = 200.0 * F.one_hot(answers, 3).permute(0, 3, 1, 2).double()
    theirs = multiclass_f1_score(answers, labels, 3, average="macro", ignore_index=255)
    assert lesson.dice_loss(logits, labels, epsilon=0.0).item() == pytest.approx(1 - theirs.item(), abs=1e-6)


def dice_in_words(logits, labels, epsilon):
    """The formula, pixel by pixel and class by class."""
    p = logits.softmax(dim=1)
    total = 0
    for c in range(logits.shape[1]):
        overlap, claimed, labeled = torch.zeros((), dtype=p.dtype), 0, 0
        for b, y, x in (labels != 255).nonzero().tolist():
            g = float(labels[b, y, x] == c)
            overlap, claimed, labeled = overlap + p[b, c, y, x] * g, claimed + p[b, c, y, x], labeled + g
        total = total + (2 * overlap + epsilon) / (claimed + labeled + epsilon)
    return 1 - total / logits.shape[1]


@pytest.mark.parametrize("kind", ["noise", "huge", "absent class", "all left out"])
def test_dice_and_its_gradient_equal_the_formula(kind):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 3, 4, 5, generator=generator, dtype=torch.float64)
    labels = random_labels((2, 4, 5))
    if kind == "huge":
        logits = 1e4 * logits
    elif kind == "absent class":
        labels[labels == 2] = 0
    elif kind == "all left out":
        labels[:] = 255
    found = []
    for function in (lesson.dice_loss, dice_in_words):
        x = logits.clone().requires_grad_()
        loss = function(x, labels, 1.0)
        gradient, = torch.autograd.grad(loss, x, allow_unused=True) if loss.requires_grad else (torch.zeros_like(x),)
        found.append((torch.as_tensor(loss).detach().double(), gradient))
    torch.testing.assert_close(*found)
    if kind == "all left out":
        assert found[0][0] == 0


def test_both_losses_are_the_sum():
    logits, labels = torch.randn(2, 3, 4, 5), random_labels((2, 4, 5))
    expected = F.cross_entropy(logits, labels, ignore_index=255) + lesson.dice_loss(logits, labels)
    torch.testing.assert_close(lesson.both_losses(logits, labels), expected)


# ---- training


def bright(n=8, side=16, seed=0):
    """Photos, trimaps, species: the animal is bright, a dog red, and the border is a column of noise."""
    photos, species = random_photos(n, side, seed) // 4, torch.arange(n) % 2
    trimaps = torch.full((n, side, side), 2)
    trimaps[:, :, : side // 2] = 1
    trimaps[:, :, side // 2] = 3
    photos[:, :, :, : side // 2] += 100
    photos[species == 1, 0, :, : side // 2] += 70
    return photos, trimaps, species


def recipe(**changes):
    return {"loss": lambda logits, labels: F.cross_entropy(logits, labels, ignore_index=255),
            "change": lambda images, trimaps: (images, trimaps), "border": "left out"} | changes


def test_training_follows_its_recipe_and_its_seed():
    photos = bright()
    models = [lesson.new_segmenter(0, 4, 1, "left out", CPU).eval() for _ in range(3)]
    losses = [lesson.train_segmenter(model, photos, recipe(), 25, 4, 1e-2, seed)
              for model, seed in zip(models, (0, 0, 1))]
    assert torch.equal(losses[0], losses[1]) and not torch.equal(losses[0], losses[2])
    assert losses[0].shape == (25,) and losses[0][-3:].mean() < 0.6 * losses[0][:3].mean() and models[0].training
    labels = lesson.class_labels(*photos[1:], "left out")
    answers = lesson.probabilities_of(models[0], photos[0]).argmax(dim=1)
    assert (answers == labels)[labels != 255].float().mean() > 0.8 and not models[0].training


@pytest.mark.parametrize("border", ["left out", "animal", "own class"])
def test_the_recipe_reaches_the_loss(border):
    seen = []

    def loss(logits, labels):
        seen.append((logits.shape[1], set(labels.unique().tolist())))
        return F.cross_entropy(logits, labels, ignore_index=255)

    def change(images, trimaps):
        assert (images[trimaps[:, None].expand_as(images) == 1] >= 100).all(), "photo and trimap of different rows"
        return images, trimaps

    photos = bright()
    model = lesson.new_segmenter(0, 4, 1, border, CPU)
    lesson.train_segmenter(model, photos, recipe(loss=loss, change=change, border=border), 4, 8, 1e-2, 0)
    extra = {"left out": {255}, "animal": set(), "own class": {3}}[border]
    assert {classes for classes, _ in seen} == {4 if border == "own class" else 3}
    assert set.union(*(labels for _, labels in seen)) == {0, 1, 2} | extra


def test_probabilities_take_every_photo_once():
    model, photos = lesson.new_segmenter(0, 4, 1, "left out", CPU), random_photos(53)
    p = lesson.probabilities_of(model.train(), photos)
    torch.testing.assert_close(p.sum(dim=1), torch.ones(53, 16, 16))
    with torch.inference_mode():
        torch.testing.assert_close(p[50:], model.eval()(lesson.photo_inputs(photos[50:])).softmax(dim=1))


SETTINGS = {"width": 4, "levels": 1, "steps": 6, "batch_size": 4, "rate": 1e-2, "band": 2}


def test_a_recipe_is_scored_on_the_test_photos():
    train, test = bright(8, 16, 0), bright(6, 16, 1)
    p, found = lesson.train_and_score(recipe(), train, test, 0, SETTINGS)
    labels, near = lesson.class_labels(*test[1:], "left out"), lesson.near_border(test[1], 2)
    answers = p.argmax(dim=1)
    expected = lesson.scores(answers, labels, near)
    assert p.shape == (6, 3, 16, 16) and {name: found[name] for name in expected} == expected
    confidence = 100 * p.max(dim=1).values[labels != 255].mean().item()
    assert found["overconfidence"] == pytest.approx(confidence - expected["pixel accuracy"])
    whole = lesson.scores(answers, lesson.class_labels(*test[1:], "animal"), near)["mean IoU"]
    assert found["mean IoU, border as animal"] == pytest.approx(whole) and whole != expected["mean IoU"]


def test_recipes_share_their_seeds():
    train, test = bright(), bright(6, 16, 1)
    recipes = {"one": recipe(), "same": recipe(), "own": recipe(border="own class")}
    runs, probabilities = lesson.try_recipes(recipes, train, test, (0, 3), SETTINGS)
    assert len(runs) == 6 and list(runs["recipe"].unique()) == ["one", "same", "own"]
    assert torch.equal(probabilities["one", 3], probabilities["same", 3])
    assert not torch.equal(probabilities["one", 0], probabilities["one", 3])
    assert probabilities["own", 0].shape[1] == 4
    assert lesson.gains(runs, "one", "same", "mean IoU").tolist() == [0, 0]


def test_tables():
    runs = pd.DataFrame({"recipe": ["a", "a", "b", "b"], "seed": [0, 1, 1, 0], "x": [1.0, 3.0, 10.0, 20.0]})
    table = lesson.compare(runs, ("b", "a"), ["x"])
    assert table["x"].to_dict() == {"b": "15.0 ± 7.1", "a": "2.0 ± 1.4"}
    assert lesson.gains(runs, "a", "b", "x").tolist() == [-19.0, -7.0], "paired by seed"


# ---- mistakes


@quiet
@given(st.integers(0, 200), st.integers(0, 200))
def test_rarer_share(cats, dogs):
    answers = torch.tensor([1] * cats + [2] * dogs + [0] * (400 - cats - dogs)).view(1, 20, 20)
    expected = min(cats, dogs) / (cats + dogs) if cats + dogs else 0
    assert lesson.rarer_share(answers).item() == pytest.approx(expected)


def test_one_species_a_photo_by_votes_of_the_animal_alone():
    p = torch.zeros(2, 3, 1, 4)
    p[0, :, 0] = torch.tensor([[0.1, 0.6, 0.3], [0.1, 0.6, 0.3], [0.0, 0.1, 0.9], [0.9, 0.1, 0.0]]).T
    p[1, 0] = 1.0
    assert lesson.one_species(p)[:, 0].tolist() == [[2, 2, 2, 0], [0, 0, 0, 0]]
    p[0, :, 0, 3] = torch.tensor([0.5, 0.49, 0.01])  # background: has no vote
    assert lesson.one_species(p)[0, 0].tolist() == [2, 2, 2, 0]


def test_overlays_keep_the_background_and_tint_the_rest():
    photo = random_photos(1)[0]
    labels = torch.zeros(16, 16, dtype=torch.long)
    labels[0], labels[1], labels[2] = 1, 2, 255
    shown = lesson.overlay(photo, labels)
    plain = photo.permute(1, 2, 0).numpy() / 255
    np.testing.assert_allclose(shown[3:], plain[3:], atol=1e-6)
    assert all(np.abs(shown[row] - plain[row]).max() > 0.05 for row in range(3))
    for row, color in enumerate(("C0", "C2", "0.6")):
        np.testing.assert_allclose(lesson.overlay(photo, labels, alpha=1.0)[row, 0], to_rgb(color), atol=0.01)
    np.testing.assert_allclose(lesson.overlay(photo, labels.clamp(max=3)), lesson.overlay(photo, labels))


# ---- the pretrained encoder


def test_the_way_down_is_resnet18_and_every_stage_reaches_the_logits():
    torch.manual_seed(0)
    encoder = resnet18(weights=None)
    colors = ResNet18_Weights.IMAGENET1K_V1.transforms()
    model = lesson.ResNetUNet(encoder, colors.mean, colors.std, 3).eval()
    photos = random_photos(2, 64)
    stages = []
    hooks = [block.register_forward_hook(lambda block, x, y: stages.append(y)) for block in model.down]
    logits = model(lesson.photo_inputs(photos))
    for hook in hooks:
        hook.remove()
    assert logits.shape == (2, 3, 64, 64)
    x = v2.functional.normalize(photos.float() / 255, colors.mean, colors.std)
    x = encoder.eval().relu(encoder.bn1(encoder.conv1(x)))
    expected = [x]
    x = encoder.maxpool(x)
    for name in ("layer1", "layer2", "layer3", "layer4"):
        x = getattr(encoder, name)(x)
        expected.append(x)
    torch.testing.assert_close(stages, expected, rtol=1e-4, atol=1e-4)
    gradients = torch.autograd.grad(logits.square().sum(), stages)
    assert all(gradient.abs().sum() > 0 for gradient in gradients)


def test_a_stages_skip_goes_to_the_level_of_its_size():
    model = lesson.ResNetUNet(resnet18(weights=None), (0.5,) * 3, (0.5,) * 3, 2)
    received = {}
    for level, block in enumerate(model.join):
        block.register_forward_pre_hook(
            lambda block, x, level=level: received.__setitem__(level, tuple(x[0].shape[1:])))
    model(torch.zeros(2, 3, 64, 64))
    assert received == {0: (32, 64, 64), 1: (128, 32, 32), 2: (128, 16, 16), 3: (256, 8, 8), 4: (512, 4, 4)}
    assert isinstance(model.head, nn.Conv2d)


# ---- the notebook as a whole


def calls_of(function):
    """The arguments, as source, of every call of a function at the top of the notebook's code cells."""
    return [[ast.unparse(argument) for argument in node.args]
            for _, tree in trees(read(ROOT / NOTEBOOK)) for node in ast.walk(tree)
            if isinstance(node, ast.Call) and ast.unparse(node.func) == function]


def source_of(name):
    """The value, as source, of the one assignment to a name at the top of the notebook."""
    nodes = [node for _, tree in trees(read(ROOT / NOTEBOOK)) for node in tree.body]
    found = [ast.unparse(node.value) for node in nodes
             if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == name]
    assert len(found) == 1, f"{name}: {len(found)} assignments"
    return found[0]


def test_training_and_test_photos_keep_their_roles():
    assert calls_of("best_threshold") == [["train_photos[0]", "train_photos[1]"]]
    assert {tuple(arguments[1:3]) for arguments in calls_of("try_recipes")} == {
        ("train_photos", "test"), ("pictured", "test")}
    assert source_of("pictured") == "(train_photos[0], bilinear, train_photos[2])"
    assert source_of("test") == "(images, trimaps, species)"
    assert {arguments[1] for arguments in calls_of("train_segmenter")} == {"train_photos", "photos", "large_train"}
    assert source_of("large_train") == "tuple((part[rows] for part in large['trainval']))"


def test_results_are_taken_from_what_they_are_named_after():
    cell, second = (cell for cell in code_cells(read(ROOT / NOTEBOOK)) if "results" in cell.metadata.get("tags", []))
    columns = ["mean IoU", "cat", "dog", "background", "boundary accuracy", "pixel accuracy", "overconfidence"]
    means = pd.DataFrame([[10.0 * k + j for j in range(len(columns))] for k in range(1, 4)], columns=columns,
                         index=["cross-entropy", "Dice", "border as animal"])
    opponents = pd.DataFrame({"mean IoU": [50.0, 51.0, 52.0], "pixel accuracy": [60.0, 61.0, 62.0]},
                             index=["U-Net", "most frequent class", "color threshold"])
    pairs = {name: pd.Series([value - 1, value + 1.0]) for name, value in
             (("by_dice", 70.0), ("by_picture", 80.0), ("by_vote", 90.0), ("by_weights", 95.0))}
    space = pairs | {"means": means, "opponents": opponents, "invented": 1.5, "share": 2.5, "own_iou": [0, 0, 0, 0.35],
                     "pairs": [None] * 3, "pd": pd, "large_runs": pd.DataFrame(
                         {"recipe": ["pretrained", "from scratch"], "mean IoU": [7.0, 6.0]})}
    exec(cell.source, space)
    exec(second.source, space)
    spread = 2**0.5
    assert space["results"] == pytest.approx({
        "mean_iou_percent": 10, "cat_iou_percent": 11, "dog_iou_percent": 12, "background_iou_percent": 13,
        "boundary_accuracy_percent": 14, "pixel_accuracy_percent": 15, "frequent_class_iou_percent": 51,
        "frequent_class_accuracy_percent": 61, "color_iou_percent": 52, "dice_gain_points": 70, "dice_gain_std": spread,
        "dice_overconfidence_points": 26, "cross_entropy_overconfidence_points": 16,
        "picture_labels_boundary_points": 80, "picture_labels_boundary_std": spread,
        "vote_gain_points": 90, "false_background_percent": 1.5, "border_share_percent": 2.5,
        "border_own_class_iou_percent": 35, "pairs_on_two_sides": 3, "Dice_mean_iou_percent": 20,
        "border_as_animal_mean_iou_percent": 30, "large_scratch_mean_iou_percent": 6,
        "large_pretrained_mean_iou_percent": 7, "pretrained_gain_points": 95, "pretrained_gain_std": spread})


def test_the_stored_run_shows_its_results():
    found = assert_shown(NOTEBOOK, "mean IoU {mean_iou_percent:.1f} %", "{picture_labels_boundary_points:+.1f} ± ",
                         "the vote brings {vote_gain_points:+.1f}")
    assert found["frequent_class_accuracy_percent"] > 50 > found["frequent_class_iou_percent"]
