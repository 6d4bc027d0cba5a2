"""The ViT notebook's network, training, positions, maps and preprocessing, against timm, transformers and PyTorch."""
import copy
import itertools
import re
from types import SimpleNamespace

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import nn
from torchvision.transforms import v2
from transformers import ConvNextImageProcessor, ViTImageProcessor

from tests.definitions import definitions

NOTEBOOK = "Chapter15/ViT_Image_classification.ipynb"
lesson = definitions(
    NOTEBOOK, "load_imagenette", "augment", "photo_inputs", "train", "evaluate", "new_vit", "new_cnn",
    "million_multiplications", "first_right", "ask", "Block", "ViT", "by_hand", "position_similarity",
    "shuffle_patches", "rollout", "hide_patches", "answer_probability", "occlusion", "both_maps", "hiding_curve",
    "geometry", "normalize", "decode", "not_among", "fresh", "predict", "train_head", "random_flips", "fine_tune",
    "accuracy", "paired_difference")
CPU = torch.device("cpu")
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
    """A small ViT of the notebook, every weight random: no bias is 0 and no norm is 1."""
    torch.manual_seed(0)
    model = lesson.ViT(16, 4, 24, 3, 4, 5).eval().requires_grad_(False)
    for parameter in model.parameters():
        parameter.copy_(parameter + 0.3 * torch.randn(parameter.shape))
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
def test_normalize_is_torchvisions(statistics, n):
    pixels = pictures(n, 6)
    pixels[:, :, 0] = 0
    pixels[:, :, 1] = 255
    reference = v2.Compose([v2.ToDtype(torch.float32, scale=True), v2.Normalize(*statistics)])
    torch.testing.assert_close(lesson.normalize(pixels, *statistics), reference(pixels), rtol=0, atol=1e-6)


@pytest.mark.parametrize("processor, statistics", [
    (ViTImageProcessor(size={"height": 32, "width": 32}, image_mean=HALF[0], image_std=HALF[1]), HALF),
    (ConvNextImageProcessor(size={"shortest_edge": 28}, crop_pct=0.875, image_mean=IMAGENET[0], image_std=IMAGENET[1]),
     IMAGENET)])  # fmt: skip
@pytest.mark.parametrize("size", [(32, 32), (50, 50), (61, 40), (20, 33)])
def test_geometry_and_normalize_are_the_processor(processor, statistics, size):
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8))
    pixels = lesson.geometry(processor, picture)
    expected = processor(picture, return_tensors="pt")["pixel_values"]
    assert pixels.dtype == torch.uint8
    torch.testing.assert_close(lesson.normalize(pixels[None], *statistics), expected, rtol=0, atol=1e-5)
    wrong = IMAGENET if statistics is HALF else HALF
    assert (lesson.normalize(pixels[None], *wrong) - expected).abs().max() > 0.1


def test_decode_keeps_order_and_tells_copies():
    rng = np.random.default_rng(0)
    rows = [{"image": Image.fromarray(rng.integers(0, 256, (20, 20, 3), dtype=np.uint8))} for _ in range(3)]
    rows.append({"image": rows[1]["image"].copy()})
    rows.append({"image": Image.fromarray(np.zeros((20, 20), dtype=np.uint8))})  # grey
    processors = {"a": ViTImageProcessor(size={"height": 16, "width": 16}),
                  "b": ConvNextImageProcessor(size={"shortest_edge": 14})}  # fmt: skip
    contents, pixels = lesson.decode(rows, processors)
    assert len(set(contents)) == 4 and contents[1] == contents[3] and contents[0] == rows[0]["image"].tobytes()
    assert pixels["a"].shape == (5, 3, 16, 16) and pixels["b"].shape == (5, 3, 14, 14)
    assert torch.equal(pixels["a"][2], lesson.geometry(processors["a"], rows[2]["image"]))


def test_not_among():
    assert lesson.not_among(["a", "b", "c", "b"], {"b", "z"}).tolist() == [0, 2]
    assert lesson.not_among(["a"], {"a"}).dtype == torch.int64 and len(lesson.not_among(["a"], {"a"})) == 0


# --- the network

@pytest.mark.parametrize("side, patch, dim, depth, heads", [(16, 4, 24, 3, 4), (24, 8, 32, 1, 2), (8, 8, 16, 2, 1)])
def test_our_vit_is_timms(side, patch, dim, depth, heads):
    torch.manual_seed(1)
    ours = lesson.ViT(side, patch, dim, depth, heads, 7).eval()
    with torch.no_grad():
        for parameter in ours.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape))
    theirs = timm.models.VisionTransformer(img_size=side, patch_size=patch, embed_dim=dim, depth=depth,
                                           num_heads=heads, num_classes=7).eval()
    names = {"cls": "cls_token", "positions": "pos_embed", "embed": "patch_embed.proj", "head": "head", "norm": "norm"}
    state = {}
    for name, value in ours.state_dict().items():  # by name, where the notebook goes by order
        first, _, rest = name.partition(".")
        if first == "blocks":
            number, _, rest = rest.partition(".")
            rest = re.sub(r"^qkv", "attn.qkv", re.sub(r"^out", "attn.proj", rest))
            rest = rest.replace("mlp.0", "mlp.fc1").replace("mlp.2", "mlp.fc2")
            state[f"blocks.{number}.{rest}"] = value
        else:
            state[names[first] + ("." + rest if rest else "")] = value
    theirs.load_state_dict(state)
    images = random(3, 3, side, side)
    with torch.inference_mode():
        torch.testing.assert_close(ours(images), theirs(images), rtol=1e-3, atol=1e-4)
    for a, b in zip(theirs.state_dict().values(), ours.state_dict().values(), strict=True):
        assert torch.equal(a, b), "the notebook's way, by order, would mix them up"


def test_attention_of_a_block_is_pytorchs():
    torch.manual_seed(0)
    block, theirs = lesson.Block(12, 3).eval(), nn.MultiheadAttention(12, 3, batch_first=True)
    with torch.no_grad():
        for ours, copy in ((block.qkv.weight, theirs.in_proj_weight), (block.qkv.bias, theirs.in_proj_bias),
                           (block.out.weight, theirs.out_proj.weight), (block.out.bias, theirs.out_proj.bias)):
            ours.copy_(torch.randn(ours.shape))
            copy.copy_(ours)
        x = random(2, 7, 12)
        normed = block.norm1(x)
        attended, weights = theirs(normed, normed, normed, average_attn_weights=False)
        after, A = block(x)
        torch.testing.assert_close(A, weights, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(after, x + attended + block.mlp(block.norm2(x + attended)), rtol=1e-4, atol=1e-5)


def test_attention_runs_over_the_tokens_of_one_photo(vit):
    images = random(4, 3, 16, 16)
    other = torch.cat([images[:1], images[1:].flip(-1) + 1])
    torch.testing.assert_close(vit(images)[0], vit(other)[0], rtol=1e-4, atol=1e-5)
    logits, attention = vit.with_attention(images)
    assert [tuple(A.shape) for A in attention] == [(4, 4, 17, 17)] * 3
    assert all(torch.allclose(A.sum(-1), torch.ones(4, 4, 17)) for A in attention)
    assert torch.equal(logits, vit(images))


def test_only_the_positions_know_the_order(vit):
    images, order = random(2, 3, 16, 16), torch.randperm(16, generator=torch.Generator().manual_seed(0))
    shuffled = lesson.shuffle_patches(images, order, 4)
    assert (vit(images) - vit(shuffled)).abs().max() > 1e-2
    without = copy.deepcopy(vit)
    without.positions.zero_()
    torch.testing.assert_close(without(images), without(shuffled), rtol=1e-4, atol=1e-4)


def test_by_hand_is_the_network(vit):
    image = random(1, 3, 16, 16)
    patches = F.unfold(image, 4, stride=4).transpose(1, 2) @ vit.embed.weight.flatten(1).T + vit.embed.bias
    x0 = torch.cat([vit.cls, patches], dim=1) + vit.positions
    torch.testing.assert_close(lesson.by_hand(vit, x0), vit(image), rtol=1e-4, atol=1e-5)


def test_ask_and_first_right(vit):
    images = pictures(9, 16)
    answers = vit(lesson.photo_inputs(images)).argmax(dim=1)
    labels = answers.clone()
    labels[:4] = (answers[:4] + 1) % 5  # the first four are wrong
    label = answers[6].item()
    first = next(i for i in range(4, 9) if labels[i] == label)
    assert lesson.first_right(vit, images, labels, label) == first
    probabilities, attention = lesson.ask(vit, images[2])
    torch.testing.assert_close(probabilities, vit(lesson.photo_inputs(images[2:3]))[0].softmax(0), rtol=1e-4, atol=1e-5)
    last = vit.with_attention(lesson.photo_inputs(images[2:3]))[1][-1]
    torch.testing.assert_close(attention.flatten(), last[0, :, 0, 1:].mean(0), rtol=1e-4, atol=1e-6)


def test_equal_cost_counts_multiplications():
    linear = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 10))
    assert lesson.million_multiplications(linear, pictures(1, 8)[0]) == pytest.approx(1920 / 1e6)
    assert sum(isinstance(layer, nn.Conv2d) for layer in lesson.new_cnn(0, 4, 10, CPU).modules()) == 5
    one, two, other = (lesson.new_vit(seed, 10, CPU).head.weight for seed in (0, 0, 1))
    assert torch.equal(one, two) and not torch.equal(one, other)


def test_the_three_parts_of_imagenette(monkeypatch, tmp_path):
    class Stored:
        """Stands for torchvision's Imagenette: photo k is gray k, its label is k % 10."""

        classes = [(f"class {k}", "another name") for k in range(10)]

        def __init__(self, root, part, size, download, transform):
            assert size == "160px" and download
            self.numbers = range(30) if part == "train" else range(100, 121)
            self.transform = transform

        def __iter__(self):
            for k in self.numbers:
                yield self.transform(Image.new("RGB", (20, 12), (k, k, k))), k % 10

        def __len__(self):
            return len(self.numbers)

    load = lesson.load_imagenette
    monkeypatch.setitem(load.__globals__, "Imagenette", Stored)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    data, classes = load(8, CPU)
    assert classes == [f"class {k}" for k in range(10)] and set(data) == {"train", "val", "test"}
    numbers = {}
    for part, (images, labels) in data.items():
        assert images.dtype == torch.uint8 and images.shape[1:] == (3, 8, 8)
        numbers[part] = images[:, 0, 0, 0].long()
        assert torch.equal(numbers[part] % 10, labels)
    assert numbers["train"].tolist() == list(range(30))
    assert sorted(torch.cat([numbers["val"], numbers["test"]]).tolist()) == list(range(100, 121))
    assert len(numbers["val"]) == 11 and numbers["val"].tolist() != list(range(100, 111))


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


def test_similarity_of_positions_is_the_cosine_without_cls(vit):
    grid = vit.positions[0, 1:]
    torch.testing.assert_close(lesson.position_similarity(vit), F.cosine_similarity(grid[:, None], grid[None], dim=-1))


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


# --- the hiding test

class OnePatch(nn.Module):
    """Its answer is class 1 by as much as the square number `which` of 4x4 pixels is bright."""

    def __init__(self, which):
        super().__init__()
        self.which = which

    def forward(self, images):
        squares = F.unfold(images, 4, stride=4).mean(dim=1)
        return torch.stack([torch.zeros(len(images)), squares[:, self.which]], dim=1)


def test_occlusion_finds_the_patch_that_matters():
    images, answers = torch.full((2, 3, 8, 8), 0.8), torch.ones(2, dtype=torch.int64)
    falls = lesson.occlusion(OnePatch(2), images, answers, 4, 4)
    start, hidden = 1 / (1 + np.exp(-0.8)), 0.5
    torch.testing.assert_close(falls, torch.tensor([[0, 0, start - hidden, 0]] * 2, dtype=torch.float32))


def test_a_good_map_falls_first_in_the_hiding_test():
    images, answers = torch.full((3, 3, 8, 8), 0.8), torch.ones(3, dtype=torch.int64)
    good = torch.tensor([[0.1, 0.2, 0.9, 0.0]]).repeat(3, 1)
    start, end = 1 / (1 + np.exp(-0.8)), 0.5
    curve = lesson.hiding_curve(OnePatch(2), images, answers, good, (0, 0.25, 0.5, 1.0), 4)
    assert curve == pytest.approx([start, end, end, end])
    curve = lesson.hiding_curve(OnePatch(2), images, answers, -good, (0, 0.25, 0.5, 0.75), 4)
    assert curve == pytest.approx([start] * 4)


def test_probability_of_the_answers(vit):
    images, answers = random(5, 3, 16, 16), torch.tensor([0, 1, 2, 0, 1])
    expected = torch.stack([vit(images[i:i + 1]).softmax(dim=1)[0, answers[i]] for i in range(5)])
    torch.testing.assert_close(lesson.answer_probability(vit, images, answers), expected, rtol=1e-4, atol=1e-6)


# --- training

def test_each_step_of_the_small_networks_is_adamws_own():
    images, labels = pictures(12, 8), torch.arange(12) % 10
    torch.manual_seed(0)
    ours = nn.Sequential(nn.Flatten(), nn.Dropout(0.0), nn.Linear(192, 10)).eval()
    theirs = copy.deepcopy(ours)
    losses = lesson.train(ours, images, labels, 5, 4, 1e-2, 3, nn.Identity())
    generator = torch.Generator().manual_seed(3)
    optimizer = torch.optim.AdamW(theirs.parameters(), lr=1e-2, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, total_steps=5, pct_start=0.1)
    for step in range(5):
        rows = torch.randint(12, (4,), generator=generator)
        loss = F.cross_entropy(theirs(images[rows] / 127.5 - 1), labels[rows])
        assert losses[step] == pytest.approx(loss.item(), rel=1e-4)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    assert ours.training
    torch.testing.assert_close(ours[2].weight, theirs[2].weight, rtol=1e-3, atol=1e-5)


def test_evaluate_is_loss_and_accuracy_in_evaluation_mode():
    images, labels = pictures(450, 8), torch.arange(450) % 10
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(192, 10)).train()
    loss, accuracy = lesson.evaluate(model, images, labels)
    logits = model.eval()(images / 127.5 - 1)
    assert loss == pytest.approx(F.cross_entropy(logits, labels).item(), rel=1e-4)
    assert accuracy == pytest.approx((logits.argmax(1) == labels).float().mean().item())


def test_augmentation_draws_anew_for_every_group_only():
    images = pictures(1, 32).expand(8, -1, -1, -1)
    torch.manual_seed(0)
    changed = lesson.augment(images, v2.RandomResizedCrop(32, scale=(0.3, 0.9), antialias=True), 4)
    assert changed.shape == images.shape and changed.dtype == torch.uint8
    assert torch.equal(changed[0], changed[3]) and not torch.equal(changed[0], changed[4])


def test_random_flips_mirror_each_picture_by_itself():
    one = pictures(1, 5)[0]
    flipped = lesson.random_flips(one.expand(200, -1, -1, -1), torch.Generator().manual_seed(0))
    kinds = [one, one.flip(1), one.flip(2), one.flip(1).flip(2)]
    counts = [sum(torch.equal(picture, kind) for picture in flipped) for kind in kinds]
    assert sum(counts) == 200 and min(counts) > 25
    again = lesson.random_flips(one.expand(200, -1, -1, -1), torch.Generator().manual_seed(0))
    assert torch.equal(flipped, again)


@pytest.mark.parametrize("statistics", [HALF, IMAGENET])
def test_training_feeds_each_photo_once_an_epoch_as_it_was_normalized(statistics):
    shades = torch.tensor([0, 10, 60, 90, 200, 255, 128], dtype=torch.uint8)
    pixels = shades[:, None, None, None].expand(-1, 3, 4, 4).contiguous()  # flips do not change them
    spy = Spy().eval()
    losses = lesson.fine_tune(spy, pixels, torch.zeros(7, dtype=torch.int64), *statistics, 2, 3, 1e-3, 0)
    fed, expected = torch.cat(spy.fed), lesson.normalize(pixels, *statistics)
    assert losses.shape == (6,) and all(spy.modes) and [len(x) for x in spy.fed] == [3, 3, 1] * 2
    for epoch in fed.split(7):
        torch.testing.assert_close(epoch[epoch[:, 0, 0, 0].argsort()], expected[expected[:, 0, 0, 0].argsort()])


def test_each_update_is_adamws_own():
    shades = torch.arange(10, 250, 24, dtype=torch.uint8)
    pixels, labels = shades[:, None, None, None].expand(-1, 3, 4, 4).contiguous(), torch.arange(10) % 2
    trained, reference = Spy(), Spy()
    lesson.fine_tune(trained, pixels, labels, *HALF, 6, 10, 1e-2, 0)  # one batch an epoch: its order does not matter
    optimizer = torch.optim.AdamW(reference.parameters(), lr=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, total_steps=6, pct_start=0.1)
    for _ in range(6):
        optimizer.zero_grad()
        F.cross_entropy(reference(lesson.normalize(pixels, *HALF)).logits, labels).backward()
        optimizer.step()
        schedule.step()
    torch.testing.assert_close(trained.linear.weight, reference.linear.weight, rtol=1e-3, atol=1e-5)


def test_head_learns_what_is_linear():
    labels = torch.arange(60) % 3
    features = F.one_hot(labels, 3).float() + 0.1 * random(60, 3)
    head = lesson.train_head(features, labels, 3, 60, 1e-1, 0)
    assert lesson.accuracy(head(features), labels) == 1.0
    again = lesson.train_head(features, labels, 3, 60, 1e-1, 0)
    assert torch.equal(head.weight, again.weight)


# --- prediction and what is said about it

@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_predict_keeps_the_order_and_evaluates(batch_size):
    spy, pixels = Spy().train(), pictures(7, 4)
    logits = lesson.predict(spy, pixels, *IMAGENET, batch_size)
    torch.testing.assert_close(logits, spy.linear(lesson.normalize(pixels, *IMAGENET).flatten(1)))
    assert not any(spy.modes) and not logits.requires_grad


def test_accuracy():
    assert lesson.accuracy(torch.eye(4), torch.tensor([0, 1, 0, 0])) == 0.5


def test_paired_difference():
    a = torch.tensor([[1, 1, 1, 0], [1, 1, 0, 0]], dtype=torch.bool)
    b = torch.tensor([[1, 0, 0, 0], [1, 0, 0, 1]], dtype=torch.bool)
    difference, error = lesson.paired_difference(a, b)
    photos = np.array([0, 1, 0.5, -0.5])
    assert difference == pytest.approx(photos.mean()) and error == pytest.approx(2 * photos.std(ddof=1) / 2)
    assert lesson.paired_difference(b, a)[0] == pytest.approx(-difference)
    assert lesson.paired_difference(a, a) == (0, 0)
