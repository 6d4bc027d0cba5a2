"""What CNN_on_FashionMNIST.ipynb defines: sizes of its networks, its loop, its evaluation."""
import pytest
import torch
from torch import nn

from tests.definitions import definitions

NOTEBOOK = "Chapter04/CNN_on_FashionMNIST.ipynb"
CPU = torch.device("cpu")
lesson = definitions(NOTEBOOK, "to_image_inputs", "new_cnn", "new_mlp", "train_one_epoch", "predict", "accuracy",
                     "train")


def some(n, seed=0):
    """n noisy images, and labels that follow from the height of a bright bar."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % 10
    images = torch.randint(0, 60, (n, 28, 28), generator=generator)
    for image, label in zip(images, labels.tolist()):
        image[4 + 2 * label : 6 + 2 * label] += 190
    return images.to(torch.uint8), labels


def test_inputs_keep_their_place_and_scale():
    images = torch.zeros(2, 28, 28, dtype=torch.uint8)
    images[1, 3, 5] = 255
    x = lesson.to_image_inputs(images)
    assert x.shape == (2, 1, 28, 28) and x.dtype == torch.float32
    assert x.sum() == 1 and x[1, 0, 3, 5] == 1


def test_two_networks_of_one_size():
    sizes = [sum(p.numel() for p in build(0, CPU).parameters()) for build in (lesson.new_cnn, lesson.new_mlp)]
    assert sizes[0] == 896_906 and abs(sizes[1] / sizes[0] - 1) < 0.01


@pytest.mark.parametrize("build", ["new_cnn", "new_mlp"])
def test_weights_follow_from_the_seed(build):
    first, again, other = (getattr(lesson, build)(seed, CPU) for seed in (3, 3, 4))
    assert all(torch.equal(p, q) for p, q in zip(first.parameters(), again.parameters()))
    assert not torch.equal(next(first.parameters()), next(other.parameters()))


def test_an_epoch_visits_every_image_once_and_reports_what_it_saw():
    images, labels = some(23)
    seen, losses = [], []

    class Spy(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(784, 10)

        def forward(self, x):
            assert self.training
            seen.append(x.flatten(1))
            return self.linear(x.flatten(1))

    def loss_fn(logits, targets):
        loss = nn.functional.cross_entropy(logits, targets)
        losses.append((loss.item(), len(targets), (logits.argmax(1) == targets).sum().item()))
        return loss

    model = Spy().eval()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)
    generator = torch.Generator().manual_seed(0)
    loss, share = lesson.train_one_epoch(model, images, labels, loss_fn, optimizer, 5, generator, scheduler)
    visited = torch.cat(seen).mul(255).round().sum(1)
    assert torch.equal(visited.sort().values, images.flatten(1).float().sum(1).sort().values)
    assert [len(batch) for batch in seen] == [5, 5, 5, 5, 3] and scheduler.last_epoch == 5
    assert loss == pytest.approx(sum(value * n for value, n, _ in losses) / 23, rel=1e-5)
    assert share == pytest.approx(sum(right for _, _, right in losses) / 23)


def test_evaluation_is_without_dropout_and_leaves_running_statistics_alone():
    images, labels = some(40)
    model = lesson.new_cnn(0, CPU, dropout=0.5).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    once, again = lesson.predict(model, images, batch_size=7), lesson.predict(model, images, batch_size=40)
    torch.testing.assert_close(once, again, rtol=1e-4, atol=1e-5)
    assert not model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert lesson.accuracy(once, once.argmax(1)) == 1 and lesson.accuracy(once, (once.argmax(1) + 1) % 10) == 0
    assert lesson.accuracy(torch.eye(10)[labels], labels) == 1


def test_training_learns_and_counts_its_steps():
    data = {"train": some(100, 1), "val": some(50, 2)}
    model = lesson.new_cnn(0, CPU)
    rows = lesson.train(model, data, epochs=3, batch_size=8, learning_rate=2e-3, seed=0)
    assert [row["epoch"] for row in rows] == [1, 2, 3] and rows[-1]["val"] > 0.5
    assert rows[0]["seconds"] < rows[1]["seconds"] < rows[2]["seconds"]
    assert [int(layer.num_batches_tracked) for layer in model if isinstance(layer, nn.BatchNorm2d)] == [39, 39]
