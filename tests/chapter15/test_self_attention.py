"""self-attention.ipynb: attention and its heads beside PyTorch's, the softmax's Jacobian, the tiles, the ceiling."""
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.func import jacrev, vmap

from tests.definitions import definitions
from tests.stored import assert_shown

NOTEBOOK = "Chapter15/self-attention.ipynb"
lesson = definitions(NOTEBOOK, "by_hand", "attention", "softmax_of_random_scores", "MultiHeadAttention", "deal_tiles",
                     "train_reader", "TileReader", "copy_attention", "load_digit_stacks", "rows_for_testing")


def hostile(kind, *shape, seed=0):
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return {"noise": noise, "zeros": 0 * noise, "ties": noise.sign(), "huge": 1e3 * noise, "tiny": 1e-12 * noise}[kind]


KINDS = ["noise", "zeros", "ties", "huge", "tiny"]
MASKS = {"none": None, "causal": torch.ones(5, 7, dtype=torch.bool).tril(),
         "padding": (torch.arange(7) < 4).expand(5, 7), "one key": torch.eye(5, 7, dtype=torch.bool),
         "an empty row": torch.ones(5, 7, dtype=torch.bool).tril(-1)}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mask", MASKS)
def test_attention_equals_pytorchs_forwards_and_backwards(kind, mask):
    found = []
    for function in (lambda *x: lesson.attention(*x, MASKS[mask])[0],
                     lambda *x: F.scaled_dot_product_attention(*x, MASKS[mask])):
        Q, K, V = (hostile(kind, 2, 3, tokens, 4, seed=seed).requires_grad_() for seed, tokens in enumerate((5, 7, 7)))
        output = function(Q, K, V)
        output.backward(hostile("noise", *output.shape, seed=9))
        found.append((output.detach(), Q.grad, K.grad, V.grad))
    torch.testing.assert_close(found[0], found[1])
    assert all(part.isfinite().all() for part in found[0])


@pytest.mark.parametrize("mask", MASKS)
def test_weights_are_shares_of_what_may_be_seen(mask):
    _, A = lesson.attention(*(hostile("noise", 5 if seed == 0 else 7, 4, seed=seed) for seed in range(3)), MASKS[mask])
    allowed = torch.ones(5, 7, dtype=torch.bool) if MASKS[mask] is None else MASKS[mask]
    assert (A[~allowed] == 0).all() and (A[allowed] > 0).all()
    torch.testing.assert_close(A.sum(dim=-1), allowed.any(dim=-1).double())


def test_one_query_by_hand():
    q, K, V = hostile("noise", 4), hostile("noise", 3, 4, seed=1), hostile("noise", 3, 2, seed=2)
    s, a, o = lesson.by_hand(q.tolist(), K.tolist(), V.tolist())
    output, A = lesson.attention(q[None], K, V)
    torch.testing.assert_close(torch.tensor(s, dtype=torch.float64), K @ q / 2)
    torch.testing.assert_close(torch.tensor(a, dtype=torch.float64), A[0])
    torch.testing.assert_close(torch.tensor(o, dtype=torch.float64), output[0])


def random_layer(dim, heads):
    """PyTorch's layer with random weights and biases, float64."""
    torch.manual_seed(0)
    layer = nn.MultiheadAttention(dim, heads, batch_first=True).double()
    for p in layer.parameters():
        nn.init.normal_(p, std=0.5)
    return layer


def equal_layer(theirs):
    ours = lesson.MultiHeadAttention(theirs.embed_dim, theirs.num_heads).double()
    lesson.copy_attention(ours, theirs)
    return ours


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("dim", "heads"), [(8, 1), (8, 2), (8, 8), (12, 3)])
@pytest.mark.parametrize("cross", [False, True])
def test_the_layer_equals_pytorchs(kind, dim, heads, cross):
    theirs = random_layer(dim, heads)
    ours = equal_layer(theirs)
    x, context = hostile(kind, 2, 5, dim).requires_grad_(), hostile(kind, 2, 7, dim, seed=1)
    source = context if cross else x
    mask = MASKS["causal"] if cross else MASKS["causal"][:, :5]
    output, A = ours(x, context if cross else None, mask=mask)
    expected, expected_A = theirs(x, source, source, attn_mask=~mask, average_attn_weights=False)
    torch.testing.assert_close((output, A), (expected, expected_A))
    gradients = [torch.autograd.grad(one, x, torch.ones_like(one))[0] for one in (output, expected)]
    torch.testing.assert_close(*gradients)


def test_a_mask_for_each_sequence():
    theirs = random_layer(8, 2)
    x, real = hostile("noise", 3, 6, 8), torch.arange(6) < torch.tensor([[6], [2], [1]])
    output, _ = equal_layer(theirs)(x, mask=real[:, None, None])
    torch.testing.assert_close(output, theirs(x, x, x, key_padding_mask=~real)[0])


def test_saturation_is_that_of_autograd():
    """The length of the Jacobian in section 4 is that of the derivative, and the scores have the promised variance."""
    generator = torch.Generator().manual_seed(3)
    q, k = torch.randn(20, 1, 6, generator=generator), torch.randn(20, 4, 6, generator=generator)
    for scaled, divisor in ((True, math.sqrt(6)), (False, 1)):
        s = (q * k).sum(dim=-1) / divisor
        jacobian = vmap(jacrev(lambda one: one.softmax(dim=0)))(s)
        expected = s.softmax(dim=1).max(dim=1).values.mean().item(), jacobian.flatten(1).norm(dim=1).mean().item()
        assert lesson.softmax_of_random_scores(6, scaled, 20, 4, 3) == pytest.approx(expected, rel=1e-5)


STACKS = torch.arange(10 * 7, dtype=torch.uint8).view(10, 7, 1, 1).expand(10, 7, 28, 28)  # pixel = 7 digit + number


def test_rows_of_tiles():
    images, paint, digits, asked = lesson.deal_tiles(STACKS, 400, 6, 8, torch.Generator().manual_seed(0))
    assert images.shape == (400, 6, 28, 28) and (images[..., 0, 0] // 7 == digits).all(), "image of another digit"
    for one in (digits, paint):
        assert all(len(set(row)) == 6 for row in one.tolist())
    assert set(paint.flatten().tolist()) == set(range(8)) and set(digits.flatten().tolist()) == set(range(10))
    assert set(asked.tolist()) == set(range(6)) and set((images[..., 0, 0] % 7).flatten().tolist()) == set(range(7))
    assert torch.equal(paint, lesson.deal_tiles(STACKS, 400, 6, 8, torch.Generator().manual_seed(0))[1])
    assert lesson.deal_tiles(STACKS, 0, 6, 8, torch.Generator())[0].shape == (0, 6, 28, 28)


def test_the_test_rows_are_made_of_test_digits():
    one, other = (lesson.rows_for_testing({"train": STACKS, "test": STACKS + 100}) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(one, other)) and len(one[0]) == 5_000
    assert one[0].min() >= 100


def reader(averaging, seed=0):
    torch.manual_seed(seed)
    return lesson.TileReader(16, 8, averaging)


def test_averaging_cannot_tell_which_color_a_digit_had():
    images, paint, _, asked = lesson.deal_tiles(STACKS, 50, 6, 8, torch.Generator().manual_seed(0))
    other, rows = (asked + 1) % 6, torch.arange(50)
    swapped = paint.clone()
    swapped[rows, asked], swapped[rows, other] = paint[rows, other], paint[rows, asked]
    model = reader(averaging=True)
    lesson.train_reader(model, {"train": STACKS}, 5, 8, 1e-2, 0)
    (before, A), (after, _) = model(images, paint, asked), model(images, swapped, other)
    torch.testing.assert_close(before, after, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(A, torch.full((50, 6), 1 / 7))  # six tiles and the question itself
    model = reader(averaging=False)
    assert (model(images, paint, asked)[0] - model(images, swapped, other)[0]).abs().max() > 1e-4


def test_the_answer_follows_the_tiles_not_their_order():
    images, paint, _, asked = lesson.deal_tiles(STACKS, 50, 6, 8, torch.Generator().manual_seed(0))
    model, order = reader(averaging=False), torch.tensor([3, 5, 0, 1, 4, 2])
    logits, A = model(images, paint, asked)
    moved, moved_A = model(images[:, order], paint[:, order], order.argsort()[asked])
    torch.testing.assert_close((moved, moved_A), (logits, A[:, order]), rtol=1e-4, atol=1e-5)


def test_training_learns_the_rows():
    """Two gray levels for the digits, two colors: the network must find the asked tile."""
    stacks = torch.full((10, 3, 28, 28), 0, dtype=torch.uint8)
    for digit in range(10):
        stacks[digit, :, digit * 2:digit * 2 + 3] = 255
    model = reader(averaging=False)
    losses = lesson.train_reader(model, {"train": stacks, "test": 0 * stacks}, 150, 64, 1e-2, 0)
    images, paint, digits, asked = lesson.deal_tiles(stacks, 300, 6, 8, torch.Generator().manual_seed(5))
    logits, A = model.eval()(images, paint, asked)
    target = digits.gather(1, asked[:, None])[:, 0]
    assert len(losses) == 150 and (logits.argmax(dim=1) == target).float().mean() > 0.5
    assert A.gather(1, asked[:, None]).mean() > 0.4


def test_the_stacks_hold_each_digit(monkeypatch):
    class Small:
        def __init__(self, root, train, download):
            self.targets = torch.tensor([*range(10)] * 3 + [4, 4, 7])
            self.data = (self.targets + 100 * train).to(torch.uint8)[:, None, None].expand(-1, 28, 28)

    monkeypatch.setitem(lesson.load_digit_stacks.__globals__, "MNIST", Small)
    stacks = lesson.load_digit_stacks(torch.device("cpu"))
    for part, offset in (("train", 100), ("test", 0)):
        assert stacks[part].shape == (10, 3, 28, 28)
        assert (stacks[part] == torch.arange(10)[:, None, None, None] + offset).all()


def test_results_are_what_the_stored_run_shows():
    results = assert_shown(
        NOTEBOOK, "worst seed of attention {attention_worst_seed_percent:.1f} %", "its ceiling {ceiling_percent:.1f} %",
        "largest difference to nn.MultiheadAttention: {largest_difference_to_pytorch:.0e}",
        "right after the exchange: {attention_after_exchange_percent:.1f} %",
        "right after the exchange: {averaging_after_exchange_percent:.1f} %")
    assert results["averaging_test_accuracy_percent"] < results["ceiling_percent"] + 2
    assert results["attention_test_accuracy_percent"] > 80 and results["weight_on_asked_tile"] > 0.8
