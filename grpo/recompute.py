"""Activations computed a second time in the backward pass instead of being kept: memory for time.

Autograd keeps what every operation needs for its gradient, some 50 kB a token and layer for a model of 135M
parameters. Most of it comes from operations that cost next to nothing: norms, rotations, gates, sums. So

    selective   keeps the results of matrix products and of attention, and makes the rest anew, a layer at a time
                (selective activation checkpointing, arXiv:2205.05198, section 5)
    full        keeps the input of each layer alone, for a second forward pass (arXiv:1604.06174); with it the prompts
                are run backward by themselves (`grpo.cache.cut`), and free memory is given back (`give_back`)
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import sys

import torch
from torch import nn
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts
from transformers.modeling_layers import GradientCheckpointingLayer

WAYS = ("none", "selective", "full")
_PRODUCTS = (
    "aten::mm",
    "aten::addmm",
    "aten::bmm",
    "aten::_scaled_dot_product_flash_attention_for_cpu",
    "aten::_scaled_dot_product_flash_attention",
    "aten::_scaled_dot_product_efficient_attention",
    "mkldnn::_linear_pointwise",
    "grpo::exact_attention",
)


def recompute(model: nn.Module, way: str) -> None:
    """From now on, let every decoder layer keep little and recompute the rest, wherever gradients are computed."""
    for layer in model.modules():
        if isinstance(layer, GradientCheckpointingLayer) and way != "none":
            layer.forward = functools.partial(_forward, layer.forward, way)


def _forward(forward, way, *args, **kwargs):
    if not torch.is_grad_enabled():
        return forward(*args, **kwargs)
    if way == "selective":
        kwargs["context_fn"] = functools.partial(create_selective_checkpoint_contexts, _choose)
    return checkpoint(forward, *args, use_reentrant=False, preserve_rng_state=False, **kwargs)


def _choose(context, operation, *args, **kwargs) -> CheckpointPolicy:
    kept = operation.name().removesuffix(".default") in _PRODUCTS
    return CheckpointPolicy.MUST_SAVE if kept else CheckpointPolicy.PREFER_RECOMPUTE


def give_back() -> None:
    """Return memory that is free to the operating system; glibc keeps what lies between pieces in use."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):  # another C library
            ctypes.CDLL(None).malloc_trim(0)
