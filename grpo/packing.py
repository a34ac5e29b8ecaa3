"""Weights in the layout that the processor's matrix product likes best, for passes without gradient.

Sampling and the reference multiply by the same weights thousands of times. oneDNN, which PyTorch brings along, can be
given a weight cut into blocks beforehand; at the shapes of decoding (32 rows, 576 x 1536, fp32) it is then half as
fast again as the product that `F.linear` calls. Only x86 processors gain; elsewhere the layers stay as they are.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

ROWS = 32  # the batch that the layout is chosen for; any other works


@contextmanager
def packed(model: nn.Module) -> Iterator[None]:
    """Inside, the model's linear layers compute with packed copies of their weights, without gradient."""
    linears = [m for m in model.modules() if type(m) is nn.Linear and gains(m.weight) and not is_packed(m)]
    for linear in linears:
        pack(linear)
    try:
        yield
    finally:
        for linear in linears:
            del linear.forward


def pack(linear: nn.Linear) -> None:
    """Let a layer compute with a packed copy of the weight that it has now."""
    weight = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach(), ROWS)
    bias = None if linear.bias is None else linear.bias.detach()
    linear.forward = functools.partial(_product, weight, bias)


def pack_for_good(model: nn.Module) -> None:
    """Pack a model that is never trained, and let go of the weights themselves, unless an embedding shares them."""
    embedding = model.get_input_embeddings().weight
    for linear in [m for m in model.modules() if type(m) is nn.Linear and gains(m.weight)]:
        pack(linear)
        if linear.weight is not embedding:
            linear.weight = nn.Parameter(torch.empty(0), requires_grad=False)


def product(linear: nn.Linear, x: Tensor) -> Tensor:
    """What the layer computes, packed or not, without gradient: x W^T + b, [..., in] -> [..., out]."""
    if is_packed(linear) or not gains(linear.weight):
        return linear(x)
    return _product(linear.weight, linear.bias, x)


def is_packed(linear: nn.Linear) -> bool:
    return "forward" in vars(linear)


def gains(weight: Tensor) -> bool:
    """Whether the product below exists for this weight and is the faster one; calling it takes longer."""
    on_cpu = weight.device.type == "cpu" and torch.backends.mkldnn.is_available() and weight.numel() >= 1 << 18
    return on_cpu and "AVX512" in torch.backends.cpu.get_cpu_capability()


@torch.no_grad()
def _product(weight: Tensor, bias: Tensor | None, x: Tensor) -> Tensor:
    """oneDNN's product, packed weight or plain: the operator that PyTorch's compiler uses for frozen weights."""
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
