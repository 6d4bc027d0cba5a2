"""Handwritten_digit_generation_using_GAN.ipynb: losses, whose weights move, the judge's measures, copies, the game."""
import io
import math

import numpy as np
import pytest
import scipy.linalg
import scipy.stats
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn
from torchmetrics.image.fid import FrechetInceptionDistance

from tests.definitions import definitions
from tests.stored import assert_said, assert_shown

NOTEBOOK = "Chapter12/Handwritten_digit_generation_using_GAN.ipynb"
CPU = torch.device("cpu")
lesson = definitions(NOTEBOOK, "discriminator_loss", "generator_loss", "train_gan", "new_gan", "generate",
                     "film_steps", "falling_rate", "new_judge", "train_judge", "look", "root", "frechet_distance",
                     "effective_classes", "report", "nearest_images", "classes_after", "contact_sheet", "film_of",
                     "play", "LINE", "best_discriminator", "normal_density", "load_digits_in_range")


def random(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def pair(seed=0):
    """A generator of six pixels from three numbers, a discriminator, and real images, without dropout."""
    torch.manual_seed(seed)
    G = nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 6), nn.Tanh())
    D = nn.Sequential(nn.Linear(6, 4), nn.LeakyReLU(0.2), nn.Linear(4, 1))
    return G, D, torch.rand(50, 6) * 2 - 1


# ---- the losses


@pytest.mark.parametrize("size", [1, 1e-9, 1e4, 0])
def test_losses_are_binary_cross_entropy_with_the_right_labels(size):
    D = nn.Linear(4, 1).double()
    real, fake = size * random(7, 4), size * random(7, 4, seed=1).requires_grad_()
    loss, real_logits, fake_logits = lesson.discriminator_loss(D, real, fake)
    torch.testing.assert_close(loss, F.softplus(-D(real)).mean() + F.softplus(D(fake)).mean())
    torch.testing.assert_close(real_logits, D(real))
    torch.testing.assert_close(fake_logits, D(fake))
    torch.testing.assert_close(lesson.generator_loss(D, fake), F.softplus(-D(fake)).mean())
    assert math.isfinite(loss.item())


def test_the_fakes_are_detached_in_the_discriminators_step_alone():
    G, D, real = pair()
    fake = G(torch.randn(8, 3))
    lesson.discriminator_loss(D, real[:8], fake)[0].backward()
    assert all(p.grad is None for p in G.parameters()) and all(p.grad.any() for p in D.parameters())
    lesson.generator_loss(D, fake).backward()
    assert any(p.grad.any() for p in G.parameters())


# ---- the training loop


def weights_after(steps, **options):
    """The networks before and after a training of `pair`, and what it returned."""
    G, D, real = pair()
    before = [p.detach().clone() for p in [*G.parameters(), *D.parameters()]]
    history = lesson.train_gan(G, D, real, steps, 8, 1e-2, 0, **options)
    return G, D, before, history


def test_each_loss_moves_its_own_network(monkeypatch):
    space = lesson.train_gan.__globals__
    original = dict(space)
    monkeypatch.setitem(space, "generator_loss", lambda D, fake: 0 * original["generator_loss"](D, fake))
    G, D, before, _ = weights_after(3)
    moved = [not torch.equal(p, q) for p, q in zip([*G.parameters(), *D.parameters()], before)]
    assert moved == [False] * len(list(G.parameters())) + [True] * len(list(D.parameters()))
    monkeypatch.setitem(space, "generator_loss", original["generator_loss"])
    still = original["discriminator_loss"]
    monkeypatch.setitem(space, "discriminator_loss",
                        lambda D, real, fake: (0 * still(D, real, fake)[0], *still(D, real, fake)[1:]))
    G, D, before, _ = weights_after(3)
    moved = [not torch.equal(p, q) for p, q in zip([*G.parameters(), *D.parameters()], before)]
    assert not any(moved[-len(list(D.parameters())):]) and any(moved)


def test_one_step_by_hand():
    """A first step equals Adam's on both losses, the discriminator before the generator, with the same numbers."""
    G, D, before, history = weights_after(1)
    G2, D2, real = pair()
    generator = torch.Generator().manual_seed(0)
    x = real[torch.randint(50, (8,), generator=generator)]
    fake = G2(torch.randn(8, 3, generator=generator))
    losses = (lambda: lesson.discriminator_loss(D2, x, fake)[0], lambda: lesson.generator_loss(D2, fake))
    for net, loss in zip((D2, G2), losses):
        optimizer = torch.optim.Adam(net.parameters(), 1e-2, betas=(0.5, 0.999))
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()
    for p, q in zip([*G.parameters(), *D.parameters()], [*G2.parameters(), *D2.parameters()]):
        torch.testing.assert_close(p, q)
    assert history["d_loss"] == pytest.approx([lesson.discriminator_loss(pair()[1], x, fake)[0].item()])


def test_generator_steps_are_counted_and_see_new_noise(monkeypatch):
    space, seen = lesson.train_gan.__globals__, []
    original = space["generator_loss"]
    monkeypatch.setitem(space, "generator_loss", lambda D, fake: seen.append(fake.detach()) or original(D, fake))
    weights_after(2, generator_steps=3)
    assert len(seen) == 6 and len({one.sum().item() for one in seen}) == 6


def test_history_and_film():
    watched = random(5, 3).float()
    G, D, _, history = weights_after(40, watched=watched, frames=5)
    assert {len(history[name]) for name in ("d_loss", "g_loss", "real", "fake")} == {40}
    assert [step for step, _ in history["film"]] == lesson.film_steps(40, 5) == [0, 2, 10, 22, 40]
    torch.testing.assert_close(history["film"][-1][1], lesson.generate(G, watched))
    assert not torch.equal(history["film"][0][1], history["film"][-1][1])
    assert all(0 < p < 1 for p in history["real"] + history["fake"])
    again = weights_after(40, watched=watched, frames=5)[3]
    assert again["g_loss"] == history["g_loss"], "a run is not repeatable"


def test_film_does_not_change_the_training():
    with_film = weights_after(6, watched=random(4, 3).float(), frames=4)[3]
    assert weights_after(6)[3]["g_loss"] == with_film["g_loss"]


def test_rate_stays_and_then_falls_to_zero():
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=2.0)
    schedule, rates = lesson.falling_rate(optimizer, 8), []
    for _ in range(9):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert rates == pytest.approx([2, 2, 2, 2, 2, 1.5, 1, 0.5, 0])


def test_generate_is_in_evaluation_mode_and_restores():
    G, _, _ = pair()
    noise = random(1203, 3).float()
    kept = {name: value.clone() for name, value in G.state_dict().items()}
    for training in (True, False):
        G.train(training)
        torch.testing.assert_close(lesson.generate(G, noise), G.eval()(noise).detach())
        G.train(training)
        lesson.generate(G, noise[:1])
        assert G.training is training
    assert all(torch.equal(value, kept[name]) for name, value in G.state_dict().items())


def test_networks_have_the_said_shapes():
    G, D = lesson.new_gan(0, 10, 8, CPU)
    images = G(torch.randn(4, 10))
    assert images.shape == (4, 1, 28, 28) and images.abs().max() <= 1
    assert D(images).shape == (4, 1) and not any(isinstance(layer, nn.Sigmoid) for layer in D)
    assert all(torch.equal(p, q) for p, q in zip(G.parameters(), lesson.new_gan(0, 10, 8, CPU)[0].parameters()))


# ---- the measures


def features(kind, n, d, seed=0):
    noise = random(n, d, seed=seed)
    return {"noise": noise, "constant": torch.ones(n, d).double(), "zeros": 0 * noise, "huge": 1e6 * noise,
            "tiny": 1e-6 * noise, "one dimension": noise[:, :1].expand(-1, d), "shifted": noise + 100,
            "few": noise[:3]}[kind]


KINDS = ["noise", "constant", "zeros", "huge", "tiny", "one dimension", "shifted", "few"]


@pytest.mark.filterwarnings("ignore:Matrix is singular")  # scipy, of constant features
@pytest.mark.parametrize("first", KINDS)
@pytest.mark.parametrize("second", KINDS)
def test_frechet_distance_is_scipys(first, second):
    a, b = features(first, 40, 6), 1.5 * features(second, 30, 6, seed=1)
    S_1, S_2 = (np.cov(one.numpy(), rowvar=False) for one in (a, b))
    middle = scipy.linalg.sqrtm(S_1)
    mixed = np.trace(scipy.linalg.sqrtm(middle.real @ S_2 @ middle.real).real)
    expected = ((a.mean(0) - b.mean(0)) ** 2).sum().item() + np.trace(S_1) + np.trace(S_2) - 2 * mixed
    scale = max(expected, np.trace(S_1) + np.trace(S_2))
    assert lesson.frechet_distance(a, b) == pytest.approx(expected, abs=1e-4 * scale + 1e-9)
    assert lesson.frechet_distance(a, b) == pytest.approx(lesson.frechet_distance(b, a), abs=1e-9 * scale)


@pytest.mark.parametrize("kind", KINDS)
def test_frechet_distance_of_the_same_is_zero(kind):
    a = features(kind, 40, 6)
    assert lesson.frechet_distance(a, a) == pytest.approx(0, abs=1e-9 * max(1, a.var(0).sum().item()))


def test_frechet_distance_is_torchmetrics():
    class Pixels(nn.Module):
        num_features = 12

        def forward(self, images):
            return images.flatten(1)

    metric = FrechetInceptionDistance(Pixels(), normalize=True)
    real, fake = (torch.rand(200, 3, 2, 2, generator=torch.Generator().manual_seed(k)) ** (k + 1) for k in (0, 1))
    metric.update(real, real=True)
    metric.update(fake, real=False)
    assert lesson.frechet_distance(real.flatten(1), fake.flatten(1)) == pytest.approx(metric.compute().item(), rel=1e-4)


def test_frechet_distance_of_known_normals():
    """Independent features: squared distance of the means, plus that of the standard deviations."""
    a = random(200_000, 2) * torch.tensor([1.0, 2.0])
    b = random(200_000, 2, seed=1) * torch.tensor([3.0, 2.0]) + torch.tensor([4.0, 0.0])
    assert lesson.frechet_distance(a, b) == pytest.approx(16 + 4, rel=0.02)


def test_root_squares_to_the_matrix():
    for matrix in (random(5, 5), random(5, 1), torch.zeros(3, 3).double()):
        S = matrix @ matrix.T
        torch.testing.assert_close(lesson.root(S) @ lesson.root(S), S)
        torch.testing.assert_close(lesson.root(S), lesson.root(S).T)


@pytest.mark.parametrize("shares", [[1.0], [0.5, 0.5], [0.1] * 10, [1, 0, 0], [0.7, 0.2, 0.1, 0]])
def test_effective_classes_is_the_exponential_of_scipys_entropy(shares):
    expected = math.exp(scipy.stats.entropy(shares))
    assert lesson.effective_classes(torch.tensor(shares, dtype=torch.float64)) == pytest.approx(expected)


def test_report_counts_all_images_once():
    judge = lesson.new_judge(0, CPU)
    images = torch.rand(1003, 1, 28, 28) * 2 - 1
    reference = lesson.look(judge, images[:200])[0]
    numbers, shares = lesson.report(judge, images, reference)
    with torch.no_grad():
        logits = judge.eval()(images)
    torch.testing.assert_close(shares, logits.argmax(1).bincount(minlength=10) / 1003)
    assert numbers["confidence"] == pytest.approx(logits.softmax(1).max(1).values.mean().item(), rel=1e-5)
    found = lesson.look(judge, images)[0]
    with torch.no_grad():
        torch.testing.assert_close(judge[-1](found), logits, rtol=1e-4, atol=1e-5)
    assert numbers["Fréchet distance"] == pytest.approx(lesson.frechet_distance(found, reference), rel=1e-6)
    assert numbers["classes"] == pytest.approx(lesson.effective_classes(shares))


def test_judge_learns():
    labels = torch.arange(200) % 10
    images = torch.full((200, 1, 28, 28), -1.0)
    images[torch.arange(200), 0, 2 * labels + 4] = 1
    judge = lesson.new_judge(0, CPU)
    lesson.train_judge(judge, images, labels, 60, 32, 1e-2, 0)
    assert (lesson.look(judge, images)[1].argmax(1) == labels).float().mean() > 0.9


@pytest.mark.parametrize("count", [1, 100, 230])
def test_nearest_images_finds_what_was_hidden(count):
    pool = torch.rand(300, 1, 5, 5, generator=torch.Generator().manual_seed(0)) * 2 - 1
    rows = torch.randperm(300, generator=torch.Generator().manual_seed(1))[:count]
    noise = 0.01 * torch.randn(count, 1, 5, 5, generator=torch.Generator().manual_seed(2))
    distance, found = lesson.nearest_images(pool[rows] + noise, pool)
    assert torch.equal(found, rows)
    torch.testing.assert_close(distance, noise.square().flatten(1).mean(1).sqrt(), rtol=1e-2, atol=1e-4)


# ---- pictures


def test_contact_sheet_puts_images_row_by_row():
    images = torch.linspace(-1, 1, 6)[:, None, None, None].expand(-1, 1, 2, 2)
    sheet = lesson.contact_sheet(images, 3)
    assert sheet.shape == (5, 8) and sheet.dtype == np.uint8
    assert sheet[0, [0, 3, 6]].tolist() == [0, 51, 102] and sheet[3, [0, 3, 6]].tolist() == [153, 204, 255]
    assert (sheet[2] == 255).all() and (sheet[:, [2, 5]] == 255).all()


def test_film_has_all_frames_in_order():
    ramp = np.tile(np.linspace(0, 255, 16).astype(np.uint8), (3, 1))
    color = np.stack([ramp, 0 * ramp, ramp], -1)
    for sheets in ([ramp[:, ::-1], ramp, 255 - ramp // 17 // 8 * 255], [color, color[:, ::-1], color]):
        film = Image.open(io.BytesIO(lesson.film_of(sheets, 2, 100).data))
        assert film.n_frames == 3 and film.size == (32, 6)
        for k in range(3):
            film.seek(k)
            found = np.asarray(film.convert("RGB" if sheets[k].ndim == 3 else "L")).astype(int)[::2, ::2]
            assert np.abs(found - sheets[k]).max() < 20, k


# ---- the game in one dimension


def test_the_generator_finds_the_real_numbers():
    means, deviations, logits = lesson.play(600, 1e-2, 1e-2, 0)
    assert (means[0], deviations[0]) == pytest.approx((0, 0.4)) and len(means) == len(logits) == 601
    assert means[-1] == pytest.approx(3, abs=0.25) and deviations[-1] == pytest.approx(0.7, abs=0.15)
    near = (lesson.LINE > 2) & (lesson.LINE < 4)
    assert logits[-1][near].sigmoid().sub(0.5).abs().max() < 0.15
    still = lesson.play(100, 0.0, 1e-2, 0)
    assert still[0][-1] == 0 and still[2][-1].sigmoid()[-1] > 0.9, "the discriminator alone must learn"


def test_densities_are_scipys():
    x = torch.linspace(-3, 8, 50, dtype=torch.float64)
    for mean, deviation in ((0, 1), (3, 0.7), (-1, 1e-2), (3, 20)):
        density = scipy.stats.norm(mean, deviation).pdf(x)
        torch.testing.assert_close(lesson.normal_density(x, mean, deviation), torch.from_numpy(density))
        real = scipy.stats.norm(3, 0.7).pdf(x)
        expected = torch.from_numpy(real / np.maximum(real + density, 1e-30))
        torch.testing.assert_close(lesson.best_discriminator(x, mean, deviation), expected)


def test_digits_are_scaled_and_keep_their_labels(monkeypatch):
    class Numbered:
        def __init__(self, root, train=True, download=False):
            count = 30 if train else 12
            self.data = torch.arange(count, dtype=torch.uint8)[:, None, None].expand(-1, 28, 28) * 5
            self.targets = torch.arange(count) % 10

    monkeypatch.setitem(lesson.load_digits_in_range.__globals__, "MNIST", Numbered)
    data = lesson.load_digits_in_range(CPU)
    assert data["train"][0].shape == (30, 1, 28, 28) and data["test"][0].shape == (12, 1, 28, 28)
    for images, labels in data.values():
        torch.testing.assert_close(images[:, 0, 0, 0], torch.arange(len(images)) * 5 / 127.5 - 1)
        assert torch.equal(labels, torch.arange(len(images)) % 10)


def test_classes_after_trains_on_and_counts_the_last_images(monkeypatch):
    calls, space = [], lesson.classes_after.__globals__
    monkeypatch.setitem(space, "train_gan", lambda *arguments: calls.append(arguments))
    G, D = lesson.new_gan(0, 4, 8, CPU)
    judge, noise = lesson.new_judge(0, CPU), torch.randn(60, 4)
    classes, images = lesson.classes_after(G, D, judge, "digits", 7, 5, 0.1, 3, 2, noise)
    assert calls == [(G, D, "digits", 7, 5, 0.1, 3, 2)]
    made = lesson.generate(G, noise)
    shares = lesson.look(judge, made)[1].argmax(1).bincount(minlength=10) / 60
    assert torch.equal(images, made[:24]) and classes == pytest.approx(lesson.effective_classes(shares))


# ---- the stored run


def test_results_are_those_that_were_shown():
    results = assert_shown(
        NOTEBOOK, "the judge names {judge_accuracy:.1%} of",
        "cured − goes on, paired by seed: {cured_gain_classes:+.1f} ± {cured_gain_sd_classes:.1f} classes",
        *(f'class="data row{row} col{column}" >{{{name}}}</td>' for row, names in enumerate((
            (None, None, "frechet_real:.0f"), ("confidence:.1%", "classes:.1f", "frechet:.0f"),
            (None, None, "frechet_untrained:.0f"), ("confidence_noise:.1%", "classes_noise:.1f", "frechet_noise:.0f")))
          for column, name in enumerate(names) if name))
    assert results["frechet_real"] < results["frechet"] < results["frechet_untrained"]
    assert results["nearest_copies"] < 0.11


def test_the_prose_says_what_was_found():
    assert_said(
        NOTEBOOK, "{confidence:.0%} confident of a generated digit, on average, against {confidence_real:.0%}",
        "it is {confidence_noise:.0%} confident", "have {classes:.1f} effective classes",
        "distance is {frechet:.0f}. Other real digits have {frechet_real:.0f}, the untrained generator has "
        "{frechet_untrained:.0f}.", "nearest training image is {nearest_generated:.2f}",
        "{collapsed_classes:.1f} effective classes are left where 5 : 1 goes on, and {cured_classes:.1f} after the "
        "cure, {cured_gain_classes:.1f} ± {cured_gain_sd_classes:.1f} more", "from the start has {control_classes:.1f}")
