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


def padded(query: Tensor, key: Tensor, value: Tensor, layout: Layout) -> Tensor:
    """`attend` by `scaled_dot_product_attention`, of sequences padded on the right."""
    device = query.device
    at, index = int(layout.prompt_lengths.sum()), layout.prompt_of.to(device)
    prompts = [pad(x[:at], layout.prompt_lengths) for x in (query, key, value)]  # [P, H, Lp, D]
    own = [pad(x[at:], layout.lengths) for x in (query, key, value)]  # [R, H, T, D]
    outs, shared = [], {"enable_gqa": query.shape[1] != key.shape[1]}
    if at:
        out = F.scaled_dot_product_attention(*prompts, is_causal=True, **shared)
        outs.append(out.transpose(1, 2)[_places(layout.prompt_lengths, device)])
    if len(query) > at:
        both = [torch.cat([x[index], y], dim=2) for x, y in zip(prompts[1:], own[1:], strict=True)]
        width, length = own[0].shape[2], prompts[0].shape[2]
        there = torch.arange(length, device=device) < layout.prompt_lengths.to(device)[index, None]  # [R, Lp]
        past = torch.ones(width, width, dtype=torch.bool, device=device).tril()  # [T, T]
        seen = torch.cat([there[:, None].expand(-1, width, -1), past.expand(len(there), -1, -1)], dim=2)
        out = F.scaled_dot_product_attention(own[0], *both, attn_mask=seen[:, None], **shared)
        outs.append(out.transpose(1, 2)[_places(layout.lengths, device)])
    return torch.cat(outs)


def pad(x: Tensor, lengths: Tensor) -> Tensor:
    """A list of tokens as sequences padded on the right, [m, H, D] -> [N, H, longest, D], differentiably."""
    out = x.new_zeros(len(lengths), max(lengths.tolist(), default=0), *x.shape[1:])
    return out.index_put(_places(lengths, x.device), x).transpose(1, 2)


def _places(lengths: Tensor, device: torch.device) -> tuple[Tensor, Tensor]:
    """Row and column of each token in a padded batch."""
    there = torch.arange(max(lengths.tolist(), default=0)) < lengths[:, None]
    return there.nonzero(as_tuple=True) if device.type == "cpu" else tuple(x.to(device) for x in there.nonzero().T)
