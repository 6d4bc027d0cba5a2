"""What the workers of the Ray notebook compute, without Ray: shares of a batch, layers, rows with their answers."""
import asyncio
import os
import socket
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

from tests.cells import run_cell
from tests.definitions import definitions

NOTEBOOK = "Chapter18/Scaling_out_with_Ray.ipynb"
CONFIG = {"seed": 0, "epochs": 2, "batch_size": 8, "rate": 0.01}


@pytest.fixture(scope="module")
def notebook():
    """What the lesson defines."""
    return definitions(NOTEBOOK, "share_of", "with_group_norm", "garment_net", "train_distributed", "Embed",
                       "neighbors_of", "Preprocessing", "free_port")


@pytest.mark.parametrize("world", [1, 2, 3, 8])
@pytest.mark.parametrize("size", [1, 8, 17, 128])
def test_shares_are_a_partition_as_even_as_can_be(notebook, world, size):
    rows = torch.randperm(size)
    shares = [notebook.share_of(rows, rank, world) for rank in range(world)]
    assert sorted(torch.cat(shares).tolist()) == list(range(size))
    sizes = [len(share) for share in shares]
    assert max(sizes) - min(sizes) <= 1


def test_group_norm_takes_the_place_of_batch_norm_and_looks_at_each_image_alone(notebook):
    torch.manual_seed(0)
    plain = notebook.garment_net(10)
    network = notebook.with_group_norm(plain).train()
    kinds = [type(layer) for layer in plain]
    assert [type(layer) for layer in network] == [nn.GroupNorm if kind is nn.BatchNorm2d else kind for kind in kinds]
    x = torch.randn(6, 1, 28, 28)
    with torch.no_grad():
        torch.testing.assert_close(network(x)[:2], network(x[:2]))
        assert not torch.allclose(plain.train()(x)[:2], plain(x[:2]), atol=1e-3)


@pytest.mark.parametrize("world", [2, 4])
def test_the_mean_of_the_workers_gradients_is_that_of_the_batch(notebook, world):
    torch.manual_seed(0)
    network = notebook.with_group_norm(notebook.garment_net(10)).double()
    x, y, rows = torch.randn(32, 1, 28, 28).double(), torch.randint(10, (32,)), torch.randperm(32)

    def gradient(mine):
        return torch.autograd.grad(F.cross_entropy(network(x[mine]), y[mine]), list(network.parameters()))

    parts = [gradient(notebook.share_of(rows, rank, world)) for rank in range(world)]
    for whole, *pieces in zip(gradient(rows), *parts):
        torch.testing.assert_close(sum(pieces) / world, whole, rtol=0, atol=1e-12)


@pytest.fixture
def alone(notebook, monkeypatch):
    """train_distributed without other workers: nothing is wrapped, and nothing is added up."""
    train = notebook.train_distributed
    monkeypatch.setattr(train.__globals__["ray"].train.torch, "prepare_model", lambda network: network)
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda tensor: None)
    x, y = torch.randn(24, 1, 28, 28).double(), torch.arange(24) % 10

    def losses(rank, world, divide=True):
        torch.manual_seed(1)
        return train(notebook.with_group_norm(notebook.garment_net(10)).double(), x, y, divide, CONFIG, rank, world)

    return losses


def test_the_first_losses_of_two_workers_are_the_loss_of_one(alone):
    whole = alone(0, 1)
    assert len(whole) == 6 and whole[-1] < whole[0]
    assert alone(0, 2)[0] + alone(1, 2)[0] == pytest.approx(whole[0], abs=1e-12)
    undivided = alone(0, 2, divide=False)[0] + alone(1, 2, divide=False)[0]
    assert abs(undivided - whole[0]) > 1e-4


@pytest.mark.parametrize("divide, images", [(True, 4), (False, 8)])
def test_a_worker_computes_its_share_and_no_more(alone, monkeypatch, divide, images):
    """Whole batches on every worker give the same mean gradient: the losses do not tell, the work does."""
    sizes, entropy = [], F.cross_entropy
    monkeypatch.setattr(F, "cross_entropy", lambda logits, y: sizes.append((len(logits), len(y))) or entropy(logits, y))
    for rank in range(2):
        alone(rank, 2, divide)
    assert sizes == 2 * 6 * [(images, images)]


def test_a_worker_of_ray_data_embeds_the_rows_it_was_given(notebook, tmp_path):
    torch.manual_seed(2)
    images = torch.randint(0, 256, (40, 28, 28), dtype=torch.uint8)
    np.save(tmp_path / "images.npy", images)
    network = notebook.with_group_norm(notebook.garment_net(10)).eval()
    preprocess = notebook.Preprocessing(28, 0.3, 0.3)
    logits = network(preprocess(images)).detach()
    worker = notebook.Embed(network.state_dict(), preprocess, tmp_path / "images.npy")
    for rows in (np.arange(40), np.random.default_rng(0).permutation(40)[:13], np.array([39])):
        found = worker({"id": rows})
        assert found["id"].tolist() == rows.tolist() and not any(layer.training for layer in worker.features)
        with torch.no_grad():
            torch.testing.assert_close(network[-1](torch.from_numpy(found["embedding"])), logits[rows])


def test_the_collection_is_that_of_the_test_images_and_comes_back_sorted(tmp_path, monkeypatch):
    """An image is full of its number, an embedding is the mean of its image; Ray hands the last ones back first."""
    class Mean:
        def __init__(self, weights, preprocess, file):
            self.images = np.load(file)

        def __call__(self, batch):
            return self.images[batch["id"]].reshape(len(batch["id"]), -1).mean(axis=1, keepdims=True)

    def map_batches(kind, fn_constructor_args, **options):
        ids = np.arange(30)[::-1]
        found = pd.DataFrame({"id": ids, "embedding": list(kind(*fn_constructor_args)({"id": ids}).astype(np.float32))})
        return SimpleNamespace(to_pandas=lambda: found)

    data = SimpleNamespace(
        DataContext=SimpleNamespace(get_current=SimpleNamespace), ActorPoolStrategy=lambda size: None,
        range=lambda count, override_num_blocks: SimpleNamespace(map_batches=map_batches))
    images = {part: torch.arange(first, first + 40, dtype=torch.uint8)[:, None, None].expand(-1, 28, 28).contiguous()
              for part, first in (("train", 0), ("test", 100))}
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()

    class Images(SimpleNamespace):
        def __len__(self):
            return len(self.data)

    test_set = Images(data=images["test"])
    found = run_cell(NOTEBOOK, "map_batches(\n    Embed", COLLECTION=30, test_set=test_set, Embed=Mean, weights=None,
                     train_set=Images(data=images["train"]), preprocess=None, ray=SimpleNamespace(data=data))
    assert len(found["embedded"]) == 30 and found["in_order"] is False
    network = type("Network", (), {"eval": lambda self: self, "load_state_dict": lambda self, weights: None,
                                   "__getitem__": lambda self, layers: lambda x: x.float().mean(dim=(1, 2))[:, None]})()
    found = run_cell(NOTEBOOK, "embeddings = torch.from_numpy(np.stack", embedded=found["embedded"], weights=None,
                     with_group_norm=lambda plain: network, garment_net=lambda classes: None, count=30,
                     preprocess=lambda pixels: pixels, test_set=test_set)
    assert found["embeddings"][:, 0].tolist() == list(range(100, 130))
    torch.testing.assert_close(found["embeddings"], found["direct"])


@pytest.mark.parametrize("rows, k", [(30, 5), (30, 29), (2, 1)])
def test_neighbors_are_those_of_scikit_learn(notebook, rows, k):
    from sklearn.neighbors import NearestNeighbors

    x = np.random.default_rng(rows).normal(size=(rows, 7)) * np.geomspace(1e-3, 1e3, rows)[:, None]
    search = NearestNeighbors(metric="cosine").fit(x)
    expected = search.kneighbors(n_neighbors=k, return_distance=False)  # of each row, without itself
    for query in range(0, rows, 7):
        found = notebook.neighbors_of(query, torch.from_numpy(x), k)
        assert found.tolist() == expected[query].tolist()


def test_neighbors_of_twins_zeros_and_opposites(notebook):
    x = torch.tensor([[1.0, 0], [2, 0], [0, 0], [-1, 0], [0, 3]])
    assert notebook.neighbors_of(0, x, 1).tolist() == [1] and notebook.neighbors_of(1, x, 1).tolist() == [0]
    assert notebook.neighbors_of(0, x, 4).tolist()[-1] == 3
    assert 2 not in notebook.neighbors_of(2, x, 4).tolist()


def test_a_free_port_can_be_listened_on(notebook):
    for _ in range(3):
        with socket.socket() as server:
            server.bind(("127.0.0.1", notebook.free_port()))


# --- the server's class, without Ray


@pytest.fixture
def garments(notebook, tmp_path):
    """A replica, its network, and a function that asks it about all images of a list at the same time."""
    def plain(*arguments, **options):
        return lambda decorated: decorated

    sizes = []

    def batch(**options):
        def decorate(method):
            async def gathered(self, x):
                self.waiting = [*getattr(self, "waiting", []), x]
                place = len(self.waiting) - 1
                await asyncio.sleep(0.05)  # the others have come by now
                if place == 0:
                    sizes.append(len(self.waiting))
                    self.replies = await method(self, self.waiting)
                await asyncio.sleep(0.05)
                return self.replies[place]

            return gathered
        return decorate

    app = SimpleNamespace(post=plain)
    kind = definitions(NOTEBOOK, "Garments", serve=SimpleNamespace(deployment=plain, ingress=plain, batch=batch),
                       APP=app).Garments
    torch.manual_seed(3)
    network = notebook.with_group_norm(notebook.garment_net(10)).eval()
    preprocess = notebook.Preprocessing(28, 0.3, 0.3)
    replica = kind(network.state_dict(), preprocess, list("abcdefghij"))

    def ask(images, **options):
        async def predict(image):
            path = tmp_path / "a.png"
            Image.fromarray(image).save(path)
            content = path.read_bytes()

            async def read():
                return content

            return await replica.predict(SimpleNamespace(read=read), **options)

        async def everybody():
            return await asyncio.gather(*(predict(image) for image in images))

        return asyncio.run(everybody())

    return SimpleNamespace(ask=ask, network=network, preprocess=preprocess, sizes=sizes)


@pytest.mark.parametrize("options, together", [({}, 4), ({"batching": False}, 1)])
def test_each_request_gets_the_answer_about_its_own_image(garments, options, together):
    images = [np.random.default_rng(n).integers(0, 256, (40 - n, 28), dtype=np.uint8) for n in range(4)]
    found = garments.ask(images, **options)
    for image, reply in zip(images, found):
        with torch.no_grad():
            p = garments.network(garments.preprocess(torch.from_numpy(image)[None])).softmax(dim=1)[0]
        assert reply["probability"] == pytest.approx(p.max().item(), abs=1e-5)
        assert reply["class"] == "abcdefghij"[p.argmax()] and reply["together"] == together
        assert reply["process"] == os.getpid()
    assert garments.sizes == ([4] if together == 4 else [])


# --- what figures and results say


def test_the_gain_is_that_of_more_replicas():
    rates = {("1 replica", "garment"): [100.0, 110], ("2 replicas", "garment"): [110.0, 120],
             ("2 replicas, no batching", "garment"): [90.0, 90], ("1 replica", "photo"): [4.0, 6],
             ("2 replicas", "photo"): [9.0, 11], ("2 replicas, no batching", "photo"): [7.0, 7]}
    settings = dict.fromkeys(("1 replica", "2 replicas", "2 replicas, no batching"))
    throughput = run_cell(NOTEBOOK, "throughput = pd.Series", rates=rates, settings=settings)["throughput"]
    assert throughput.loc["2 replicas", "photo"] == 10 and throughput.loc["1 replica", "garment"] == 105
    drawn = run_cell(NOTEBOOK, "gain = throughput.loc", settings=settings, rates=rates, throughput=throughput,
                     uploads={"garment": None, "photo": None}, several="2 replicas",
                     ray=SimpleNamespace(cluster_resources=lambda: {"CPU": 3.0}))
    title = drawn["ax"].get_title()
    assert drawn["gain"] == 2 and title.startswith("2 replicas answer photos 2.0 times as fast") and "3" in title
    heights = [[bar.get_height() for bar in bars] for bars in drawn["ax"].containers]
    assert heights[0] == pytest.approx([1, 115 / 105, 90 / 105]) and heights[1] == pytest.approx([1, 2, 1.4])
    losses = {"group": np.array([1.0, 2]), "batch": np.array([1.0, 2])}
    two = {"group": np.array([1.0, 2.5]), "batch": np.array([1.0, 3]), "mistake": np.array([4.0, 2])}
    found = run_cell(
        NOTEBOOK, '"batch_norm_difference"', training_difference=0.5, one=losses, two=two, group="group", batch="batch",
        mistake="mistake", test_accuracy=0.9, baseline=0.1, lost_accuracy=0.2, embedding_difference=1e-7, gain=2.0,
        served_difference=1e-6, throughput=throughput, names=list(settings), ray_data_seconds=9.0, direct_seconds=0.5,
        one_seconds={"group": 8.0, "batch": 7.0}, two_seconds={"group": 5.0, "batch": 6.0, "mistake": 4.0})["results"]
    assert found == pytest.approx({
        "training_difference": 0.5, "batch_norm_difference": 1, "undivided_batch_difference": 3, "test_accuracy": 0.9,
        "most_frequent_class_accuracy": 0.1, "order_lost_accuracy": 0.2, "embedding_difference": 1e-7,
        "training_seconds_1_worker": 8, "training_seconds_2_workers": 5, "ray_data_seconds": 9,
        "one_process_seconds": 0.5, "served_difference": 1e-6, "photo_gain": 2, "garments_per_second_1_replica": 105,
        "garments_per_second_replicas": 115, "garments_per_second_no_batching": 90, "photos_per_second_1_replica": 5,
        "photos_per_second_replicas": 10})


def test_seconds_are_compared_variant_by_variant():
    found = run_cell(NOTEBOOK, 'training["times as fast"]', group="group", batch="batch",
                     one_seconds={"group": 8.0, "batch": 6.0},
                     two_seconds={"group": 5.0, "batch": 6.0, "mistake": 4.0})["training"]
    assert found.loc["group"].tolist() == [8, 5, 1.6] and found.loc["batch"].tolist() == [6, 6, 1]


def test_a_worker_reports_its_losses_and_seconds_and_the_weights_of_the_first_variant(notebook, monkeypatch):
    from tests.definitions import definitions

    lesson = definitions(NOTEBOOK, "train_on_worker")
    scope, asked, reported, starts = lesson.train_on_worker.__globals__, [], [], []
    context = SimpleNamespace(get_world_rank=lambda: 1, get_world_size=lambda: 2)
    ray = SimpleNamespace(get=lambda data: data, train=SimpleNamespace(get_context=lambda: context))

    def train_distributed(network, x, y, divide, config, rank, world):
        asked.append((any(isinstance(layer, nn.GroupNorm) for layer in network), divide, rank, world))
        starts.append(network[0].weight.detach().clone())
        nn.init.constant_(network[-1].bias, len(asked))
        return [float(len(asked))]

    monkeypatch.setitem(scope, "ray", ray)
    monkeypatch.setitem(scope, "train_distributed", train_distributed)
    monkeypatch.setitem(scope, "report", lambda metrics, network, rank: reported.append((metrics, network, rank)))
    variants = {"group": (True, True), "batch": (False, True), "mistake": (True, False)}
    lesson.train_on_worker({"data": (np.zeros((2, 1, 28, 28)), np.zeros(2)), "variants": variants, "seed": 0})
    assert asked == [(True, True, 1, 2), (False, True, 1, 2), (True, False, 1, 2)]
    torch.manual_seed(0)
    expected = notebook.garment_net(10)[0].weight.double()
    assert all(torch.equal(start, expected) for start in starts), "every worker and variant starts from the seed"
    metrics, network, rank = reported[0]
    assert {name: metrics[name] for name in variants} == {"group": [1.0], "batch": [2.0], "mistake": [3.0]}
    assert rank == 1 and all(metrics[f"seconds, {name}"] >= 0 for name in variants)
    assert network[-1].bias.unique().tolist() == [1] and network[-1].bias.dtype == torch.float32


def test_each_server_has_the_replicas_of_its_address():
    started, asked = [], []
    kind = SimpleNamespace(options=lambda num_replicas: SimpleNamespace(bind=lambda *arguments: num_replicas))
    serve = SimpleNamespace(start=lambda http_options: None,
                            run=lambda application, name, route_prefix: started.append((application, route_prefix)))
    run_cell(NOTEBOOK, "application = Garments.options", serve=serve, Garments=kind, REPLICAS=3, weights=None,
             preprocess=None, classes=None, free_port=lambda: 8000, test_set=SimpleNamespace(data=["an image"]),
             ask=lambda url, image: asked.append((url, image)) or {"class": "boot"})
    assert started == [(1, "/1"), (3, "/3")] and asked == [("http://127.0.0.1:8000/1/predict", "an image")]


def test_a_measurement_takes_turns_and_does_not_count_its_first_round():
    asked = []

    def load(url, content, clients, requests):
        asked.append((url, content, clients, requests))
        return None, float(len(asked))

    found = run_cell(NOTEBOOK, "rates = {(name, kind)", put_under_load=load, server="s", REPLICAS=3, REPEATS=2,
                     CLIENTS=4, uploads={"garment": (b"g", 40), "photo": (b"p", 8)})
    first = [("s/1/predict", b"g"), ("s/1/predict", b"p"), ("s/3/predict", b"g"), ("s/3/predict", b"p"),
             ("s/3/predict?batching=false", b"g"), ("s/3/predict?batching=false", b"p")]
    assert [call[:2] for call in asked] == 3 * first
    assert [call[2:] for call in asked] == [(4, 4)] * 6 + [(4, 40), (4, 8)] * 6
    assert found["rates"]["3 replicas", "photo"] == [10, 16] and len(found["rates"]) == 6
