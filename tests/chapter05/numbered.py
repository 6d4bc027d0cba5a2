"""Digits that tell their number: for tests of which rows go where."""
import torch


class Numbered:
    """Stands for MNIST: image k has the pixels k, its label follows from k."""

    def __init__(self, root, train=True, download=False):
        numbers = torch.arange(100) if train else torch.arange(150, 190)
        self.data = numbers.to(torch.uint8)[:, None, None].expand(-1, 28, 28).clone()
        self.targets = numbers * 7 % 10

    def __len__(self):
        return len(self.data)
