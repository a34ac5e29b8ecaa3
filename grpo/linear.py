"""Linear layers that have an input in common, computed as one, and their gradient.

y = x W^T + b (+ s (x A^T) B^T with LoRA)        W: the layers' weights below each other, [sum of outs, in]
dx = g W        dW = g^T x        db = sum g        g: the gradient of y
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from grpo.lora import LoraLinear
from grpo.products import LEAST_WEIGHT, outer, pack_weight, product, product_packed


class Linears:
    """Some linear layers of a module, by name: what they are is looked up anew each time, as it may be replaced."""

    def __init__(self, module: nn.Module, *names: str):
        self.module, self.names = module, names
        self.packed: tuple[Tensor, Tensor | None] | None = None

    @property
    def layers(self) -> list[nn.Linear | LoraLinear]:
        return [getattr(self.module, name) for name in self.names]

    @property
    def plain(self) -> list[nn.Linear]:
        """The layers without LoRA."""
        return [layer.base if isinstance(layer, LoraLinear) else layer for layer in self.layers]

    @torch.no_grad()
    def __call__(self, x: Tensor) -> Tensor:
        """[M, in] -> [M, sum of outs], without gradient."""
        if self.packed is not None:
            y = product_packed(x, *self.packed)
        elif len(x) >= x.shape[1] or len(self.names) == 1:
            y = product(x, self._weight(), self._bias())
        else:  # to copy what comes out is less than to copy the weights
            y = torch.cat([product(x, layer.weight, layer.bias) for layer in self.plain], dim=-1)
        first = 0
        for layer in self.layers:
            if isinstance(layer, LoraLinear):
                y[:, first : first + layer.out_features] += layer.update(x).to(y.dtype)
            first += layer.out_features
        return y

    def split(self, y: Tensor, dim: int = -1) -> tuple[Tensor, ...]:
        """[M, sum of outs] -> [M, out] each"""
        return y.split([layer.out_features for layer in self.plain], dim)

    def parameters(self) -> list[Tensor | None]:
        """Four a layer: weight, bias, and LoRA's A and B."""
        return [p for layer in self.layers for p in _parameters(layer)]

    def backward(self, g: Tensor, x: Tensor) -> tuple[Tensor, list[Tensor | None]]:
        """From that of the outputs [M, sum of outs]: the gradients of x [M, in] and of `parameters()`."""
        dx, plain = product(g, self._weight().t()), self.plain
        none = [None] * len(plain)
        d_weights = self.split(outer(g, x), 0) if any(p.weight.requires_grad for p in plain) else none
        biased = any(p.bias is not None and p.bias.requires_grad for p in plain)
        d_biases = self.split(g.sum(dim=0)) if biased else none
        of_parameters = []
        for layer, part, d_weight, d_bias in zip(self.layers, self.split(g), d_weights, d_biases, strict=True):
            weight, bias, a, b = _parameters(layer)
            of_parameters.append(d_weight if weight.requires_grad else None)
            of_parameters.append(d_bias if bias is not None and bias.requires_grad else None)
            if a is None:
                of_parameters += [None] * 2
                continue
            g32, x32 = part.to(a.dtype) * layer.scaling, x.to(a.dtype)
            inner = g32 @ b  # [M, r]
            of_parameters += inner.t() @ x32, g32.t() @ (x32 @ a.t())
            dx += (inner @ a).to(dx.dtype)
        return dx, of_parameters

    def pack(self) -> bool:
        """Let these compute with a packed copy of the weights that they have now, where this machine gains by it."""
        weight = pack_weight(self._weight())
        self.packed = None if weight is None else (weight, self._bias())
        return weight is not None

    def pack_for_good(self) -> None:
        """Pack layers that are never trained, and let go of the weights themselves where they are large."""
        if self._weight().numel() >= LEAST_WEIGHT and self.pack():
            for layer in self.plain:
                layer.weight = nn.Parameter(torch.empty(0), requires_grad=False)

    def _weight(self) -> Tensor:
        weights = [layer.weight.detach() for layer in self.plain]
        return torch.cat(weights) if len(weights) > 1 else weights[0]

    def _bias(self) -> Tensor | None:
        biases = [layer.bias for layer in self.plain]
        if all(bias is None for bias in biases):
            return None
        zeros = [layer.weight.new_zeros(layer.out_features) for layer in self.plain]
        return torch.cat([zero if bias is None else bias.detach() for bias, zero in zip(biases, zeros, strict=True)])


def _parameters(layer: nn.Linear | LoraLinear) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor | None]:
    if isinstance(layer, LoraLinear):
        return layer.base.weight, layer.base.bias, layer.lora_A, layer.lora_B
    return layer.weight, layer.bias, None, None


@contextmanager
def packed_linears(products: list[Linears]) -> Iterator[None]:
    """Inside, these compute with packed copies of their weights where this machine gains by it, without gradient."""
    mine = [p for p in products if p.packed is None and p.pack()]
    try:
        yield
    finally:
        for p in mine:
            p.packed = None
