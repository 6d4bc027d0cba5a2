"""The definitions of Comparing_AI_and_traditional_ML against scikit-image, scikit-learn and plain properties."""
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from skimage.measure import euler_number, label
from sklearn.datasets import load_digits
from sklearn.metrics import confusion_matrix as sklearn_confusion_matrix
from sklearn.neural_network import MLPClassifier

from tests.definitions import definitions

NAMES = ("holes", "rule", "confusion_matrix", "hand_made_features", "pixels", "build", "three_parts", "race", "scatter",
         "network_by_hand", "small_network")  # fmt: skip
lesson = definitions("Chapter01/Comparing_AI_and_traditional_ML.ipynb", *NAMES)
exact = settings(deadline=None, max_examples=60)
grays = st.sampled_from([0.0, 0.25, 0.5, 1.0])
pictures = hnp.arrays(np.float64, (8, 8), elements=grays)
batches = hnp.arrays(np.float64, st.tuples(st.integers(0, 3), st.integers(1, 6), st.integers(1, 6)), elements=grays)


def test_the_small_network_is_the_one_of_the_chapter():
    same = definitions("Chapter01/Feed_forward_propagation.ipynb", "small_network")
    for ours, theirs in zip(lesson.small_network(21), same.small_network(21), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@exact
@given(pictures)
def test_holes_are_counted_as_by_the_euler_number(image):
    ink = np.pad(image >= 0.4, 1)
    components = label(ink, connectivity=2).max()
    assert len(lesson.holes(image)) == components - euler_number(ink, connectivity=2)


def test_a_hole_has_its_row_and_its_size():
    image = np.ones((8, 8))
    image[2:4, 3] = 0  # one hole, rows 2 and 3
    image[0, 0] = 0  # paper at the border is no hole
    assert lesson.holes(image) == [(2.5, 2)]
    assert lesson.holes(np.zeros((8, 8))) == [] and lesson.holes(np.ones((8, 8))) == []


@exact
@given(pictures)
def test_the_rule_always_names_a_digit(image):
    assert lesson.rule(image) in range(10)


def test_the_rule_on_drawn_digits():
    ring = np.zeros((8, 8))
    ring[1:7, 2:6] = 1
    zero, eight = ring.copy(), ring.copy()
    zero[2:6, 3:5] = 0
    eight[2, 3:5] = eight[4:6, 3:5] = 0
    assert lesson.rule(zero) == 0 and lesson.rule(eight) == 8
    assert lesson.rule(np.full((8, 8), np.nan)) in range(10)


@exact
@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=40))
def test_confusion_matrix_is_sklearns(pairs):
    labels, answers = np.array(pairs, dtype=int).reshape(-1, 2).T
    ours = lesson.confusion_matrix(labels, answers)
    assert ours.sum() == len(pairs)
    if pairs:
        np.testing.assert_array_equal(ours, sklearn_confusion_matrix(labels, answers, labels=range(10)))


@exact
@given(batches)
def test_hand_made_features(images):
    n, height, width = images.shape
    features = lesson.hand_made_features(images)
    assert features.shape == (n, 3 + height + width)
    ink, left_right, top_bottom = features[:, :3].T
    np.testing.assert_allclose(features[:, 3 : 3 + height].mean(axis=1), ink, atol=1e-12)
    np.testing.assert_allclose(features[:, 3 + height :].mean(axis=1), ink, atol=1e-12)
    for symmetry, axis in ((left_right, 2), (top_bottom, 1)):
        equal = (images == np.flip(images, axis)).all(axis=(1, 2))
        np.testing.assert_array_equal(symmetry == 1, equal)
    turned = lesson.hand_made_features(images.transpose(0, 2, 1))
    np.testing.assert_allclose(turned[:, 1], top_bottom, atol=1e-12)
    np.testing.assert_allclose(turned[:, 3 : 3 + width], features[:, 3 + height :], atol=1e-12)


@exact
@given(batches, st.integers(0, 4))
def test_scatter_moves_and_changes_nothing_else(images, room):
    rng = np.random.default_rng(0)
    moved = lesson.scatter(images, room, rng)
    n, height, width = images.shape
    assert moved.shape == (n, height + room, width + room)
    for image, sheet in zip(images, moved, strict=True):
        places = [(r, c) for r in range(room + 1) for c in range(room + 1)]
        assert any(np.array_equal(sheet[r : r + height, c : c + width], image) for r, c in places)
        assert sheet.sum() == pytest.approx(image.sum())
    if room == 0:
        np.testing.assert_array_equal(moved, images)


def test_scatter_reaches_every_place():
    moved = lesson.scatter(np.ones((500, 1, 1)), 2, np.random.default_rng(0))
    assert (moved.sum(axis=0) > 25).all()  # 500 / 9 on average


def test_three_parts_share_nothing_and_keep_the_classes():
    labels = load_digits().target
    parts = lesson.three_parts(labels, 3)
    assert sorted(np.concatenate(parts)) == list(range(len(labels))) and [len(p) for p in parts] == [1077, 360, 360]
    for part in parts:
        assert np.ptp(np.bincount(labels[part]) / len(part) - np.bincount(labels) / len(labels)) < 0.01
    assert not np.array_equal(parts[2], lesson.three_parts(labels, 4)[2])


@pytest.mark.parametrize("method", ["hand-made features", "pixels", "network"])
def test_a_built_model_learns_from_images(method):
    rng = np.random.default_rng(0)
    labels = np.arange(60) % 2
    images = rng.uniform(0, 0.2, (60, 8, 8))
    images[labels == 1, 2:4, 1:3] += 0.8
    model = lesson.build(method, 1.0, 4, 0, 50).fit(images[:40], labels[:40])
    assert model.score(images[40:], labels[40:]) == 1.0
    if method == "network":
        assert model[-1].coefs_[0].shape == (64, 4) and model[-1].alpha == 1.0
    else:
        assert model[-1].C == 1.0 and model[-1].coef_.shape[1] == (19 if method == "hand-made features" else 64)


@pytest.mark.filterwarnings("ignore")
def test_the_race_chooses_on_validation_and_scores_on_test():
    data = load_digits()
    images, labels = data.images / 16, data.target
    strengths = (1e-6, 1.0)
    rows, chosen = lesson.race(images, labels, 0, strengths, 8, 15)
    train, validation, test = lesson.three_parts(labels, 0)
    for seed, method, strength, accuracy in rows:
        models = [lesson.build(method, s, 8, 0, 15).fit(images[train], labels[train]) for s in strengths]
        best = int(np.argmax([model.score(images[validation], labels[validation]) for model in models]))
        assert (seed, strength) == (0, strengths[best])
        assert accuracy == pytest.approx(models[best].score(images[test], labels[test]))
        assert accuracy == pytest.approx(chosen[method].score(images[test], labels[test]))


@exact
@given(st.integers(0, 1000), st.sampled_from([0, 1, 5]), st.sampled_from([0.0, 1e-8, 1.0, 1e6]))
def test_network_by_hand_equals_torch(seed, n, scale):
    rng = np.random.default_rng(seed)
    X, W1, b1, W2, b2 = (scale * rng.normal(size=s) for s in ((n, 6), (6, 4), 4, (4, 3), 3))
    first, last = torch.nn.Linear(6, 4).double(), torch.nn.Linear(4, 3).double()
    for layer, W, b in ((first, W1, b1), (last, W2, b2)):
        layer.load_state_dict({"weight": torch.from_numpy(W.T.copy()), "bias": torch.from_numpy(b)})
    expected = last(torch.relu(first(torch.from_numpy(X)))).detach().numpy()
    np.testing.assert_allclose(lesson.network_by_hand(X, W1, b1, W2, b2), expected, rtol=1e-10, atol=1e-12)


@pytest.mark.filterwarnings("ignore")
def test_network_by_hand_equals_sklearn():
    rng = np.random.default_rng(0)
    X, labels = rng.normal(size=(50, 6)), rng.integers(3, size=50)
    model = MLPClassifier((4,), solver="lbfgs", max_iter=20, random_state=0).fit(X, labels)
    (W1, W2), (b1, b2) = model.coefs_, model.intercepts_
    np.testing.assert_array_equal(lesson.network_by_hand(X, W1, b1, W2, b2).argmax(axis=1), model.predict(X))
