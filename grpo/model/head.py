"""The head, from hidden states to logits: always the digits of fp32, and where it can be the speed of bf16.

    z = h W^T                          h [M, D] hidden states, W [V, D] the head's fp32 weights, z [M, V] logits

One bf16 product would cost some 1e-2 nats a token. Where the layers compute in bf16, h is bf16 already, and the sum
of two bf16 numbers equals W up to a relative error of 2^-17. Two products, added up in fp32, leave a log-prob within
2e-5 nats:

    W = high + low + rest              high = bf16(W), low = bf16(W - high)
    z = h high^T + h low^T             one matmul of [h, h] and [high, low]

Tensor cores do that many times as fast as an fp32 product. The gradient needs no such digits: TF32 changes it by 3e-4.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class Head:
    """The head with its weights as they are now; after they have moved it takes another one."""

    def __init__(self, layer: nn.Linear, scale: float, cap: float | None, dtype: torch.dtype):
        """scale, cap: what the model multiplies its logits by, and their soft cap. dtype: of the layers' products."""
        self.weight, self.bias, self.scale, self.cap = layer.weight, layer.bias, scale, cap
        self.fast = dtype == torch.bfloat16 and multiplies_to_fp32(self.weight.device)
        self.halves = split(self.weight) if self.fast else None  # [V, 2 D]

    @torch.no_grad()
    def logits(self, hidden: Tensor, part: slice = slice(None), out: Tensor | None = None) -> Tensor:
        """Without gradient, of a part of the vocabulary, written to `out` where given: [M, D] -> [M, V] fp32."""
        if self.halves is not None and hidden.dtype == torch.bfloat16:
            z = matmul_to_fp32(hidden.repeat(1, 2), self.halves[part].t(), out)
        else:
            z = torch.mm(hidden.float(), self.weight[part].t(), out=out)
        if self.bias is not None:
            z += self.bias[part]
        if self.scale != 1:
            z *= self.scale
        return z if self.cap is None else z.div_(self.cap).tanh_().mul_(self.cap)

    def through_cap(self, gradient: Tensor, z: Tensor) -> Tensor:
        """From the gradient of logits z to that of h W^T, in place: [M, V]."""
        gradient = gradient if self.scale == 1 else gradient.mul_(self.scale)
        return gradient if self.cap is None else gradient.mul_(1 - (z / self.cap).square())

    @contextmanager
    def gradient_precision(self) -> Iterator[None]:
        """Inside, fp32 matmuls may be of TF32 where the logits' are of bf16."""
        before = torch.get_float32_matmul_precision()
        if self.fast:
            torch.set_float32_matmul_precision("high")
        try:
            yield
        finally:
            if self.fast:
                torch.set_float32_matmul_precision(before)


@torch.no_grad()
def split(weight: Tensor) -> Tensor:
    """fp32 [V, D] -> bf16 [V, 2 D]: the upper eight bits of each number beside the eight after them."""
    high = weight.to(torch.bfloat16)
    return torch.cat([high, (weight - high).to(torch.bfloat16)], dim=1)


def matmul_to_fp32(a: Tensor, b: Tensor, out: Tensor | None = None) -> Tensor:
    """bf16 [M, K] and [K, N] -> fp32 [M, N], added up in fp32."""
    return torch.mm(a, b, out_dtype=torch.float32, out=out)


@functools.cache
def multiplies_to_fp32(device: torch.device) -> bool:
    """Whether PyTorch has that product for a device. It has for GPUs. A CPU without it takes the fp32 product."""
    try:
        matmul_to_fp32(*torch.zeros(2, 16, 16, dtype=torch.bfloat16, device=device))
    except (RuntimeError, TypeError):  # none for this device; none in this version
        return False
    return True
