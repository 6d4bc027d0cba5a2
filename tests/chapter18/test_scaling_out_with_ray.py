"""What the workers of the Ray notebook compute, without Ray: shares of a batch, layers, rows with their answers."""
import socket
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

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


def test_a_worker_of_ray_data_embeds_the_rows_it_was_given(notebook, monkeypatch):
    torch.manual_seed(2)
    images = torch.randint(0, 256, (40, 28, 28), dtype=torch.uint8)
    monkeypatch.setitem(notebook.Embed.__init__.__globals__, "FashionMNIST",
                        lambda root, train: SimpleNamespace(data=images[:20] if train else images))
    network = notebook.with_group_norm(notebook.garment_net(10)).eval()
    preprocess = notebook.Preprocessing(28, 0.3, 0.3)
    logits = network(preprocess(images)).detach()
    worker = notebook.Embed(network.state_dict(), preprocess, "nowhere")
    for rows in (np.arange(40), np.random.default_rng(0).permutation(40)[:13], np.array([39])):
        found = worker({"id": rows})
        assert found["id"].tolist() == rows.tolist() and not worker.features.training
        with torch.no_grad():
            torch.testing.assert_close(network[-1](torch.from_numpy(found["embedding"])), logits[rows])


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
