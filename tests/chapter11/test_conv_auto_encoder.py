"""What conv_auto_encoder.ipynb defines, beside PyTorch and SciPy; what is kept equal, and which codes are judged."""
import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from scipy.spatial.distance import cdist
from torch import nn

from tests.cells import run_cell
from tests.definitions import definitions
from tests.stored import assert_said, assert_shown

NOTEBOOK = "Chapter11/conv_auto_encoder.ipynb"
CPU = torch.device("cpu")
lesson = definitions(NOTEBOOK, "ConvAutoencoder", "Autoencoder", "parameters", "down", "up", "multiplications",
                     "train_with_curve", "train_filmed", "codes_of", "judged", "Judge", "label_loss", "drawn_codes",
                     "nearest_code", "squared_error", "image_errors", EVERY=3, BATCH_SIZE=5, LEARNING_RATE=0.01,
                     FILM_STEPS=(0, 2), EPOCHS=1)


def digits(n, seed=0):
    """Images (n, 784) with values from 0 to 1."""
    return torch.rand(n, 784, generator=torch.Generator().manual_seed(seed))


# ---- sizes and counts


@pytest.mark.parametrize("H", [5, 7, 13, 14, 28])
@pytest.mark.parametrize(("k", "s", "p"), [(1, 1, 0), (2, 2, 0), (3, 2, 1), (4, 2, 1), (5, 3, 2), (3, 1, 1), (5, 1, 0)])
def test_heights_are_those_of_pytorchs_layers(H, k, s, p):
    x = torch.zeros(1, 1, H, H)
    assert lesson.down(H, k, s, p) == F.conv2d(x, torch.zeros(1, 1, k, k), stride=s, padding=p).shape[2]
    assert lesson.up(H, k, s, p) == F.conv_transpose2d(x, torch.zeros(1, 1, k, k), stride=s, padding=p).shape[3]


@pytest.mark.parametrize(("size", "channels"), [(1, 1), (2, 3), (16, 16)])
def test_counts_are_those_by_hand(size, channels):
    few, many = channels, 2 * channels
    model = lesson.ConvAutoencoder(size, channels)
    rows = many * 49
    assert lesson.parameters(model) == (10 * few + (9 * few + 1) * many + (rows + 1) * size + (size + 1) * rows
                                        + 16 * many * few + few + 16 * few + 1)
    assert lesson.multiplications(model) == (9 * few * 196 + 9 * few * many * 49 + 2 * rows * size
                                             + 16 * many * few * 49 + 16 * few * 196)
    assert lesson.multiplications(lesson.Autoencoder(size, 7)) == 2 * 7 * (784 + size)
    assert lesson.parameters(nn.Flatten()) == 0


def test_everything_passes_the_code():
    torch.manual_seed(0)
    model = lesson.ConvAutoencoder(2, 2).double()
    x = digits(1).double()
    assert model.encoder(x).shape == (1, 2) and model(x).shape == x.shape
    jacobian = torch.autograd.functional.jacobian(lambda x: model(x[None])[0], x[0])
    assert torch.linalg.matrix_rank(jacobian) == 2 and (model(1e3 * x) <= 1).all() and (model(-1e3 * x) >= 0).all()
    assert model(x[:0]).shape == (0, 784)


def test_the_dense_opponent_has_as_many_parameters():
    found = run_cell(NOTEBOOK, "narrow = round(", SIZE=16, CHANNELS=16, parameters=lesson.parameters,
                     ConvAutoencoder=lesson.ConvAutoencoder, Autoencoder=lesson.Autoencoder)
    counts = {name: lesson.parameters(maker()) for name, maker in found["makers"].items()}
    assert abs(counts["dense"] / counts["convolutional"] - 1) < 0.03
    kinds = {name: type(maker()).__name__ for name, maker in found["makers"].items()}
    assert kinds == {"dense": "Autoencoder", "convolutional": "ConvAutoencoder"}
    assert {maker().encoder[-1].out_features for maker in found["makers"].values()} == {16}


# ---- training


def test_the_film_shows_the_network_at_its_steps():
    images, shown = digits(20), digits(3, 1)
    model, film = lesson.train_filmed(lambda: lesson.Autoencoder(2, 4), images, shown, 7, CPU)
    torch.manual_seed(7)
    torch.testing.assert_close(film[0], lesson.Autoencoder(2, 4)(shown))
    assert list(film) == [0, 2, "end"] and not torch.equal(film[0], film[2])
    torch.testing.assert_close(film["end"], model(shown))
    assert not any(frame.requires_grad for frame in film.values())


def test_the_curve_is_of_validation_images_and_its_clock_does_not_count_looking(monkeypatch):
    clock = iter(range(1000))
    monkeypatch.setattr("time.perf_counter", lambda: float(next(clock)))
    data = {"train": (digits(20), None), "val": (digits(7, 1), None), "test": (digits(6, 2), None)}
    model, curve = lesson.train_with_curve(lambda: lesson.Autoencoder(2, 4), data, 2, 7, CPU)
    assert curve["step"].tolist() == [0, 3, 6, 8]
    torch.manual_seed(7)
    fresh = lesson.Autoencoder(2, 4)
    expected = [F.mse_loss(one(data["val"][0]), data["val"][0]).item() for one in (fresh, model)]
    assert curve["error"].iloc[[0, -1]].tolist() == pytest.approx(expected, rel=1e-4)
    assert curve["seconds"].tolist() == [1, 2, 3, 4], "looking takes one tick each time, and is taken off"


def test_codes_come_from_evaluation_mode():
    model = lesson.ConvAutoencoder(3, 2).train()
    codes = lesson.codes_of(model, digits(5))
    assert codes.shape == (5, 3) and not codes.requires_grad and not model.training
    torch.testing.assert_close(codes, model.encoder(digits(5)).detach())


def test_networks_of_the_comparison_are_measured_on_test_images():
    calls = []

    def train_with_curve(maker, data, epochs, seed, device):
        calls.append((maker, epochs, seed))
        return maker, pd.DataFrame({"seconds": [1.0]})

    found = run_cell(NOTEBOOK, "models, curves, errors = {}, {}, {}", makers={"a": "A", "b": "B"}, SEEDS=(3, 4),
                     data=None, EPOCHS=2, device=CPU, train_with_curve=train_with_curve, images="test",
                     image_errors=lambda model, images: torch.tensor([ord(model) + (images != "test")], dtype=float))
    assert calls == [(maker, 2, seed) for maker in "AB" for seed in (3, 4)]
    assert found["errors"] == {(name, seed): ord(name.upper()) for name in "ab" for seed in (3, 4)}


def test_table_and_figure_of_the_comparison():
    names = ["dense", "convolutional", "dense, wide", "dense, wide, long"]
    errors = {(name, seed): (4 - place + seed) / 100 for place, name in enumerate(names) for seed in (0, 1)}
    curves = {(name, seed): pd.DataFrame({"step": [0, 5, 9], "seconds": [0, 1.0, 2 * place + 2 + seed],
                                          "error": [0.1, 0.05, 0.01 * (place + 1)]})
              for place, name in enumerate(names) for seed in (0, 1)}
    sizes = pd.DataFrame({"parameters": [1, 2, 3], "multiplications": [4, 5, 6]}, index=names[:3])
    found = run_cell(NOTEBOOK, "by_name = pd.Series(errors)", errors=errors, curves=curves, sizes=sizes, SEEDS=(0, 1),
                     pca_error=0.02, SIZE=16)
    table = found["table"]
    assert table["error"].to_dict() == pytest.approx(dict(zip(names, (0.045, 0.035, 0.025, 0.015))) | {"PCA": 0.02})
    assert table.loc[names, "seconds"].tolist() == [2.5, 4.5, 6.5, 8.5]
    assert table.loc[names[:3], "parameters"].tolist() == [1, 2, 3] and table.loc["PCA", "parameters"] == 17 * 784
    assert table.loc[names, "± std over seeds"].tolist() == pytest.approx([0.5**0.5 / 100] * 4)
    figure = run_cell(NOTEBOOK, "# @title Figure: error against steps", curves=curves, SEEDS=(1,), table=table,
                      long=names[3])
    for ax, column in zip(figure["axes"], ("step", "seconds")):
        lines = {line.get_label(): line.get_xydata().T.tolist() for line in ax.lines}
        for name in names:
            rows = curves[name, 1].iloc[1:]
            assert lines[name] == [rows[column].tolist(), rows["error"].tolist()]
    title = figure["fig"].get_suptitle()
    assert "0.0350 and 0.0250" in title and "takes 0.7 times as long" in title


# ---- the judge and the random codes


class Fixed(nn.Module):
    """Logits that are the images' first ten pixels."""

    def forward(self, x):
        return x[:, :10]


def test_the_judges_verdict():
    probabilities = torch.full((4, 10), 0.01)
    for row, (digit, confidence) in enumerate(((0, 0.95), (0, 0.89), (1, 0.9000001), (2, 0.5))):
        probabilities[row] = (1 - confidence) / 9
        probabilities[row, digit] = confidence
    images = torch.cat([probabilities.log(), torch.zeros(4, 774)], dim=1)
    found = lesson.judged(Fixed().train(), images, 0.9)
    assert found == pytest.approx({"confidence": 3.24 / 4, "recognized": 0.5, "rarest digit": 0})
    every = torch.eye(10).repeat(3, 1) * 50
    assert lesson.judged(Fixed(), every, 0.9) == pytest.approx({"confidence": 1, "recognized": 1, "rarest digit": 0.1})


def test_the_judge_learns_from_the_785th_column():
    torch.manual_seed(0)
    judge, labels = lesson.Judge(), torch.tensor([3, 0, 9])
    rows = torch.cat([digits(3), labels[:, None].float()], dim=1)
    logits = judge(digits(3))
    torch.testing.assert_close(lesson.label_loss(judge, rows), F.cross_entropy(logits, labels))
    torch.testing.assert_close(logits, judge.answer(judge.features(digits(3))))
    assert judge.features(digits(3)).shape == (3, 64)
    seen = []
    data = {"train": (digits(20), torch.arange(20) % 10)}
    found = run_cell(NOTEBOOK, "judge = Judge().to", data=data, images=digits(10, 3), labels=torch.arange(10),
                     device=CPU, Judge=lambda: Fixed(), label_loss=lesson.label_loss, JUDGE_EPOCHS=5,
                     train_autoencoder=lambda *arguments: seen.append(arguments))
    assert seen[0][1].shape == (20, 785) and torch.equal(seen[0][1][:, 784], (torch.arange(20) % 10).float())
    expected = (digits(10, 3)[:, :10].argmax(dim=1) == torch.arange(10)).float().mean().item()
    assert found["judge_accuracy"] == pytest.approx(expected)


def test_ways_of_drawing_codes_have_the_moments_they_say():
    generator = torch.Generator().manual_seed(0)
    mix = torch.tensor([[2.0, 0, 0], [1.5, 0.3, 0], [0, 0, 5]])
    z = torch.randn(5000, 3, generator=generator) @ mix.T + torch.tensor([4.0, -3, 0])
    drawn = lesson.drawn_codes(z, 40_000, torch.Generator().manual_seed(1))
    assert [way[:3] for way in drawn] == ["(a)", "(b)", "(c)", "(d)"]
    assert {len(one) for one in drawn.values()} == {40_000}
    a, b, c, d = drawn.values()
    torch.testing.assert_close(torch.cov(a.T), torch.eye(3), atol=0.05, rtol=0)
    assert (b >= z.amin(0)).all() and (b <= z.amax(0)).all()
    torch.testing.assert_close(b.mean(0), (z.amin(0) + z.amax(0)) / 2, atol=0.3, rtol=0)
    for one in (c, d):
        torch.testing.assert_close(one.mean(0), z.mean(0), atol=0.1, rtol=0)
    torch.testing.assert_close(torch.cov(c.T), torch.diag(z.var(0)), atol=0.5, rtol=0)
    torch.testing.assert_close(torch.cov(d.T), torch.cov(z.T), atol=0.5, rtol=0)
    again = lesson.drawn_codes(z, 40_000, torch.Generator().manual_seed(1))
    assert all(torch.equal(drawn[way], again[way]) for way in drawn)


def test_nearest_code_is_scipys():
    z, real = torch.randn(9, 4), torch.randn(30, 4)
    np.testing.assert_allclose(lesson.nearest_code(z, real), cdist(z.numpy(), real.numpy()).min(axis=1), rtol=1e-4)
    np.testing.assert_allclose(lesson.nearest_code(real[:5].double(), real.double()), 0, atol=1e-6)


def test_each_verdict_is_of_the_pictures_that_its_name_says():
    class Marked:
        """Encodes to 5, decodes to the code, rebuilds as 7."""

        decoder = staticmethod(lambda z: z[:, :1].expand(-1, 784))

        def __call__(self, x):
            return torch.full_like(x, 7)

    found = run_cell(
        NOTEBOOK, "verdicts = []", SEEDS=(0, 1), models={("convolutional", seed): Marked() for seed in (0, 1)},
        SAMPLES=6, data={"train": (digits(20), None)}, images=torch.full((9, 784), 9.0), device=CPU, judge=None,
        SURE=0.9,
        codes_of=lambda coder, images: torch.full((len(images), 2), 5.0),
        drawn_codes=lambda z, count, generator: {"(a)": torch.full((count, 2), 1.0), "(d)": z[:1].repeat(count, 1)},
        judged=lambda judge, one, sure: {"confidence": one.mean().item(), "recognized": one.mean().item() / 100,
                                         "rarest digit": len(one)})
    means = found["verdict"].mean()
    assert means["recognized"].to_dict() == pytest.approx(
        {"(a)": 0.01, "(d)": 0.05, "rebuilt digits": 0.07, "real digits": 0.09})
    assert (means["rarest digit"] == 6).all()


def test_results_are_taken_from_where_they_belong():
    table = pd.DataFrame({"error": [0.1, 0.2, 0.3, 0.4]}, index=["dense", "convolutional", "dense, wide", "PCA"])
    recognized = pd.Series({"(a) standard normal": 0.1, "(b) uniform": 0.2, "(c) mean, deviations": 0.3,
                            "(d) mean, covariance": 0.4, "rebuilt digits": 0.5, "real digits": 0.6})
    found = run_cell(
        NOTEBOOK, '"seconds_ratio"', table=table, by_name=table.iloc[:3], pca_error=0.4, saved=pd.Series([0.5, 0.7]),
        parameters=lambda model: model, makers={"convolutional": lambda: 99}, ratio=4.5, judge_accuracy=0.98,
        known={"codes": 0.8, "pixels": 0.9}, recognized=recognized, farther=torch.tensor(2.5))["results"]
    assert found == pytest.approx({
        "error_dense": 0.1, "error_convolutional": 0.2, "error_dense_wide": 0.3, "pca_error": 0.4, "saved_percent": 60,
        "parameters": 99, "seconds_ratio": 4.5, "neighbors_codes_percent": 80, "neighbors_pixels_percent": 90,
        "judge_accuracy_percent": 98, "real_recognized_percent": 60, "rebuilt_recognized_percent": 50,
        "normal_recognized_percent": 10, "uniform_recognized_percent": 20, "deviations_recognized_percent": 30,
        "covariance_recognized_percent": 40, "covariance_distance_ratio": 2.5})


def test_the_stored_run_says_what_its_results_say():
    shown = assert_shown(NOTEBOOK, "names {judge_accuracy_percent:.1f}% of the test digits",
                         "{parameters:,} parameters")
    assert_said(NOTEBOOK, "({error_convolutional:.4f} and {error_dense:.4f})", "against {error_dense_wide:.4f} ± ",
                "needs {seconds_ratio:.1f} times the seconds", "goes on to {error_dense_wide_long:.4f}",
                "an error of {pca_error:.4f}", "name {neighbors_codes_percent:.1f} % of",
                "784 pixels {neighbors_pixels_percent:.1f} %", "recognizes {real_recognized_percent:.0f} % of the real",
                "and {rebuilt_recognized_percent:.0f} % of the rebuilt", "{normal_recognized_percent:.0f} % for (a), "
                "{uniform_recognized_percent:.0f} % for (b), {deviations_recognized_percent:.0f} % for (c) and "
                "{covariance_recognized_percent:.0f} % for (d)")
    saved = 100 * (1 - shown["error_convolutional"] / shown["error_dense"])
    assert shown["saved_percent"] == pytest.approx(saved, abs=1)
