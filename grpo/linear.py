"""Linear layers that have an input in common, computed together, and their gradient.

y_i = x W_i^T + b_i (+ s (x A_i^T) B_i^T with LoRA)
dx = sum_i g_i W_i        dW_i = g_i^T x        db_i = sum g_i        g_i: the gradient of y_i
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from grpo.lora import LoraLinear
from grpo.onednn import Linear, available, pack_weight, packed, product, product_packed


class Linears:
    """Some linear layers of a module, by name: what they are is looked up anew each time, as it may be replaced."""

    def __init__(self, module: nn.Module, *names: str):
        self.module, self.names = module, names
        self.packed: tuple[Tensor, Tensor | None] | None = None

    @property
    def layers(self) -> list[nn.Linear | LoraLinear]:
        return [getattr(self.module, name) for name in self.names]

    def split(self, y: Tensor) -> tuple[Tensor, ...]:
        """[M, sum of outs] -> [M, out] each"""
        return y.split([layer.out_features for layer in self.layers], dim=-1)

    def whole(self, x: Tensor) -> Tensor:
        """[M, in] -> [M, sum of outs], without gradient."""
        if self.packed is not None:
            return product_packed(x, *self.packed)
        parts = self.parts(x)
        return torch.cat(parts, dim=-1) if len(parts) > 1 else parts[0]

    def parts(self, x: Tensor) -> tuple[Tensor, ...]:
        """[M, in] -> [M, out] each, without gradient."""
        if self.packed is not None:
            return self.split(product_packed(x, *self.packed))
        with torch.no_grad():
            return tuple(layer(x) for layer in self.layers)

    def parameters(self) -> list[Tensor | None]:
        """Four a layer: weight, bias, and LoRA's A and B."""
        return [p for layer in self.layers for p in _parameters(layer)]

    def backward(self, gradients: list[Tensor], x: Tensor) -> tuple[Tensor, list[Tensor | None]]:
        """From those of the outputs [M, out]: the gradients of x [M, in] and of `parameters()`."""
        dx, of_parameters = None, []
        for g, layer in zip(gradients, self.layers, strict=True):
            weight, bias, a, b = _parameters(layer)
            part = product(g, weight.t())
            dx = part if dx is None else dx.add_(part)
            of_parameters += [
                _outer(g, x) if weight.requires_grad else None,
                g.sum(dim=0) if bias is not None and bias.requires_grad else None,
                *[None] * 2,
            ]
            if a is not None:
                g32, x32 = g.to(a.dtype) * layer.scaling, x.to(a.dtype)
                inner = g32 @ b  # [M, r]
                of_parameters[-2:] = inner.t() @ x32, g32.t() @ (x32 @ a.t())
                dx += (inner @ a).to(dx.dtype)
        return dx, of_parameters

    def pack(self) -> bool:
        """Cut the weights, side by side, into the blocks that a processor multiplies by. LoRA's stay as they are."""
        layers = self.layers
        if not all(type(layer) is Linear and layer.packed_weight is None for layer in layers):
            return False
        biases = [layer.bias.detach() for layer in layers if layer.bias is not None]
        weight = torch.cat([layer.weight.detach() for layer in layers])
        self.packed = pack_weight(weight), torch.cat(biases) if len(biases) == len(layers) else None
        return True


def _outer(g: Tensor, x: Tensor) -> Tensor:
    """g^T x, [M, out], [M, in] -> [out, in]. oneDNN copies a transposed first factor: let that be the smaller one."""
    small = g.shape[1] <= x.shape[1] or g.dtype != torch.float32
    return product(g.t(), x.t()) if small else product(x.t(), g.t()).t()


def _parameters(layer: nn.Linear | LoraLinear) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor | None]:
    if isinstance(layer, LoraLinear):
        return layer.base.weight, layer.base.bias, layer.lora_A, layer.lora_B
    return layer.weight, layer.bias, None, None


@contextmanager
def packed_linears(products: list[Linears]) -> Iterator[None]:
    """Inside, these compute with packed copies of their weights where this machine gains by it, without gradient."""
    mine = [p for p in products if p.packed is None and available() and p.pack()]
    apart = nn.ModuleList(layer for p in products if p.packed is None for layer in p.layers)
    try:
        with packed(apart):
            yield
    finally:
        for p in mine:
            p.packed = None
