"""What simple_auto_encoder_with_different_latent_size.ipynb defines, beside libraries; which numbers go where."""
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from scipy.ndimage import gaussian_filter
from scipy.spatial.distance import cdist
from skimage.metrics import peak_signal_noise_ratio
from sklearn.decomposition import PCA
from torch import nn

from tests.cells import run_cell
from tests.definitions import definitions
from tests.stored import assert_said, assert_shown

NOTEBOOK = "Chapter11/simple_auto_encoder_with_different_latent_size.ipynb"
CPU = torch.device("cpu")
lesson = definitions(NOTEBOOK, "Autoencoder", "squared_error", "image_errors", "pca_rebuild", "neighbor_accuracy",
                     "nearest_distance", "denoising_error", "psnr", "blurred", "noisy", NOISE=0.25)


def digits(n, seed=0):
    """Images (n, 784) with values from 0 to 1."""
    return torch.rand(n, 784, generator=torch.Generator().manual_seed(seed))


# ---- the network and its error


@pytest.mark.parametrize("size", [1, 2, 5])
def test_nothing_passes_but_the_code(size):
    torch.manual_seed(0)
    model = lesson.Autoencoder(size, 16).double()
    x = digits(1).double()
    assert model.encoder(x).shape == (1, size) and model(x).shape == x.shape
    jacobian = torch.autograd.functional.jacobian(lambda x: model(x[None])[0], x[0])
    assert torch.linalg.matrix_rank(jacobian) == size
    assert ((model(100 * digits(20).double() - 50) - 0.5).abs() <= 0.5).all()
    torch.testing.assert_close(model(x), model.decoder(model.encoder(x)))


HOSTILE = {"noise": digits(7), "zeros": torch.zeros(7, 784), "ones": torch.ones(7, 784), "huge": 1e4 * digits(7),
           "one image": digits(1), "nan": digits(7).index_fill(0, torch.tensor([3]), torch.nan)}


@pytest.mark.parametrize("kind", HOSTILE)
def test_errors_are_pytorchs_forwards_and_backwards(kind):
    torch.manual_seed(0)
    model, x = lesson.Autoencoder(3, 8), HOSTILE[kind]
    ours, theirs = lesson.squared_error(model, x), F.mse_loss(model(x), x)
    torch.testing.assert_close(ours, theirs, equal_nan=True)
    gradients = [torch.autograd.grad(loss, list(model.parameters())) for loss in (ours, theirs)]
    torch.testing.assert_close(*gradients, equal_nan=True)
    each = lesson.image_errors(model.train(), x)
    expected = F.mse_loss(model(x), x, reduction="none").mean(dim=1).detach()
    torch.testing.assert_close(each, expected, equal_nan=True)
    assert not model.training and not each.requires_grad


def test_denoising_compares_with_the_clean_image():
    x = digits(400)
    assert lesson.denoising_error(nn.Identity(), x) == pytest.approx(0.25**2, rel=0.02)
    assert lesson.denoising_error(lambda noisy: 0 * noisy, x) == pytest.approx((x**2).mean().item())
    assert lesson.denoising_error(lambda noisy: x, x) == 0


# ---- opponents and measures


@pytest.mark.parametrize("size", [1, 4, 12])
@pytest.mark.parametrize("kind", ["noise", "low rank", "constant"])
def test_pca_rebuilds_as_scikit_learn_does(size, kind):
    noise = digits(40, 1)
    train = {"noise": noise, "low rank": noise[:, :1] * digits(1, 2), "constant": digits(1).repeat(40, 1)}
    train = train[kind].double().numpy()
    pca = PCA(12, svd_solver="full").fit(train)
    for x in HOSTILE.values():
        ours = lesson.pca_rebuild(pca, x.double(), size)
        z = pca.transform(x.nan_to_num(0.5).double().numpy())
        z[:, size:] = 0
        expected = torch.tensor(pca.inverse_transform(z)).clamp(0, 1)
        real = ~x.isnan().any(dim=1)
        torch.testing.assert_close(ours[real], expected[real], rtol=1e-6, atol=1e-6)
        assert ours[~real].isnan().all() and lesson.pca_rebuild(pca, x, size).dtype == torch.float32


def test_nearest_distance_is_scipys():
    images, real = digits(9), digits(30, 1)
    expected = cdist(images.numpy(), real.numpy()).min(axis=1) / 28
    np.testing.assert_allclose(lesson.nearest_distance(images, real), expected, rtol=1e-4)
    np.testing.assert_allclose(lesson.nearest_distance(real[:5].double(), real.double()), 0, atol=1e-6)
    assert lesson.nearest_distance(torch.ones(1, 784), torch.zeros(1, 784)).item() == 1  # unit: gray values


@pytest.mark.parametrize("spread", [0.0, 0.01, 0.5, 100.0])
def test_psnr_is_that_of_scikit_image(spread):
    truth = digits(5)
    images = truth + spread * digits(5, 1)
    if spread == 0:
        assert lesson.psnr(images, truth) == float("inf")
    else:
        expected = peak_signal_noise_ratio(truth.numpy(), images.numpy(), data_range=1)
        assert lesson.psnr(images, truth) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("strength", [0.5, 1.0, 1.5])
def test_blur_is_scipys(strength):
    images = digits(3)
    expected = [gaussian_filter(image.view(28, 28).double().numpy(), strength, mode="mirror", radius=4).ravel()
                for image in images]
    np.testing.assert_allclose(lesson.blurred(images, strength), np.stack(expected), atol=1e-5)
    assert lesson.blurred(images[:0], strength).shape == (0, 784)


def test_every_cleaner_meets_the_same_noise():
    images = digits(50)
    noise = lesson.noisy(images) - images
    assert torch.equal(lesson.noisy(images), lesson.noisy(images))
    assert noise.std().item() == pytest.approx(0.25, rel=0.02)
    assert abs(noise.mean()) < 0.01 and torch.equal(images, digits(50))


def test_neighbors_vote():
    train = np.array([[0.0, 0], [0, 1], [1, 0], [9, 9], [9, 8], [8, 9]])
    labels = np.array([4, 4, 4, 7, 7, 7])
    test = np.array([[0.2, 0.2], [8.5, 8.5], [9, 9.5], [0.3, 0]])
    assert lesson.neighbor_accuracy(train, labels, test, np.array([4, 7, 7, 7]), 3) == 0.75


# ---- which images and which numbers go where


class Half(nn.Module):
    """Rebuilds every image as half of it."""

    encoder = staticmethod(lambda x: x)
    decoder = staticmethod(lambda z: z / 2)

    def forward(self, x):
        return x / 2


def test_the_baseline_is_the_mean_of_the_training_images():
    data = {"train": (torch.full((4, 784), 0.5), None), "test": (torch.full((3, 784), 0.75), None)}
    data["val"] = data["test"]
    found = run_cell(NOTEBOOK, "mean_image = data", data=data, model=Half(), SIZE=3)
    assert found["baseline"] == pytest.approx(0.25**2)


@pytest.fixture
def trained(monkeypatch):
    """Calls of the training function: (images, loss, epochs, seed)."""
    calls = []

    def train(model, images, batch_loss, epochs, batch_size, learning_rate, seed, watch=None):
        calls.append((len(images), batch_loss, epochs, seed))

    return SimpleNamespace(calls=calls, train=train)


def test_pca_is_fitted_to_training_images_and_measured_on_test_images():
    data = {"train": (digits(60), None), "val": (digits(50, 1), None), "test": (digits(40, 2), None)}
    found = run_cell(NOTEBOOK, "pca_errors = {size", data=data, images=data["test"][0], SIZES=(2, 8))
    expected = PCA(8, svd_solver="full").fit(data["train"][0].double().numpy())
    np.testing.assert_allclose(found["pca"].mean_, expected.mean_, atol=1e-6)
    for size, error in found["pca_errors"].items():
        rebuilt = lesson.pca_rebuild(expected, data["test"][0], size)
        assert error == pytest.approx(((rebuilt - data["test"][0]) ** 2).mean().item(), rel=1e-4)


def test_every_size_has_every_seed_and_is_measured_on_test_images(trained):
    data = {"train": (digits(60), None), "test": (digits(40, 2), None)}
    names = dict(data=data, images=data["test"][0], SIZES=(2, 8), SEEDS=(3, 4), HIDDEN=5, EPOCHS=7, BATCH_SIZE=10,
                 LEARNING_RATE=0.1, device=CPU, Autoencoder=lesson.Autoencoder, train_autoencoder=trained.train,
                 squared_error=lesson.squared_error, image_errors=lesson.image_errors)
    found = run_cell(NOTEBOOK, "models, errors = {}, {}", **names)
    assert trained.calls == [(60, lesson.squared_error, 7, seed) for _ in (2, 8) for seed in (3, 4)]
    for (size, seed), model in found["models"].items():
        torch.manual_seed(seed)
        fresh = lesson.Autoencoder(size, 5)
        assert all(torch.equal(*both) for both in zip(model.parameters(), fresh.parameters()))
        expected = F.mse_loss(model(names["images"]), names["images"]).item()
        assert found["errors"][size, seed] == pytest.approx(expected, rel=1e-5)


def sweep():
    """Table and the rest for two sizes and two seeds: the network saves half, then a quarter."""
    errors = {(2, 0): 0.04, (2, 1): 0.06, (8, 0): 0.03, (8, 1): 0.03}
    return run_cell(NOTEBOOK, "saved = 1 - by_size", errors=errors, pca_errors={2: 0.1, 8: 0.04}, SEEDS=(0, 1))


def test_the_table_and_its_figure():
    found = sweep()
    table = found["table"]
    assert table["PCA"].tolist() == [0.1, 0.04] and table["autoencoder"].tolist() == pytest.approx([0.05, 0.03])
    assert table["error saved"].tolist() == pytest.approx([0.5, 0.25])
    assert table["± std over seeds"].tolist() == pytest.approx([np.std([0.04, 0.06], ddof=1), 0])
    figure = run_cell(NOTEBOOK, "# @title Figure: error against latent size", table=table, spread=found["spread"],
                      SIZES=(2, 8), baseline=0.2)
    lines = {line.get_label(): line.get_xydata().T.tolist() for line in figure["ax"].lines}
    assert lines["PCA"] == [[2, 8], [0.1, 0.04]] and lines["mean image (no number)"][1] == [0.2, 0.2]
    bars = figure["ax"].containers[0]
    assert bars.get_label() == "autoencoder" and bars[0].get_ydata().tolist() == pytest.approx([0.05, 0.03])
    assert figure["ax"].get_title() == "With 2 numbers the network's error is 50% below PCA's"


def test_points_of_the_maps_are_codes_of_their_part():
    pca = PCA(3, svd_solver="full").fit(digits(60).double().numpy())
    data = {"train": (digits(60), torch.arange(60) % 10), "test": (digits(20, 2), torch.arange(20) % 10)}
    encoder = {7: nn.Linear(784, 2), 8: nn.Linear(784, 2)}
    found = run_cell(NOTEBOOK, 'maps = {"PCA"', data=data, pca=pca, SEEDS=(7, 8), NEIGHBORS=1, labels=data["test"][1],
                     models={(2, seed): SimpleNamespace(encoder=one) for seed, one in encoder.items()},
                     neighbor_accuracy=lambda train, a, test, b, neighbors: (len(train), len(a), len(test), len(b)))
    assert set(found["named"].values()) == {(60, 60, 20, 20)}
    for seed, one in encoder.items():
        np.testing.assert_allclose(found["maps"][seed]["test"], one(data["test"][0]).detach(), atol=1e-6)
    assert found["maps"]["PCA"]["train"].shape == (60, 2)


def test_pairs_are_of_two_digits_and_compared_with_training_images():
    labels = torch.arange(40) % 2
    images = labels[:, None] * torch.ones(40, 784)
    seen = []
    found = run_cell(NOTEBOOK, '"pixels mixed": (images[a]', images=images, labels=labels, PAIRS=10, COMPARED=3,
                     device=CPU, walker=Half(), data={"train": (torch.zeros(5, 784), None)},
                     nearest_distance=lambda one, real: seen.append(real.shape) or one.mean(dim=1))
    assert (labels[found["a"]] != labels[found["b"]]).all() and len(found["a"]) == 10 and set(seen) == {(3, 784)}
    assert found["distance"]["pixels mixed"] == pytest.approx(0.5)
    assert found["distance"]["codes mixed"] == pytest.approx(0.25)


def test_the_blur_is_chosen_on_validation_and_reported_on_test_images():
    data = {"val": (digits(30, 1), None), "test": (digits(20, 2), None)}
    test = data["test"][0]
    models, cleaners = {(4, seed): Half() for seed in (0, 1)}, dict.fromkeys((0, 1), nn.Identity())
    found = run_cell(NOTEBOOK, 'blur_scores = {strength', data=data, images=test, BLURS=(0.5, 1.5), SIZE=4,
                     SEEDS=(0, 1), models=models, cleaners=cleaners, noisy=lesson.noisy, blurred=lesson.blurred,
                     psnr=lesson.psnr)
    val = data["val"][0]
    expected = {one: lesson.psnr(lesson.blurred(lesson.noisy(val), one), val) for one in (0.5, 1.5)}
    assert found["blur_scores"] == expected and found["best_blur"] == max(expected, key=expected.get)
    spoiled = lesson.noisy(test)
    scores = {name: values[0] for name, values in found["decibels"].items()}
    assert scores == {"noisy": lesson.psnr(spoiled, test), "autoencoder": lesson.psnr(spoiled / 2, test),
                      "best blur": lesson.psnr(lesson.blurred(spoiled, found["best_blur"]), test),
                      "denoising autoencoder": lesson.psnr(spoiled, test)}


def test_the_unknown_digit_is_not_in_training_and_is_the_positive_class(trained):
    labels = torch.arange(60) % 3
    images = labels[:, None] / 4 * torch.ones(60, 784)  # a 0 is blank: Half rebuilds it without error
    found = run_cell(NOTEBOOK, "alarm, ink = {}, {}", data={"train": (images[:30], labels[:30])}, images=images,
                     labels=labels, LEFT_OUT=(0, 2), SEEDS=(0,), ANOMALY_SIZE=2, HIDDEN=3, ANOMALY_EPOCHS=9,
                     BATCH_SIZE=5, LEARNING_RATE=0.1, device=CPU, Autoencoder=lambda *_: Half(),
                     train_autoencoder=trained.train, squared_error=lesson.squared_error,
                     image_errors=lesson.image_errors)
    assert [call[0] for call in trained.calls] == [20, 20]
    assert found["alarm"] == {(0, 0): 0.0, (2, 0): 1.0} and found["ink"] == {0: 0.0, 2: 1.0}


def test_results_are_taken_from_where_they_belong():
    table = sweep()["table"]
    found = run_cell(
        NOTEBOOK, '"mean_image_error"', table=table, SIZES=(2, 8), pca_errors={2: 0.1, 8: 0.04}, baseline=0.2,
        saved=pd.DataFrame({0: [0.6, 0.25], 1: [0.4, 0.25]}, index=[2, 8]), long_error=0.01, best_size=2,
        on_maps=pd.Series([70, 80]), named={"PCA": 0.5, 0: 0.7}, distance={"pixels mixed": 1, "codes mixed": 2},
        best_blur=1.0, LEFT_OUT=(0, 1),
        decibels={"noisy": [3], "best blur": [4], "autoencoder": [5, 7], "denoising autoencoder": [8, 10]},
        auc=pd.DataFrame({0: [0.9, 0.2], 1: [0.7, 0.4]}))["results"]
    assert found == pytest.approx({
        "error_size_2": 0.05, "error_size_8": 0.03, "pca_error_size_2": 0.1, "pca_error_size_8": 0.04,
        "mean_image_error": 0.2, "best_size": 2, "saved_best_percent": 50, "saved_smallest_percent": 50,
        "saved_largest_percent": 25,
        "long_error_largest": 0.01, "map_percent": 75, "map_pca_percent": 50, "halfway_pixels_distance": 1,
        "halfway_codes_distance": 2,
        "noisy_db": 3, "blur_db": 4, "autoencoder_db": 6, "denoising_db": 9, "anomaly_auc_0": 0.8,
        "anomaly_auc_1": 0.3})


def test_the_stored_run_says_what_its_results_say():
    shown = assert_shown(NOTEBOOK, "mean image: {mean_image_error:.4f}   32 numbers: ", "PCA {pca_error_size_64:.4f}",
                         "{long_error_largest:.4f} after 6; ", "PCA {map_pca_percent:.1f} %")
    assert_said(NOTEBOOK, "It saves {saved_smallest_percent:.0f} % of PCA's error with 2 numbers, "
                "{saved_best_percent:.0f} % with {best_size}",
                "its error is {pca_error_size_64:.4f}, the network's {error_size_64:.4f}",
                "to {long_error_largest:.4f}, below PCA's {pca_error_size_64:.4f}", "name {map_percent:.1f} ± ",
                "between codes ({halfway_codes_distance:.3f})", "mixed pixels ({halfway_pixels_distance:.3f})",
                "the noise leaves {noisy_db:.1f} dB", "the best blur reaches {blur_db:.1f}",
                "never saw noise {autoencoder_db:.1f}", "denoising autoencoder {denoising_db:.1f} dB",
                "{anomaly_auc_0:.2f} for an unknown 0, {anomaly_auc_2:.2f} for a 2, {anomaly_auc_3:.2f} for a 3 and "
                "{anomaly_auc_4:.2f} for a 4. For an unknown 1 it is {anomaly_auc_1:.2f}")
    saved = 100 * (1 - shown["error_size_2"] / shown["pca_error_size_2"])
    assert shown["saved_smallest_percent"] == pytest.approx(saved)
    assert shown["error_size_64"] > shown["long_error_largest"] and shown["mean_image_error"] > shown["error_size_2"]
