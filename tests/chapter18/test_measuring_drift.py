"""The two-sample tests of the drift notebook against SciPy and slow loops, on ordinary and on hostile samples."""
from itertools import combinations
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

from tests.cells import run_cell
from tests.definitions import definitions

NOTEBOOK = "Chapter18/measuring_drift.ipynb"
SAMPLES = {
    "normal": (np.random.default_rng(0).normal(size=(12, 3)), np.random.default_rng(1).normal(0.5, 2, size=(9, 3))),
    "ties": (np.random.default_rng(2).integers(0, 2, (8, 3)).astype(float), np.zeros((5, 3))),
    "all equal": (np.ones((6, 3)), np.ones((6, 3))),
    "two images": (np.array([[0.0, 1, 2], [3, 4, 5]]), np.array([[0.0, 1, 2], [3, 4, 6]])),
    "far apart": (np.zeros((7, 3)), np.full((4, 3), 1e6)),
    "huge and tiny": (np.array([[1e12, 1e-12, 0], [0, 0, 0], [1, 1, 1]]), np.array([[-1e12, 0, 0], [0, 1e-12, 0]])),
}


@pytest.fixture(scope="module")
def notebook():
    """What the lesson defines."""
    return definitions(NOTEBOOK, "ks_statistic", "ks_test", "mmd_test", "distance_to_reference", "draw", "split_in_two",
                       "corrupt", "alarm_rate", "more_of", "power", "Observed", "observe", "features_of", "garment_net",
                       "watch", "threshold_for", "alarms_of", ALPHA=0.05, PERMUTATIONS=99)


def slow_mmd2(a, b, h):
    """The formula, pair by pair."""
    def k(x, y):
        return np.exp(-((x - y) ** 2).sum() / (2 * h**2))

    m, n = len(a), len(b)
    within_a = sum(k(a[i], a[j]) for i in range(m) for j in range(m) if i != j) / (m * (m - 1))
    within_b = sum(k(b[i], b[j]) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
    return within_a + within_b - 2 * sum(k(x, y) for x in a for y in b) / (m * n)


@pytest.mark.parametrize("name", SAMPLES)
def test_the_ks_statistic_is_scipys(notebook, name):
    for column_a, column_b in zip(*(sample.T for sample in SAMPLES[name])):
        expected = stats.ks_2samp(column_a, column_b).statistic
        assert notebook.ks_statistic(column_a, column_b) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("name", SAMPLES)
def test_the_ks_test_is_the_smallest_p_value_corrected(notebook, name):
    a, b = SAMPLES[name]
    smallest = min(stats.ks_2samp(a[:, j], b[:, j], method="asymp").pvalue for j in range(3))
    assert notebook.ks_test(a, b) == pytest.approx(min(1, 3 * smallest))


@pytest.mark.parametrize("name", SAMPLES)
@pytest.mark.parametrize("h", [0.5, 3.0])
def test_mmd_is_the_formula(notebook, name, h):
    a, b = SAMPLES[name]
    found, p, shuffled = notebook.mmd_test(a, b, h, 19, np.random.default_rng(0))
    assert found == pytest.approx(slow_mmd2(a, b, h), abs=1e-9)
    assert len(shuffled) == 19 and 1 / 20 <= p <= 1
    if name == "all equal":
        assert p == 1


def test_the_permutation_p_value_is_that_of_all_splits(notebook):
    """There are 252 ways to split ten vectors; ours draws 2,000 times among them."""
    rng = np.random.default_rng(3)
    a, b = rng.normal(size=(5, 2)), rng.normal(0.8, 1, size=(5, 2))
    everything, z = [], np.concatenate([a, b])
    for rows in combinations(range(10), 5):
        others = [row for row in range(10) if row not in rows]
        everything.append(slow_mmd2(z[list(rows)], z[others], 1.0))
    exact = np.mean(np.array(everything) >= slow_mmd2(a, b, 1.0) - 1e-12)
    found = notebook.mmd_test(a, b, 1.0, 2000, rng)[1]
    assert found == pytest.approx(exact, abs=5 * np.sqrt(exact * (1 - exact) / 2000) + 1e-3)


@pytest.mark.parametrize("test", ["ks", "mmd"])
def test_p_values_are_honest_without_drift(notebook, test):
    """Small p-values are as rare as they say; with drift they are common."""
    rng = np.random.default_rng(4)

    def p_value(shift):
        a, b = rng.normal(size=(30, 4)), rng.normal(shift, 1, size=(25, 4))
        return notebook.ks_test(a, b) if test == "ks" else notebook.mmd_test(a, b, 2.0, 99, rng)[1]

    quiet = np.array([p_value(0) for _ in range(300)])
    assert (quiet <= 0.05).mean() <= 0.10
    assert test == "ks" or 0.2 < (quiet <= 0.3).mean() < 0.4
    assert np.mean([p_value(1.0) <= 0.05 for _ in range(30)]) > 0.9


@pytest.mark.parametrize("name", ["normal", "ties", "two images"])
def test_the_streams_distance_is_mmd_without_the_references_part(notebook, name):
    window, reference = SAMPLES[name]
    others = reference + 0.5
    difference = [slow_mmd2(window, r, 1.5) - notebook.distance_to_reference(window, r, 1.5)
                  for r in (reference, others)]
    m = len(reference)
    for found, r in zip(difference, (reference, others)):
        pairs = [np.exp(-((r[i] - r[j]) ** 2).sum() / 4.5) for i in range(m) for j in range(m) if i != j]
        assert found == pytest.approx(np.mean(pairs))


def test_the_stream_is_cut_into_whole_windows_in_order(notebook):
    z = np.arange(23.0)[:, None]
    found = notebook.watch(z, 5, z[:4], 3.0)
    assert found.tolist() == [notebook.distance_to_reference(z[i : i + 5], z[:4], 3.0) for i in (0, 5, 10, 15)]


def test_samples_are_of_different_rows(notebook):
    z = np.arange(40)[:, None]
    rng = np.random.default_rng(5)
    for _ in range(20):
        a, b = notebook.split_in_two(z, 20, rng)
        assert sorted([*a[:, 0], *b[:, 0]]) == list(range(40))
        assert len(set(notebook.draw(z, 30, rng)[:, 0])) == 30


def test_alarm_rates_come_with_clopper_and_pearsons_interval(notebook):
    p = iter([0.01, 0.05, 0.06, 0.9] * 5)
    assert notebook.alarm_rate(lambda: next(p), 0.05, 20) == pytest.approx((0.5, 0.27196, 0.72804), abs=1e-5)


@pytest.mark.parametrize("kind, severity", [("blur", 1.0), ("darkness", 0.4), ("noise", 30)])
def test_camera_faults_change_what_they_say(notebook, kind, severity):
    images = torch.randint(0, 256, (6, 28, 28), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    images[0], images[1] = 0, 255
    generator = torch.Generator().manual_seed(1)
    found = notebook.corrupt(images, kind, severity, generator)
    assert found.dtype == torch.uint8 and found.shape == images.shape and not torch.equal(found, images)
    assert torch.equal(notebook.corrupt(images, kind, 0, generator), images)
    if kind == "darkness":
        assert found.float().mean() == pytest.approx(0.6 * images.float().mean().item(), rel=0.01)
        assert found[1, 0, 0] == 153
    if kind == "blur":
        assert found[2:].float().std() < images[2:].float().std() and (found[1] == 255).all()
    if kind == "noise":
        middle = notebook.corrupt(torch.full((9, 28, 28), 128, dtype=torch.uint8), kind, severity, generator)
        assert middle.float().std() == pytest.approx(severity, rel=0.05)


@pytest.mark.parametrize("share", [0.1, 0.2, 0.5])
def test_more_of_a_class_is_that_share(notebook, share):
    labels = np.arange(300) % 10
    everything = notebook.Observed(np.arange(300.0)[:, None], np.arange(300), labels > 4, labels)
    found = notebook.more_of(everything, 9, share, np.random.default_rng(0))
    assert (found.labels == 9).mean() == pytest.approx(share, abs=0.02)
    rows = found.z[:, 0].astype(int)
    assert len(set(rows)) == len(rows) and (labels[rows] == found.labels).all()
    assert (found.right == (labels > 4)[rows]).all() and (found.confidence == rows).all()


def test_what_is_observed_is_what_the_network_makes(notebook):
    torch.manual_seed(0)
    network = notebook.garment_net(10).eval()
    x, labels = torch.randn(7, 1, 28, 28), torch.arange(7)
    center, directions = torch.randn(1024), torch.randn(1024, 3)
    found = notebook.observe(network, x, labels, center, directions)
    with torch.no_grad():
        p, features = network(x).softmax(dim=1), network[:-1](x)
    np.testing.assert_allclose(found.confidence, p.amax(dim=1), rtol=1e-5)
    np.testing.assert_allclose(found.z, (features - center) @ directions, rtol=1e-3, atol=1e-3)
    assert found.right.tolist() == (p.argmax(dim=1) == labels).tolist() and found.labels.tolist() == list(range(7))


def test_power_goes_from_alpha_to_one(notebook):
    rng = np.random.default_rng(6)
    known = rng.normal(size=(300, 4))
    for shift, low, high in ((0, 0, 0.3), (2, 1, 1)):
        for found in notebook.power(known, rng.normal(shift, 1, size=(300, 4)), 25, 2.0, 20, rng):
            assert low <= found <= high


def test_the_threshold_is_exceeded_as_often_as_asked(notebook):
    distances = np.random.default_rng(7).permutation(1000)
    for n in (10, 50, 200):
        assert (distances > notebook.threshold_for(distances, n, 10_000)).sum() == pytest.approx(n / 10, abs=1)


def test_alarms_before_the_drift_are_false_and_later_ones_have_a_delay(notebook):
    distances = np.array([[0, 9, 0, 0, 9, 9], [0, 0, 9, 9, 0, 0], [0, 0, 0, 0, 0, 0], [9, 9, 0, 0, 0, 9]])
    false_rate, delay = notebook.alarms_of(distances, 10, 5, quiet=20)
    assert false_rate == pytest.approx(3 / 80) and delay.tolist() == [30, 10, 40]
    false_rate, delay = notebook.alarms_of(distances, 10, 5, quiet=25)  # the third window is half in the drift
    assert false_rate == pytest.approx(3 / 80) and delay.tolist() == [25, 5, 35]


# --- which images go where, and what tables and results say


def test_directions_are_those_of_the_largest_variance(notebook):
    features = torch.randn(500, 20, generator=torch.Generator().manual_seed(0)) * torch.logspace(0, 2, 20)
    others = 1e4 * torch.randn(2000, 20)  # the rest of the training images
    found = run_cell(NOTEBOOK, "train_features = features_of", x_train=torch.cat([features, others]), COMPONENTS=3,
                     network=torch.nn.Sequential(torch.nn.Identity(), torch.nn.Linear(20, 10)))
    variances = ((features - found["center"]) @ found["directions"]).var(dim=0)
    expected = torch.linalg.eigvalsh(torch.cov(features.T)).flip(0)[:3]
    torch.testing.assert_close(variances, expected, rtol=1e-3, atol=0)


def observed(notebook, n, first=0):
    """Observed of n images whose features are their numbers, from `first` on."""
    numbers = np.arange(first, first + n)
    return notebook.Observed(numbers[:, None], numbers / n, numbers % 4 > 0, numbers % 10)


def test_normal_images_are_validation_images_and_fogged_ones_test_images():
    images = {part: torch.full((6, 4), value) for part, value in (("train", 1.0), ("validation", 2.0), ("test", 3.0))}
    labels = {part: torch.full((6,), number) for number, part in enumerate(images)}
    found = run_cell(NOTEBOOK, "normal = observe(network", network=[None, torch.nn.Linear(4, 3)], images=images,
                     labels=labels, blurred=images["test"] + 0.5, preprocess=lambda pixels: pixels,
                     center=torch.zeros(4), directions=torch.eye(4), features_of=lambda network, x: x,
                     Observed=lambda z, confidence, right, labels: SimpleNamespace(z=z, right=right, labels=labels))
    assert (found["normal"].z == 2).all() and (found["normal"].labels == 1).all() and len(found["normal"].right) == 6
    assert (found["fogged"].z == 3.5).all() and (found["fogged"].labels == 2).all()


def test_what_is_known_is_not_what_is_new(notebook):
    images = {"validation": torch.arange(101)}
    found = run_cell(NOTEBOOK, "known = normal.z[:half]", normal=observed(notebook, 101), images=images, labels=images)
    known, new = set(found["known"][:, 0]), set(found["new_images"].tolist())
    assert not known & new and len(known | new) == 101 and abs(len(known) - len(new)) <= 1
    assert found["new_images"].tolist() == found["new_labels"].tolist()


def test_the_threshold_comes_from_windows_that_share_nothing_with_the_reference(notebook):
    windows = []

    def distance(window, reference, bandwidth):
        windows.append((set(window[:, 0]), set(reference[:, 0])))
        return len(windows)

    found = run_cell(NOTEBOOK, "thresholds[n] = threshold_for", normal=observed(notebook, 200), REFERENCE=50,
                     WINDOWS=(5, 20), CALIBRATION=10, draw=notebook.draw, rng=np.random.default_rng(0),
                     distance_to_reference=distance, bandwidth=1.0)
    assert len(windows) == 20 and all(not window & reference for window, reference in windows)
    assert all(reference == set(range(50)) for _, reference in windows) and set(found["thresholds"]) == {5, 20}


def test_each_rate_is_of_the_samples_that_its_name_says(notebook):
    rng, pairs = np.random.default_rng(0), []

    def ks_test(a, b):
        pairs.append((a.max(), b.max()))
        return 0.4

    run_cell(NOTEBOOK, "rates = {name: alarm_rate", normal=observed(notebook, 100), seen=observed(notebook, 100, 1000),
             LARGE_SAMPLE=50, SAMPLE=20, COMPONENTS=8, TRIALS=1, ALPHA=0.05, PERMUTATIONS=9, bandwidth=1.0, rng=rng,
             ks_test=ks_test, mmd_test=notebook.mmd_test, split_in_two=notebook.split_in_two, draw=notebook.draw,
             alarm_rate=lambda test, alpha, trials: test())
    assert len(pairs) == 4 and all(max(pair) < 100 for pair in pairs[:3])
    assert pairs[3][0] >= 10 and pairs[3][1] < 1, "training images against unseen ones"


def test_the_stream_is_quiet_first_and_ends_in_the_fog(notebook):
    fog = [observed(notebook, 100, 1000 * step) for step in range(16)]
    found = run_cell(NOTEBOOK, "step_at = np.round", fog=fog, QUIET=40, test_set=range(100), steps=np.arange(16))
    assert (found["step_at"][:40] == 0).all() and (np.diff(found["step_at"]) >= 0).all() and found["step_at"][-1] >= 15
    assert found["fog_z"][3, 7, 0] == 3007


def test_delays_and_losses_are_those_of_the_window(notebook):
    right = np.concatenate([np.ones((1, 100)), np.zeros((1, 100))])  # without fog all right, in it none
    watched = {10: np.array([[0.0] * 6 + [9] * 4]), 20: np.array([[0.0, 0, 0, 9, 9]])}
    found = run_cell(NOTEBOOK, "delays = pd.DataFrame(rows)", watched=watched, thresholds={10: 5, 20: 5}, quiet=40,
                     alarms_of=notebook.alarms_of, fog_right=right, step_at=np.repeat([0, 1], 50), STREAMS=1)["delays"]
    assert found.loc["median delay, images"].tolist() == [30, 40] and found.loc["streams found"].tolist() == [1, 1]
    assert found.loc["accuracy lost at the alarm"].tolist() == [1, 1]


def test_the_estimate_is_right_where_nothing_changed_and_alarms_are_mmds(notebook):
    normal = observed(notebook, 400)
    worse = notebook.Observed(normal.z, normal.confidence / 2, normal.right & (normal.labels > 4), normal.labels)
    found = run_cell(NOTEBOOK, "table = pd.DataFrame", normal=normal, half=400, SAMPLE=20,
                     fogged=worse, drifts={"blur": {0: normal, 1: worse}},
                     powers={("blur", 0, 20): (0.1, 0.2), ("blur", 1, 20): (0.3, 0.4)})["table"]
    assert found["accuracy"].tolist() == pytest.approx([0.75, worse.right.mean()])
    assert found["estimated"].tolist() == pytest.approx([0.75, 0.5], abs=0.01)
    assert found["alarms"].tolist() == [0.2, 0.4] and found["lost"].tolist() == pytest.approx(0.75 - found["accuracy"])


def test_results_are_taken_from_where_they_belong():
    rows = ["median delay, images", "accuracy lost at the alarm"]
    rates = {name: (place / 10, place / 10 - 0.01, place / 10 + 0.01) for place, name in
             enumerate(("KS, 8 features, Bonferroni", "MMD, 8 features", "KS without Bonferroni", "unseen", "seen"))}
    found = run_cell(
        NOTEBOOK, '"fogged_accuracy"', rates=rates, WINDOWS=(5, 20, 50), test_accuracy=0.9, baseline=0.1, SAMPLE=20,
        blurred_accuracy=0.3, powers={("blur", 0.7, 20): (0.6, 0.7)},
        delays=pd.DataFrame({5: [1, 2], 20: [3, 4], 50: [5, 6]}, index=rows),
        table=pd.DataFrame({"estimated": [0.5, 0.9], "accuracy": [0.6, 0.4]}))["results"]
    expected = {"test_accuracy": 0.9, "most_frequent_class_accuracy": 0.1, "fogged_accuracy": 0.3, "ks_false_alarms": 0,
                "mmd_false_alarms": 0.1, "mmd_false_alarms_low": 0.09, "mmd_false_alarms_high": 0.11,
                "uncorrected_false_alarms": 0.2, "unseen_reference_false_alarms": 0.3,
                "training_reference_false_alarms": 0.4, "ks_power_blur_0_7": 0.6, "mmd_power_blur_0_7": 0.7,
                "median_delay_images": 3, "accuracy_lost_at_alarm": 4, "largest_optimism": 0.5}
    assert found == pytest.approx(expected)
