"""Random checkpoints of real shapes in small files.

A tensor of any shape is a window of one short random vector, seen with small co-prime strides, so that entries
repeat along diagonals but not along any axis. `torch.load(weights_only=True)` and `load_state_dict` take it as it is.
"""
from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping

import torch

BRANCH_END = re.compile(r"bn[23]\.weight$")
GATE = re.compile(r"(block\.\d+\.fc2|se\.conv_expand)\.weight$")  # in torchvision and in timm
STRIDES = (1, 3, 7, 13, 29)  # of the last axis, the one before it, …


class Noise:
    """Hands out random windows of a few shared vectors, one a scale."""

    def __init__(self, seed: int = 0):
        self.generator = torch.Generator().manual_seed(seed)
        self.vectors: dict[int, torch.Tensor] = {}
        self.handed_out = 0

    def window(self, shape: torch.Size, spread: float) -> torch.Tensor:
        """A tensor of this shape with about this standard deviation (the power of √2 next to it)."""
        power = round(2 * math.log2(spread))
        strides = [STRIDES[min(len(shape) - 1 - axis, len(STRIDES) - 1)] for axis in range(len(shape))]
        self.handed_out = (self.handed_out + 101) % 1009
        length = 1 + self.handed_out + sum((size - 1) * stride for size, stride in zip(shape, strides))
        vector = self.vectors.get(power)
        if vector is None or len(vector) < length:
            vector = self.vectors[power] = 2 ** (power / 2) * torch.randn(length, generator=self.generator)
        return vector.as_strided(shape, strides, self.handed_out)


def random_like(state: Mapping[str, torch.Tensor], change: Callable[[str], float | None] = lambda name: None,
                seed: int = 0) -> dict[str, torch.Tensor]:
    """A state dict with the names and shapes of `state` (which may lie on the meta device) and small storage.

    Weights are spread as He et al. 2015 initialise them, norms are 1, biases 0, and the gates of
    squeeze-and-excitation half open; the norms that end a residual branch are small, so that features do not grow
    with depth. `change(name)` may give a constant instead.
    """
    noise, made = Noise(seed), {}
    longest = sorted(state.items(), key=lambda item: -sum(item[1].shape))  # so that every vector is long enough at once
    for name, tensor in longest:
        constant = 0.0 if GATE.search(name) else change(name)
        if constant is None and (tensor.ndim < 2 or not tensor.is_floating_point()):
            constant = (0.2 if BRANCH_END.search(name) else
                        1.0 if name.endswith(("weight", "running_var")) else 0.0)
        if constant is None:
            made[name] = noise.window(tensor.shape, math.sqrt(2 / max(1, math.prod(tensor.shape[1:]))))
        else:
            made[name] = torch.full((), constant, dtype=tensor.dtype).expand(tensor.shape)
    return {name: made[name] for name in state}
