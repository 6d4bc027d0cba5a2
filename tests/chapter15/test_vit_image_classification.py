"""The ViT notebook's preprocessing, attention, positions, training loop and maps, against transformers and PyTorch."""
import itertools
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import nn
from torchvision.transforms import v2
from transformers import ConvNextImageProcessor, ViTConfig, ViTForImageClassification, ViTImageProcessor

from tests.definitions import definitions

NOTEBOOK = "Chapter15/ViT_Image_classification.ipynb"
lesson = definitions(
    NOTEBOOK, "geometry", "normalise", "not_among", "decode", "attention_loops", "attend", "multi_head",
    "encoder_layer", "leak", "shuffle_patches", "interpolate_positions", "predict", "rate_factor", "train_head",
    "train", "accuracy", "saved_for_backward", "random_flips", "paired_difference", "attention_maps", "rollout",
    "hide_patches", "belief")
HALF = ([0.5] * 3, [0.5] * 3)
IMAGENET = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
seeds = st.integers(0, 10_000)
quickly = settings(deadline=None, derandomize=True, max_examples=15)


def random(*shape, seed=0, scale=1.0):
    return scale * torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def pictures(n, side, seed=0):
    return torch.randint(0, 256, (n, 3, side, side), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


@pytest.fixture(scope="module")
def vit():
    torch.manual_seed(0)
    config = ViTConfig(hidden_size=24, num_hidden_layers=3, num_attention_heads=4, intermediate_size=40, image_size=16,
                       patch_size=4, num_labels=3, initializer_range=0.3, attn_implementation="eager")  # fmt: skip
    model = ViTForImageClassification(config).eval().requires_grad_(False)
    for name, parameter in model.named_parameters():  # no bias is 0 and no norm is 1
        if "bias" in name or "norm" in name:
            parameter.copy_(1 + 0.3 * torch.randn(parameter.shape))
    return model


class Spy(nn.Module):
    """A linear classifier that remembers what it was fed."""

    def __init__(self, side=4, classes=2):
        super().__init__()
        torch.manual_seed(0)
        self.linear, self.fed, self.modes = nn.Linear(3 * side * side, classes), [], []

    def forward(self, pixel_values):
        self.fed.append(pixel_values.clone())
        self.modes.append(self.training)
        return SimpleNamespace(logits=self.linear(pixel_values.flatten(1)))


# --- what enters the network

@pytest.mark.parametrize("statistics", [HALF, IMAGENET])
@pytest.mark.parametrize("n", [0, 1, 5])
def test_normalise_is_torchvisions(statistics, n):
    pixels = pictures(n, 6)
    pixels[:, :, 0] = 0
    pixels[:, :, 1] = 255
    reference = v2.Compose([v2.ToDtype(torch.float32, scale=True), v2.Normalize(*statistics)])
    torch.testing.assert_close(lesson.normalise(pixels, *statistics), reference(pixels), rtol=0, atol=1e-6)


@pytest.mark.parametrize("processor, statistics", [
    (ViTImageProcessor(size={"height": 32, "width": 32}, image_mean=HALF[0], image_std=HALF[1]), HALF),
    (ConvNextImageProcessor(size={"shortest_edge": 28}, crop_pct=0.875, image_mean=IMAGENET[0], image_std=IMAGENET[1]),
     IMAGENET)])  # fmt: skip
@pytest.mark.parametrize("size", [(32, 32), (50, 50), (61, 40), (20, 33)])
def test_geometry_and_normalise_are_the_processor(processor, statistics, size):
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8))
    pixels = lesson.geometry(processor, picture)
    expected = processor(picture, return_tensors="pt")["pixel_values"]
    assert pixels.dtype == torch.uint8
    torch.testing.assert_close(lesson.normalise(pixels[None], *statistics), expected, rtol=0, atol=1e-5)
    wrong = IMAGENET if statistics is HALF else HALF
    assert (lesson.normalise(pixels[None], *wrong) - expected).abs().max() > 0.1


def test_decode_keeps_order_and_tells_copies():
    rng = np.random.default_rng(0)
    rows = [{"image": Image.fromarray(rng.integers(0, 256, (20, 20, 3), dtype=np.uint8))} for _ in range(3)]
    rows.append({"image": rows[1]["image"].copy()})
    rows.append({"image": Image.fromarray(np.zeros((20, 20), dtype=np.uint8))})  # grey
    processors = {"a": ViTImageProcessor(size={"height": 16, "width": 16}),
                  "b": ConvNextImageProcessor(size={"shortest_edge": 14})}  # fmt: skip
    fingerprints, pixels = lesson.decode(rows, processors)
    assert len(set(fingerprints)) == 4 and fingerprints[1] == fingerprints[3]
    assert pixels["a"].shape == (5, 3, 16, 16) and pixels["b"].shape == (5, 3, 14, 14)
    assert torch.equal(pixels["a"][2], lesson.geometry(processors["a"], rows[2]["image"]))


def test_not_among():
    assert lesson.not_among(["a", "b", "c", "b"], {"b", "z"}).tolist() == [0, 2]
    assert lesson.not_among(["a"], {"a"}).dtype == torch.int64 and len(lesson.not_among(["a"], {"a"})) == 0


# --- attention

@quickly
@given(st.integers(1, 9), st.integers(1, 8), st.sampled_from([0.0, 1e-6, 1.0, 1e3]), seeds)
def test_attention_is_the_librarys(n, d, scale, seed):
    q, k, v = random(3, n, d, seed=seed, scale=scale)
    mixed, weights = lesson.attend(q, k, v)
    torch.testing.assert_close(mixed, F.scaled_dot_product_attention(q, k, v), rtol=1e-4, atol=1e-5 * max(1, scale))
    torch.testing.assert_close(weights.sum(dim=-1), torch.ones(n))
    for ours, theirs in zip(lesson.attention_loops(q, k, v), (mixed, weights)):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-5 * max(1, scale))


@quickly
@given(st.integers(1, 4), st.integers(1, 6), st.sampled_from([1, 2, 4]), seeds)
def test_multi_head_is_pytorchs(n, t, heads, seed):
    torch.manual_seed(seed)
    theirs = nn.MultiheadAttention(8, heads, batch_first=True)
    nn.init.normal_(theirs.in_proj_bias)
    nn.init.normal_(theirs.out_proj.bias)
    linears = [nn.Linear(8, 8) for _ in range(3)]
    for linear, weight, bias in zip(linears, theirs.in_proj_weight.chunk(3), theirs.in_proj_bias.chunk(3)):
        linear.weight.data, linear.bias.data = weight.detach(), bias.detach()
    x = random(n, t, 8, seed=seed)
    expected, weights = theirs(x, x, x, average_attn_weights=False)
    ours, own_weights = lesson.multi_head(x, *linears, theirs.out_proj, heads)
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(own_weights, weights, rtol=1e-4, atol=1e-5)
    order = torch.randperm(n)
    torch.testing.assert_close(lesson.multi_head(x[order], *linears, theirs.out_proj, heads)[0], ours[order])
    assert lesson.leak(lambda x: lesson.multi_head(x, *linears, theirs.out_proj, heads)[0], x) < 1e-6


def test_leak_sees_attention_across_the_batch():
    torch.manual_seed(0)
    x, careless = random(3, 5, 8), nn.MultiheadAttention(8, 2)
    assert lesson.leak(lambda x: careless(x, x, x)[0].detach(), x) > 1e-2
    assert lesson.leak(lambda x: x - x.mean(dim=0), x) > 1e-2
    assert lesson.leak(lambda x: 2 * x, x) == 0
    assert lesson.leak(lambda x: x - x.mean(dim=0), x[:1]) == 0  # there is no other picture


def test_layers_in_a_row_are_the_model(vit):
    images = random(2, 3, 16, 16)
    seen = vit(images, output_hidden_states=True, output_attentions=True)
    layers = [module for module in vit.modules() if type(module).__name__ == "ViTLayer"]
    x = seen.hidden_states[0]
    for layer, attention in zip(layers, seen.attentions, strict=True):
        x, weights = lesson.encoder_layer(x, layer, 4)
        torch.testing.assert_close(weights, attention, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(vit.classifier(vit.vit.layernorm(x)[:, 0]), seen.logits, rtol=1e-4, atol=1e-4)
    for ours, theirs in zip(lesson.attention_maps(vit, images), seen.attentions, strict=True):
        torch.testing.assert_close(ours, theirs)


# --- patches and positions

@quickly
@given(st.integers(1, 3), st.integers(1, 4), st.integers(1, 4), st.integers(1, 5), seeds)
def test_shuffled_patches_come_back(n, rows, columns, patch, seed):
    images = random(n, 2, rows * patch, columns * patch, seed=seed)
    order = torch.randperm(rows * columns, generator=torch.Generator().manual_seed(seed))
    shuffled = lesson.shuffle_patches(images, order, patch)
    for place, source in enumerate(order.tolist()):
        (r, c), (a, b) = divmod(place, columns), divmod(source, columns)
        assert torch.equal(shuffled[:, :, r * patch:(r + 1) * patch, c * patch:(c + 1) * patch],
                           images[:, :, a * patch:(a + 1) * patch, b * patch:(b + 1) * patch])  # fmt: skip
    assert torch.equal(lesson.shuffle_patches(shuffled, order.argsort(), patch), images)


@pytest.mark.parametrize("side", [1, 3, 4, 6, 9])
def test_interpolated_positions_are_the_models(vit, side):
    embeddings, images = vit.vit.embeddings, random(2, 3, 4 * side, 4 * side)
    positions = lesson.interpolate_positions(embeddings.position_embeddings, side)
    ours = torch.cat([embeddings.cls_token.expand(2, -1, -1), embeddings.patch_embeddings(images)], dim=1) + positions
    torch.testing.assert_close(ours, embeddings(images, interpolate_pos_encoding=True), rtol=1e-4, atol=1e-5)
    assert torch.equal(positions[:, 0], embeddings.position_embeddings[:, 0])
    if side == 4:
        torch.testing.assert_close(positions, embeddings.position_embeddings)


@quickly
@given(st.integers(1, 3), st.integers(1, 4), st.integers(1, 3), st.integers(2, 4), seeds)
def test_hidden_patches_are_zero_and_the_others_untouched(n, rows, columns, patch, seed):
    images = random(n, 3, rows * patch, columns * patch, seed=seed) + 5
    hidden = random(n, rows * columns, seed=seed) > 0
    result = lesson.hide_patches(images, hidden, patch)
    for i, (r, c) in itertools.product(range(n), itertools.product(range(rows), range(columns))):
        square = (i, slice(None), slice(r * patch, (r + 1) * patch), slice(c * patch, (c + 1) * patch))
        expected = torch.zeros(3, patch, patch) if hidden[i, r * columns + c] else images[square]
        assert torch.equal(result[square], expected)


# --- rollout

def all_paths(attentions):
    """Rollout written out: the sum over all paths from layer to layer, for one picture."""
    tokens, mixed = attentions[0].shape[-1], [0.5 * a[0].mean(dim=0) + 0.5 * torch.eye(a.shape[-1]) for a in attentions]
    result = torch.zeros(tokens, tokens)
    for path in itertools.product(range(tokens), repeat=len(mixed) + 1):  # path[0] is a token of the last layer
        weight = 1.0
        for step, matrix in enumerate(reversed(mixed)):
            weight = weight * matrix[path[step], path[step + 1]]
        result[path[0], path[-1]] += weight
    return result


@quickly
@given(st.integers(1, 4), st.integers(1, 3), seeds)
def test_rollout_sums_over_paths(layers, tokens, seed):
    attentions = [random(1, 2, tokens, tokens, seed=seed + i, scale=3).softmax(dim=-1) for i in range(layers)]
    flow = lesson.rollout(attentions)
    torch.testing.assert_close(flow[0], all_paths(attentions), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(flow.sum(dim=-1), torch.ones(1, tokens))


def test_rollout_of_identity_is_identity():
    eye = torch.eye(4).expand(2, 3, 4, 4)
    torch.testing.assert_close(lesson.rollout([eye] * 5), torch.eye(4).expand(2, 4, 4))


# --- training

@pytest.mark.parametrize("steps", [1, 5, 10, 37, 200])
def test_rate_rises_and_falls(steps):
    factors = [lesson.rate_factor(step, steps) for step in range(steps)]
    peak = max(1, steps // 10) - 1
    assert factors[peak] == 1 and all(0 < factor <= 1 for factor in factors)
    assert factors[:peak + 1] == sorted(factors[:peak + 1])
    assert factors[peak + 1:] == sorted(factors[peak + 1:], reverse=True)
    assert lesson.rate_factor(steps, steps) == pytest.approx(0, abs=1e-12) or steps == 1


def test_random_flips_mirror_each_picture_by_itself():
    one = pictures(1, 5)[0]
    flipped = lesson.random_flips(one.expand(200, -1, -1, -1), torch.Generator().manual_seed(0))
    kinds = [one, one.flip(1), one.flip(2), one.flip(1).flip(2)]
    counts = [sum(torch.equal(picture, kind) for picture in flipped) for kind in kinds]
    assert sum(counts) == 200 and min(counts) > 25
    again = lesson.random_flips(one.expand(200, -1, -1, -1), torch.Generator().manual_seed(0))
    assert torch.equal(flipped, again)


@pytest.mark.parametrize("statistics", [HALF, IMAGENET])
def test_training_feeds_each_photo_once_an_epoch_as_it_was_normalised(statistics):
    shades = torch.tensor([0, 10, 60, 90, 200, 255, 128], dtype=torch.uint8)
    pixels = shades[:, None, None, None].expand(-1, 3, 4, 4).contiguous()  # flips do not change them
    spy = Spy().eval()
    losses = lesson.train(spy, pixels, torch.zeros(7, dtype=torch.int64), *statistics, 2, 3, 2, 1e-3, 0)
    fed, expected = torch.cat(spy.fed), lesson.normalise(pixels, *statistics)
    assert losses.shape == (6,) and all(spy.modes) and [len(x) for x in spy.fed] == [2, 1, 2, 1, 1] * 2
    for epoch in fed.split(7):
        torch.testing.assert_close(epoch[epoch[:, 0, 0, 0].argsort()], expected[expected[:, 0, 0, 0].argsort()])


@pytest.mark.parametrize("micro_batch", [1, 2, 3, 8])
def test_parts_of_a_batch_add_up_to_the_batch(micro_batch):
    shades = torch.arange(10, 250, 24, dtype=torch.uint8)
    pixels, labels = shades[:, None, None, None].expand(-1, 3, 4, 4).contiguous(), torch.arange(10) % 2
    whole, parts = Spy(), Spy()
    expected = lesson.train(whole, pixels, labels, *HALF, 3, 8, 8, 1e-2, 1)
    losses = lesson.train(parts, pixels, labels, *HALF, 3, 8, micro_batch, 1e-2, 1)
    torch.testing.assert_close(losses, expected, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(parts.linear.weight, whole.linear.weight, rtol=1e-3, atol=1e-5)
    assert not torch.equal(whole.linear.weight, Spy().linear.weight)


def test_each_update_is_adamws_own():
    shades = torch.arange(10, 250, 24, dtype=torch.uint8)
    pixels, labels = shades[:, None, None, None].expand(-1, 3, 4, 4).contiguous(), torch.arange(10) % 2
    trained, reference = Spy(), Spy()
    lesson.train(trained, pixels, labels, *HALF, 6, 10, 4, 1e-2, 0)  # one batch an epoch: its order does not matter
    optimizer = torch.optim.AdamW(reference.parameters())
    for step in range(6):
        optimizer.param_groups[0]["lr"] = 1e-2 * lesson.rate_factor(step, 6)
        optimizer.zero_grad()
        F.cross_entropy(reference(lesson.normalise(pixels, *HALF)).logits, labels).backward()
        optimizer.step()
    torch.testing.assert_close(trained.linear.weight, reference.linear.weight, rtol=1e-3, atol=1e-5)


def test_head_learns_what_is_linear():
    labels = torch.arange(60) % 3
    features = F.one_hot(labels, 3).float() + 0.1 * random(60, 3)
    head = lesson.train_head(features, labels, 3, 10, 8, 1e-1, 0)
    assert lesson.accuracy(head(features), labels) == 1.0
    again = lesson.train_head(features, labels, 3, 10, 8, 1e-1, 0)
    assert torch.equal(head.weight, again.weight)


# --- prediction and what is said about it

@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_predict_keeps_the_order_and_evaluates(batch_size):
    spy, pixels = Spy().train(), pictures(7, 4)
    logits = lesson.predict(spy, pixels, *IMAGENET, batch_size)
    torch.testing.assert_close(logits, spy.linear(lesson.normalise(pixels, *IMAGENET).flatten(1)))
    assert not any(spy.modes) and not logits.requires_grad


def test_accuracy():
    assert lesson.accuracy(torch.eye(4), torch.tensor([0, 1, 0, 0])) == 0.5


def test_belief(vit):
    images, answers = random(5, 3, 16, 16), torch.tensor([0, 1, 2, 0, 1])
    expected = np.mean([vit(images[i:i + 1]).logits.softmax(dim=1)[0, answers[i]].item() for i in range(5)])
    assert lesson.belief(vit, images, answers) == pytest.approx(expected, rel=1e-4)


def test_paired_difference():
    a = torch.tensor([[1, 1, 1, 0], [1, 1, 0, 0]], dtype=torch.bool)
    b = torch.tensor([[1, 0, 0, 0], [1, 0, 0, 1]], dtype=torch.bool)
    difference, error = lesson.paired_difference(a, b)
    photos = np.array([0, 1, 0.5, -0.5])
    assert difference == pytest.approx(photos.mean()) and error == pytest.approx(2 * photos.std(ddof=1) / 2)
    assert lesson.paired_difference(b, a)[0] == pytest.approx(-difference)
    assert lesson.paired_difference(a, a) == (0, 0)


def test_saved_for_backward_counts_activations_and_not_weights():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = nn.Linear(12, 50), nn.Linear(50, 2)

        def forward(self, pixel_values):
            return SimpleNamespace(logits=self.two(torch.relu(self.one(pixel_values.flatten(1)))))

    net = Net()
    sizes = [lesson.saved_for_backward(net, random(n, 3, 2, 2)) for n in (1, 2, 5)]
    assert sizes == [4 * n * (12 + 50) for n in (1, 2, 5)]  # the input, and the result of the ReLU, once
    assert lesson.saved_for_backward(net.requires_grad_(False), random(2, 3, 2, 2)) == 0
