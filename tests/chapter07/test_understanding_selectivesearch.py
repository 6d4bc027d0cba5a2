"""What Understanding_selectivesearch.ipynb defines: the graph segmentation, the hierarchy of merges, ranks, recall."""
import itertools

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.segmentation import felzenszwalb
from torchvision import ops

from tests.cells import run_cell
from tests.definitions import definitions

lesson = definitions(
    "Chapter07/Understanding_selectivesearch.ipynb", "iou", "area", "boxes_around", "same_regions", "draw_scene",
    "pixel_edges", "segment_by_hand", "similarities", "histograms", "region_features", "neighbors_of", "join",
    "merge_regions", "merged_boxes", "ranked", "best_overlaps", "overlaps_of", "random_boxes", "random_places",
    "to_floats", "SPACES")  # fmt: skip
quickly = settings(deadline=None, derandomize=True, max_examples=25)
seeds = st.integers(0, 10**6)
TERMS = ("color", "texture", "size", "fill")


def noise(seed, height=17, width=23, channels=3):
    return np.random.default_rng(seed).random((height, width, channels))


def blocks(seed, height=24, width=30, side=6):
    """Labels of blocks of `side` pixels, numbered at random, and an image with one color a block and a little noise."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:height, :width] // side
    labels = rng.permutation(rows.max() * columns.max() * 4)[rows * (columns.max() + 1) + columns]
    labels = np.unique(labels, return_inverse=True)[1].reshape(height, width)
    colors = rng.random((labels.max() + 1, 3))
    return labels, (colors[labels] + 0.02 * rng.standard_normal((height, width, 3))).clip(0, 1)


# ---- the segmentation


@pytest.mark.parametrize("scale", [1, 30, 100, 300, 1000])
@pytest.mark.parametrize("min_size", [0, 7, 40])
@pytest.mark.parametrize("channels", [1, 3])
def test_regions_equal_those_of_scikit_image(scale, min_size, channels):
    for seed in range(3):
        image = noise(seed, channels=channels)
        theirs = felzenszwalb(image, scale, sigma=0, min_size=min_size)
        ours = lesson.segment_by_hand(image, scale / 255, min_size)
        assert ours.shape == image.shape[:2] and set(ours.ravel()) == set(range(ours.max() + 1))
        assert lesson.same_regions(ours, theirs)


def test_one_color_is_one_region_and_a_row_is_an_image():
    assert lesson.segment_by_hand(np.zeros((5, 7, 3)), 0.1).max() == 0
    assert lesson.segment_by_hand(np.zeros((1, 1, 3)), 0.1).tolist() == [[0]]
    row = np.repeat([0.0, 1.0], 4)[None, :, None]
    assert lesson.segment_by_hand(row, 0.1).tolist() == [[0] * 4 + [1] * 4]


def test_edges_join_eight_neighbors_lightest_first():
    image = noise(5, 4, 5)
    edges, weights = lesson.pixel_edges(image)
    assert len(edges) == 4 * 4 + 3 * 5 + 2 * 3 * 4 and (np.diff(weights) >= 0).all()
    assert len({frozenset(edge) for edge in edges.tolist()}) == len(edges)
    for (p, q), weight in zip(edges.tolist(), weights):
        (y0, x0), (y1, x1) = divmod(p, 5), divmod(q, 5)
        assert max(abs(y0 - y1), abs(x0 - x1)) == 1
        assert weight == pytest.approx(np.sqrt(((image[y0, x0] - image[y1, x1]) ** 2).sum()))


def test_same_regions():
    a = np.array([[0, 0, 1], [2, 2, 1]])
    assert lesson.same_regions(a, np.array([[5, 5, 0], [3, 3, 0]]))
    assert not lesson.same_regions(a, np.array([[0, 0, 1], [1, 1, 1]]))  # coarser
    assert not lesson.same_regions(np.array([[0, 0, 1], [1, 1, 1]]), a)  # finer
    assert not lesson.same_regions(a, np.array([[0, 1, 1], [2, 2, 0]]))  # as many, cut elsewhere


# ---- features and similarity


@quickly
@given(seeds)
def test_boxes_sizes_and_neighbors_by_counting(seed):
    labels = lesson.segment_by_hand(noise(seed), 0.4)
    boxes = lesson.boxes_around(labels)
    assert boxes.dtype == torch.float32
    pairs = set()
    for (y, x), k in np.ndenumerate(labels):
        for dy, dx in ((0, 1), (1, 0)):
            if y + dy < labels.shape[0] and x + dx < labels.shape[1] and labels[y + dy, x + dx] != k:
                pairs.add((min(k, labels[y + dy, x + dx]), max(k, labels[y + dy, x + dx])))
    assert [tuple(pair) for pair in lesson.neighbors_of(labels).tolist()] == sorted(pairs)
    for k in range(labels.max() + 1):
        y, x = np.nonzero(labels == k)
        assert boxes[k].tolist() == [x.min(), y.min(), x.max() + 1, y.max() + 1]


def test_histograms_by_counting():
    labels, image = blocks(0)
    values = image[..., 1].copy()
    values[0, :3] = (-0.5, 1.0, 7.0)  # outside the range: the outermost bins
    found = lesson.histograms(values, labels, 5, 1.0)
    for k in range(labels.max() + 1):
        expected, _ = np.histogram(values[labels == k].clip(0, 1 - 1e-9), 5, (0, 1))
        np.testing.assert_allclose(found[k], expected / expected.sum())


def test_features_of_regions():
    labels, image = blocks(1)
    regions = lesson.region_features(image, labels)
    np.testing.assert_allclose(regions["size"], np.bincount(labels.ravel()))
    for key, bins in (("color", 75), ("texture", 80)):
        assert regions[key].shape == (labels.max() + 1, bins)
        np.testing.assert_allclose(regions[key].sum(axis=1), 1)
    flat = lesson.region_features(np.full((8, 9, 3), 0.3), np.zeros((8, 9), int))
    assert flat["color"].max() == pytest.approx(1 / 3) and flat["texture"][0, ::10].sum() == pytest.approx(1)


def test_texture_tells_directions_and_color_does_not_count_there():
    across = np.zeros((20, 40, 3))
    across[::4, :20], across[1::4, :20] = 1, 1  # stripes of one direction left, of the other right
    across[:, 20::4], across[:, 21::4] = 1, 1
    labels = np.repeat([0, 1], 20)[None].repeat(20, axis=0)
    regions = lesson.region_features(across, labels)
    assert np.minimum(*regions["texture"]).sum() < 0.8
    brighter = lesson.region_features(across * 0.999, labels)
    np.testing.assert_allclose(brighter["texture"], regions["texture"], atol=0.05)


@quickly
@given(seeds, st.sets(st.sampled_from(TERMS), min_size=1))
def test_similarity_by_its_formula(seed, use):
    labels, image = blocks(seed)
    regions, photo = lesson.region_features(image, labels), labels.size
    use = tuple(sorted(use))
    others = np.arange(1, labels.max() + 1)
    found = lesson.similarities(regions, 0, others, photo, use)
    for j, value in zip(others, found):
        size = (labels == 0).sum() + (labels == j).sum()
        y, x = np.nonzero((labels == 0) | (labels == j))
        around = (y.max() + 1 - y.min()) * (x.max() + 1 - x.min())
        terms = {"color": sum(map(min, regions["color"][0], regions["color"][j])),
                 "texture": sum(map(min, regions["texture"][0], regions["texture"][j])),
                 "size": 1 - size / photo, "fill": 1 - (around - size) / photo}
        assert all(-1e-9 <= term <= 1 + 1e-9 for term in terms.values())
        assert value == pytest.approx(sum(terms[name] for name in use))


def test_a_union_has_the_features_of_its_pixels():
    labels, image = blocks(3)
    regions, children = lesson.merge_regions(
        lesson.region_features(image, labels), lesson.neighbors_of(labels), labels.size)
    n = labels.max() + 1
    members = {k: {k} for k in range(n)}
    for t, (i, j) in enumerate(children, start=n):
        members[t] = members[i] | members[j]
        inside = np.isin(labels, list(members[t]))
        counted = lesson.region_features(image, np.where(inside, 0, 1) if not inside.all() else np.zeros_like(labels))
        for key in ("size", "box", "color", "texture"):
            np.testing.assert_allclose(regions[key][t], counted[key][0], atol=1e-9)


# ---- the hierarchy


@quickly
@given(seeds, st.sampled_from([TERMS, ("color",), ("size", "fill")]))
def test_merges_equal_a_plain_search_for_the_best_pair(seed, use):
    labels, image = blocks(seed)
    start, photo = lesson.region_features(image, labels), labels.size
    pairs = lesson.neighbors_of(labels)
    regions, children = lesson.merge_regions(start, pairs, photo, use)
    n = len(start["size"])
    assert len(children) == n - 1 and len(regions["size"]) == 2 * n - 1
    touching, alive = {frozenset(pair) for pair in pairs.tolist()}, set(range(n))
    for t, (i, j) in enumerate(children, start=n):
        assert frozenset((i, j)) in touching
        best = max(lesson.similarities(regions, a, [b], photo, use)[0] for a, b in map(tuple, touching))
        assert lesson.similarities(regions, i, [j], photo, use)[0] == pytest.approx(best, abs=1e-9)
        alive = alive - {i, j} | {t}
        touching = {frozenset(t if k in (i, j) else k for k in pair) for pair in touching}
        touching = {pair for pair in touching if len(pair) == 2}
    assert alive == {2 * n - 2}
    assert regions["box"][-1].tolist() == [0, 0, labels.shape[1], labels.shape[0]] and regions["size"][-1] == photo


def test_the_given_regions_are_not_changed():
    labels, image = blocks(2)
    start = lesson.region_features(image, labels)
    kept = {key: rows.copy() for key, rows in start.items()}
    lesson.merge_regions(start, lesson.neighbors_of(labels), labels.size)
    for key in kept:
        np.testing.assert_array_equal(start[key], kept[key])


def test_one_region_is_not_merged():
    labels = np.zeros((6, 8), int)
    regions, children = lesson.merge_regions(
        lesson.region_features(np.zeros((6, 8, 3)), labels), lesson.neighbors_of(labels), labels.size)
    assert children == [] and regions["box"].tolist() == [[0, 0, 8, 6]]


@pytest.mark.parametrize("seed", range(4))
def test_the_drawn_objects_are_found(seed):
    scene, boxes = lesson.draw_scene(seed)
    assert scene.shape == (96, 128, 3) and scene.min() >= 0 and scene.max() <= 1 and len(boxes) == 3
    found = torch.from_numpy(lesson.merged_boxes(scene, "RGB", 160, 20)).float()
    assert found[0].tolist() == [0, 0, 128, 96]  # the whole photo first
    overlap = ops.box_iou(boxes, found).amax(dim=1)
    assert (overlap > 0.8).all()
    labels = felzenszwalb(scene, 160, sigma=0.8, min_size=20)
    parts = ops.box_iou(boxes, lesson.boxes_around(labels)).amax(dim=1)
    assert (overlap >= parts - 1e-6).all()  # unions add to the first regions, and take nothing away


def test_drawn_boxes_are_tight():
    scene, boxes = lesson.draw_scene(0, noise=0)
    background = np.array((0.85, 0.85, 0.8))
    for x0, y0, x1, y1 in boxes.int().tolist():
        inside = (scene[y0:y1, x0:x1] != background).any(axis=2)
        assert inside.any(axis=0).all() and inside[0].any() and inside[-1].any()
        wider = (scene[y0 - 1 : y1 + 1, x0 - 1 : x1 + 1] != background).any(axis=2)
        assert wider.sum() == inside.sum()


@pytest.mark.parametrize("space", lesson.SPACES)
def test_color_spaces_give_floats_from_0_to_1(space):
    corners = np.array(list(itertools.product((0.0, 0.5, 1.0), repeat=3)))[None]
    values = lesson.SPACES[space](corners)
    assert values.shape == corners.shape and values.min() >= -0.05 and values.max() <= 1.05
    assert len(np.unique(values.reshape(-1, 3).round(6), axis=0)) > 15


# ---- ranks and recall


def test_ranks():
    lists = [np.array([[0, 0, k, side(k)] for k in range(1, 40)], float) for side in (lambda k: k, lambda k: 1)]
    pool = lesson.ranked(lists, seed=0)
    assert len(pool) == 77 and len(pool.unique(dim=0)) == 77  # [0, 0, 1, 1] is in both
    assert not torch.equal(pool, lesson.ranked(lists, seed=1))
    assert torch.equal(pool, lesson.ranked(lists, seed=0))
    places = torch.stack([torch.stack([(lesson.ranked(lists, seed) == torch.tensor(one)).all(dim=1).nonzero()[0, 0]
                                       for one in ([0.0, 0, 2, 2], [0.0, 0, 38, 38])]) for seed in range(30)]).float()
    assert places[:, 0].mean() < 15 < 40 < places[:, 1].mean()  # early ones come early, though not always
    assert places[:, 1].std() > 3


@quickly
@given(seeds, st.integers(1, 30))
def test_best_overlaps(seed, n):
    generator = torch.Generator().manual_seed(seed)
    low = 20 * torch.rand(n + 5, 2, generator=generator)
    boxes = torch.cat([low, low + 1 + 20 * torch.rand(n + 5, 2, generator=generator)], dim=1)
    truth, proposals = boxes[:5], boxes[5:]
    counts = (1, 2, 7, 1000)
    found = lesson.best_overlaps(truth, proposals, counts)
    assert found.shape == (5, 4) and (found.diff(dim=1) >= 0).all()
    for k, count in enumerate(counts):
        torch.testing.assert_close(found[:, k], ops.box_iou(truth, proposals[:count]).amax(dim=1))
    both = lesson.overlaps_of([1, 0], [truth[:2], truth], [proposals, proposals], counts)
    torch.testing.assert_close(both, torch.cat([found, found[:2]]))


def test_random_boxes_lie_in_the_photo():
    for boxes in (lesson.random_boxes(3000, 64, 48, 0),
                  lesson.random_places(3000, 64, 48, torch.tensor([[0, 0, 20, 5], [9, 9, 14, 40.0]]), 0)):
        assert boxes.shape == (3000, 4) and boxes.min() >= 0
        assert boxes[:, 2].max() <= 64 and boxes[:, 3].max() <= 48 and boxes[:, 3].max() > 46
        assert (boxes[:, 2:] >= boxes[:, :2]).all()
    sizes = (boxes[:, 2:] - boxes[:, :2]).round().unique(dim=0)
    assert sizes.tolist() == [[5, 31], [20, 5]]
    assert boxes[:, 0].mean() == pytest.approx((64 - 12.5) / 2, abs=2)
    assert not torch.equal(lesson.random_boxes(9, 64, 48, 0), lesson.random_boxes(9, 64, 48, 1))


def test_photos_become_floats():
    image = torch.zeros(3, 4, 6, dtype=torch.uint8)
    image[0, 1, 2] = 255
    pixels = lesson.to_floats(image)
    assert pixels.shape == (4, 6, 3) and pixels[1, 2].tolist() == [1, 0, 0] and pixels.sum() == 1


def test_iou_equals_torchvision():
    boxes = lesson.random_boxes(50, 64, 48, 0)
    torch.testing.assert_close(lesson.iou(boxes, boxes[:9]), ops.box_iou(boxes, boxes[:9]))


NOTEBOOK = "Chapter07/Understanding_selectivesearch.ipynb"


def overlap_table():
    """IoU (seeds, cells, counts) of two methods; the last column is that of the budget."""
    best = torch.tensor([[[0.4, 0.9, 0.6], [0.1, 0.2, 0.8], [0.0, 0.0, 0.3], [0.6, 0.6, 0.7]]])
    return {"selective search": best, "random boxes": best * 0.75}


def test_recalls_are_of_the_budget_and_by_the_classes_of_the_test_photos():
    drawn = []
    found = run_cell(NOTEBOOK, "at_budget = {name: values[:, 0]", overlaps=overlap_table(), COUNTS=(10, 20), BUDGET=15,
                     draw_recalls=lambda *arguments: drawn.extend(arguments))
    assert {name: values.tolist() for name, values in found["at_budget"].items()} == {
        "selective search": [0.75], "random boxes": [0.5]}
    assert found["curves"]["selective search"].tolist() == [[0.25, 0.5]] and drawn[0] is found["curves"]
    assert drawn[-1].startswith("15 proposals cover 75% (selective search), 50%")
    labels = {0: torch.tensor([1, 1]), 1: torch.tensor([2, 2]), 2: torch.tensor([3, 3])}
    by_class = run_cell(NOTEBOOK, 'by_class.insert(0, "test boxes"', labels_of=labels, test=[2, 1],
                        CLASSES=("a", "b", "c"),
                        overlaps=overlap_table())["by_class"]
    assert by_class["test boxes"].tolist() == [0, 2, 2]
    assert by_class["selective search"].tolist()[1:] == [0.5, 1] and by_class["random boxes"].tolist()[1:] == [0.5, 0.5]
    results = run_cell(
        NOTEBOOK, '"seconds_a_run"', at_budget=found["at_budget"], by_class=by_class, CLASSES=("b", "c"), gain=0.25,
        chosen="Lab 30", table=pd.DataFrame({"proposals": [5.0, 9.0]}, index=["RGB 15", "Lab 30"]),
        overlaps=overlap_table(), seconds=pd.DataFrame({"sum (s)": [0.1, 0.4]}))["results"]
    assert results == pytest.approx({
        "recall_selective_search": 0.75, "recall_random_boxes": 0.5, "recall_b": 0.5, "recall_c": 1, "gain": 0.25,
        "proposals": 9, "mean_best_iou": 0.6, "seconds_a_run": 0.4})


def test_settings_are_chosen_on_validation_photos_by_recall_at_the_budget():
    recalls = {("RGB", 15): ([0.6, 0.2], [0.9, 0.9]), ("Lab", 30): ([0.6, 0.6], [0.6, 0.2])}
    asked = []

    def overlaps_of(rows, truths, pools, counts):
        asked.append((rows, counts))
        return torch.tensor(recalls[pools[0]]).T

    found = run_cell(NOTEBOOK, 'chosen = table[f"recall of {BUDGET}"].idxmax()', SEEDS=(0,), BUDGET=500, truths=None,
                     choices={"RGB 15": [("RGB", 15)], "Lab 30": [("Lab", 30)]}, val=[7, 8], overlaps_of=overlaps_of,
                     merged={setting: [setting, setting] for setting in recalls}, ranked=lambda some, seed: some[0])
    assert found["chosen"] == "Lab 30" and asked == [([7, 8], (500, 10**6))] * 2
    assert found["table"]["recall of 500"].tolist() == [0.5, 1] and found["table"]["recall of all"].tolist() == [1, 0.5]


def test_the_comparison_is_made_on_test_photos_with_boxes_of_training_photos():
    """A box is full of its photo's number."""
    truths = {k: torch.full((2, 4), float(k)) for k in range(6)}
    found = run_cell(
        NOTEBOOK, "train_boxes = torch.cat(", photos=torch.zeros(6, 3, 30, 40), truths=truths, test=[4, 5],
        parts={"train": torch.tensor([0, 2]), "val": torch.tensor([1, 3]), "test": torch.tensor([4, 5])}, MIN_SIZE=9,
        choices={"best": [("RGB", 15), ("Lab", 30)], "other": []}, chosen="best", to_floats=lambda photo: photo,
        merged_boxes=lambda photo, space, scale, least: (space, scale, least), tqdm=lambda rows, **_: rows)
    assert found["train_boxes"][:, 0].tolist() == [0, 0, 2, 2] and (found["height"], found["width"]) == (30, 40)
    assert found["tested"] == [[("RGB", 15, 9), ("Lab", 30, 9)]] * 2
