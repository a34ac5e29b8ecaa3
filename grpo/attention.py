"""Attention of many tokens at once, to a prompt that a group shares and to each other.

A training batch is a list of tokens, [M] without padding: those of the prompts, then those of the completions, of
which each row attends to its prompt and to itself (`Layout`).

    out = softmax(q k^T / sqrt D, of the keys that may be seen) v

On a processor that has a compiler, `attention.c` computes this as it stands, without padding or masks. Elsewhere the
batch is padded for PyTorch's kernels. The difference is more than speed: the order in which a kernel adds up depends on
how many queries and keys it is given. In fp32 that makes a difference of 1e-7; in bfloat16 a result may then be rounded
the other way, and after thirty layers sampler and trainer are 0.02 nats apart. Ours gives a token the same bits always.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from grpo import kernels
from grpo.cuda import send


@dataclass
class Layout:
    """Where the tokens of a batch stand, and what they may look at. P prompts, R completions, M tokens in all."""

    prompt_lengths: Tensor
    """[P] long, on the CPU like all of these."""
    lengths: Tensor
    """[R] long"""
    prompt_of: Tensor
    """[R] long: the prompt that a completion continues."""

    def __post_init__(self) -> None:
        every = torch.cat([self.prompt_lengths, self.lengths])
        first = every.cumsum(0) - every  # [P + R]: where each sequence begins in the list
        seen = torch.zeros(len(every), 2, dtype=torch.long)  # first and length of its prompt
        at = len(self.prompt_lengths)
        seen[at:] = torch.stack([first[self.prompt_of], self.prompt_lengths[self.prompt_of]], dim=1)
        self.segments = torch.cat([first[:, None], every[:, None], seen], dim=1)  # [P + R, 4], as in attention.c
        self.longest = int((every + seen[:, 1]).max()) if len(every) else 0
        self.longest_prompt = max(self.prompt_lengths.tolist(), default=0)
        self.positions = torch.arange(int(every.sum())) - (first - seen[:, 1]).repeat_interleave(every)  # [M]
        self.padded: PaddedLayout | None = None  # made when it is first needed, on the device of that

    @staticmethod
    def of_prompts(lengths: Tensor) -> Layout:
        """Prompts alone, [P]."""
        none = torch.empty(0, dtype=torch.long)
        return Layout(lengths, none, none)


def attend(query: Tensor, key: Tensor, value: Tensor, layout: Layout) -> Tensor:
    """Each token's attention to its prompt and to what came before it. [M, H, D], [M, H_kv, D] twice -> [M, H, D]"""
    if not len(query) == len(key) == len(value) == len(layout.positions):
        raise ValueError(f"a layout of {len(layout.positions)} tokens for {len(query)} queries and {len(key)} keys")
    if kernels.take(query) and query.dtype == key.dtype == value.dtype == torch.float32:
        return _Attention.apply(query.contiguous(), key.contiguous(), value.contiguous(), layout)
    return padded(query, key, value, layout)


class _Attention(torch.autograd.Function):
    """All in fp32; of the forward pass nothing is kept but its inputs."""

    @staticmethod
    def forward(ctx, query, key, value, layout):
        ctx.save_for_backward(query, key, value)
        ctx.layout, out = layout, torch.empty_like(query)
        sizes = (len(layout.segments), layout.longest, query.shape[1], *key.shape[1:])
        kernels.call("attend", query, key, value, out, layout.segments, *sizes)
        return out

    @staticmethod
    def backward(ctx, grad):
        (query, key, value), layout = ctx.saved_tensors, ctx.layout
        gradients = [torch.empty_like(x) for x in (query, key, value)]
        count, length = len(layout.segments), layout.longest_prompt
        of_prompts = [key.new_empty(count, length, *key.shape[1:]) for _ in range(2)]
        sizes = (count, layout.longest, length, query.shape[1], *key.shape[1:])
        kernels.call(
            "attend_backward", grad.contiguous(), query, key, value, *gradients, *of_prompts, layout.segments, *sizes
        )
        return *gradients, None


# ---- padded, for PyTorch's kernels --------------------------------------------------------------------------


class Padding:
    """Sequences padded on the right, and back. lengths: [N] long, on the CPU."""

    def __init__(self, lengths: Tensor, device: torch.device):
        self.shape = len(lengths), max(lengths.tolist(), default=0)
        there = torch.arange(self.shape[1]) < lengths[:, None]  # [N, longest]
        self.there = send(there, device)
        self.row, self.column = (send(x, device) for x in there.nonzero(as_tuple=True))  # [m] of each token

    def pad(self, x: Tensor) -> Tensor:
        """[m, H, D] -> [N, H, longest, D], differentiably."""
        return x.new_zeros(*self.shape, *x.shape[1:]).index_put((self.row, self.column), x).transpose(1, 2)

    def unpad(self, x: Tensor) -> Tensor:
        """[N, H, longest, D] -> [m, H, D]"""
        return x.transpose(1, 2)[self.row, self.column]


class PaddedLayout:
    """A layout's prompts and completions, each padded, and what the completions may see; the same for all layers."""

    def __init__(self, layout: Layout, device: torch.device):
        self.prompts, self.own = Padding(layout.prompt_lengths, device), Padding(layout.lengths, device)
        self.prompt_of = send(layout.prompt_of, device)
        rows, width = self.own.shape
        past = torch.ones(width, width, dtype=torch.bool, device=device).tril()  # [T, T]
        before = self.prompts.there[self.prompt_of]  # [R, Lp]
        seen = [before[:, None].expand(-1, width, -1), past.expand(rows, -1, -1)]
        self.seen = torch.cat(seen, dim=2)[:, None]  # [R, 1, T, Lp + T]


def padded(query: Tensor, key: Tensor, value: Tensor, layout: Layout) -> Tensor:
    """`attend` by `scaled_dot_product_attention`, of sequences padded on the right."""
    if layout.padded is None:
        layout.padded = PaddedLayout(layout, query.device)
    at, batch = int(layout.prompt_lengths.sum()), layout.padded
    prompts = [batch.prompts.pad(x[:at]) for x in (query, key, value)]  # [P, H, Lp, D]
    own = [batch.own.pad(x[at:]) for x in (query, key, value)]  # [R, H, T, D]
    outs, shared = [], {"enable_gqa": query.shape[1] != key.shape[1]}
    if at:
        outs.append(batch.prompts.unpad(F.scaled_dot_product_attention(*prompts, is_causal=True, **shared)))
    if len(query) > at:
        seen = [torch.cat([x[batch.prompt_of], y], dim=2) for x, y in zip(prompts[1:], own[1:], strict=True)]
        out = F.scaled_dot_product_attention(own[0], *seen, attn_mask=batch.seen, **shared)
        outs.append(batch.own.unpad(out))
    return torch.cat(outs)
