"""The shared-prefix forward pass: a prompt is computed once, however many completions continue it.

Sampling and training both go through here, so they see the same numbers:

    prompt      p_0 ... p_{L-2}  p_{L-1}
                |-- prefill --|     |
    then                         p_{L-1}  c_0  c_1 ... c_{T-2}        inputs, on the replicated cache
                                    |      |    |         |
    logits of                      c_0    c_1  c_2 ... c_{T-1}        one completion token per position

The last prompt token is left out of the prefill, so that every later position predicts exactly one completion
token. Prompts are padded on the left, completions on the right.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import Cache

from grpo.attention import padded_width
from grpo.cache import cut, empty_cache, pad_left, select
from grpo.policy import Policy


@dataclass
class Prefix:
    """Prompts in the key-value cache, without their last tokens. R rows, L cached slots."""

    cache: Cache
    mask: Tensor
    """[R, L] long: 1 at cached tokens, 0 at the padding on the left."""
    last: Tensor
    """[R] long: the last token of each prompt, the first input after the cache."""

    def rows(self, index: Tensor, room: int = 0) -> Prefix:
        """The prefix replicated (or cut down) to the given rows: [R] -> [len(index)]. Differentiable.

        room: how many tokens will be decoded one by one, in place; 0: what follows is computed at once, with gradient.
        """
        return Prefix(select(self.cache, index, room), self.mask[index], self.last[index])


def prefill(policy: Policy, prompts: list[list[int]]) -> Prefix:
    """Forward each prompt once, without its last token. Raises ValueError for an empty prompt."""
    if not all(prompts):
        raise ValueError("a prompt holds no token: it needs at least one to continue from")
    width, slots = padded_width(max(map(len, prompts)) - 1, policy.dtype)
    ids = torch.zeros(len(prompts), width, dtype=torch.long)  # [P, L]
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        if len(prompt) > 1:
            ids[row, width + 1 - len(prompt) :] = torch.tensor(prompt[:-1])
            mask[row, width + 1 - len(prompt) :] = 1
    ids, mask = ids.to(policy.device), mask.to(policy.device)
    cache = empty_cache(policy.model.config)
    if width:
        positions = (mask.cumsum(dim=1) - 1).clamp(min=0)  # the padding's positions do not matter
        policy.hidden_states(ids, mask, positions, cache)
        if policy.recompute == "full":
            cut(cache)
        cache = pad_left(cache, slots - width)
        mask = F.pad(mask, (cache.get_seq_length() - width, 0))
    last = torch.tensor([prompt[-1] for prompt in prompts], device=policy.device)
    return Prefix(cache, mask, last)


def extend(policy: Policy, prefix: Prefix, inputs: Tensor, mask: Tensor, start: Tensor) -> Tensor:
    """Forward `inputs` [R, S] on top of the cache, which grows by S.

    mask: [R, L + S] over the cache and the inputs. start: [R], position of the first input.
    Returns hidden states [R, S, D].
    """
    positions = start[:, None] + torch.arange(inputs.shape[1], device=inputs.device)  # [R, S]
    return policy.hidden_states(inputs, mask, positions, prefix.cache)
