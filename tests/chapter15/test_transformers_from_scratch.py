"""transformers-from-scratch.ipynb: blocks and network beside nn.Transformer, masks, positions, training, writing."""
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.definitions import definitions
from tests.stored import assert_shown

NOTEBOOK = "Chapter15/transformers-from-scratch.ipynb"
CPU = torch.device("cpu")
NAMES = ["attention", "MultiHeadAttention", "residual", "EncoderBlock", "DecoderBlock", "Transformer", "sinusoids",
         "causal_mask", "shifted", "write", "new_transformer", "rows_of_digits", "train_writer", "test_rows",
         "cross_weights", "copy_attention", "copy_block", "copy_transformer", "compare_blocks"]
lesson = definitions(NOTEBOOK, *NAMES, LENGTH=5, WORDS=7, DIM=16, HEADS=2, HIDDEN=24, DEPTH=2, TEST_ROWS=50)
pytestmark = pytest.mark.filterwarnings("ignore:enable_nested_tensor")


def hostile(kind, *shape, seed=0):
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return {"noise": noise, "zeros": 0 * noise, "ties": noise.sign(), "huge": 1e3 * noise, "tiny": 1e-12 * noise}[kind]


def random_transformer(pre_norm, seed=0):
    """nn.Transformer with random weights, biases and norms, float64."""
    torch.manual_seed(seed)
    theirs = nn.Transformer(16, 2, 2, 2, 24, 0.0, batch_first=True, norm_first=pre_norm).double()
    for p in theirs.parameters():
        nn.init.normal_(p, std=0.4)
    return theirs


def equal_network(theirs, pre_norm):
    ours = lesson.new_transformer(0, pre_norm=pre_norm).double()
    lesson.copy_transformer(ours, theirs)
    return ours


@pytest.mark.parametrize("pre_norm", [True, False])
@pytest.mark.parametrize("kind", ["noise", "zeros", "ties", "huge", "tiny"])
def test_blocks_equal_pytorchs_forwards_and_backwards(kind, pre_norm):
    theirs = random_transformer(pre_norm)
    ours = equal_network(theirs, pre_norm)
    mask = torch.ones(4, 4).tril().bool()
    for part, other in ((ours.encoder[1], theirs.encoder.layers[1]), (ours.decoder[1], theirs.decoder.layers[1])):
        found = []
        for layer, extra in ((part, {"mask": mask}), (other, {"tgt_mask": ~mask})):
            x, memory = hostile(kind, 3, 4, 16).requires_grad_(), hostile(kind, 3, 6, 16, seed=1).requires_grad_()
            decodes = hasattr(part, "cross")
            y = layer(x, memory, **extra) if decodes else layer(x)
            y.backward(hostile("noise", *y.shape, seed=2))
            found.append((y.detach(), x.grad, memory.grad if decodes else x.grad))
        torch.testing.assert_close(found[0], found[1], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("pre_norm", [True, False])
@pytest.mark.parametrize(("read", "given"), [(5, 5), (3, 6), (1, 1)])
def test_the_network_equals_pytorchs(pre_norm, read, given):
    theirs = random_transformer(pre_norm, seed=1)
    ours = equal_network(theirs, pre_norm)
    generator = torch.Generator().manual_seed(0)
    source, words = (torch.randint(7, (3, n), generator=generator) for n in (read, given))
    assert max(lesson.compare_blocks(ours, theirs, source, words).values()) < 1e-9
    logits = ours(source, words)
    x, y = ours.place(ours.read(source)), ours.place(ours.given(words))
    assert not torch.equal(x, ours.read(source)) and not torch.equal(y, ours.given(words)), "no positions"
    mask = nn.Transformer.generate_square_subsequent_mask(given, dtype=torch.float64)
    torch.testing.assert_close(logits, ours.head(theirs(x, y, tgt_mask=mask)))
    with torch.no_grad():
        ours.decoder[0].cross.W_V.weight.add_(0.1)
    assert max(lesson.compare_blocks(ours, theirs, source, words).values()) > 1e-6, "the comparison sees nothing"


@pytest.mark.parametrize("length", [1, 2, 9])
def test_the_mask_is_pytorchs(length):
    theirs = nn.Transformer.generate_square_subsequent_mask(length)
    assert torch.equal(lesson.causal_mask(length), theirs == 0)


@pytest.mark.parametrize(("length", "dim"), [(1, 2), (7, 16), (50, 48)])
def test_positions_are_those_of_the_paper(length, dim):
    P = lesson.sinusoids(length, dim)
    assert P.shape == (length, dim)
    for t in range(length):
        for i in range(dim // 2):
            angle = torch.tensor(t / 10_000 ** (2 * i / dim), dtype=torch.float64)
            assert P[t, 2 * i] == pytest.approx(angle.sin().item(), abs=1e-5)
            assert P[t, 2 * i + 1] == pytest.approx(angle.cos().item(), abs=1e-5)


def test_no_place_sees_what_comes_later_or_its_own_answer():
    model = lesson.new_transformer(0).double()
    source = torch.randint(7, (2, 5), generator=torch.Generator().manual_seed(0))
    target = torch.randint(7, (2, 5), generator=torch.Generator().manual_seed(1))
    logits = model(source, lesson.shifted(target))
    for place in range(5):
        changed = target.clone()
        changed[:, place] = (changed[:, place] + 1) % 7
        difference = (model(source, lesson.shifted(changed)) - logits).abs().amax(dim=(0, 2))
        assert (difference[:place + 1] == 0).all(), "sees the answer"
        assert (difference[place + 1:] > 0).all(), "does not see what was written"
    assert (lesson.shifted(target)[:, 0] == 7).all() and torch.equal(lesson.shifted(target)[:, 1:], target[:, :-1])


def test_what_positions_are_for():
    order = torch.tensor([3, 1, 4, 0, 2])
    source = torch.randint(7, (20, 5), generator=torch.Generator().manual_seed(0))
    given = lesson.shifted(source.sort(dim=1).values)
    for positions in (True, False):
        model = lesson.new_transformer(0, positions=positions).double()
        change = (model(source, given) - model(source[:, order], given)).abs().max()
        assert (change > 1e-3) == positions


@pytest.mark.parametrize("positions", [True, False])
def test_writing_is_greedy_and_the_same_as_in_one_pass(positions):
    model = lesson.new_transformer(3, positions=positions).double()
    source = torch.randint(7, (30, 5), generator=torch.Generator().manual_seed(0))
    model.train()
    written = lesson.write(model, source)
    assert written.shape == (30, 5) and written.max() < 7
    assert torch.equal(model(source, lesson.shifted(written)).argmax(dim=-1), written)


def test_rows_and_answers():
    for task, answer in (("sort", lambda row: sorted(row)), ("reverse", lambda row: row[::-1])):
        source, target = lesson.rows_of_digits(task, 300, torch.Generator().manual_seed(0), CPU)
        assert set(source.flatten().tolist()) == set(range(7)) and source.shape == (300, 5)
        assert [answer(row) for row in source.tolist()] == target.tolist()
        tested = lesson.test_rows(task, CPU)
        assert torch.equal(tested[0], lesson.test_rows(task, CPU)[0]) and not torch.equal(tested[0], source[:50])
        for seed in range(3):
            drawn, _ = lesson.rows_of_digits(task, 50, torch.Generator().manual_seed(seed), CPU)
            assert not torch.equal(drawn, tested[0])


@pytest.mark.parametrize("one_cycle", [True, False])
def test_training_learns_and_gives_what_it_is_told(one_cycle):
    model, seen = lesson.new_transformer(0), []
    model.eval()
    before = [p.detach().clone() for p in model.parameters()]

    def give(target):
        seen.append(target)
        return lesson.shifted(target)

    losses = lesson.train_writer(model, "sort", give, 60, 32, 5e-3, 0, one_cycle)
    assert model.training and len(losses) == len(seen) == 60 and not losses.requires_grad
    assert all((row == row.sort(dim=1).values).all() for row in seen), "answers of another task"
    assert all(not torch.equal(p, q) for p, q in zip(model.parameters(), before) if p.ndim > 1)
    assert losses[-10:].mean() < 0.7 * losses[:5].mean()


def test_the_maps_are_of_the_last_cross_attention():
    model = lesson.new_transformer(0)
    source = torch.randint(7, (4, 5), generator=torch.Generator().manual_seed(0))
    weights = lesson.cross_weights(model, source, source[:, :3])
    assert weights.shape == (4, 2, 3, 5)
    torch.testing.assert_close(weights.sum(dim=-1), torch.ones(4, 2, 3))
    x = model.place(model.given(source[:, :3]))
    memory, mask = model.encode(source), lesson.causal_mask(3)
    x = model.decoder[0](x, memory, mask)
    last = model.decoder[1]
    y = x + last.attend(last.norm1(x), mask=mask)[0]
    torch.testing.assert_close(weights, last.cross(last.norm2(y), memory)[1])
    assert not last.cross._forward_hooks


def test_layer_norm_before_or_after():
    x, norm = hostile("noise", 2, 3, 16), nn.LayerNorm(16).double()
    torch.testing.assert_close(lesson.residual(x, torch.tanh, norm, True), x + F.layer_norm(x, (16,)).tanh())
    torch.testing.assert_close(lesson.residual(x, torch.tanh, norm, False), F.layer_norm(x + x.tanh(), (16,)))


def test_results_are_what_the_stored_run_shows():
    results = assert_shown(
        NOTEBOOK, "worst seed of both tasks {worst_seed_percent:.1f} %",
        "rows completely right {not_shifted_percent:.1f} %", "training loss {not_shifted_loss:.4f}",
        "{same_answer_after_reordering_without:.1%} without",
        "largest difference to nn.Transformer: {largest_difference_to_pytorch:.0e}")
    assert results["sort_without_positions_percent"] > 90 > 5 > results["reverse_without_positions_percent"]
    assert results["same_answer_after_reordering_without"] > 0.99
    assert results["deep_pre_norm_loss"] < results["deep_post_norm_loss"]
