"""What Implementing_VGG16_for_image_classification.ipynb defines: trunks, frozen features and heads, the curve."""
import copy

import pandas
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torchvision.models import VGG16_Weights, vgg

from tests.definitions import definitions

NOTEBOOK = "Chapter05/Implementing_VGG16_for_image_classification.ipynb"
CPU = torch.device("cpu")
lesson = definitions(
    NOTEBOOK, "new_trunk", "with_head", "draw_photos", "compute_features", "train_head", "Frozen", "trunk_changes",
    "learning_curve", "small_trunks", "paired_statistics", "Rescale", "photo_inputs", "evaluate",
    CONFIGURATION="4 M 8 M 8 M", SCRATCH_RATE=5e-3, TUNING_RATE=2e-3)


def photos(n, seed=0):
    """n noisy photos of four classes; a class has its own colors."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % 4
    images = torch.randint(0, 90, (n, 3, 16, 16), generator=generator)
    images[:, 0] += (labels % 2 * 120)[:, None, None]
    images[:, 1] += (labels // 2 * 120)[:, None, None]
    return images.to(torch.uint8), labels


def test_the_trunk_is_torchvisions_vgg_with_batch_norm():
    ours = lesson.new_trunk("4 M 8 8 M", 0)
    theirs = vgg.make_layers([4, "M", 8, 8, "M"], batch_norm=True)
    for one, other in zip((m for m in ours if isinstance(m, nn.Conv2d | nn.BatchNorm2d)),
                          (m for m in theirs if isinstance(m, nn.Conv2d | nn.BatchNorm2d)), strict=True):
        other.load_state_dict(one.state_dict(), strict=False)  # ours has no bias in front of a batch norm
        if isinstance(other, nn.Conv2d):
            nn.init.zeros_(other.bias)
    for training in (True, False):
        x = torch.randn(3, 3, 13, 21)
        torch.testing.assert_close(ours.train(training)(x), theirs.train(training)(x).mean(dim=(2, 3)))


def test_trunks_follow_the_seed_and_heads_leave_them_alone():
    a, b, c = (lesson.new_trunk("4 M 8", seed) for seed in (0, 0, 1))
    assert torch.equal(a[0].weight, b[0].weight) and not torch.equal(a[0].weight, c[0].weight)
    model = lesson.with_head(a, 8, 5, 3, CPU)
    assert model(torch.zeros(2, 3, 16, 16)).shape == (2, 5)
    with torch.no_grad():
        model.trunk[0].weight.zero_()
    assert torch.equal(a[0].weight, b[0].weight), "the head shares its trunk with the original"


def test_smaller_sets_are_parts_of_larger_ones():
    large, small = (lesson.draw_photos(50, size, 7) for size in (40, 10))
    assert set(small.tolist()) <= set(large.tolist()) and len(large.unique()) == 40
    assert not torch.equal(lesson.draw_photos(50, 10, 8), small)


def test_features_are_those_of_evaluation_mode_and_change_nothing():
    images, _ = photos(11)
    trunk = lesson.new_trunk("4 M 8", 0).train()
    twin = copy.deepcopy(trunk).eval()
    z = lesson.compute_features(trunk, images)
    torch.testing.assert_close(z, torch.cat([twin(lesson.photo_inputs(image[None])) for image in images]).detach(),
                               rtol=1e-4, atol=1e-5)
    assert all(map(torch.equal, trunk.state_dict().values(), twin.state_dict().values()))


def test_the_head_learns_scales_by_training_features_only_and_is_logistic_regression():
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(60) % 3
    z = torch.randn(60, 5, generator=generator) * torch.tensor([1.0, 100, 0.01, 1, 0]) + 7
    z[:, 1] += 900 * (labels == 1)
    z[:, 2] += 0.06 * (labels == 2)
    head = lesson.train_head(z, labels, 3, 300, 0.05, 0.0, 0)
    assert (head(z).argmax(dim=1) == labels).float().mean() > 0.95
    assert torch.equal(head(z[:1]), head(z[:1].clone())) and not head(z).requires_grad
    torch.testing.assert_close(head(z)[:1], head(z[:1]))  # does not depend on the other rows
    from sklearn.linear_model import LogisticRegression
    scaled = ((z - z.mean(dim=0)) / (z.std(dim=0) + 1e-3)).numpy()
    theirs = LogisticRegression(C=1e6, max_iter=5000).fit(scaled, labels.numpy())
    assert (head(z).argmax(dim=1).numpy() == theirs.predict(scaled)).mean() > 0.95


def test_frozen_stays_in_evaluation_mode_and_gets_no_gradient():
    frozen = lesson.Frozen(lesson.new_trunk("4 M 8", 0))
    model = nn.Sequential(frozen, nn.Linear(8, 2)).train()
    assert not any(module.training for module in frozen.modules()) and model[1].training
    before = copy.deepcopy(frozen.state_dict())
    model(torch.randn(4, 3, 8, 8)).sum().backward()
    assert all(p.grad is None for p in frozen.parameters()) and model[1].weight.grad is not None
    assert all(torch.equal(value, before[name]) for name, value in frozen.state_dict().items())


@pytest.mark.parametrize(("kind", "weights", "statistics"), [
    ("fine-tuned", False, False), ("requires_grad only", True, False), ("Frozen", True, True)])
def test_what_changes_in_each_way(kind, weights, statistics):
    images, labels = photos(24)
    trunk = lesson.new_trunk("4 M 8", 0)
    before = copy.deepcopy(trunk.state_dict())
    settings = {"features": 8, "steps": 4, "batch_size": 8, "rate": 1e-2}
    found = lesson.trunk_changes(kind, trunk, images, labels, 4, settings)
    assert (found["weights bit-equal"], found["statistics bit-equal"]) == (weights, statistics)
    assert (found["features changed by"] == "0.0%") == statistics
    assert all(torch.equal(value, before[name]) for name, value in trunk.state_dict().items())
    assert all(p.requires_grad for p in trunk.parameters()), "the original trunk was frozen as well"


def test_the_curve_has_all_runs_and_its_accuracies_are_right(monkeypatch):
    data, held_out = photos(40), photos(20, seed=1)
    seen = []

    def spy(model, images, labels, steps, batch_size, learning_rate, seed, change):
        seen.append((len(images), learning_rate, seed, images.flatten(1).float().mean(dim=1), labels))

    monkeypatch.setitem(lesson.learning_curve.__globals__, "train", spy)
    trunk = lesson.new_trunk("4 M 8 M 8 M", 5)
    z = {part: lesson.compute_features(trunk, images).clone()
         for part, images in (("train", data[0]), ("held out", held_out[0]))}
    settings = {"features": 8, "steps": 2, "batch_size": 4, "change": None, "head": (50, 0.05, 0.0)}
    curve = lesson.learning_curve(lambda seed: lesson.small_trunks(trunk, seed), z, data, held_out, 4, (8, 20), (0, 1),
                                  settings)
    assert len(curve) == 12 and set(curve["method"]) == {"from scratch", "frozen", "fine-tuned"}
    assert [(n, rate, seed) for n, rate, seed, *_ in seen] == [
        (n, rate, seed) for seed in (0, 1) for n in (8, 20) for rate in (5e-3, 2e-3)]
    for n, _, seed, means, labels in seen:
        rows = lesson.draw_photos(40, n, seed)
        assert torch.equal(labels, data[1][rows])
        torch.testing.assert_close(means, data[0][rows].flatten(1).float().mean(dim=1))
    rows = lesson.draw_photos(40, 20, 1)
    head = lesson.train_head(z["train"][rows], data[1][rows], 4, 50, 0.05, 0.0, 1)
    right = (head(z["held out"]).argmax(dim=1) == held_out[1]).float().mean().item()
    found = curve.query("method == 'frozen' and photos == 20 and seed == 1")["accuracy %"].item()
    assert found == pytest.approx(100 * right)
    model = lesson.with_head(trunk, 8, 4, 1, CPU)  # the spy has trained nothing
    tuned = curve.query("method == 'fine-tuned' and photos == 20 and seed == 1")["accuracy %"].item()
    assert tuned == pytest.approx(100 * lesson.evaluate(model, *held_out)[1])


def test_rescaling_is_what_the_weights_expect():
    scale = VGG16_Weights.IMAGENET1K_V1.transforms()
    images = torch.randint(0, 256, (2, 3, 4, 4), dtype=torch.uint8)
    expected = (images / 255 - torch.tensor(scale.mean).view(3, 1, 1)) / torch.tensor(scale.std).view(3, 1, 1)
    torch.testing.assert_close(lesson.Rescale(scale.mean, scale.std)(lesson.photo_inputs(images)), expected,
                               rtol=1e-4, atol=1e-5)


def test_evaluation_is_the_mean_over_all_photos():
    images, labels = photos(23)
    model = lesson.with_head(lesson.new_trunk("4 M 8", 0), 8, 4, 0, CPU)
    logits = model.eval()(lesson.photo_inputs(images))
    loss, accuracy = lesson.evaluate(model.train(), images, labels)
    assert loss == pytest.approx(F.cross_entropy(logits, labels).item(), rel=1e-4)
    assert accuracy == pytest.approx((logits.argmax(dim=1) == labels).float().mean().item())


def test_gains_are_paired_by_seed_and_positive_where_scratch_is_worse():
    rows = [{"method": method, "photos": photos, "seed": seed, "accuracy %": start + photos + 10 * seed + extra * seed}
            for method, start, extra in (("from scratch", 0, 0), ("frozen", -3, 0), ("fine-tuned", 5, 1))
            for photos in (50, 200) for seed in (2, 0, 1)]
    stats = lesson.paired_statistics(pandas.DataFrame(rows[::-1]))
    expected = {"gain of fine-tuning": ([6, 6], [1, 1]), "gain of frozen": ([-3, -3], [0, 0]),
                "from scratch": ([60, 210], [10, 10])}
    for name, (mean, std) in expected.items():
        assert (stats[name]["mean"].tolist(), stats[name]["std"].tolist()) == (mean, std)
    one = lesson.paired_statistics(pandas.DataFrame([row for row in rows if row["seed"] == 1]))
    assert one["frozen"]["std"].tolist() == [0, 0]  # one seed: no deviation, and no NaN
