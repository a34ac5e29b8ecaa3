"""The shared prefix for any causal model, by transformers' own forward pass and key-value cache.

`grpo.decoder` computes the Llama family faster and in less memory; here is what all other architectures share:

    prompt      p_0 ... p_{L-2}  p_{L-1}
                |-- prefill --|     |
    then                         p_{L-1}  c_0  c_1 ... c_{T-2}        inputs, on the replicated cache

Prompts are padded on the left, completions on the right.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import Cache, DynamicCache, PreTrainedConfig
from transformers.cache_utils import DynamicLayer
from transformers.modeling_layers import GradientCheckpointingLayer

from grpo.cuda import send
from grpo.types import Rollouts

if TYPE_CHECKING:
    from grpo.policy import Policy


def prefill(policy: Policy, prompts: list[list[int]]) -> tuple[Cache, Tensor]:
    """Forward each prompt once, without its last token: the cache, and the mask [P, L] of its slots."""
    width = max(map(len, prompts)) - 1  # L
    ids = torch.zeros(len(prompts), width, dtype=torch.long)  # [P, L]
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        if len(prompt) > 1:
            ids[row, width + 1 - len(prompt) :] = torch.tensor(prompt[:-1])
            mask[row, width + 1 - len(prompt) :] = 1
    ids, mask = send(ids, policy.device), send(mask, policy.device)
    cache = _empty(policy.model.config)
    if width:
        positions = (mask.cumsum(dim=1) - 1).clamp(min=0)  # the padding's positions do not matter
        policy.hidden_states(ids, mask, positions, cache)
    return cache, mask


class Prompts(DynamicLayer):
    """Keys and values of prompts, put there as often as the layer is computed."""

    def update(self, keys: Tensor, values: Tensor, *args: object, **kwargs: object) -> tuple[Tensor, Tensor]:
        self.keys, self.values, self.is_initialized = keys, values, True
        return keys, values


class Continued(DynamicLayer):
    """Cached prompts with completions behind them, of which none is kept: the layer may be computed again."""

    def update(self, keys: Tensor, values: Tensor, *args: object, **kwargs: object) -> tuple[Tensor, Tensor]:
        if not self.is_initialized:
            return keys, values
        return torch.cat([self.keys, keys], dim=2), torch.cat([self.values, values], dim=2)


def _empty(config: PreTrainedConfig) -> Cache:
    """A cache for prompts; where layers are not plain attention (sliding windows, ...), transformers' own."""
    cache = DynamicCache(config=config)
    if all(type(layer) is DynamicLayer for layer in cache.layers):
        cache.layers = [Prompts() for _ in cache.layers]
    return cache


def select(cache: Cache, index: Tensor, kind: type[DynamicLayer] = DynamicLayer) -> Cache:
    """The given rows of a cache, [R] -> [len(index)], differentiably, as layers of this kind."""
    chosen = copy.copy(cache)
    chosen.layers = [copy.copy(layer) if not isinstance(layer, Prompts) else kind() for layer in cache.layers]
    for new, old in zip(chosen.layers, cache.layers, strict=True):
        if old.keys is not None:
            new.keys, new.values = old.keys.index_select(0, index), old.values.index_select(0, index)
            new.is_initialized, new.dtype, new.device = True, old.keys.dtype, old.keys.device
    return chosen


def recompute_layers(model: nn.Module) -> None:
    """From now on, let every decoder layer keep its input alone, and compute the rest again in the backward pass.

    Raises ValueError for layers whose cache would then be filled twice.
    """
    if not all(isinstance(layer, Prompts) for layer in _empty(model.config).layers):
        raise ValueError(f"model.recompute=full is not possible for {type(model).__name__} with sliding windows")
    for layer in model.modules():
        if isinstance(layer, GradientCheckpointingLayer):
            layer.forward = functools.partial(_forward, layer.forward)


def _forward(forward: Callable, *args: object, **kwargs: object) -> object:
    if not torch.is_grad_enabled():
        return forward(*args, **kwargs)
    return checkpoint(forward, *args, use_reentrant=False, preserve_rng_state=False, **kwargs)


def completion_states(policy: Policy, rollouts: Rollouts, inputs: Tensor) -> Tensor:
    """Hidden states [M, D] that the logits of the sampled tokens are of. inputs: [B, T] the token before each."""
    index = send(rollouts.prompt_index, policy.device)
    cache, mask = prefill(policy, rollouts.prompts)
    mask = mask[index]
    start = mask.sum(dim=1, keepdim=True)
    positions = start + torch.arange(inputs.shape[1], device=inputs.device)  # [B, T]
    # completions are padded on the right, where causal attention already keeps the padding out
    attended = torch.cat([mask, torch.ones_like(inputs)], dim=1)  # [B, L + T]
    hidden = policy.hidden_states(inputs, attended, positions, select(cache, index, Continued))  # [B, T, D]
    return hidden[send(rollouts.mask, policy.device)]


class Decoding:
    """As `grpo.decoding.Decoding`, for any model."""

    def __init__(self, policy: Policy, prompts: list[list[int]], group_size: int, room: int):
        self.policy = policy
        index = torch.arange(len(prompts), device=policy.device).repeat_interleave(group_size)  # [A]
        cache, mask = prefill(policy, prompts)
        self.cache, self.length = select(cache, index), mask.shape[1]
        self.attended = F.pad(mask[index], (0, room))  # [A, L + room]
        self.position = mask.sum(dim=1)[index]  # [A]

    def step(self, token: Tensor) -> Tensor:
        """Continue each row by a token [A]: hidden states [A, D], of which the next one's logits are."""
        self.attended[:, self.length] = 1
        self.length += 1
        seen = self.attended[:, : self.length]
        hidden = self.policy.hidden_states(token[:, None], seen, self.position[:, None], self.cache)
        self.position = self.position + 1
        return hidden[:, -1]

    def keep(self, going: Tensor) -> Tensor:
        """Let rows go that have ended. going: [A] bool. Returns those that stay, [A']."""
        rows = going.nonzero().squeeze(1)
        self.cache, self.attended, self.position = select(self.cache, rows), self.attended[rows], self.position[rows]
        return rows
