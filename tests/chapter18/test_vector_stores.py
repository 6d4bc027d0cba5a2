"""Exact search, inverted lists and product quantization against FAISS and slow loops; what the figures stand on."""
import time
from types import SimpleNamespace

import faiss
import numpy as np
import pandas as pd
import pytest
import torch

from tests.cells import run_cell
from tests.definitions import definitions

NOTEBOOK = "Chapter18/vector_stores.ipynb"
RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def notebook():
    """What the lesson defines."""
    return definitions(NOTEBOOK, "exact_search", "normalized", "recall", "same_label", "ivf_search", "pq_encode",
                       "pq_scores", "build_flat", "build_ivf", "build_pq", "build_hnsw", "moved", "pareto", "fastest",
                       "megabytes", "latency_ms", "embed", "features_of", "garment_net", "Preprocessing", "LINKS",
                       "compare_indexes", PROBES=(1, 4, 64), EFFORTS=(16, 64), CODE_BYTES=(4, 8))


def unit(n, d, rng=RNG):
    """n random vectors of length one."""
    x = rng.normal(size=(n, d)).astype(np.float32)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


STORES = {
    "random": unit(300, 16),
    "one vector": unit(1, 16),
    "copies": np.repeat(unit(20, 16), 5, axis=0),
    "zeros among them": np.concatenate([unit(30, 16), np.zeros((5, 16), np.float32)]),
    "huge": unit(50, 16) * np.float32(1e6),
}


@pytest.mark.parametrize("name", STORES)
@pytest.mark.parametrize("k", [1, 10])
def test_exact_search_is_faiss_flat(notebook, name, k):
    store, queries = STORES[name], unit(7, 16)
    k = min(k, len(store))
    rows, scores = notebook.exact_search(queries, store, k)
    theirs, their_rows = notebook.build_flat(store).search(queries, k)
    scale = np.abs(scores).max() + 1e-6
    np.testing.assert_allclose(scores, theirs, rtol=0, atol=1e-5 * scale)
    np.testing.assert_allclose(np.take_along_axis(queries @ store.T, rows, axis=1), scores, atol=1e-6 * scale)
    assert all(len(set(row)) == k for row in rows) and (np.diff(scores, axis=1) <= 1e-5 * scale).all()
    if name == "random":
        assert (rows == their_rows).all()


def test_normalized_vectors_have_length_one_and_their_direction(notebook):
    x = RNG.normal(size=(9, 5)) * np.array([1e-6, 1, 1e6] * 3)[:, None]
    found = notebook.normalized(x)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1)
    np.testing.assert_allclose((found * x).sum(axis=1), np.linalg.norm(x, axis=1))


def test_recall_counts_the_true_neighbors_that_were_found(notebook):
    truth = np.array([[1, 2, 3, 4], [5, 6, 7, 8]])
    assert notebook.recall(truth, truth) == 1 and notebook.recall(truth[:, ::-1], truth) == 1
    assert notebook.recall(np.array([[1, 2, -1, -1], [0, 0, 0, 8]]), truth) == pytest.approx(3 / 8)
    assert notebook.recall(np.array([[9, 9, 9, 9], [0, 0, 0, 0]]), truth) == 0


@pytest.mark.parametrize("probes", [1, 3, 12])
def test_inverted_lists_are_faiss_lists(notebook, probes):
    store, queries = unit(600, 8), unit(20, 8)
    coarse = faiss.IndexFlatIP(8)
    index = faiss.IndexIVFFlat(coarse, 8, 12, faiss.METRIC_INNER_PRODUCT)
    index.train(store)
    index.add(store)
    index.nprobe = probes
    centroids = index.quantizer.reconstruct_n(0, 12)
    home = (store @ centroids.T).argmax(axis=1)
    lists = [np.flatnonzero(home == c) for c in range(12)]
    theirs = index.search(queries, 5)[1]
    ours = [notebook.ivf_search(query, store, centroids, lists, probes, 5) for query in queries]
    assert [list(row) for row in ours] == theirs.tolist()
    if probes == 12:
        assert (theirs == notebook.exact_search(queries, store, 5)[0]).all()


def test_an_inverted_file_may_hold_empty_lists(notebook):
    store = unit(4, 8)
    lists = [np.array([0, 1]), np.array([], dtype=int), np.array([2, 3])]
    found = notebook.ivf_search(store[1], store, store[:3], lists, 3, 10)
    assert sorted(found) == [0, 1, 2, 3] and found[0] == 1


@pytest.mark.parametrize("pieces", [1, 2, 8])
def test_product_quantization_is_faiss_pq(notebook, pieces):
    store, queries = unit(400, 16), unit(6, 16)
    index = notebook.build_pq(store, pieces)
    codebooks = faiss.vector_to_array(index.pq.centroids).reshape(pieces, 256, -1)
    codes = notebook.pq_encode(store, codebooks)
    assert (codes == faiss.vector_to_array(index.codes).reshape(-1, pieces)).mean() > 0.999 and codes.dtype == np.uint8
    scores, rows = index.search(queries, 10)
    for query, score, row in zip(queries, scores, rows):
        np.testing.assert_allclose(notebook.pq_scores(query, codes, codebooks)[row], score, atol=1e-5)


def test_a_code_stands_for_its_codebook_entries(notebook):
    codebooks = RNG.normal(size=(4, 256, 3))
    code = RNG.integers(0, 256, (5, 4)).astype(np.uint8)
    vectors = codebooks[np.arange(4), code].reshape(5, 12)
    assert (notebook.pq_encode(vectors, codebooks) == code).all()
    query = RNG.normal(size=12)
    np.testing.assert_allclose(notebook.pq_scores(query, code, codebooks), vectors @ query)


@pytest.mark.parametrize("down, right", [(0, 0), (2, 0), (-2, 1), (1, -2), (-1, -1)])
def test_moved_images_are_moved_by_that_much(notebook, down, right):
    images = torch.zeros(2, 28, 28, dtype=torch.uint8)
    images[0, 10, 12], images[1, 0, 27] = 200, 50
    found = notebook.moved(images, down, right)
    assert found.shape == images.shape and found.dtype == torch.uint8
    assert found[0, 10 + down, 12 + right] == 200 and found[0].sum() == 200
    assert found[1].sum() == (50 if down >= 0 and right <= 0 else 0)


def test_embeddings_are_the_features_in_the_order_of_the_images(notebook):
    torch.manual_seed(0)
    network = notebook.garment_net(10).eval()
    images = torch.randint(0, 256, (13, 28, 28), dtype=torch.uint8)
    preprocess = notebook.Preprocessing(28, 0.3, 0.3)
    center, directions = torch.randn(1024), torch.randn(1024, 6)
    found = notebook.embed(network, preprocess, images, center, directions)
    with torch.no_grad():
        expected = torch.stack([(network[:-1](preprocess(image[None]))[0] - center) @ directions for image in images])
    np.testing.assert_allclose(found, expected.numpy(), rtol=1e-3, atol=1e-3)


def test_the_front_is_what_no_other_beats(notebook):
    recalls = np.array([0.5, 0.9, 0.9, 1.0, 0.4, 1.0])
    times = np.array([1.0, 2.0, 3.0, 9.0, 1.0, 8.0])
    assert notebook.pareto(recalls, times).tolist() == [True, True, False, False, False, True]
    assert notebook.pareto(np.ones(3), np.ones(3)).all()


def test_the_fastest_setting_reaches_the_target(notebook):
    table = pd.DataFrame({"index": ["IVF", "IVF", "IVF", "PQ"], "recall": [0.8, 0.96, 0.99, 1.0], "ms": [1, 2, 3, 0.5]})
    assert notebook.fastest(table, "IVF", 0.95) == 2
    assert np.isnan(notebook.fastest(table, "IVF", 0.999))


def test_labels_of_neighbors(notebook):
    rows = np.array([[0, 1], [2, 3]])
    assert notebook.same_label(rows, torch.tensor([5, 6, 7, 7]), torch.tensor([5, 7])) == pytest.approx(0.75)


def test_all_indexes_are_measured_against_flat(notebook):
    store, queries = unit(900, 16), unit(30, 16)
    table = notebook.compare_indexes(store, queries, 5, 3)
    assert table["index"].value_counts().to_dict() == {"IVF": 3, "HNSW": 2, "PQ": 2, "Flat": 1}
    exact = notebook.exact_search(queries, store, 5)[0]
    for kind, build in (("IVF", notebook.build_ivf), ("HNSW", notebook.build_hnsw)):
        index = build(store)
        for _, row in table[table["index"] == kind].iterrows():
            if kind == "IVF":
                index.nprobe = int(row["setting"])
            else:
                index.hnsw.efSearch = int(row["setting"])
            found = notebook.recall(index.search(queries, 5)[1], exact)
            assert row["recall"] == pytest.approx(found, abs=0.05)
    assert table.loc[(table["index"] == "IVF") & (table["setting"] == 64), "recall"].item() == pytest.approx(1)
    memory = table.groupby("index")["MB"].min()
    assert memory["PQ"] < memory["Flat"] < memory["HNSW"]
    assert memory["Flat"] == pytest.approx(900 * 16 * 4 / 1e6, rel=0.01)
    assert (table["ms"] > 0).all() and (table["build s"] > 0).all()


def test_a_code_is_learned_from_many_vectors(notebook):
    store = unit(2000, 8)
    reference = faiss.IndexPQ(8, 2, 8, faiss.METRIC_INNER_PRODUCT)
    reference.train(store)
    reference.add(store)
    ours, theirs = (((index.reconstruct_n(0, len(store)) - store) ** 2).mean()
                    for index in (notebook.build_pq(store, 2), reference))
    assert ours < 1.03 * theirs


def test_latency_is_of_one_query_in_milliseconds(notebook):
    shapes = []

    def search(query, k):
        shapes.append((query.shape, k))
        time.sleep(0.02)

    assert 20 <= notebook.latency_ms(SimpleNamespace(search=search), unit(3, 8), 5) < 200
    assert shapes == [((1, 8), 5)] * 3


# --- which images go where, and what tables and results say


def test_the_store_holds_training_images_and_queries_are_of_the_test_set(notebook):
    class Numbers(SimpleNamespace):
        def __len__(self):
            return len(self.data)

    def dataset(root, train, download):
        numbers = torch.arange(600) if train else torch.arange(1000, 1100)
        return Numbers(data=numbers[:, None, None].float(), targets=numbers % 10, classes=["a"])

    found = run_cell(NOTEBOOK, "train_rows = order[", FashionMNIST=dataset, SEED=0, QUERIES=30,
                     Preprocessing=notebook.Preprocessing)
    assert found["images"]["test"].flatten().tolist() == list(range(1000, 1030))
    for part, images in found["images"].items():
        assert (images.flatten() % 10).tolist() == found["labels"][part].tolist(), part
    assert len(set(found["images"]["train"].flatten().tolist())) == 500


def test_directions_are_those_of_the_largest_variance():
    features = torch.randn(500, 20, generator=torch.Generator().manual_seed(0)) * torch.logspace(0, 2, 20)
    vectors = np.ones((4, 3))
    found = run_cell(NOTEBOOK, "some = features_of", x_train=torch.zeros(500), network=None, preprocess=None,
                     DIMENSIONS=3, features_of=lambda network, x: features[: len(x)], embed=lambda *arguments: vectors,
                     images={"train": None, "test": None}, normalized=lambda x: x / 2)
    variances = ((features - found["center"]) @ found["directions"]).var(dim=0)
    expected = torch.linalg.eigvalsh(torch.cov(features.T)).flip(0)[:3]
    torch.testing.assert_close(variances, expected, rtol=1e-3, atol=0)
    assert (found["stored"] == 0.5).all() and (found["queries"] == 0.5).all(), "what is searched is normalized"


def test_the_large_store_is_normalized():
    found = run_cell(NOTEBOOK, "many = normalized(many)", moved=lambda images, down, right: images, COPIES=3, SEED=0,
                     embed=lambda network, preprocess, images, center, directions: images.flatten(1).numpy(),
                     images={"train": 3 * torch.rand(20, 28, 28)}, tqdm=lambda moves, leave: moves,
                     network=None, preprocess=None, center=None, directions=None,
                     normalized=lambda x: x / np.linalg.norm(x, axis=1, keepdims=True))["many"]
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, rtol=1e-5)
    assert found.shape == (60, 784)


def test_the_largest_table_is_that_of_the_largest_store():
    found = run_cell(NOTEBOOK, "largest = tables[", SIZES=(10, 30, 20), many=unit(30, 4), queries=None, K=1, TIMED=1,
                     compare_indexes=lambda vectors, *_: pd.DataFrame({"n": [len(vectors)]}))
    assert found["largest"]["n"].item() == 30 and {n: t["n"].item() for n, t in found["tables"].items()} == {
        10: 10, 20: 20, 30: 30}


def test_results_are_taken_from_where_they_belong(notebook):
    largest = pd.DataFrame({"index": ["Flat", "IVF", "HNSW", "HNSW", "PQ", "PQ"], "setting": [0, 1, 16, 32, 8, 16],
                            "recall": [1, 0.7, 0.8, 0.9, 0.3, 0.5], "build s": [1, 2, 3, 3, 4, 5],
                            "MB": [10, 11, 12, 12, 1, 2]})
    growth = pd.DataFrame({"Flat": [1, 4], "IVF": [2, 5], "HNSW": [3, 6]}, index=[10, 20])
    truth = np.array([[1, 2]])
    found = run_cell(NOTEBOOK, '"careless_recall"', largest=largest, growth=growth, test_accuracy=0.9, SIZES=(10, 20),
                     agreement={"embedding": 0.8, "pixels": 0.7, "random": 0.1}, recall=notebook.recall, rows=truth,
                     careless_rows=np.array([[2, 3]]), CODE_BYTES=(8, 16))["results"]
    expected = {"test_accuracy": 0.9, "same_label_embedding": 0.8, "same_label_pixels": 0.7, "careless_recall": 0.5,
                "flat_ms": 4, "ivf_ms": 5, "hnsw_ms": 6, "hnsw_build_seconds": 3, "flat_mb": 10, "hnsw_mb": 12,
                "pq8_recall": 0.3, "pq16_recall": 0.5}
    assert found == pytest.approx(expected)
