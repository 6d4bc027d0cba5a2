"""The definitions of both notebooks on the learning rate: dead units, the range test, the maps' trainings."""
import math

import numpy as np
import pytest
import torch
from torch import nn

from tests.definitions import definitions

SCALED = "Chapter03/Varying_learning_rate_on_scaled_data.ipynb"
RAW = "Chapter03/Varying_learning_rate_on_non_scaled_data.ipynb"
scaled = definitions(SCALED, "new_model", "train_one_epoch", "evaluate", "dead_units", "range_test")
raw = definitions(RAW, "new_model", "train_one_epoch", "predict", "to_inputs")
cpu = torch.device("cpu")


def pictures(n, seed=0):
    g = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (n, 28, 28), generator=g, dtype=torch.uint8), torch.randint(10, (n,), generator=g)


def test_dead_units_are_those_that_never_answer():
    images, _ = pictures(40)
    model = scaled.new_model(0, cpu, hidden=20)
    with torch.no_grad():
        model[0].bias.fill_(100.0)
        assert scaled.dead_units(model, images) == 0
        model[0].bias[:7] = -1000.0
        assert scaled.dead_units(model, images) == pytest.approx(7 / 20)
        model[0].weight[0] = 0
        model[0].weight[0, 0] = 1e6  # answers to one image at least, whose first pixel is bright
        assert scaled.dead_units(model, images) == pytest.approx(6 / 20)


def test_step_sizes_are_measured_against_the_weights_before():
    images, labels = pictures(8)
    model = scaled.new_model(0, cpu, hidden=5)
    before = [model[k].weight.detach().clone() for k in (0, 2)]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    losses, ratios = scaled.train_one_epoch(model, images, labels, optimizer, 8, torch.Generator(), 1)
    expected = [((model[k].weight - w).norm() / w.norm()).item() for k, w in zip((0, 2), before, strict=True)]
    assert len(losses) == 1 and ratios[0] == pytest.approx(expected, rel=1e-5)
    counts = [scaled.train_one_epoch(model, images, labels, optimizer, 1, torch.Generator(), w)[1] for w in (3, 8, 99)]
    assert [len(count) for count in counts] == [3, 1, 1]


def test_range_test_raises_the_rate_and_stops_at_the_cliff():
    images, labels = pictures(200)
    used = []
    original = torch.optim.Adam.step

    def step(self, *arguments, **options):
        used.append(self.param_groups[0]["lr"])
        return original(self, *arguments, **options)

    rates = np.geomspace(1e-6, 1e3, 60)
    torch.optim.Adam.step = step
    try:
        model, generator = scaled.new_model(0, cpu, 30), torch.Generator().manual_seed(0)
        losses = scaled.range_test(model, images, labels, rates, 32, generator)
    finally:
        torch.optim.Adam.step = original
    assert used == pytest.approx(rates[: len(used)].tolist())
    assert len(losses) == len(used) + 1 < 60 and not losses[-1] < 4 * losses[0]
    assert all(loss < 4 * losses[0] for loss in losses[:-1])


def test_scaling_reaches_training_and_evaluation_alike():
    images, labels = pictures(64)
    double = images // 2 * 2
    runs = []
    for pictures_, scaling in ((double, (0, 2)), (double // 2, (0, 1))):
        model = raw.new_model(0, cpu, hidden=6)
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-5)
        loss = raw.train_one_epoch(model, pictures_, labels, scaling, optimizer, 16, torch.Generator().manual_seed(0))
        runs.append((loss, raw.predict(model, pictures_, scaling)))
    assert runs[0][0] == pytest.approx(runs[1][0], rel=1e-5)
    torch.testing.assert_close(runs[0][1], runs[1][1], rtol=1e-4, atol=1e-4)
    assert raw.to_inputs(images, 10.0, 5.0).min() >= -2 and raw.to_inputs(images, 0, 255).max() <= 1


def test_evaluation_sleeps_and_training_wakes():
    images, labels = pictures(30)
    model = nn.Sequential(nn.Linear(784, 8), nn.BatchNorm1d(8), nn.Linear(8, 10)).eval()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    scaled.train_one_epoch(model, images, labels, optimizer, 10, torch.Generator(), 99)
    assert model.training and model[1].num_batches_tracked == 3
    loss, accuracy = scaled.evaluate(model, images, labels, 7)
    assert not model.training and 0 <= accuracy <= 1 and math.isfinite(loss)
    raw.train_one_epoch(model, images, labels, (0, 255), optimizer, 10, torch.Generator())
    assert model.training and model[1].num_batches_tracked == 6
