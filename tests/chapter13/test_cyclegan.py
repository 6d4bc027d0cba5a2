"""What CycleGAN.ipynb defines: the true translations, losses, pool, networks, training, measures, the photos."""
import math

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import nn

from tests.definitions import definitions
from tests.notebooks import ROOT, code_cells, read
from tests.stored import assert_shown

NOTEBOOK = "Chapter13/CycleGAN.ipynb"
lesson = definitions(
    NOTEBOOK, "to_ink", "from_ink", "load_digits", "train_judge", "share_right", "generator_losses",
    "discriminator_error", "conv_block", "Residual", "translator", "discriminator", "ImagePool", "train_cyclegan",
    "new_networks", "measure_translation", "turn", "turn_back", "read_pile", "train_kinds", "PAPER", "INK")
quickly = settings(deadline=None, derandomize=True, max_examples=30)
CPU = torch.device("cpu")


def some_images(n=3, side=8, seed=0):
    return torch.rand(n, 3, side, side, generator=torch.Generator().manual_seed(seed))


def some_digits(n=3, side=8, seed=0):
    return some_images(n, side, seed)[:, :1].expand(-1, 3, -1, -1)


# ---- the true translations


def test_ink_on_paper_at_both_ends_and_between():
    values = torch.tensor([0.0, 1.0, 0.5]).view(3, 1, 1, 1).expand(3, 3, 2, 2)
    paper, ink, middle = lesson.to_ink(values)[:, :, 0, 0].tolist()
    assert paper == pytest.approx(lesson.PAPER) and ink == pytest.approx(lesson.INK)
    assert middle == pytest.approx(np.mean([lesson.PAPER, lesson.INK], axis=0))
    assert lesson.to_ink(values).min() >= 0 and lesson.to_ink(values).max() <= 1


def test_the_inverse_undoes_the_translation_and_takes_any_color():
    digits = some_digits()
    torch.testing.assert_close(lesson.from_ink(lesson.to_ink(digits)), digits, rtol=0, atol=1e-5)
    wild = lesson.from_ink(some_images())
    assert wild.shape == (3, 3, 8, 8) and wild.min() >= 0 and wild.max() <= 1
    assert torch.equal(wild[:, 0], wild[:, 2])
    paper, ink = np.array(lesson.PAPER), np.array(lesson.INK)
    color = np.array([0.4, 0.9, 0.3])
    share, *_ = np.linalg.lstsq((ink - paper)[:, None], color - paper, rcond=None)  # the nearest point of the line
    found = lesson.from_ink(torch.tensor(color, dtype=torch.float32).view(1, 3, 1, 1))
    assert found[0, 0, 0, 0].item() == pytest.approx(float(np.clip(share[0], 0, 1)), abs=1e-5)


def test_turning_is_numpys_and_turning_back_undoes_it():
    images = some_images(side=6)
    np.testing.assert_array_equal(lesson.turn(images).numpy(), np.rot90(images.numpy(), 1, (2, 3)))
    assert torch.equal(lesson.turn_back(lesson.turn(images)), images)
    assert not torch.equal(lesson.turn(images), images)


# ---- losses


class Marked(nn.Module):
    """A network x -> weight · x that counts its calls."""

    def __init__(self, weight):
        super().__init__()
        self.weight, self.calls = nn.Parameter(torch.tensor(float(weight))), 0

    def forward(self, x):
        self.calls += 1
        return self.weight * x


def test_the_generators_losses_are_the_formula():
    there, back, judge_a, judge_b = Marked(2), Marked(3), Marked(0.5), Marked(0.25)
    a, b = some_images(seed=1), some_images(seed=2)
    for cycle, identity in ((0, 0), (10, 0), (0, 5), (10, 5)):
        loss, fake_b, fake_a = lesson.generator_losses(there, back, judge_a, judge_b, a, b, cycle, identity)
        expected = (0.25 * 2 * a - 1).square().mean() + (0.5 * 3 * b - 1).square().mean()
        expected = expected + cycle * ((6 * a - a).abs().mean() + (6 * b - b).abs().mean())
        expected = expected + identity * ((2 * b - b).abs().mean() + (3 * a - a).abs().mean())
        torch.testing.assert_close(loss, expected)
        torch.testing.assert_close(fake_b, 2 * a)
        torch.testing.assert_close(fake_a, 3 * b)


def test_a_perfect_pair_of_translators_has_no_cycle_loss_and_no_identity_loss_on_its_own_pile():
    there, back = Marked(1), Marked(1)
    fooled = lambda x: torch.ones(len(x), 1)  # noqa: E731
    loss, *_ = lesson.generator_losses(there, back, fooled, fooled, some_images(), some_images(seed=1), 10, 5)
    assert loss.item() == 0


def test_identity_asks_each_generator_about_the_pile_that_it_translates_to():
    """G knows only how to leave b alone, F only how to leave a alone; asked the wrong way round, both would pay."""
    a, b = torch.full((2, 3, 4, 4), 0.2), torch.full((2, 3, 4, 4), 0.9)
    there = lambda x: torch.where(x > 0.5, x, 0 * x)  # noqa: E731
    back = lambda x: torch.where(x < 0.5, x, 0 * x)  # noqa: E731
    fooled = lambda x: torch.ones(len(x), 1)  # noqa: E731
    assert lesson.generator_losses(there, back, fooled, fooled, a, b, 0, 5)[0].item() == 0
    assert lesson.generator_losses(back, there, fooled, fooled, a, b, 0, 5)[0].item() > 1


def test_losses_that_are_off_cost_no_pass():
    networks = [Marked(1) for _ in range(4)]
    lesson.generator_losses(*networks, some_images(), some_images(), 0, 0)
    assert [one.calls for one in networks] == [1, 1, 1, 1]


def test_the_discriminators_error_is_least_squares_and_leaves_the_generator_alone():
    judge, real = Marked(0.5), some_images()
    fake = some_images(seed=1).requires_grad_()
    error = lesson.discriminator_error(judge, real, fake)
    expected = (F.mse_loss(0.5 * real, torch.ones_like(real)) + F.mse_loss(0.5 * fake, torch.zeros_like(fake))) / 2
    torch.testing.assert_close(error, expected)
    error.backward()
    assert fake.grad is None and judge.weight.grad.abs() > 0


# ---- the pool


@quickly
@given(st.integers(1, 7), st.integers(1, 5), st.integers(0, 100))
def test_the_pool_keeps_its_size_shows_only_what_it_was_given_and_no_graph(size, batch, seed):
    pool = lesson.ImagePool(size, torch.Generator().manual_seed(seed))
    given_out = []
    for step in range(12):
        images = (torch.arange(batch) + batch * step).float().view(batch, 1, 1, 1).requires_grad_()
        shown = pool.exchange(images)
        assert shown.shape == images.shape and not shown.requires_grad
        assert len(pool.kept) == min(size, batch * (step + 1))
        assert set(shown.flatten().tolist()) <= set(range(batch * (step + 1)))
        given_out += shown.flatten().tolist()
    exchanged = given_out[size:]  # what is put into the pool while it fills may be shown again, later ones once
    late = [value for value in exchanged if value >= size]
    assert len(late) == len(set(late))


def test_about_half_of_the_images_are_exchanged():
    pool = lesson.ImagePool(20, torch.Generator().manual_seed(0))
    new = torch.arange(2000.0).view(-1, 1, 1, 1)
    shown = pool.exchange(new)
    assert torch.equal(shown[:20], new[:20])  # the first are kept, and shown
    assert (shown[20:] == new[20:]).float().mean().item() == pytest.approx(0.5, abs=0.05)


# ---- networks


def test_shapes_and_ranges():
    torch.manual_seed(0)
    for side in (28, 8):
        answer = lesson.translator(4, 1)(some_images(2, side))
        assert answer.shape == (2, 3, side, side) and 0 <= answer.min() and answer.max() <= 1
    assert lesson.discriminator(4)(some_images(2, 28)).shape == (2, 1, 7, 7)


def test_a_residual_block_adds_to_its_input():
    block = lesson.Residual(4)
    x = torch.randn(2, 4, 8, 8)
    torch.testing.assert_close(block(x) - x, block.change(x), rtol=0, atol=1e-5)


def test_networks_are_as_the_seed_says_and_not_copies_of_each_other():
    one, again, other = (lesson.new_networks(4, 1, 4, CPU, seed) for seed in (0, 0, 1))
    assert torch.equal(one[0][0][0].weight, again[0][0][0].weight)
    assert not torch.equal(one[0][0][0].weight, other[0][0][0].weight)
    assert not torch.equal(one[0][0][0].weight, one[1][0][0].weight)
    assert [network(some_images()).shape[1] for network in one] == [3, 3, 1, 1]


# ---- training


def piles():
    dark = 0.3 * some_digits(20, 8)
    return dark, 1 - 0.3 * some_digits(20, 8, seed=1)


def test_training_moves_all_four_networks_is_reproducible_and_keeps_a_film():
    results = []
    for _ in range(2):
        networks = lesson.new_networks(4, 1, 4, CPU, 0)
        before = [[p.detach().clone() for p in network.parameters()] for network in networks]
        film = lesson.train_cyclegan(networks, *piles(), 20, 4, 1e-2, 10, 0, 5, 0, piles()[0][:2])
        for network, old in zip(networks, before):
            assert any(not torch.equal(p, q) for p, q in zip(network.parameters(), old))
        assert list(film) == [1, 4, 8, 13, 20] and film[20].shape == (2, 3, 8, 8)
        results.append(film[20])
    assert torch.equal(*results)
    assert lesson.train_cyclegan(networks, *piles(), 2, 4, 1e-2, 10, 0, 5, 0) == {}


def test_training_learns_to_brighten_and_to_come_back():
    a, b = piles()
    networks = lesson.new_networks(4, 1, 4, CPU, 0)
    lesson.train_cyclegan(networks, a, b, 60, 8, 1e-2, 10, 0, 20, 0)
    with torch.no_grad():
        there = networks[0](a)
        assert there.mean() > 0.6 and a.mean() < 0.3
        assert F.l1_loss(networks[1](there), a) < 0.2


def test_the_learning_rate_falls_to_zero_in_the_second_half(monkeypatch):
    rates = []
    adam = torch.optim.Adam

    class Spy(adam):
        def step(self, *arguments):
            rates.append(self.param_groups[0]["lr"])
            return super().step(*arguments)

    monkeypatch.setattr(torch.optim, "Adam", Spy)
    lesson.train_cyclegan(lesson.new_networks(2, 0, 2, CPU, 0), *piles(), 10, 2, 0.1, 1, 0, 5, 0)
    assert rates[::2] == pytest.approx([0.1 * min(1, 2 * (1 - t / 10)) for t in range(10)])
    assert rates[1::2] == pytest.approx(rates[::2])  # the discriminators' likewise


def test_each_network_is_stepped_once_in_a_step_by_its_own_optimizer(monkeypatch):
    stepped = []
    adam = torch.optim.Adam

    class Spy(adam):
        def step(self, *arguments):
            stepped.append(sorted(id(p) for group in self.param_groups for p in group["params"]))
            return super().step(*arguments)

    monkeypatch.setattr(torch.optim, "Adam", Spy)
    networks = lesson.new_networks(2, 0, 2, CPU, 0)
    lesson.train_cyclegan(networks, *piles(), 3, 2, 0.1, 1, 1, 5, 0)
    pairs = networks[:2], networks[2:]
    generators, judges = (sorted(id(p) for one in pair for p in one.parameters()) for pair in pairs)
    assert stepped == [generators, judges] * 3


# ---- measures


def test_the_judge_learns_and_is_counted_right():
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(200) % 10
    images = 0.2 * torch.rand(200, 3, 28, 28, generator=generator)
    for k, label in enumerate(labels.tolist()):
        images[k, :, 2 * label : 2 * label + 4] += 0.8
    judge = lesson.train_judge(images[:150], labels[:150], 60, 0)
    assert not judge.training and lesson.share_right(judge, images[150:], labels[150:]) > 0.9
    fixed = lambda images: F.one_hot(torch.tensor([1, 2, 3, 3]), 10)  # noqa: E731
    assert lesson.share_right(fixed, torch.zeros(4, 3, 1, 1), torch.tensor([1, 2, 3, 4])) == 0.75


def test_measures_of_the_truth_itself_of_a_constant_and_of_a_lossy_way():
    digits, labels = some_digits(4), torch.tensor([0, 1, 0, 1])
    read = lambda images: F.one_hot((images.mean(dim=(1, 2, 3)) > 0.5).long(), 2)  # noqa: E731
    bright = (digits.mean(dim=(1, 2, 3)) > 0.5).long()
    truth = lesson.to_ink, lesson.from_ink
    best = lesson.measure_translation(*truth, digits, bright, *truth, read)
    assert best == pytest.approx({"distance to truth": 0, "cycle error": 0, "digits kept": 100}, abs=1e-3)
    white = lambda images: torch.ones_like(images)  # noqa: E731
    found = lesson.measure_translation(white, lambda x: 0 * x, digits, labels, lesson.turn, lesson.turn_back, read)
    assert found["distance to truth"] == pytest.approx(100 * (1 - digits.mean().item()), rel=1e-4)
    assert found["cycle error"] == pytest.approx(100 * digits.mean().item(), rel=1e-4)
    assert found["digits kept"] == 50  # all are read as 1


def test_a_closed_cycle_says_nothing_about_the_truth():
    digits, labels = some_digits(4), torch.zeros(4, dtype=torch.long)
    read = lambda images: F.one_hot(torch.zeros(len(images), dtype=torch.long), 2)  # noqa: E731
    swap = lambda images: images.flip(3)  # noqa: E731
    found = lesson.measure_translation(swap, swap, digits, labels, lesson.turn, lesson.turn_back, read)
    assert found["cycle error"] == 0 and found["distance to truth"] > 10


# ---- photos


def test_a_pile_of_photos_is_read_in_color_at_one_size_in_order(tmp_path):
    for number, (mode, value) in enumerate((("RGB", (255, 0, 0)), ("L", 128), ("RGB", (0, 0, 255)))):
        Image.new(mode, (40, 30 + number), value).save(tmp_path / f"{number}.jpg", quality=95)
    pile = lesson.read_pile(tmp_path, 8, 10, CPU)
    assert pile.shape == (3, 3, 8, 8) and pile.max() <= 1
    np.testing.assert_allclose(pile[:, :, 4, 4].numpy(), [[1, 0, 0], [0.5, 0.5, 0.5], [0, 0, 1]], atol=0.02)
    assert len(lesson.read_pile(tmp_path, 8, 2, CPU)) == 2


def test_the_judge_of_two_kinds_is_positive_for_the_second():
    a, b = piles()
    kinds = lesson.train_kinds(a, b, 4, 40, 0)
    with torch.inference_mode():
        assert kinds(a).shape == (20,) and (kinds(a) < 0).all() and (kinds(b) > 0).all()


# ---- the notebook's own steps


def sources():
    return [cell.source for cell in code_cells(read(ROOT / NOTEBOOK))]


def test_no_digit_is_in_both_piles_or_known_to_the_judge():
    cell = next(cell for cell in sources() if cell.startswith("digits = load_digits"))
    numbers = torch.arange(100.0).view(-1, 1, 1, 1).expand(-1, 3, 2, 2)
    namespace = {"load_digits": lambda device: {"train": (numbers, torch.arange(100)), "test": (-numbers, numbers)},
                 "device": CPU, "PILE": 20, "JUDGE_DIGITS": 30, "TEST_DIGITS": 7, "to_ink": lambda x: x, "slice": slice,
                 "show_rows": lambda *_: None}
    exec(cell, namespace)
    white, ink, images = (set(namespace[name].flatten().tolist()) for name in ("white", "ink", "test_images"))
    known = set(range(100)[namespace["judge_rows"]])
    assert len(white) == len(ink) == 20 and len(known) == 30 and len(images) == 7
    assert not white & ink and not (white | ink) & known
    assert "train_judge(images[judge_rows], labels[judge_rows]" in "\n".join(sources())
    assert "turn(images[PILE : 2 * PILE])" in "\n".join(sources())


def test_the_runs_differ_in_what_their_names_say():
    text = "\n".join(sources())
    calls = [text[k : text.index(")", text.index("POOL", k))] for k in range(len(text))
             if text.startswith("train_cyclegan(", k) and "def " not in text[k - 4 : k]]
    weights = [" ".join(call.split()).partition("LEARNING_RATE, ")[2] for call in calls]
    assert [one.partition(", POOL")[0] for one in weights] == [
        "CYCLE, 0", "0, 0", "CYCLE, 0", "CYCLE, IDENTITY", "CYCLE, IDENTITY"]
    for name in ("cycle", "no cycle", "identity"):
        assert f'runs["{name}", ' in text


def test_results_are_taken_from_the_rows_that_they_name():
    cell = next(cell for cell in sources() if cell.startswith("named = "))
    columns = ["distance to truth", "cycle error", "digits kept"]
    table = pd.DataFrame([[1.0, math.nan, 3], [4, 5, 6], [7, 8, 9]], ["mean of pile B", "cycle", "no cycle"], columns)
    namespace = {"table": table, "np": np, "pd": pd, "turned_scores": dict(zip(columns, (10.0, 11.0, 12.0))),
                 "judge_accuracy": 0.5, "gains": pd.Series([30.0, 20.0]), "moved": {"identity": 1.0, "cycle": 2.0},
                 "kept": {"digits kept": 80.0}}
    exec(cell, namespace)
    found = namespace["results"]
    assert found["mean_digits_kept_percent"] == 3 and "mean_cycle_error_percent" not in found
    assert found["cycle_distance_to_truth_percent"] == 4 and found["cycle_digits_kept_percent"] == 6
    assert found["no_cycle_cycle_error_percent"] == 8 and found["turned_cycle_error_percent"] == 11
    assert found["least_gain_points"] == 20 and found["judge_accuracy_percent"] == 50
    assert found["identity_moved_percent"] == 1 and found["no_identity_moved_percent"] == 2 and len(found) == 16


def test_stored_results_are_what_the_notebook_shows():
    results = assert_shown(NOTEBOOK, "the judge reads {judge_accuracy_percent:.1f}%",
                           "{cycle_digits_kept_percent:.1f} ±", "{no_cycle_digits_kept_percent:.1f} ±",
                           "is changed by {no_identity_moved_percent:.1f} %")
    assert results["cycle_digits_kept_percent"] > results["no_cycle_digits_kept_percent"] + 20
    assert results["cycle_distance_to_truth_percent"] < results["no_cycle_distance_to_truth_percent"]
    assert results["turned_cycle_error_percent"] < results["turned_distance_to_truth_percent"] / 2
    assert results["identity_moved_percent"] < results["no_identity_moved_percent"]
