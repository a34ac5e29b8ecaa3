"""What a decoder layer computes between its matrix products: norms, rotations and gates, and their gradients.

Each is one pass over memory in C (`pointwise.c`) where `kernels.py` could compile it, and otherwise PyTorch's
operators, as written here. C computes in fp32 and rounds once.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from grpo import kernels


def norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """y = w n        n = x r        r = 1 / sqrt(mean(x^2) + eps)        [M, D] -> [M, D]"""
    weight = weight.to(x.dtype)
    if not kernels.take(x):
        return F.rms_norm(x, x.shape[-1:], weight, eps)
    y = torch.empty_like(x)
    kernels.call("norm", x, weight, y, *x.shape, _half(x), eps)
    return y


def norm_backward(g: Tensor, x: Tensor, weight: Tensor, eps: float, rest: Tensor | None) -> tuple[Tensor, Tensor]:
    """dx = r (w g - n mean(w g n)) + rest        dw = sum g n        g: gradient of the output, [M, D]"""
    if kernels.take(x):
        dx, blocks = torch.empty_like(x), max(1, min(torch.get_num_threads(), len(x)))
        dw = torch.empty(blocks, x.shape[1])
        kernels.call("norm_backward", g, x, weight.to(x.dtype), rest, dx, dw, *x.shape, blocks, _half(x), eps)
        return dx, dw.sum(dim=0).to(weight.dtype)
    x32, g32 = x.float(), g.float()
    r = torch.rsqrt(torch.linalg.vecdot(x32, x32).div(x.shape[-1]).add(eps)).unsqueeze(-1)  # [M, 1]
    n = x32 * r
    inner = ((g32 * n) @ weight.float()).div(x.shape[-1]).unsqueeze(-1)  # [M, 1]
    dx = torch.addcmul(g32 * weight, n, inner, value=-1) * r
    return (dx if rest is None else dx + rest).to(x.dtype), (g32 * n).sum(dim=0).to(weight.dtype)


def gated(x: Tensor) -> Tensor:
    """silu(g) u        silu(g) = g sigmoid(g)        x: g and u side by side, [M, 2 F] -> [M, F]"""
    gate, up = x.chunk(2, dim=-1)
    if not kernels.take(gate):
        return F.silu(gate) * up
    y = x.new_empty(gate.shape)
    kernels.call("gated", x, y, *y.shape, _half(x))
    return y


def gated_backward(dy: Tensor, x: Tensor) -> Tensor:
    """dg = dy u s (1 + g (1 - s))        du = dy g s        s = sigmoid(g)        [M, F], [M, 2 F] -> [M, 2 F]"""
    gate, up = x.chunk(2, dim=-1)
    if not kernels.take(gate):
        return torch.cat([torch.ops.aten.silu_backward(dy * up, gate), dy * F.silu(gate)], dim=-1)
    dx = torch.empty_like(x)
    kernels.call("gated_backward", dy, x, dx, *dy.shape, _half(x))
    return dx


def rotate(y: Tensor, cos: Tensor, sin: Tensor, key_heads: int) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values from what the three products gave; queries and keys turned by their positions.

    (x1, x2) -> (x1 cos - x2 sin, x2 cos + x1 sin)        for the halves of a head
    y: [M, H + 2 H_kv, D]; cos, sin: [M, D / 2] fp32. On a processor the results are fp32, as attention there is.
    """
    m, heads, size = len(y), y.shape[1] - 2 * key_heads, y.shape[2]
    if kernels.take(y):
        q, k, v = (torch.empty(m, n, size) for n in (heads, key_heads, key_heads))
        kernels.call("rotate", y, cos, sin, q, k, v, m, heads, key_heads, size, _half(y))
        return q, k, v
    q, k, v = y.split([heads, key_heads, key_heads], dim=1)
    dtype = torch.float32 if y.device.type == "cpu" else y.dtype
    return _turned(q, cos, sin).to(dtype), _turned(k, cos, sin).to(dtype), v.to(dtype)


def rotate_backward(d_q: Tensor, d_k: Tensor, d_v: Tensor, cos: Tensor, sin: Tensor, dtype: torch.dtype) -> Tensor:
    """The gradient of y: turned back. -> [M, H + 2 H_kv, D]"""
    if kernels.take(d_q) and d_q.shape[-1] <= 1024:
        (m, heads, size), key_heads = d_q.shape, d_k.shape[1]
        y = torch.empty(m, heads + 2 * key_heads, size, dtype=dtype)
        d_q, d_k, d_v = d_q.contiguous(), d_k.contiguous(), d_v.contiguous()
        kernels.call("rotate_backward", d_q, d_k, d_v, cos, sin, y, m, heads, key_heads, size, _half(y))
        return y
    return torch.cat([_turned(d_q, cos, -sin).to(dtype), _turned(d_k, cos, -sin).to(dtype), d_v.to(dtype)], dim=1)


def _turned(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    x1, x2 = x.float().chunk(2, dim=-1)
    cos, sin = cos.unsqueeze(1), sin.unsqueeze(1)  # [M, 1, D / 2]
    return torch.cat([x1 * cos - x2 * sin, x2 * cos + x1 * sin], dim=-1)


def _half(x: Tensor) -> int:
    return int(x.dtype == torch.bfloat16)
