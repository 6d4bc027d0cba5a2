"""ViT_from_scratch.ipynb: the network beside timm's, patches beside F.unfold, cost, training, scrambled images."""
import pytest
import timm
import torch
import torch.nn.functional as F
from torch import nn

from tests.definitions import definitions
from tests.stored import assert_shown

NOTEBOOK = "Chapter15/ViT_from_scratch.ipynb"
CPU = torch.device("cpu")
lesson = definitions(NOTEBOOK, "cut", "ViTBlock", "VisionTransformer", "new_vit_28", "vit_without_positions", "cnn_28",
                     "train_on", "train_and_test", "predict", "accuracy", "to_image_inputs", "scramble", "copy_timm",
                     "attention_of_cls", "position_cosines", "million_products", "CNN_WIDTH", "MultiHeadAttention")


def random(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def hostile(kind, *shape):
    noise = random(*shape)
    return {"noise": noise, "zeros": 0 * noise, "ties": noise.sign(), "huge": 1e4 * noise, "tiny": 1e-9 * noise}[kind]


@pytest.mark.parametrize(("channels", "height", "width", "patch"), [(1, 28, 28, 4), (3, 8, 12, 4), (2, 6, 4, 1),
                                                                    (3, 7, 7, 7), (1, 6, 9, 3)])
def test_cutting_is_unfolding(channels, height, width, patch):
    images = random(2, channels, height, width)
    expected = F.unfold(images, patch, stride=patch).transpose(1, 2)
    assert torch.equal(lesson.cut(images, patch), expected)
    assert lesson.cut(images[:0], patch).shape == (0, *expected.shape[1:])


def timm_vit(channels=3, side=12, patch=3, dim=24, depth=3, heads=4, classes=5):
    """timm's ViT with random weights, biases, norms, CLS and positions, float64; and ours with the same."""
    torch.manual_seed(0)
    theirs = timm.models.VisionTransformer(img_size=side, patch_size=patch, in_chans=channels, embed_dim=dim,
                                           depth=depth, num_heads=heads, num_classes=classes).double().eval()
    for p in theirs.parameters():
        nn.init.normal_(p, std=0.4)
    ours = lesson.VisionTransformer(channels, side, patch, dim, depth, heads, classes).double().eval()
    lesson.copy_timm(ours, theirs)
    return ours, theirs


@pytest.mark.parametrize("kind", ["noise", "zeros", "ties", "huge", "tiny"])
@pytest.mark.parametrize("sizes", [(3, 12, 3, 24, 3, 4, 5), (1, 28, 4, 16, 2, 1, 10), (2, 8, 8, 8, 1, 8, 2)])
def test_our_vit_is_timms_forwards_and_backwards(sizes, kind):
    ours, theirs = timm_vit(*sizes)
    found = []
    for model in (ours, theirs):
        images = hostile(kind, 3, sizes[0], sizes[1], sizes[1]).requires_grad_()
        logits = model(images)
        logits.backward(torch.linspace(-1, 1, logits.numel(), dtype=logits.dtype).view_as(logits))
        positions = model.positions.grad if model is ours else model.pos_embed.grad[0]
        found.append((logits.detach(), images.grad, positions))
    torch.testing.assert_close(found[0], found[1], rtol=1e-6, atol=1e-9)
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in theirs.parameters())


def test_every_block_is_timms():
    ours, theirs = timm_vit()
    x = random(2, 17, 24)
    for block, other in zip(ours.blocks, theirs.blocks, strict=True):
        torch.testing.assert_close(block(x), other(x))
        x = block(x)


def test_images_of_a_batch_do_not_see_one_another():
    ours, _ = timm_vit()
    images = random(4, 3, 12, 12)
    together = ours(images)
    torch.testing.assert_close(torch.cat([ours(one[None]) for one in images]), together)
    assert ours(images[:0]).shape == (0, 5)


def test_without_positions_order_does_not_count():
    images = torch.randint(0, 256, (6, 28, 28), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    order = torch.randperm(49, generator=torch.Generator().manual_seed(1))
    mixed = lesson.scramble(images, order, 4)
    for make, same in ((lesson.vit_without_positions, True), (lesson.new_vit_28, False)):
        a, b = (lesson.predict(make(0, CPU), some) for some in (images, mixed))
        assert ((a - b).abs().max() < 1e-4) == same
    blind = lesson.vit_without_positions(0, CPU)
    lesson.train_on(blind, images, torch.arange(6), 3, 4, 1e-2, 0)
    assert (blind.positions == 0).all() and blind.embed.weight.grad is not None


def test_scrambling_moves_whole_squares_and_loses_none():
    images = torch.randint(0, 256, (5, 28, 28), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    order = torch.randperm(49, generator=torch.Generator().manual_seed(1))
    mixed = lesson.scramble(images, order, 4)
    assert mixed.dtype == torch.uint8 and mixed.shape == images.shape
    squares, moved = (lesson.cut(some[:, None], 4) for some in (images, mixed))
    assert torch.equal(moved, squares[:, order])
    assert torch.equal(lesson.scramble(mixed, order.argsort(), 4), images)


def test_the_two_networks_cost_the_same():
    vit, cnn = lesson.new_vit_28(0, CPU), lesson.cnn_28(0, lesson.CNN_WIDTH, CPU)
    costs = [lesson.million_products(model) for model in (vit, cnn)]
    assert costs[0] == pytest.approx(costs[1], rel=0.05), costs
    linear = nn.Sequential(nn.Flatten(), nn.Linear(784, 100))
    assert lesson.million_products(linear) == pytest.approx(0.0784)


@pytest.mark.parametrize("make", [lesson.new_vit_28, lambda seed, device: lesson.cnn_28(seed, 4, device)])
def test_training_learns_and_testing_changes_nothing(make):
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(200) % 2
    images = torch.randint(0, 40, (200, 28, 28), generator=generator)
    images[labels == 1, 5:20] += 200  # a bright band
    images = images.to(torch.uint8)
    model = make(0, CPU)
    found = lesson.train_and_test(model, (images[:150], labels[:150]), (images[150:], labels[150:]), 0)
    expected = 100 * (lesson.predict(model, images[150:]).argmax(dim=1) == labels[150:]).float().mean().item()
    assert found == pytest.approx(expected) and found > 85
    assert not model.training
    assert torch.equal(make(3, CPU)(images[:2, None] / 255), make(3, CPU)(images[:2, None] / 255))


lesson.train_and_test.__globals__.update(STEPS=40, BATCH_SIZE=32, LEARNING_RATE=5e-3)


def test_where_cls_looks():
    model = lesson.new_vit_28(0, CPU)
    images = random(3, 1, 28, 28).float()
    maps = lesson.attention_of_cls(model, images)
    x = model.embed(lesson.cut(images, 4))
    x = torch.cat([model.cls.expand(3, 1, -1), x], dim=1) + model.positions
    for block in model.blocks[:-1]:
        x = block(x)
    A = model.blocks[-1].attend(model.blocks[-1].norm1(x))[1]
    torch.testing.assert_close(maps, A.mean(dim=1)[:, 0, 1:])
    assert not model.blocks[-1].attend._forward_hooks


def test_similarity_of_positions():
    model = lesson.new_vit_28(0, CPU)
    grid = model.positions.detach()[1:]
    expected = torch.stack([F.cosine_similarity(grid, one[None]) for one in grid])
    torch.testing.assert_close(lesson.position_cosines(model), expected)


def test_results_are_what_the_stored_run_shows():
    results = assert_shown(
        NOTEBOOK, "largest difference to timm: {largest_difference_to_timm:.0e}",
        "worst ViT {worst_vit_percent:.1f} %, most frequent class {most_frequent_class_percent:.1f} %",
        "{positions_worth_points:.1f} ±", "{vit_most_percent:.1f} ±", "{cnn_most_percent:.1f} ±",
        "{vit_fewest_percent:.1f} ±", "{cnn_fewest_percent:.1f} ±")
    assert results["gap_fewest_points"] == pytest.approx(results["cnn_fewest_percent"] - results["vit_fewest_percent"])
    assert results["gap_most_points"] == pytest.approx(results["cnn_most_percent"] - results["vit_most_percent"])
    for name in ("vit", "cnn"):
        lost = results[f"{name}_most_percent"] - results[f"{name}_scrambled_percent"]
        assert results[f"{name}_points_lost_by_scrambling"] == pytest.approx(lost)
    assert results["vit_points_lost_by_scrambling"] < 5  # the test images are scrambled as the training images are
    assert results["vit_points_lost_by_scrambling"] < results["cnn_points_lost_by_scrambling"]
    assert results["neighbor_similarity_trained"] > 0.1 > abs(results["neighbor_similarity_untrained"])
