"""What the training loop of chapters 3 and 4 costs, against a slower one and against the least possible.

    python -m tests.benchmarks                          # 50,000 images, five rounds; an hour on two CPU cores
    python -m tests.benchmarks --images 5000 --rounds 7

One epoch, batch 32, of the 784-1000-10 network and of the convolutional network of chapter 4, by three loops:

- `tensor loop`  the notebooks' own `train_one_epoch`: bytes on the device, batches by index, metrics in passing; with
                 the notebooks' optimizer and memory format;
- `per item`     a `Dataset` that hands over one float image at a time, a `DataLoader`, the optimizer and the memory
                 format that are PyTorch's defaults, and a second pass over the data for the accuracy;
- `floor`        forward, backward and step of the tensor loop's model over batches that are ready: what remains if
                 everything else cost nothing.

The three alternate in one process, after one round that is not counted. Printed are medians, their range, and ratios
of medians. The images are noise of Fashion-MNIST's size: the arithmetic does not depend on what they show.
"""
import argparse
import platform
import statistics
import time
from collections.abc import Callable

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

from tests.definitions import definitions

BATCH_SIZE = 32
NOTEBOOKS = {"MLP 784-1000-10": ("Chapter03/Steps_to_build_a_neural_network_on_FashionMNIST.ipynb", "new_model"),
             "CNN 64-128": ("Chapter04/CNN_on_FashionMNIST.ipynb", "new_cnn")}


class PerItem(Dataset):
    """Item i is a float32 image of the shape (784,) or (1, 28, 28), in [0, 1], with its label, both on `device`."""

    def __init__(self, images: torch.Tensor, labels: torch.Tensor, shape: tuple[int, ...], device: torch.device):
        self.images, self.labels = images.cpu().float().div(255).view(-1, *shape), labels.cpu()
        self.device = device

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int) -> tuple[torch.Tensor, torch.Tensor]:
        return self.images[i].to(self.device), self.labels[i].to(self.device)


def per_item_epoch(model: nn.Module, dataset: PerItem, optimizer: torch.optim.Optimizer) -> float:
    """One pass of training, a second one for the accuracy, which it returns."""
    loss_fn = nn.CrossEntropyLoss()
    loader = DataLoader(dataset, batch_size=BATCH_SIZE, shuffle=True)
    model.train()
    for x, y in loader:
        loss = loss_fn(model(x), y)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    correct = 0
    model.eval()
    with torch.no_grad():
        for x, y in loader:
            correct += (model(x).argmax(1) == y).sum().item()
    return correct / len(dataset)


def floor_epoch(model: nn.Module, batches: list[tuple[torch.Tensor, torch.Tensor]],
                optimizer: torch.optim.Optimizer) -> None:
    """Forward, backward and step over batches that lie ready."""
    loss_fn = nn.CrossEntropyLoss()
    model.train()
    for x, y in batches:
        loss = loss_fn(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def loops(notebook: str, builder: str, images: torch.Tensor, labels: torch.Tensor,
          device: torch.device) -> dict[str, Callable]:
    """The three loops over the model of `notebook` that its function `builder` makes, by name; each makes one epoch."""
    lesson = definitions(notebook, builder, "train_one_epoch", "to_inputs")
    images, labels = images.to(device), labels.to(device)
    shape = tuple(lesson.to_inputs(images[:1]).shape[1:])
    channels_last = len(shape) == 3

    def fresh(tuned: bool) -> tuple[nn.Module, torch.optim.Optimizer]:
        model = getattr(lesson, builder)(0, device)
        layout = torch.channels_last if tuned and channels_last else torch.contiguous_format
        if channels_last:
            model = model.to(memory_format=layout)
        return model, torch.optim.Adam(model.parameters(), lr=1e-3, fused=True if tuned else None)

    model, optimizer = fresh(tuned=True)
    generator = torch.Generator().manual_seed(0)
    slow_model, slow_optimizer = fresh(tuned=False)
    dataset = PerItem(images, labels, shape, device)
    bare_model, bare_optimizer = fresh(tuned=True)
    order = torch.randperm(len(images), generator=generator).to(device)
    ready = [(lesson.to_inputs(images[batch]), labels[batch]) for batch in order.split(BATCH_SIZE)]
    return {
        "tensor loop": lambda: lesson.train_one_epoch(
            model, images, labels, nn.CrossEntropyLoss(), optimizer, BATCH_SIZE, generator),
        "per item": lambda: per_item_epoch(slow_model, dataset, slow_optimizer),
        "floor": lambda: floor_epoch(bare_model, ready, bare_optimizer),
    }


def seconds(function: Callable, device: torch.device) -> float:
    """Wall-clock time of one call, with the device's queue empty before and after."""
    wait = torch.accelerator.synchronize if device.type != "cpu" else lambda: None
    wait()
    start = time.perf_counter()
    function()
    wait()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks",
                                     description="Time the training loop of chapters 3 and 4.")
    parser.add_argument("--images", type=int, default=50_000, help="images in an epoch (default: 50,000)")
    parser.add_argument("--rounds", type=int, default=5, help="epochs of each loop that count (default: 5)")
    parser.add_argument("--only", choices=("MLP", "CNN"), help="one of the two models (default: both)")
    parser.add_argument("--threads", type=int, help="threads of PyTorch on the CPU (default: its own choice)")
    parser.add_argument("--device", default="cpu", help="device to run on, such as cpu, cuda or mps (default: cpu)")
    arguments = parser.parse_args()
    if arguments.images < BATCH_SIZE or arguments.rounds < 1:
        parser.error(f"at least {BATCH_SIZE} images and one round")
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    device = torch.device(arguments.device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    print(f"{arguments.images:,} images, batch {BATCH_SIZE}, {arguments.rounds} rounds, {name}, "
          f"{torch.get_num_threads()} threads, torch {torch.__version__}")
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (arguments.images, 28, 28), dtype=torch.uint8, generator=generator)
    labels = torch.randint(0, 10, (arguments.images,), generator=generator)
    for title, (notebook, builder) in NOTEBOOKS.items():
        if arguments.only and not title.startswith(arguments.only):
            continue
        functions = loops(notebook, builder, images, labels, device)
        times: dict[str, list[float]] = {loop: [] for loop in functions}
        for turn in range(arguments.rounds + 1):
            for loop, function in functions.items():
                taken = seconds(function, device)
                if turn:
                    times[loop].append(taken)
        median = {loop: statistics.median(taken) for loop, taken in times.items()}
        print(f"\n{title}")
        for loop, taken in times.items():
            print(f"  {loop:12s} {median[loop]:8.2f} s   ({min(taken):.2f} to {max(taken):.2f})")
        print(f"  tensor loop / floor    {median['tensor loop'] / median['floor']:.2f}")
        print(f"  per item / tensor loop {median['per item'] / median['tensor loop']:.2f}")


if __name__ == "__main__":
    main()
