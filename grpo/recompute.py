"""Activations computed a second time in the backward pass instead of being kept: memory for a little time.

Autograd keeps what every operation needs for its gradient, some 50 kB a token and layer for a model of 135M
parameters. Most of it comes from operations that cost next to nothing: norms, rotations, gates, products. So only the
results of matrix products and of attention are kept here (selective activation checkpointing, arXiv:2205.05198,
section 5), and the rest is made anew, a layer at a time.
"""

from __future__ import annotations

import functools

import torch
from torch import nn
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts
from transformers.modeling_layers import GradientCheckpointingLayer

aten = torch.ops.aten
KEPT = frozenset(
    getattr(aten, name).default
    for name in (
        "mm",
        "addmm",
        "bmm",
        "_scaled_dot_product_flash_attention_for_cpu",
        "_scaled_dot_product_flash_attention",
        "_scaled_dot_product_efficient_attention",
    )
)


def recompute(model: nn.Module) -> None:
    """From now on, let every decoder layer keep little and recompute the rest, wherever gradients are computed."""
    for layer in model.modules():
        if isinstance(layer, GradientCheckpointingLayer):
            layer.forward = functools.partial(_forward, layer.forward)


def _forward(forward, *args, **kwargs):
    if not torch.is_grad_enabled():
        return forward(*args, **kwargs)
    contexts = functools.partial(create_selective_checkpoint_contexts, _choose)
    return checkpoint(forward, *args, use_reentrant=False, context_fn=contexts, preserve_rng_state=False, **kwargs)


def _choose(context, operation, *args, **kwargs) -> CheckpointPolicy:
    return CheckpointPolicy.MUST_SAVE if operation in KEPT else CheckpointPolicy.PREFER_RECOMPUTE
