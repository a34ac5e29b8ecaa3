"""Key-value caches: one that a prompt fills, one that completions are trained on, one that they are decoded into.

`transformers`' own cache is concatenated anew for every token, so that by its end a completion has been copied once
per token. Here decoding writes into slots that were set aside, and training leaves the cached prompt as it is, so
that a layer can be computed a second time in the backward pass.
"""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import Cache, DynamicCache, PreTrainedConfig
from transformers.cache_utils import CacheLayerMixin, DynamicLayer

from grpo.attention import cached, slots


class Filling(DynamicLayer):
    """Takes the keys and values of the prompts, [P, H, L, D]."""

    def update(self, keys: Tensor, values: Tensor, *args: object, **kwargs: object) -> tuple[Tensor, Tensor]:
        self.keys, self.values, self.is_initialized = cached(keys), cached(values), True
        return self.keys, self.values


class Continued(DynamicLayer):
    """Cached prompts [R, H, L, D] with completions put behind them, differentiably; none of these is kept."""

    def __init__(self, keys: Tensor | None, values: Tensor | None):
        super().__init__()
        self.keys, self.values, self.is_initialized = keys, values, keys is not None

    def update(self, keys: Tensor, values: Tensor, *args: object, **kwargs: object) -> tuple[Tensor, Tensor]:
        if not self.is_initialized:
            return keys, values
        return torch.cat([self.keys, cached(keys)], dim=2), torch.cat([self.values, cached(values)], dim=2)


class Decoding(DynamicLayer):
    """Cached prompts with room for `room` tokens behind them; what is not filled yet is for the mask to hide."""

    def __init__(self, keys: Tensor | None, values: Tensor | None, room: int):
        super().__init__()
        self.room, self.filled = room, 0
        if keys is not None:
            self.update(keys, values)

    def update(self, keys: Tensor, values: Tensor, *args: object, **kwargs: object) -> tuple[Tensor, Tensor]:
        end = self.filled + keys.shape[2]
        if not self.is_initialized:
            shape = (*keys.shape[:2], slots(end + self.room), keys.shape[3])
            self.keys, self.values = cached(keys).new_zeros(shape), cached(values).new_zeros(shape)
            self.is_initialized = True
        self.keys[:, :, self.filled : end], self.values[:, :, self.filled : end] = keys, values
        seen = slots(end) if self.filled else end
        self.filled = end
        return self.keys[:, :, :seen], self.values[:, :, :seen]

    def get_seq_length(self) -> int:
        return self.filled

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return slots(self.filled + query_length) if self.filled else query_length, 0


def empty_cache(config: PreTrainedConfig) -> Cache:
    """A cache for prompts; transformers' own where layers are not plain attention (sliding windows, ...)."""
    cache = DynamicCache(config=config)
    if all(type(layer) is DynamicLayer for layer in cache.layers):
        cache.layers = [Filling() for _ in cache.layers]
    return cache


def pad_left(cache: Cache, count: int) -> Cache:
    """The cached prompts with `count` empty slots before them, differentiably."""
    if not count or not isinstance(cache.layers[0], Filling):
        return cache
    padded = copy.copy(cache)
    padded.layers = [Filling() for _ in cache.layers]
    for new, old in zip(padded.layers, cache.layers, strict=True):
        new.update(*(F.pad(x, (0, 0, count, 0)) for x in (old.keys, old.values)))
    return padded


def cut(cache: Cache) -> None:
    """Cut the graph of the cached prompts off, to be run backward by itself: half the gradients to hold at a time.

    In one graph with the completions, autograd keeps every weight's gradient from these until the one from the
    prompts is there to be added to it. The price: only `.backward()` reaches the prompts, `torch.autograd.grad` does
    not.
    """
    roots = [x for layer in cache.layers for x in (layer.keys, layer.values)]
    if isinstance(cache.layers[0], Filling) and any(x.requires_grad for x in roots):
        leaves = iter(_Cut.apply(torch.zeros((), requires_grad=True), roots))
        for layer in cache.layers:
            layer.keys, layer.values = next(leaves), next(leaves)


class _Cut(torch.autograd.Function):
    """Tensors as they are; once the gradients of all of them are known, `roots` are run backward with these."""

    @staticmethod
    def forward(ctx, _, roots):
        ctx.roots = roots
        ctx.set_materialize_grads(False)
        return tuple(x.detach() for x in roots)

    @staticmethod
    def backward(ctx, *gradients):
        known = [(x, g) for x, g in zip(ctx.roots, gradients, strict=True) if g is not None and x.requires_grad]
        if known:
            torch.autograd.backward(*map(list, zip(*known, strict=True)))
        return None, None


def select(cache: Cache, index: Tensor, room: int = 0) -> Cache:
    """The given rows of a cache, [R] -> [len(index)], differentiably; with `room`, to decode that many tokens."""
    chosen = copy.copy(cache)
    chosen.layers = [_select_layer(layer, index, room) for layer in cache.layers]
    return chosen


def _select_layer(layer: CacheLayerMixin, index: Tensor, room: int) -> CacheLayerMixin:
    keys, values = (None if x is None else x.index_select(0, index) for x in (layer.keys, layer.values))
    if isinstance(layer, Filling):
        return Decoding(keys, values, room) if room else Continued(keys, values)
    chosen = copy.copy(layer)  # decoding goes on with fewer rows
    chosen.keys, chosen.values = keys, values
    return chosen
