"""Matrix products, each by the fastest way at hand: three of them, and all give what PyTorch's operator does.

    C           where the weight fits a processor's own cache (`products.c`): there is no call to prepare for, and
                nothing to be transposed beforehand
    oneDNN      which PyTorch brings along, in fp32 on x86 processors with AVX512: MKL, which `F.linear` calls, leaves
                half of the speed of those unused that are not Intel's
    PyTorch     everything else; for bfloat16 it calls oneDNN itself

For passes without gradient, which multiply by the same weights again and again, a weight is cut into blocks
beforehand (`pack_weight`): at the shapes of decoding oneDNN is half as fast again with it.
"""

from __future__ import annotations

import platform
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from grpo import kernels

ROWS = 32  # the batch that oneDNN's packed layout is chosen for; any other works
LEAST_PRODUCT = 1 << 20  # multiplications from which on oneDNN's faster product outweighs its dearer call
LEAST_WEIGHT = 1 << 16  # numbers in a weight from which on a packed copy for oneDNN pays; C multiplies by smaller ones
X86 = platform.machine().lower() in ("x86_64", "amd64")  # measured there; Apple's own products are faster than C


def product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """y = x W^T + b without gradient. [..., in], [out, in] -> [..., out]"""
    with torch.no_grad():
        if _by_c(x, weight):
            return _multiply(x, weight.t() if weight.t().is_contiguous() else _blocks(weight), bias)
        return _onednn(x, weight, bias) if available() and faster(x, weight) else F.linear(x, weight, bias)


def outer(g: Tensor, x: Tensor) -> Tensor:
    """g^T x without gradient: a weight's, from that of its outputs. [M, out], [M, in] -> [out, in]"""
    with torch.no_grad():
        if x.dtype == torch.float32 and kernels.take(x) and g.shape[1] * x.shape[1] < LEAST_WEIGHT and X86:
            out = x.new_empty(g.shape[1], x.shape[1])
            kernels.call("outer", g.contiguous(), x.contiguous(), out, len(x), *out.shape)
            return out
        # oneDNN copies a transposed first factor: let that be the smaller one
        small = g.shape[1] <= x.shape[1] or g.dtype != torch.float32
        return product(g.t(), x.t()) if small else product(x.t(), g.t()).t()


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
        dx = product(g, weight.t()) if wants_x else None
        d_weight = outer(rows, x.reshape(-1, x.shape[-1])) if wants_weight else None
        return dx, d_weight, rows.sum(dim=0) if wants_bias else None


def use_onednn(model: nn.Module) -> None:
    """Let a model's linear layers, LoRA's base layers among them, multiply by oneDNN where this machine gains by it."""
    if available():
        for layer in model.modules():
            if type(layer) is nn.Linear and layer.weight.device.type == "cpu":
                layer.__class__ = Linear


def available() -> bool:
    """Whether this machine gains by oneDNN's products."""
    return torch.backends.mkldnn.is_available() and "AVX512" in torch.backends.cpu.get_cpu_capability()


def faster(x: Tensor, weight: Tensor) -> bool:
    """Whether oneDNN is to multiply these; for bfloat16 PyTorch itself calls it."""
    return x.dtype == torch.float32 and x.device.type == "cpu" and x.numel() * len(weight) >= LEAST_PRODUCT


def _onednn(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """The operator that PyTorch's compiler uses for linear layers; the weight is plain or packed."""
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")


# ---- small ones, in C ---------------------------------------------------------------------------------------


def _by_c(x: Tensor, weight: Tensor) -> bool:
    return _small(weight) and x.dtype == torch.float32 and kernels.take(x)


def _small(weight: Tensor) -> bool:
    return (
        X86
        and weight.dtype == torch.float32
        and weight.numel() < LEAST_WEIGHT
        and kernels.take(weight)
        and len(weight) % kernels.vector() == 0
    )


def _blocks(weight: Tensor) -> Tensor:
    """[out, in] -> [out / W, in, W]: the columns of W^T, a vector's length side by side."""
    return weight.view(-1, kernels.vector(), weight.shape[1]).transpose(1, 2).contiguous()


def _multiply(x: Tensor, b: Tensor, bias: Tensor | None) -> Tensor:
    """x b, of b [in, out] or in blocks."""
    x, w = x.contiguous(), kernels.vector()
    rows_apart, vectors_apart = (b.shape[1], w) if b.dim() == 2 else (w, b.shape[1] * w)
    n = b.numel() // x.shape[-1]
    y = x.new_empty(*x.shape[:-1], n)
    kernels.call("multiply", x, b, y, x.numel() // x.shape[-1], x.shape[-1], n, rows_apart, vectors_apart)
    return y if bias is None else y.add_(bias)


# ---- packed weights -----------------------------------------------------------------------------------------


def pack_weight(weight: Tensor) -> Tensor | None:
    """A copy of a weight [out, in], cut into blocks for `product_packed`; None where nothing is gained by it."""
    weight = weight.detach()
    if _small(weight):
        return _blocks(weight)
    there = available() and weight.device.type == "cpu"
    return torch.ops.mkldnn._reorder_linear_weight(weight, ROWS) if there else None


def product_packed(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """`product`, of a weight packed by `pack_weight`."""
    return _onednn(x, weight, bias) if weight.is_mkldnn else _multiply(x, weight, bias)


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
    layer.packed_weight = pack_weight(layer.weight)


def pack_for_good(model: nn.Module) -> None:
    """Pack a model that is never trained, and let go of the weights themselves, unless an embedding shares them."""
    embedding = model.get_input_embeddings().weight
    for layer in [m for m in model.modules() if isinstance(m, Linear) and _pays(m)]:
        if layer.weight is not embedding:
            pack(layer)
            layer.weight = nn.Parameter(torch.empty(0), requires_grad=False)


def _pays(layer: Linear) -> bool:
    return layer.weight.numel() >= LEAST_WEIGHT
