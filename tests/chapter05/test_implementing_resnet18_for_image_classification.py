"""The block, the crops, the splits, the freezing, the training rules and the calibration of the ResNet-18 notebook."""
import copy
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from torch import nn
from torchmetrics.functional.classification import binary_calibration_error
from torchvision.models.resnet import BasicBlock, ResNet

from tests.definitions import definitions

lesson = definitions(
    "Chapter05/Implementing_ResNet18_for_image_classification.ipynb", "ResidualBlock", "PlainBlock", "run_block",
    "gradient_gain", "without_copies", "balanced_order", "majority_accuracy", "crops", "network_input", "predict",
    "headless", "nearest", "fit_head", "accuracy", "with_head", "train_mode", "snapshot", "changed", "STAGES",
    "EVERYTHING", "METHODS", "transfer", "parameter_groups", "rate", "batches", "train", "paired_gap",
    "surest_mistakes",
    "reliability", "calibration_error")  # fmt: skip
seeds = st.integers(0, 1000)
quiet = settings(deadline=None, max_examples=25)


def network(seed=0, classes=5):
    """A ResNet with one block a stage; its stages have torchvision's names."""
    torch.manual_seed(seed)
    return ResNet(BasicBlock, [1, 1, 1, 1], num_classes=classes)


def pictures(rows, generator=None):
    """Random pictures that depend on their row alone, (n, 3, 16, 16)."""
    return torch.stack([torch.randn(3, 16, 16, generator=torch.Generator().manual_seed(int(row))) for row in rows])


# --- the block


@settings(deadline=None, max_examples=12)
@given(st.sampled_from([(4, 4, 1), (4, 8, 2), (4, 4, 2), (4, 8, 1)]), st.integers(1, 3), st.integers(2, 9), seeds,
       st.booleans())  # fmt: skip
def test_block_is_torchvisions(shape, n, size, seed, training):
    torch.manual_seed(seed)
    inputs, outputs, stride = shape
    downsample = None
    if stride != 1 or inputs != outputs:
        downsample = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
    theirs = BasicBlock(inputs, outputs, stride, downsample).double()
    for module in theirs.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight), nn.init.normal_(module.bias)
            module.running_mean.normal_(), module.running_var.uniform_(0.5, 2)
    ours = lesson.ResidualBlock(*shape).double()
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(n, inputs, 2 * size, 2 * size, dtype=torch.float64)
    grad = torch.randn(n, outputs, 2 * size // stride, 2 * size // stride, dtype=torch.float64)
    torch.testing.assert_close(lesson.run_block(ours, x, grad, training), lesson.run_block(theirs, x, grad, training))


def test_run_block_leaves_the_block_alone():
    block = lesson.ResidualBlock(3, 3).eval()
    before = lesson.snapshot(block)
    lesson.run_block(block, torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4), training=True)
    assert not lesson.changed(block, before) and not block.training


def test_identity_path_and_plain_block():
    block, plain = lesson.ResidualBlock(3, 3), lesson.PlainBlock(3, 3)
    x = torch.randn(2, 3, 5, 5)
    for one in (block, plain):
        nn.init.zeros_(one.bn2.weight)  # the branch gives zero
    assert torch.equal(block(x), x.relu()) and not plain(x).any()
    assert lesson.gradient_gain(lesson.ResidualBlock, 24, 0) < 0.05 * lesson.gradient_gain(lesson.PlainBlock, 24, 0)


# --- the sets


@quiet
@given(st.lists(st.integers(0, 6)), st.lists(st.integers(0, 6)))
def test_without_copies(fingerprints, kept_out):
    kept = [fingerprints[i] for i in lesson.without_copies(fingerprints, kept_out)]
    assert len(set(kept)) == len(kept) and set(kept) == set(fingerprints) - set(kept_out)
    first = [fingerprints.index(one) for one in kept]
    assert lesson.without_copies(fingerprints, kept_out).tolist() == first == sorted(first)


@quiet
@given(st.lists(st.integers(0, 4), min_size=1, max_size=40), seeds)
def test_every_beginning_is_balanced(classes, seed):
    classes = np.array(classes)
    order = lesson.balanced_order(classes, seed)
    assert sorted(order.tolist()) == list(range(len(classes)))
    total = np.bincount(classes, minlength=5)
    for n in range(1, len(order) + 1):
        drawn = np.bincount(classes[order[:n]], minlength=5)
        most = drawn.max()
        assert all(drawn >= np.minimum(total, most - 1))
    assert np.array_equal(order, lesson.balanced_order(classes, seed))


def test_seeds_draw_other_photos():
    classes = np.repeat(np.arange(3), 50)
    assert not np.array_equal(lesson.balanced_order(classes, 0), lesson.balanced_order(classes, 1))


def test_majority_is_that_of_the_training_labels():
    train, other = torch.tensor([0, 1, 1]), torch.tensor([0, 0, 0, 1])
    assert lesson.majority_accuracy(train, other) == 0.25


# --- batches of photos


@quiet
@given(st.integers(1, 6), st.integers(1, 6), st.integers(0, 4), seeds)
def test_crops_are_windows_or_mirrored_windows(n, side, margin, seed):
    size = side + margin
    images = torch.randint(256, (4, size, size, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))
    rows = torch.randint(4, (n,), generator=torch.Generator().manual_seed(seed))
    found = lesson.crops(images, rows, side, torch.Generator().manual_seed(seed))
    assert found.shape == (n, 3, side, side) and found.dtype == torch.uint8
    for row, one in zip(rows, found):
        picture = images[row].permute(2, 0, 1)
        windows = [picture[:, y:y + side, x:x + side] for y in range(margin + 1) for x in range(margin + 1)]
        assert any(torch.equal(one, w) or torch.equal(one, w.flip(2)) for w in windows)


def test_crops_use_every_place_and_both_sides():
    images = torch.arange(3 * 3).reshape(1, 3, 3, 1).expand(1, 3, 3, 3).to(torch.uint8)
    found = lesson.crops(images, torch.zeros(400, dtype=torch.long), 2, torch.Generator().manual_seed(0))
    assert len({tuple(one[0].flatten().tolist()) for one in found}) == 8  # four windows, each also mirrored
    assert found.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(("size", "side"), [(8, 8), (8, 4), (9, 4), (40, 32)])
def test_central_crop(size, side):
    images = torch.randint(256, (2, size, size, 3), dtype=torch.uint8)
    edge = (size - side) // 2
    expected = images.permute(0, 3, 1, 2)[:, :, edge:edge + side, edge:edge + side]
    assert torch.equal(lesson.crops(images, torch.tensor([1, 0]), side), expected.flip(0))
    mean, std = torch.tensor([0.1, 0.2, 0.3]).view(1, 3, 1, 1), torch.tensor([0.5, 0.6, 0.7]).view(1, 3, 1, 1)
    found = lesson.network_input(images, side, mean, std, torch.tensor([0, 1]))
    torch.testing.assert_close(found, (expected.double() / 255 - mean) / std, check_dtype=False)


# --- prediction, features, the head


def test_predict_is_in_eval_mode_and_batches_do_not_matter():
    model, rows = network().train(), torch.arange(7)
    before = lesson.snapshot(model)
    one = lesson.predict(model, pictures, rows, 1)
    torch.testing.assert_close(one, lesson.predict(model.train(), pictures, rows, 3))
    torch.testing.assert_close(one, model.eval()(pictures(rows)).detach())
    assert not lesson.changed(model, before) and not one.is_inference()


def test_headless_and_with_head_are_copies():
    model, rows = network().eval(), torch.arange(3)
    features = lesson.predict(lesson.headless(model), pictures, rows)
    head = nn.Linear(512, 9)
    whole = lesson.with_head(model, head)
    torch.testing.assert_close(lesson.predict(whole, pictures, rows), head(features).detach())
    assert model.fc.out_features == 5
    nn.init.zeros_(whole.conv1.weight), nn.init.zeros_(whole.fc.weight)
    assert model.conv1.weight.any() and head.weight.any()


@quiet
@given(seeds, st.integers(1, 5))
def test_nearest_against_a_loop(seed, k):
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(14, 6, generator=generator)
    order = torch.randperm(14, generator=generator)
    queries, candidates = order[:4], order[4:]
    found = lesson.nearest(features, queries, candidates, k)
    centred = features - features[candidates].mean(dim=0)
    for query, row in zip(queries, found):
        cosine = F.cosine_similarity(centred[query][None], centred[candidates])
        assert row.tolist() == candidates[cosine.argsort(descending=True)[:k]].tolist()


@pytest.mark.parametrize(("seed", "classes"), [(0, 2), (1, 4), (2, 4)])
def test_head_is_scikit_learns_logistic_regression(seed, classes):
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(120) % classes)
    x = rng.normal(size=(120, 6)) * [1, 10, 0.1, 1, 1, 0] + 3 + labels[:, None] * rng.normal(size=6)
    x[:, 5] = 2.5  # a feature that never changes
    decay = 0.01
    head = lesson.fit_head(torch.tensor(x, dtype=torch.float32), torch.tensor(labels), classes, decay)
    z = StandardScaler().fit_transform(x)
    # with two classes scikit-learn keeps one weight vector, the difference w1 - w0: |w0|² + |w1|² = |w1 - w0|² / 2
    scale = 2 if classes == 2 else 1
    model = LogisticRegression(C=scale / (2 * decay * len(x)), max_iter=2000, tol=1e-8).fit(z, labels)
    ours = head(torch.tensor(x, dtype=torch.float32)).softmax(dim=1).numpy()
    np.testing.assert_allclose(ours, model.predict_proba(z), atol=2e-3)
    assert not head.weight.requires_grad


def test_accuracy_counts_rows():
    assert lesson.accuracy(torch.eye(4), torch.tensor([0, 1, 0, 0])) == 0.5


# --- frozen


def test_train_mode_puts_only_the_frozen_to_sleep():
    model = lesson.transfer(network().eval(), 3, ("layer4", "fc"), seed=0)
    lesson.train_mode(model)
    for name, module in model.named_modules():
        if list(module.parameters()) and name:
            assert module.training == name.startswith(("layer4", "fc")), name
    before = lesson.snapshot(model)
    model(pictures(range(4)))
    moved = lesson.changed(model, before)
    assert moved and all(name.startswith("layer4") for name in moved)


def test_train_mode_of_a_network_that_learns():
    model = network().eval()
    lesson.train_mode(model)
    assert all(module.training for module in model.modules())


def test_changed_sees_one_bit_and_buffers():
    model = network()
    before = lesson.snapshot(model)
    assert lesson.changed(model, before) == []
    with torch.no_grad():
        weight = model.conv1.weight[0, 0, 0, 0]
        weight.copy_(torch.nextafter(weight, torch.tensor(9.0)))
    model.bn1.num_batches_tracked += 1
    assert lesson.changed(model, before) == ["conv1.weight", "bn1.num_batches_tracked"]


@pytest.mark.parametrize("method", ["from scratch", "last stage", "full fine-tuning", "slow head"])
def test_training_moves_what_may_learn_and_nothing_else(method):
    parts, decay = lesson.METHODS.get(method, (("fc",), 1.0))
    source = network().requires_grad_(False)
    original = lesson.snapshot(source)
    model = lesson.transfer(source, 3, parts, seed=1)
    before = lesson.snapshot(model)
    groups = lesson.parameter_groups(model, lesson.STAGES, 1e-2, decay)
    losses = lesson.train(model, groups, pictures, torch.arange(12) % 3, torch.arange(12), 4, 6, seed=0)
    assert {name.split(".")[0] for name in lesson.changed(model, before)} == set(parts)
    assert all((p.grad is not None) == (name.split(".")[0] in parts) for name, p in model.named_parameters())
    assert losses.shape == (4,) and not lesson.changed(source, original)


def test_methods_are_what_they_are_called():
    assert {name: parts for name, (parts, _) in lesson.METHODS.items()} == {
        "from scratch": lesson.EVERYTHING, "frozen features": (), "last stage": ("fc", "layer4"),
        "full fine-tuning": lesson.EVERYTHING}  # fmt: skip
    assert lesson.METHODS["from scratch"][1] == 1 > lesson.METHODS["full fine-tuning"][1] > 0
    assert set(lesson.EVERYTHING) == {name for name, module in network().named_children() if list(module.parameters())}


def test_transfer_draws_the_head_from_the_seed():
    one, same, other = (lesson.transfer(network(), 3, ("fc",), seed) for seed in (0, 0, 1))
    assert torch.equal(one.fc.weight, same.fc.weight) and not torch.equal(one.fc.weight, other.fc.weight)


# --- the rules of training


@pytest.mark.parametrize("parts", [("fc",), ("fc", "layer4"), ("layer1", "conv1"), lesson.EVERYTHING])
def test_every_learning_weight_is_in_one_group(parts):
    model = lesson.transfer(network(), 3, parts, seed=0)
    groups = lesson.parameter_groups(model, lesson.STAGES, 1e-3, 0.5)
    grouped = [id(p) for group in groups for p in group["params"]]
    assert sorted(grouped) == sorted(id(p) for p in model.parameters() if p.requires_grad)
    for depth, stage in enumerate(lesson.STAGES):
        for group in groups:
            if any(p is q for part in stage for p in model.get_submodule(part).parameters() for q in group["params"]):
                assert group["lr"] == 1e-3 * 0.5**depth


@quiet
@given(st.integers(1, 300))
def test_rate_rises_to_one_and_falls(steps):
    rates = [lesson.rate(step, steps) for step in range(steps)]
    rise = max(1, steps // 10)
    assert all(0 < rate <= 1 for rate in rates) and rates[rise - 1] == 1
    assert rates[:rise] == sorted(rates[:rise]) and rates[rise - 1:] == sorted(rates[rise - 1:], reverse=True)
    if steps > 20:
        assert rates[-1] < 0.05


@quiet
@given(st.integers(1, 30), st.integers(1, 12), st.integers(1, 12), seeds)
def test_batches_pass_over_every_row(n, batch_size, steps, seed):
    rows = torch.arange(100, 100 + n)
    found = lesson.batches(rows, batch_size, steps, torch.Generator().manual_seed(seed))
    assert [len(batch) for batch in found] == [batch_size] * steps
    flat = torch.cat(found)
    for start in range(0, len(flat), n):
        one_pass = flat[start:start + n].tolist()
        assert len(set(one_pass)) == len(one_pass) and set(one_pass) <= set(rows.tolist())


def test_train_is_adamw_with_the_schedule():
    torch.manual_seed(0)
    ours = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 3))
    theirs = copy.deepcopy(ours)
    rows, labels, steps = torch.arange(20, 30), torch.arange(40) % 3, 12
    groups = [{"params": list(ours.parameters()), "lr": 1e-2}]
    losses = lesson.train(ours, groups, pictures, labels, rows, steps, 4, seed=3)
    optimizer = torch.optim.AdamW(theirs.parameters(), weight_decay=0.01)
    expected = []
    for step, batch in enumerate(lesson.batches(rows, 4, steps, torch.Generator().manual_seed(3))):
        optimizer.param_groups[0]["lr"] = 1e-2 * lesson.rate(step, steps)
        loss = F.cross_entropy(theirs(pictures(batch)), labels[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        expected.append(loss.item())
    torch.testing.assert_close(losses, torch.tensor(expected), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict(), rtol=1e-3, atol=1e-5)


def test_labels_shifted_by_one_are_seen_by_the_loss():
    """The loss is that of the photos' own labels: a network that is always right has none."""

    class Oracle(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.tensor(50.0))

        def forward(self, rows):
            return self.scale * F.one_hot(rows % 3, 3)

    oracle = Oracle()
    groups = [{"params": list(oracle.parameters()), "lr": 1e-6}]
    rows, labels = torch.arange(5, 25), torch.arange(40) % 3
    losses = lesson.train(oracle, groups, lambda rows, generator: rows, labels, rows, 6, 5, 0)
    assert losses.max() < 1e-6


# --- what is said about the results


@pytest.mark.parametrize(("first", "second", "word"), [
    ((0.9, 0.8, 0.7), (0.8, 0.7, 0.6), "ahead"),
    ((0.8, 0.7, 0.6), (0.9, 0.8, 0.7), "behind"),
    ((0.9, 0.8, 0.6), (0.8, 0.7, 0.7), "no clear difference"),
    ((0.9, 0.8), (0.8, 0.8), "no clear difference"),
    ((0.5,), (0.5,), "no clear difference"),
])  # fmt: skip
def test_verdict(first, second, word):
    assert lesson.paired_gap(first, second).startswith(word + ":")


def test_verdict_is_in_points():
    assert lesson.paired_gap([0.75, 0.5], [0.5, 0.375]) == "ahead: +18.8 points (+12.5 to +25.0)"


@quiet
@given(seeds, st.integers(1, 12), st.integers(2, 4))
def test_surest_mistakes(seed, n, k):
    generator = torch.Generator().manual_seed(seed)
    logits, labels = torch.randn(n, k, generator=generator), torch.randint(k, (n,), generator=generator)
    wrong, confidence, answer = lesson.surest_mistakes(logits, labels)
    expected = [i for i in range(n) if logits[i].argmax() != labels[i]]
    assert sorted(wrong.tolist()) == expected and torch.equal(answer, logits.argmax(dim=1))
    assert confidence[wrong].tolist() == sorted(confidence[wrong].tolist(), reverse=True)


@quiet
@given(st.lists(st.tuples(st.floats(0, 0.9921875, width=32), st.booleans()), min_size=1, max_size=60),
       st.integers(1, 15))
def test_calibration_error_is_torchmetrics(pairs, bins):
    confidence, correct = torch.tensor([p for p, _ in pairs]), torch.tensor([c for _, c in pairs])
    found = lesson.calibration_error(*lesson.reliability(confidence, correct, bins))
    expected = binary_calibration_error(confidence, correct.int(), n_bins=bins, norm="l1").item()
    assert math.isclose(found, expected, abs_tol=1e-5)


def test_reliability_by_hand():
    confidence = torch.tensor([0.0, 0.05, 0.55, 0.95, 1.0])
    count, mean, accuracy = lesson.reliability(confidence, torch.tensor([False, True, True, True, False]), 2)
    assert count.tolist() == [2, 3]
    torch.testing.assert_close(mean, torch.tensor([0.025, 2.5 / 3], dtype=torch.float64))
    torch.testing.assert_close(accuracy, torch.tensor([0.5, 2 / 3], dtype=torch.float64))
    count, mean, accuracy = lesson.reliability(torch.tensor([1.0]), torch.tensor([True]), 10)
    assert count.tolist() == [0] * 9 + [1] and mean[:9].isnan().all()
    assert lesson.calibration_error(count, mean, accuracy) == 0
