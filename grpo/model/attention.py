"""Attention to a prompt that a group shares, for any model of transformers.

A batch is one list of M tokens without padding: the prompts first, then the completions. Each prompt attends to itself,
each completion to its prompt and to itself:

    out_i = sum_j softmax_j(scaling q_i k_j) v_j        j: the tokens that i may see, none of them after i

transformers calls a registered attention function in every layer (`AttentionInterface`), and hands it the keyword
arguments of the model's call. One of these, `memory`, is an object that knows who may see what: a `Layout` in training,
a `grpo.model.cache.Cache` while decoding. So every architecture runs through its own modules.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface

NAME = "shared_prefix"
UNSUPPORTED = {
    "s_aux": "sinks",  # GPT-OSS
    "sinks": "sinks",
    "position_bias": "a bias for each distance",  # T5
    "indices": "a choice of keys",  # DeepSeek 3.2
    "block_indices": "a choice of keys",
}
"""Keyword arguments of transformers' attention functions that change the result, and that nothing here computes."""


def attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    memory: Layout | None = None,
    **others: object,
) -> tuple[Tensor, None]:
    """transformers' attention function: query [1, H, M, D], key and value [1, H_kv, M, D] -> [1, M, H, D].

    Raises ValueError where a layer asks for something that `memory` does not compute.
    """
    if memory is None:
        raise ValueError(f"{type(module).__name__} is not handed the keyword arguments of the model's call")
    asked = {UNSUPPORTED[name] for name in UNSUPPORTED.keys() & others.keys() if others[name] is not None}
    if asked or attention_mask is not None:
        raise ValueError(f"{type(module).__name__} asks for attention with {', '.join(asked) or 'a mask of its own'}")
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    return memory.attend(module.layer_idx, query[0], key[0], value[0], scaling, sliding_window, softcap)[None], None


AttentionInterface.register(NAME, attention)


class Layout:
    """Which token stands where, and what it may see. P prompts, R completions, M tokens in all.

    prompt_lengths: [P], lengths: [R], prompt_of: [R] the prompt that a completion continues; all long.
    """

    def __init__(self, prompt_lengths: Tensor, lengths: Tensor, prompt_of: Tensor, device: torch.device):
        self.prompt_tokens = int(prompt_lengths.sum())
        start = torch.cat([torch.zeros_like(prompt_lengths), prompt_lengths[prompt_of]])  # [P + R]
        self.positions = torch.cat([_count_up(prompt_lengths), _count_up(lengths)]).to(device)  # [M]
        self.positions += start.repeat_interleave(torch.cat([prompt_lengths, lengths])).to(device)
        self.prompts, self.own = Padding(prompt_lengths, device), Padding(lengths, device)
        self.prompt_of = prompt_of.to(device)
        self.masks: dict[int | None, tuple[Tensor | None, Tensor]] = {}  # by sliding window

    @staticmethod
    def of_prompts(lengths: Tensor, device: torch.device) -> Layout:
        """Prompts alone, [P]."""
        none = torch.empty(0, dtype=torch.long)
        return Layout(lengths, none, none, device)

    def attend(
        self, layer: int, q: Tensor, k: Tensor, v: Tensor, scaling: float, window: int | None, softcap: float | None
    ) -> Tensor:
        """q [H, M, D], k and v [H_kv, M, D] -> [M, H, D]"""
        if window not in self.masks:
            self.masks[window] = self._mask(window)
        prompt_mask, mask = self.masks[window]
        at, outs = self.prompt_tokens, []
        prompts = [self.prompts.pad(x[:, :at]) for x in (q, k, v)]  # [P, H, Lp, D]
        if at:
            outs.append(self.prompts.unpad(attend(*prompts, prompt_mask, scaling, softcap)))
        if q.shape[1] > at:
            own = [self.own.pad(x[:, at:]) for x in (q, k, v)]  # [R, H, T, D]
            seen = [torch.cat([x[self.prompt_of], y], dim=2) for x, y in zip(prompts[1:], own[1:], strict=True)]
            outs.append(self.own.unpad(attend(own[0], *seen, mask, scaling, softcap)))
        return torch.cat(outs)

    def _mask(self, window: int | None) -> tuple[Tensor | None, Tensor]:
        """What padded prompts may see, [Lp, Lp] (None: all that came before), and completions, [R, 1, T, Lp + T]."""
        width, device = self.own.width, self.prompt_of.device
        at = torch.arange(self.prompts.width, device=device)  # [Lp]
        before = self.prompts.there[self.prompt_of][:, None].expand(-1, width, -1)  # [R, T, Lp]
        t = torch.arange(width, device=device)
        past, prompt_mask = t[:, None] >= t, None  # [T, T]
        if window:
            position = self.prompts.lengths[self.prompt_of][:, None] + t  # [R, T]
            before = before & (position[..., None] - at < window)
            past = past & (t[:, None] - t < window)
            prompt_mask = (at[:, None] >= at) & (at[:, None] - at < window)
        return prompt_mask, torch.cat([before, past.expand(len(before), -1, -1)], dim=2)[:, None]


def attend(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scaling: float, softcap: float | None = None
) -> Tensor:
    """q [B, H, S, D], k and v [B, H_kv, L, D], mask true where a key may be seen (None: causal) -> [B, H, S, D]"""
    shared = q.shape[1] // k.shape[1]
    # PyTorch's fused kernel knows no soft cap, and on a CPU its backward pass in bf16 is slower than what it replaces
    fused = softcap is None and (q.is_cuda or q.dtype == torch.float32)
    if shared > 1 and (q.is_cuda or not fused):  # no fused kernel of a GPU takes both a mask and shared heads
        k, v = (x.repeat_interleave(shared, dim=1) for x in (k, v))
    if fused:
        gqa = q.shape[1] != k.shape[1]
        return F.scaled_dot_product_attention(q, k, v, mask, is_causal=mask is None, scale=scaling, enable_gqa=gqa)
    scores = q * scaling @ k.transpose(2, 3)
    scores = scores if softcap is None else (scores / softcap).tanh() * softcap  # Gemma 2, arXiv:2408.00118, section 2
    mask = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool, device=q.device).tril() if mask is None else mask
    return scores.masked_fill(~mask, -torch.inf).softmax(dim=-1, dtype=torch.float32).to(v.dtype) @ v


class Padding:
    """Sequences padded on the right, and back. lengths: [N] long."""

    def __init__(self, lengths: Tensor, device: torch.device):
        self.width = int(lengths.max()) if len(lengths) else 0
        there = torch.arange(self.width) < lengths[:, None]  # [N, width]
        self.full = bool(there.all())
        self.row, self.column = (x.to(device) for x in there.nonzero(as_tuple=True))  # [m] of each token
        self.there, self.lengths = there.to(device), lengths.to(device)

    def pad(self, x: Tensor) -> Tensor:
        """[H, m, D] -> [N, H, width, D]"""
        if self.full:
            return x.unflatten(1, self.there.shape).transpose(0, 1)
        padded = x.new_zeros(*self.there.shape, x.shape[0], x.shape[2])
        return padded.index_put((self.row, self.column), x.transpose(0, 1)).transpose(1, 2)

    def unpad(self, x: Tensor) -> Tensor:
        """[N, H, width, D] -> [m, H, D]"""
        x = x.transpose(1, 2)
        return x.flatten(0, 1) if self.full else x[self.row, self.column]


def _count_up(lengths: Tensor) -> Tensor:
    """[2, 3] -> [0, 1, 0, 1, 2]"""
    return torch.arange(int(lengths.sum())) - (lengths.cumsum(0) - lengths).repeat_interleave(lengths)
