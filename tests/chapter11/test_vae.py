"""What VAE.ipynb defines, beside torch.distributions and SciPy; which networks, codes and numbers go where."""
import io
import math

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from scipy.linalg import sqrtm
from torch import nn
from torch.distributions import Bernoulli, Normal, kl_divergence

from tests.cells import run_cell
from tests.definitions import definitions
from tests.stored import assert_said, assert_shown

NOTEBOOK = "Chapter11/VAE.ipynb"
CPU = torch.device("cpu")
lesson = definitions(NOTEBOOK, "VAE", "reconstruction_loss", "autoencoder_loss", "vae_loss", "kl_to_standard",
                     "elbo_terms", "frechet_of_codes", "fitted_codes", "verdict_on", "loss_with_the_mistake", "film_of",
                     "Judge", "label_loss", "judged", "train_autoencoder")


def digits(n, seed=0):
    """Images (n, 784) with values from 0 to 1."""
    return torch.rand(n, 784, generator=torch.Generator().manual_seed(seed))


def network(size=3, seed=0, hidden=8):
    torch.manual_seed(seed)
    return lesson.VAE(size, hidden).double()


# ---- the two terms of the loss

HOSTILE = {"noise": (torch.randn(50, 4), torch.randn(50, 4)), "prior": (torch.zeros(3, 4), torch.zeros(3, 4)),
           "none": (torch.zeros(0, 4), torch.zeros(0, 4)), "huge": (1e4 * torch.ones(2, 4), 20 * torch.ones(2, 4)),
           "sharp": (torch.ones(2, 4), -40 * torch.ones(2, 4)),
           "nan": (torch.full((2, 4), torch.nan), torch.zeros(2, 4))}


@pytest.mark.parametrize("kind", HOSTILE)
def test_kl_is_that_of_torch_distributions_forwards_and_backwards(kind):
    found = []

    def theirs(mu, log_var):
        return kl_divergence(Normal(mu, (log_var / 2).exp(), validate_args=False), Normal(0, 1))

    for function in (lesson.kl_to_standard, theirs):
        mu, log_var = (part.double().clone().requires_grad_() for part in HOSTILE[kind])
        kl = function(mu, log_var)
        found.append((kl.detach(), *torch.autograd.grad(kl.sum(), (mu, log_var))))
    torch.testing.assert_close(*found, rtol=1e-9, atol=1e-9, equal_nan=True)
    if kind != "nan":
        assert (found[0][0] >= 0).all()


def test_kl_is_monte_carlos():
    mu, log_var = torch.tensor([0.5, -2, 0]).double(), torch.tensor([-1.0, 0.5, 0]).double()
    z = mu + (log_var / 2).exp() * torch.randn(400_000, 3, generator=torch.Generator().manual_seed(0)).double()
    terms = Normal(mu, (log_var / 2).exp()).log_prob(z) - Normal(0, 1).log_prob(z)
    torch.testing.assert_close(lesson.kl_to_standard(mu, log_var), terms.mean(0), atol=0.01, rtol=0.01)


@pytest.mark.parametrize("kind", ["gray", "black", "white", "binary", "one", "none"])
def test_reconstruction_is_minus_the_log_likelihood_summed_over_pixels(kind):
    x = {"gray": digits(5), "black": torch.ones(5, 784), "white": torch.zeros(5, 784), "binary": digits(5).round(),
         "one": digits(1), "none": digits(0)}[kind].double()
    model, z = network(), torch.randn(len(x), 3, dtype=torch.float64)
    expected = -Bernoulli(logits=model.decoder(z), validate_args=False).log_prob(x).sum(dim=1)
    found = lesson.reconstruction_loss(model, z, x)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(model.draw(z), torch.sigmoid(model.decoder(z)))
    assert found.shape == (len(x),)


@pytest.mark.parametrize("beta", [0.0, 1.0, 3.5])
def test_the_loss_is_the_negative_elbo_of_one_draw(beta):
    model, x = network(), digits(6).double()
    torch.manual_seed(5)
    found = lesson.vae_loss(model, x, beta)
    mu, log_var = model.encode(x)
    q = Normal(mu, (log_var / 2).exp())
    torch.manual_seed(5)
    z = q.rsample()
    expected = -Bernoulli(logits=model.decoder(z), validate_args=False).log_prob(x).sum() / 6
    expected = expected + beta * kl_divergence(q, Normal(0, 1)).sum() / 6
    torch.testing.assert_close(found, expected)
    gradients = [torch.autograd.grad(loss, list(model.parameters()), retain_graph=True) for loss in (found, expected)]
    torch.testing.assert_close(*gradients)
    assert all(one.abs().max() > 0 for one in gradients[0])


def test_noise_is_in_the_loss_of_the_vae_only():
    model, x = network(), digits(6).double()
    assert lesson.vae_loss(model, x) != lesson.vae_loss(model, x)
    assert lesson.autoencoder_loss(model, x) == lesson.autoencoder_loss(model, x)
    mu, _ = model.encode(x)
    torch.testing.assert_close(lesson.autoencoder_loss(model, x), lesson.reconstruction_loss(model, mu, x).mean())


def test_mean_and_log_variance_are_two_halves_and_the_code_is_narrow():
    model, x = network(hidden=32), digits(4).double()
    mu, log_var = model.encode(x)
    torch.testing.assert_close(torch.cat([mu, log_var], dim=1), model.encoder(x))
    assert mu.shape == log_var.shape == (4, 3)
    jacobian = torch.autograd.functional.jacobian(lambda x: model.decoder(model.encode(x[None])[0])[0], x[0])
    assert torch.linalg.matrix_rank(jacobian) == 3


def test_terms_of_the_elbo_add_up():
    model, x = network(), digits(6).double()
    torch.manual_seed(2)
    reconstruction, kl = lesson.elbo_terms(model, x)
    torch.manual_seed(2)
    assert (reconstruction + kl.sum(dim=1)).mean().item() == pytest.approx(lesson.vae_loss(model, x).item())
    assert kl.shape == (6, 3)


def test_the_mistake_is_a_beta_of_784():
    model, x = network(), digits(6).double()
    torch.manual_seed(2)
    mistaken = lesson.loss_with_the_mistake(model, x)
    torch.manual_seed(2)
    torch.testing.assert_close(mistaken, lesson.vae_loss(model, x, 784.0) / 784)


def test_such_a_beta_makes_the_code_say_nothing_and_one_does_not():
    """On images that one number explains: all pixels together light or dark."""
    x = torch.where(torch.arange(400)[:, None] % 2 == 0, 0.2, 0.8) * torch.ones(400, 784)
    used = {}
    for beta in (1.0, 784.0):
        torch.manual_seed(0)
        model = lesson.VAE(2, 16)
        lesson.train_autoencoder(model, x, lambda model, x, beta=beta: lesson.vae_loss(model, x, beta), 8, 20, 0.01, 0)
        used[beta] = lesson.elbo_terms(model, x)[1].sum(dim=1).mean().item()
    assert used[784.0] < 0.05 and used[1.0] > math.log(2) * 0.8, used


# ---- judging


@pytest.mark.parametrize("kind", ["noise", "shifted", "correlated", "constant", "few"])
def test_frechet_distance_is_that_by_scipys_square_root(kind):
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(300, 5, generator=generator), torch.randn(200, 5, generator=generator)
    b = {"shifted": b + 3, "correlated": b @ torch.randn(5, 5, generator=generator), "few": b[:3],
         "constant": torch.ones(200, 5)}.get(kind, b)
    C_a, C_b = (np.cov(one.double().numpy().T) for one in (a, b))
    shift = ((a.double().mean(0) - b.double().mean(0)) ** 2).sum().item()
    expected = shift + np.trace(C_a + C_b - 2 * np.real(sqrtm(C_a @ C_b)))
    assert lesson.frechet_of_codes(a, b) == pytest.approx(expected, rel=1e-3, abs=1e-3)
    assert lesson.frechet_of_codes(b, a) == pytest.approx(lesson.frechet_of_codes(a, b), abs=1e-6)
    assert lesson.frechet_of_codes(a, a) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("cloud", [False, True])
def test_fitted_codes_have_the_moments_of_the_codes(cloud):
    model, x = network().float(), digits(5000)
    with torch.no_grad():
        model.encoder[-1].bias[3:] = 1.0  # broad clouds
    noise = torch.randn(50_000, 3, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(1)
    codes = lesson.fitted_codes(model, x, noise, cloud)
    mu, log_var = (part.detach() for part in model.encode(x))
    covariance = torch.cov(mu.T) + cloud * torch.diag(log_var.exp().mean(0))
    torch.testing.assert_close(codes.mean(0), mu.mean(0), atol=0.1, rtol=0)
    torch.testing.assert_close(torch.cov(codes.T), covariance, atol=0.15, rtol=0)
    assert codes.shape == noise.shape


def test_the_verdict_compares_features_of_both():
    torch.manual_seed(0)
    judge = lesson.Judge().eval()
    pictures, real = digits(90), digits(80, 1) ** 2
    found = lesson.verdict_on(judge, pictures, real, 0.2)
    with torch.no_grad():
        expected = lesson.frechet_of_codes(judge.features(pictures), judge.features(real))
    assert found["Fréchet distance"] == pytest.approx(expected)
    said = {key: found[key] for key in ("confidence", "recognized", "rarest digit")}
    assert said == lesson.judged(judge, pictures, 0.2)


def test_the_film_shows_its_frames_in_order():
    frames = [torch.full((6, 784), value) for value in (0.0, 0.5, 1.0)]
    frames[0] = frames[0].index_fill(0, torch.tensor([4]), 1.0)  # second row, second digit
    image = Image.open(io.BytesIO(lesson.film_of(frames, 3, enlarge=1).data))
    assert image.n_frames >= 3 and image.size == (90, 60)
    first = np.asarray(image.convert("L")).copy()
    assert first[45, 45] == 0 and first[15, 15] == first[45, 15] == first[45, 75] == 255
    image.seek(1)
    assert np.asarray(image.convert("L"))[15, 15] == 127


# ---- what goes where


def test_both_networks_start_alike_and_have_their_own_loss():
    calls = []

    def train(model, images, loss, epochs, batch_size, learning_rate, seed, watch=None):
        calls.append((loss.__name__, seed, len(images), [p.detach().clone() for p in model.parameters()]))
        for step in (0, 1, 5):
            watch(step)

    found = run_cell(NOTEBOOK, "models, film = {}, {}", SAMPLES=50, SIZE=3, SEEDS=(4, 5), HIDDEN=6, EPOCHS=1,
                     BATCH_SIZE=2, LEARNING_RATE=0.1, FILM_STEPS=(0, 5), data={"train": (digits(9), None)}, device=CPU,
                     VAE=lesson.VAE, autoencoder_loss=lesson.autoencoder_loss, vae_loss=lesson.vae_loss,
                     train_autoencoder=train)
    names = ("autoencoder_loss", "vae_loss")
    assert [call[:3] for call in calls] == [(name, seed, 9) for name in names for seed in (4, 5)]
    for one, other in ((0, 2), (1, 3)):
        assert all(torch.equal(*both) for both in zip(calls[one][3], calls[other][3]))
    assert list(found["film"]) == [0, 5]
    torch.testing.assert_close(found["film"][0], found["models"]["VAE", 4].draw(found["noise"][:24]).detach())
    torch.testing.assert_close(torch.cov(found["noise"].T), torch.eye(3), atol=0.6, rtol=0)


class Marked(nn.Module):
    """A network whose pictures and codes say which it is."""

    def __init__(self, mark):
        super().__init__()
        self.mark = mark

    def encode(self, x):
        return torch.full((len(x), 2), 7.0), torch.zeros(len(x), 2)

    def draw(self, z):
        return self.mark + z[:, :1].expand(-1, 784)


def test_verdicts_are_of_the_network_and_the_codes_that_their_names_say():
    clouds = []

    def fitted_codes(model, images, noise, cloud):
        clouds.append((model.mark, cloud, len(images)))
        return torch.full((3, 2), 5.0)

    models = {(name, seed): Marked(mark) for name, mark in (("autoencoder", 10), ("VAE", 20)) for seed in (0, 1)}
    found = run_cell(NOTEBOOK, "verdicts = []", SEEDS=(0, 1), models=models, data={"train": (digits(9), None)},
                     noise=torch.ones(3, 2), images=digits(4), judge=None, SURE=0.9, fitted_codes=fitted_codes,
                     verdict_on=lambda judge, one, real, sure: {
                         "confidence": 0, "recognized": one.mean().item(), "rarest digit": 0,
                         "Fréchet distance": len(real)})
    rows = {(row["network"], row["pictures"]): row["recognized"] for row in found["verdicts"]}
    assert rows == {("autoencoder", "standard normal codes"): 11, ("autoencoder", "fitted normal codes"): 15,
                    ("autoencoder", "rebuilt digits"): 17, ("VAE", "standard normal codes"): 21,
                    ("VAE", "fitted normal codes"): 25, ("VAE", "rebuilt digits"): 27}
    assert clouds == [(10, False, 9)] * 2 + [(20, True, 9)] * 2
    table = run_cell(NOTEBOOK, "by_kind = pd.DataFrame", verdicts=found["verdicts"], judge=None, SURE=0.9, SAMPLES=2,
                     data={"train": (digits(9), None)}, images=digits(4), SEEDS=(0, 1),
                     verdict_on=lambda judge, one, real, sure: dict.fromkeys(
                         ("confidence", "recognized", "rarest digit", "Fréchet distance"), len(one)))["table"]
    assert table["recognized"].tolist() == [11, 15, 17, 21, 25, 27, 2]


def test_the_grid_is_of_probable_codes_with_the_first_number_to_the_right():
    """Each tile of the sheet is drawn by its own code: the second number upward, the first to the right."""
    class Paint(Marked):
        def draw(self, z):
            return (z[:, :1] + 100 * z[:, 1:]).expand(-1, 784)

    found = run_cell(NOTEBOOK, "sheet = flat.draw", flat=Paint(0), images=digits(4), device=CPU)
    steps, sheet = found["steps"], found["sheet"]
    torch.testing.assert_close(Normal(0, 1).cdf(steps), torch.linspace(0.03, 0.97, 12))
    for row, column in ((0, 0), (0, 11), (11, 0), (9, 3)):
        expected = steps[column] + 100 * steps[11 - row]
        tile = sheet[28 * row:28 * row + 28, 28 * column:28 * column + 28]
        torch.testing.assert_close(tile, expected.expand(28, 28))


def test_the_walk_changes_one_number_and_starts_with_the_dearest():
    kl = torch.tensor([[0.1, 3.0, 2.0, 0.5], [0.1, 3.0, 2.0, 0.5]])
    drawn = []

    class Recorder(Marked):
        def encode(self, x):
            return torch.full((len(x), 4), 9.0), torch.zeros(len(x), 4)

        def draw(self, z):
            drawn.append(z)
            return torch.zeros(len(z), 784)

    run_cell(NOTEBOOK, "walk = torch.linspace", kl=kl, vae=Recorder(0), images=digits(3), device=CPU,
             labels=torch.tensor([7, 1, 7]), show_digit_rows=lambda rows, title: drawn.append(list(rows)))
    *walks, names = drawn
    for z, place in zip(walks, (1, 2, 3, 0)):
        torch.testing.assert_close(z[:, place], torch.linspace(-2.5, 2.5, 11))
        assert (z[:, [other for other in range(4) if other != place]] == 9).all() and len(z) == 11
    assert names == ["$z_{2}$: 3.0 nats", "$z_{3}$: 2.0 nats", "$z_{4}$: 0.5 nats", "$z_{1}$: 0.1 nats"]


def test_every_beta_is_trained_with_its_own_price():
    calls, x = [], digits(5)

    def train(model, images, loss, epochs, batch_size, learning_rate, seed):
        torch.manual_seed(3)
        calls.append((loss(model, x).item(), seed))

    found = run_cell(NOTEBOOK, "for beta in BETAS:", BETAS=(0.5, 9.0), SEEDS=(4, 5), SIZE=3, HIDDEN=6, EPOCHS=1,
                     BATCH_SIZE=2, LEARNING_RATE=0.1, device=CPU, VAE=lesson.VAE, vae_loss=lesson.vae_loss, models={},
                     data={"train": (x, None)}, train_autoencoder=train)
    expected = []
    for beta in (0.5, 9.0):
        for seed in (4, 5):
            torch.manual_seed(seed)
            model = lesson.VAE(3, 6)
            torch.manual_seed(3)
            expected.append((lesson.vae_loss(model, x, beta).item(), seed))
    assert calls == expected and list(found["models"]) == [(beta, seed) for beta in (0.5, 9.0) for seed in (4, 5)]


def test_the_sweep_has_a_row_for_every_beta():
    models = {("VAE", 0): Marked(1), (0.5, 0): Marked(2), (9.0, 0): Marked(3)}
    found = run_cell(
        NOTEBOOK, "sweep = pd.DataFrame", BETAS=(9.0, 0.5), SEEDS=(0,), models=models, images=digits(4), judge=None,
        SURE=0.9, ACTIVE=0.05, noise=torch.zeros(3, 2),
        elbo_terms=lambda model, images: (torch.full((4,), 100.0 * model.mark), torch.tensor([[model.mark, 0.01]] * 4)),
        verdict_on=lambda judge, one, real, sure: dict.fromkeys(
            ("confidence", "recognized", "rarest digit", "Fréchet distance"), one.mean().item()))["sweep"]
    assert found.index.tolist() == [0.5, 1, 9] and found["recognized"].tolist() == [2, 1, 3]
    assert found["reconstruction"].tolist() == [200, 100, 300] and found["numbers used"].tolist() == [1, 1, 1]
    assert found["KL"].tolist() == pytest.approx([2.01, 1.01, 3.01])


def test_results_are_taken_from_where_they_belong():
    kinds = [(name, kind) for name in ("autoencoder", "VAE")
             for kind in ("standard normal codes", "fitted normal codes", "rebuilt digits")]
    table = pd.DataFrame({"recognized": np.arange(6) / 10, "Fréchet distance": np.arange(6) + 50.0},
                         index=pd.MultiIndex.from_tuples(kinds))
    sweep = pd.DataFrame({"KL": [9.0, 8], "confidence": [0.7, 0.6], "Fréchet distance": [5.0, 4]}, index=[1.0, 784.0])
    found = run_cell(
        NOTEBOOK, '"collapsed_kl_nats"', judge_accuracy=0.9, reconstruction=torch.tensor([100.0, 120]),
        kl=torch.tensor([[1.0, 2], [3, 4]]), table=table, real={"recognized": 0.97, "Fréchet distance": 1.5},
        copies=torch.tensor(0.25), sweep=sweep, BETAS=(0.5, 784.0), kl_to_standard=lesson.kl_to_standard,
        q=Normal(torch.zeros(3), torch.ones(3)), p=Normal(torch.zeros(3), torch.ones(3)))["results"]
    assert found == pytest.approx({
        "judge_accuracy_percent": 90, "elbo_nats": -115, "kl_nats": 5, "autoencoder_recognized_percent": 0,
        "autoencoder_fitted_recognized_percent": 10, "vae_recognized_percent": 30, "vae_fitted_recognized_percent": 40,
        "real_recognized_percent": 97, "autoencoder_frechet": 50, "autoencoder_fitted_frechet": 51, "vae_frechet": 53,
        "real_frechet": 1.5, "nearest_drawn": 0.25, "collapsed_kl_nats": 8, "collapsed_confidence_percent": 60,
        "collapsed_frechet": 4, "largest_kl_difference": 0})


def test_the_stored_run_says_what_its_results_say():
    shown = assert_shown(NOTEBOOK, "names {judge_accuracy_percent:.1f}% of the test digits", " + KL {kl_nats:.1f} = ")
    assert shown["elbo_nats"] < -shown["kl_nats"]
    assert_said(NOTEBOOK, "recognizes {vae_recognized_percent:.0f} % of the VAE's pictures from standard normal "
                "codes, and {autoencoder_recognized_percent:.0f} % of the autoencoder's",
                "falls from {autoencoder_frechet:.0f} to {vae_frechet:.0f} (real digits: {real_frechet:.0f})",
                "reaches {autoencoder_fitted_recognized_percent:.0f} % and a distance of "
                "{autoencoder_fitted_frechet:.0f}, the VAE {vae_fitted_recognized_percent:.0f} % and",
                "Fréchet distance ({collapsed_frechet:.0f})")
    assert shown["collapsed_kl_nats"] < 0.01 and shown["collapsed_confidence_percent"] > 80
