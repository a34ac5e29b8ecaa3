"""Metrics of a step: those of micro-batches are added up, those of optimiser steps averaged."""

from __future__ import annotations

import torch
from torch import Tensor

from grpo.experience import Batch
from grpo.logprobs import logps_without_grad
from grpo.loss import KL_ESTIMATORS
from grpo.model.optim import Optimizer
from grpo.model.policy import Policy
from grpo.runs.config import Config


def add_metrics(sums: dict[str, Tensor], more: dict[str, Tensor]) -> None:
    """Add the metrics of a micro-batch; of maxima, keep the larger."""
    for name, value in more.items():
        if name.endswith("_max"):
            sums[name] = torch.maximum(sums.get(name, value), value)
        else:
            sums[name] = sums.get(name, 0) + value


def summary(updates: list[dict[str, float]], last: int) -> dict[str, float]:
    """The metrics of a step: means over the `last` optimiser steps, the last pass; see the glossary for the others."""
    means = {name: sum(metrics[name] for metrics in updates[-last:]) / last for name in updates[0]}
    return means | {
        "ratio_max": max(metrics["ratio_max"] for metrics in updates[-last:]),
        "sampler_gap": updates[0]["sampler_gap"],
        "updates": float(len(updates)),
        "skipped": sum(metrics["skipped"] for metrics in updates),
    }


def metrics_without_update(
    config: Config, policy: Policy, optimizer: Optimizer, batch: Batch, step: int
) -> dict[str, float]:
    """The metrics of a step that has no completion to learn from: how far has the policy collapsed?"""
    rollouts = batch.rollouts if len(batch.rollouts) else batch.sampled[0].rollouts
    how = config.sampling.temperature, config.tokens_per_micro_batch
    logps, entropy = logps_without_grad(policy, rollouts, *how)  # [N, T] each
    values = {"entropy": entropy, "sampler_gap": (logps - rollouts.sampler_logps).abs()}
    if config.loss.beta:
        with policy.reference() as frozen:
            values["kl"] = KL_ESTIMATORS["k3"](logps, logps_without_grad(frozen, rollouts, *how)[0])
    number = step * config.grpo.updates_per_batch * config.grpo.mini_batches
    return {name: x[rollouts.mask].mean().item() for name, x in values.items()} | {"lr": optimizer.lr(number)}
