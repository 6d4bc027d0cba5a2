"""Random checkpoints of real shapes in small files.

A tensor of any shape is a window of one short random vector, seen with small co-prime strides, so that entries
repeat along diagonals but not along any axis. `torch.load(weights_only=True)` and `load_state_dict` take it as it is.
The spreads that batch norms divide by are measured, so that deep random features neither explode nor vanish.
"""
from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import nn

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

    Weights are spread as He et al. 2015 initialise them, norms are 1, biases 0; `change(name)` may give a constant
    instead.
    """
    noise, made = Noise(seed), {}
    longest = sorted(state.items(), key=lambda item: -sum(item[1].shape))  # so that every vector is long enough at once
    for name, tensor in longest:
        constant = change(name)
        if constant is None and (tensor.ndim < 2 or not tensor.is_floating_point()):
            constant = 1.0 if name.endswith(("weight", "running_var")) else 0.0
        if constant is None:
            made[name] = noise.window(tensor.shape, math.sqrt(2 / max(1, math.prod(tensor.shape[1:]))))
        else:
            made[name] = torch.full((), constant, dtype=tensor.dtype).expand(tensor.shape)
    return {name: made[name] for name in state}


def calibrated(model: nn.Module, trunk: nn.Module, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """`state`, with the spread that the input of each batch norm has when `trunk`, a part of `model`, sees noise.

    One number a layer: features keep the size of 1 from layer to layer, and no rare channel is blown up. `model` may
    lie on the meta device; it takes `state` over. Frozen batch norms count too.
    """
    norms = {name: module for name, module in model.named_modules() if getattr(module, "running_var", None) is not None}

    def measure(module: nn.Module, inputs: tuple[torch.Tensor]) -> None:
        module.running_var = inputs[0].square().mean().expand(module.running_var.shape)

    if norms:
        model.load_state_dict(state, assign=True)
        for module in norms.values():
            module.register_forward_pre_hook(measure)
        coarse = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            trunk.eval()(nn.functional.interpolate(coarse, size=64, mode="bilinear"))
    return {**state, **{f"{name}.running_var": module.running_var for name, module in norms.items()}}
