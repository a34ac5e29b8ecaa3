"""GRPO, top to bottom (arXiv:2402.03300, algorithm 1).

    1. sample G completions of each of P prompts from the current policy        experience.py, sampling.py
    2. score every completion with every reward function                        scoring.py, rewards/
    3. drop the groups whose completions all earned the same, and refill         experience.py
    4. advantage: how much better a completion is than its siblings              advantages.py
    5. teacher-forced log-probs of the samples, and their ratio to the old ones  logprobs.py, loss.py
    6. policy loss and its gradient, in micro-batches                            loss.py, batching.py
    7. clip the gradient, step the optimiser; repeat 5 to 7 mu times             optim.py

Run it: `python -m grpo grpo --config experiments/demo/grpo.yaml`.
"""

from __future__ import annotations

import time
from dataclasses import replace

import torch
from torch import Tensor

from data import load_problems
from grpo.advantages import group_advantages
from grpo.batching import micro_batches
from grpo.config import Config
from grpo.distributed import add_up_gradients, added, added_metrics, deal, gather_weights, is_sharded, shard
from grpo.experience import Batch, check_prompts, collect
from grpo.keeper import Keeper, step_or_skip
from grpo.log import progress, say
from grpo.logprobs import completion_logps
from grpo.loss import KL_ESTIMATORS, policy_loss
from grpo.memory import give_back
from grpo.optim import Optimizer
from grpo.policy import Policy, load_policy
from grpo.runs import Run, data_hash, fingerprint
from grpo.scoring import RewardFailure, load_rewards
from grpo.stream import Stream
from grpo.types import Rollouts


def train_grpo(config: Config, run: Run) -> Policy:
    """Run stage 2 or 4 in an open run folder, from the start or from its newest checkpoint."""
    problems = load_problems(config.data, config.seed)
    run.note_input("data_hash", data_hash(problems), "training data")
    rewards = load_rewards(config.rewards, config.sandbox)
    sharded = is_sharded(config.parallel)
    policy = load_policy(config.model, config.seed, sharded)
    if len(problems) < config.grpo.prompts_per_step:
        say(
            f"{len(problems)} problems for {config.grpo.prompts_per_step} groups: a repeated one samples the same again"
        )
    run.note_input("model_hash", fingerprint(policy), "model at model.path")
    check_prompts(config, policy, problems)
    if config.loss.beta:
        policy.freeze_reference()
    if sharded:
        shard(policy.model, policy.dtype)
    optimizer = Optimizer(policy.trainable(), config.optim, config.grpo.steps * config.grpo.updates_per_batch)
    keeper = Keeper(config, run, policy, optimizer, config.grpo.steps, config.grpo.updates_per_batch)
    first = keeper.state["step"]
    stream = Stream(problems, config.seed, keeper.state.get("position", 0))

    with progress(total=config.grpo.steps, initial=first, desc="grpo", unit="step") as bar:
        for step in range(first, config.grpo.steps):
            started = time.perf_counter()
            gather_weights(policy.model)
            try:
                batch = collect(config, policy, rewards, stream, step, keeper.log)
            except RewardFailure:  # what is trained so far is not lost, and goes on when the reward is mended
                keeper.save()
                raise
            sampled = time.perf_counter()
            metrics = batch.metrics | update(config, policy, optimizer, batch, rewards.weights, step)
            ended = time.perf_counter()
            metrics |= {"seconds": ended - started, "sampling_seconds": sampled - started}
            metrics["tokens_per_second"] = metrics["sampled_tokens"] / (ended - started)
            bar.set_postfix({name: f"{metrics[key]:.2f}" for name, key in SHOWN.items() if key in metrics})
            bar.update()
            learned_from = (batch.rollouts, batch.rewards)
            keeper.after_step(step + 1, metrics, lambda it=learned_from: it, position=stream.position)
    return keeper.finish()


SHOWN = {"reward": "reward", "acc": "reward_accuracy", "refl": "reflections", "len": "length", "kl": "kl"}

# ---- steps 4 to 6: learning ---------------------------------------------------------------------------------


def update(
    config: Config, policy: Policy, optimizer: Optimizer, batch: Batch, weights: Tensor, step: int
) -> dict[str, float]:
    """mu optimiser steps on one batch. Returns the metrics of the last; `sampler_gap` is the first's."""
    rollouts, temperature = batch.rollouts, config.sampling.temperature
    if not len(rollouts):
        return {}  # every group was dropped; `Keeper` says so
    micro = micro_batches(rollouts, config.tokens_per_micro_batch)
    if policy.recompute == "full":
        give_back()
    ref_logps = None  # [N, T]
    if config.loss.beta:
        with policy.reference() as reference:
            ref_logps = frozen_logps(reference, rollouts, micro, temperature)
    advantages = batch_advantages(config, policy, batch, weights, ref_logps, micro)  # [N]
    mask = rollouts.mask & ~rollouts.truncated[:, None] if config.grpo.mask_truncated else rollouts.mask  # [N, T]
    loss_config = replace(config.loss, max_length=config.loss.max_length or config.sampling.max_new_tokens)
    # counts of the whole batch, before it is cut
    counts = {"num_tokens": mask.sum().clamp(min=1), "num_sequences": mask.any(dim=1).sum().clamp(min=1)}

    old_logps = torch.zeros_like(rollouts.sampler_logps)  # [N, T], filled in the first iteration
    metrics: dict[str, float] = {}
    skipped = 0.0
    for iteration in range(config.grpo.updates_per_batch):
        sums: dict[str, Tensor] = {}
        gather_weights(policy.model)
        for rows, counted in deal(micro):
            part = rollouts.select(rows)
            now = slice(part.mask.shape[1])  # slots that the micro-batch fills
            logps, entropy = completion_logps(policy, part, temperature)  # [B, T]
            logps, entropy = logps.cpu(), entropy.cpu()
            if iteration == 0:
                old_logps[rows, now] = logps.detach()
            ref = None if ref_logps is None else ref_logps[rows, now]
            loss, parts = policy_loss(
                logps, old_logps[rows, now], ref, advantages[rows], mask[rows, now], loss_config, **counts
            )
            (loss * counted).backward()
            gap = (logps.detach() - part.sampler_logps).abs()
            per_token = {"entropy": entropy, "sampler_gap": gap}
            parts |= {name: (x * part.mask).sum() / rollouts.mask.sum() for name, x in per_token.items()}
            _add(sums, {"loss": loss.detach(), **parts}, counted)
            if policy.recompute == "full":
                give_back()
        add_up_gradients(policy.model, optimizer.masters)
        summed = added_metrics(sums)
        # the gap is one only before the first step
        metrics = summed | {"sampler_gap": metrics.get("sampler_gap", summed["sampler_gap"])}
        number = step * config.grpo.updates_per_batch + iteration
        metrics |= step_or_skip(optimizer, number, metrics["loss"])
        skipped += metrics["skipped"]
    return metrics | {"skipped": skipped}


def batch_advantages(
    config: Config,
    policy: Policy,
    batch: Batch,
    weights: Tensor,
    ref_logps: Tensor | None,
    micro: list[Tensor],
) -> Tensor:
    """Advantages [N]; with the KL in the reward, r_i loses beta * sum_t kl_it before it is compared."""
    rewards = batch.rewards
    if config.loss.beta and config.loss.kl_in == "reward":
        logps = frozen_logps(policy, batch.rollouts, micro, config.sampling.temperature)
        kl = KL_ESTIMATORS[config.loss.kl](logps, ref_logps)  # [N, T]
        kl = (kl * batch.rollouts.mask).sum(dim=1, keepdim=True)  # [N, 1]: one more reward, of weight -beta
        rewards = torch.cat([rewards, kl], dim=1)
        weights = torch.cat([weights, torch.tensor([-config.loss.beta])])
    return group_advantages(rewards, weights, config.grpo.group_size, config.loss.advantage)


@torch.no_grad()
def frozen_logps(policy: Policy, rollouts: Rollouts, micro: list[Tensor], temperature: float) -> Tensor:
    """Log-probs of the samples without gradient, [N, T]."""
    logps = torch.zeros_like(rollouts.sampler_logps)
    for rows, counted in deal(micro):
        part = rollouts.select(rows)
        if counted:
            logps[rows, : part.mask.shape[1]] = completion_logps(policy, part, temperature)[0].cpu()
    return added(logps)


def _add(sums: dict[str, Tensor], parts: dict[str, Tensor], counted: bool) -> None:
    """Micro-batches add up, except for maxima; one that another process counts is nothing."""
    for name, value in parts.items():
        if name.endswith("_max"):
            sums[name] = torch.maximum(sums.get(name, value), value)
        else:
            sums[name] = sums.get(name, 0) + value * counted
