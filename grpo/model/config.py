"""What can be configured of model and optimiser. Nothing of PyTorch: a mistake in a setting is said at once."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from grpo.ranges import NotNegative, NotNegativeInt, Positive


@dataclass(frozen=True)
class LoraConfig:
    """Low-rank adapters in place of full-parameter training."""

    rank: NotNegativeInt = 0
    """Rank r of the update; 0 trains all parameters instead."""
    alpha: Positive = 32.0
    """The update is scaled by alpha / r."""
    targets: tuple[str, ...] = ()
    """Names of the linear layers to adapt (`q_proj`, ...); empty or `all-linear`: all of them but the head."""


@dataclass(frozen=True)
class ModelConfig:
    """Which policy to load and how to train it."""

    path: str = "tiny"
    """Hub id, Hugging Face folder, PEFT adapter folder, run folder, `.gguf` file, `tiny` or `tiny-init`."""
    revision: str | None = None
    """Branch, tag or commit of a hub model."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Compute dtype. The weights that the optimiser moves are fp32 in both cases."""
    recompute: Literal["none", "full"] = "none"
    """What the backward pass computes again to save memory: none, or full (all but the layers' inputs)."""
    device: str = "auto"
    """Where the model runs: cpu, cuda, cuda:0, ...; auto is a GPU if there is one, else the CPU."""
    lora: LoraConfig = field(default_factory=LoraConfig)
    """LoRA settings; rank 0 trains all parameters."""


@dataclass(frozen=True)
class OptimConfig:
    """AdamW (arXiv:1711.05101) and its schedule."""

    lr: Positive = 1e-6
    """Peak learning rate."""
    warmup_steps: NotNegativeInt = 0
    """Optimiser steps over which the learning rate rises from 0, linearly."""
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    """The learning rate after the warm-up; linear and cosine fall to final_lr_share."""
    final_lr_share: NotNegative = 0.0
    """Share of the peak learning rate towards which linear and cosine fall; the step after the last would reach it."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Decay rates of Adam's first and second moment."""
    eps: Positive = 1e-8
    """Adam's epsilon."""
    weight_decay: NotNegative = 0.0
    """Decoupled weight decay, on matrices only."""
    max_grad_norm: Positive = 1.0
    """Gradients are scaled down to this global norm."""
