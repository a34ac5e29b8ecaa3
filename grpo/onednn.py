"""Matrix products by oneDNN, which PyTorch brings along, on x86 processors with AVX512.

`F.linear` in fp32 calls MKL, which on processors that are not Intel's leaves half of their speed unused: twice the
time of oneDNN, in the forward pass and in both products of the backward pass. For passes without gradient, which
multiply by the same weights again and again, oneDNN can also be given a weight cut into blocks beforehand
(`packed`): at the shapes of decoding that is half as fast again. Elsewhere the layers stay as they are.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ROWS = 32  # the batch that the packed layout is chosen for; any other works
LEAST_PRODUCT = 1 << 20  # multiplications from which on the faster product outweighs the dearer call
LEAST_WEIGHT = 1 << 16  # numbers in a weight from which on a packed copy pays


class Linear(nn.Linear):
    """`nn.Linear` whose products, and those of its gradient, are oneDNN's."""

    packed_weight: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        """[..., in] -> [..., out]"""
        if self.packed_weight is not None:
            return _onednn(x, self.packed_weight, self.bias)
        if not faster(x, self.weight):
            return F.linear(x, self.weight, self.bias)
        return _Product.apply(x, self.weight, self.bias)


class _Product(torch.autograd.Function):
    """y = x W^T + b        dx = g W        dW = g^T x        db = sum g        g: the gradient of y"""

    @staticmethod
    def forward(ctx, x, weight, bias):
        ctx.save_for_backward(x, weight)
        return _onednn(x, weight, bias)

    @staticmethod
    def backward(ctx, g):
        x, weight = ctx.saved_tensors
        wants_x, wants_weight, wants_bias = ctx.needs_input_grad
        rows = g.reshape(-1, g.shape[-1])  # [M, out]
        dx = _onednn(g, weight.t(), None) if wants_x else None
        d_weight = _onednn(rows.t(), x.reshape(-1, x.shape[-1]).t(), None) if wants_weight else None
        return dx, d_weight, rows.sum(dim=0) if wants_bias else None


def use_onednn(model: nn.Module) -> None:
    """Let a model's linear layers, LoRA's base layers among them, multiply by oneDNN where this machine gains by it."""
    if available():
        for layer in model.modules():
            if type(layer) is nn.Linear and layer.weight.device.type == "cpu":
                layer.__class__ = Linear


def available() -> bool:
    return torch.backends.mkldnn.is_available() and "AVX512" in torch.backends.cpu.get_cpu_capability()


def faster(x: Tensor, weight: Tensor) -> bool:
    """Whether oneDNN is to multiply these; for bfloat16 PyTorch itself calls it."""
    return x.dtype == torch.float32 and x.device.type == "cpu" and x.numel() * len(weight) >= LEAST_PRODUCT


def product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x W^T + b without gradient, by oneDNN where it is the faster way. [..., in], [out, in] -> [..., out]"""
    with torch.no_grad():
        return _onednn(x, weight, bias) if available() and faster(x, weight) else F.linear(x, weight, bias)


def _onednn(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """The operator that PyTorch's compiler uses for linear layers; the weight is plain or packed."""
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")


# ---- packed weights -----------------------------------------------------------------------------------------


@contextmanager
def packed(model: nn.Module) -> Iterator[None]:
    """Inside, the model's linear layers compute with packed copies of their weights, without gradient."""
    layers = [m for m in model.modules() if isinstance(m, Linear) and m.packed_weight is None and _pays(m)]
    for layer in layers:
        pack(layer)
    try:
        with torch.no_grad():
            yield
    finally:
        for layer in layers:
            layer.packed_weight = None


def pack(layer: Linear) -> None:
    """Let a layer compute with a packed copy of the weight that it has now."""
    layer.packed_weight = pack_weight(layer.weight.detach())


def pack_weight(weight: Tensor) -> Tensor:
    """[out, in], cut into the blocks that oneDNN multiplies by."""
    return torch.ops.mkldnn._reorder_linear_weight(weight, ROWS)


def product_packed(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x W^T + b without gradient, of a weight packed by `pack_weight`."""
    return _onednn(x, weight, bias)


def pack_for_good(model: nn.Module) -> None:
    """Pack a model that is never trained, and let go of the weights themselves, unless an embedding shares them."""
    embedding = model.get_input_embeddings().weight
    for layer in [m for m in model.modules() if isinstance(m, Linear) and _pays(m)]:
        if layer.weight is not embedding:
            pack(layer)
            layer.weight = nn.Parameter(torch.empty(0), requires_grad=False)


def _pays(layer: Linear) -> bool:
    return layer.weight.numel() >= LEAST_WEIGHT
