"""AdamW on fp32 master weights, with warm-up, a schedule and gradient clipping.

A bf16 number has 8 significant bits, so 1 + 1e-3 is rounded to 1. A learning rate of 1e-6 would move nothing, so what
the optimiser moves is always fp32. Where the model computes in bf16, its parameters are rounded copies of these
masters, and the gradients of the micro-batches add up in fp32.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from grpo.model.config import OptimConfig
from grpo.model.sharding import full_tensor, reduce_gradients


def lr_share(step: int, steps: int, config: OptimConfig) -> float:
    """Learning rate of step `step` (from 0) of `steps`, as a share of its peak."""
    if step < config.warmup_steps:
        return (step + 1) / config.warmup_steps
    progress = (step - config.warmup_steps) / max(1, steps - config.warmup_steps)
    shapes = {"constant": 1.0, "linear": 1 - progress, "cosine": 0.5 * (1 + math.cos(math.pi * progress))}
    shape = shapes[config.schedule]
    return shape if config.schedule == "constant" else config.final_lr_share + (1 - config.final_lr_share) * shape


class Optimizer:
    """Steps the fp32 masters of the given parameters; gradients reach them by themselves during backward."""

    def __init__(
        self,
        parameters: dict[str, nn.Parameter],
        config: OptimConfig,
        steps: int,
        masters: dict[str, Tensor] | None = None,
    ):
        """steps: of the whole run, for the schedule. masters: fp32 values from before parameters were rounded."""
        self.config, self.steps, self.parameters = config, steps, parameters
        self.masters = {
            name: p if p.dtype == torch.float32 else nn.Parameter((masters or {}).get(name, p.detach()).float())
            for name, p in parameters.items()
        }
        for name, p in parameters.items():
            if self.masters[name] is not p:
                p.register_post_accumulate_grad_hook(self._move_gradient(self.masters[name]))
        matrices = [m for m in self.masters.values() if m.dim() >= 2]
        others = [m for m in self.masters.values() if m.dim() < 2]
        groups = [
            {"params": matrices, "weight_decay": config.weight_decay},
            {"params": others, "weight_decay": 0.0},
        ]
        self.adamw = torch.optim.AdamW(
            [g for g in groups if g["params"]], lr=config.lr, betas=config.betas, eps=config.eps, fused=True
        )

    @staticmethod
    def _move_gradient(master: nn.Parameter):
        def hook(p: Tensor) -> None:
            gradient = p.grad.float()
            master.grad = gradient if master.grad is None else master.grad.add_(gradient)
            p.grad = None

        return hook

    def reduce_gradients(self) -> None:
        """Sum the gradients of all processes."""
        reduce_gradients(self.masters)

    def lr(self, step: int) -> float:
        """Learning rate of optimiser step `step`, from 0."""
        return self.config.lr * lr_share(step, self.steps, self.config)

    def step(self, step: int, loss: float = 0.0) -> dict[str, float]:
        """Clip, step and clear; nothing is moved where the gradient, or the loss that it is of, is not finite.

        Returns `grad_norm` before clipping, `lr`, and `skipped`: 1 if nothing was moved, and then no norm is finite.
        """
        masters = list(self.masters.values())
        norm = full_tensor(nn.utils.clip_grad_norm_(masters, self.config.max_grad_norm)).item()
        norm = norm if math.isfinite(loss) else math.nan
        lr = self.lr(step)
        if math.isfinite(norm):
            for group in self.adamw.param_groups:
                group["lr"] = lr
            self.adamw.step()
            self.copy_to_model()
        self.adamw.zero_grad(set_to_none=True)
        return {"grad_norm": norm, "lr": lr, "skipped": float(not math.isfinite(norm))}

    def full_masters(self) -> Iterator[tuple[str, Tensor]]:
        """Name and fp32 value of one parameter after the other, out of all processes' shards."""
        for name, master in self.masters.items():
            yield name, full_tensor(master.detach())

    @torch.no_grad()
    def copy_to_model(self) -> None:
        """Round the masters into the model's compute dtype."""
        for name, p in self.parameters.items():
            if self.masters[name] is not p:
                p.copy_(self.masters[name])
