"""GRPO, top to bottom (arXiv:2402.03300, algorithm 1).

    1. sample G completions of each of P prompts from the current policy        experience.py, sampling.py
    2. score every completion with every reward function                        scoring.py, rewards/
    3. drop the groups whose completions all earned the same, and refill         experience.py
    4. advantage: how much better a completion is than its siblings              advantages.py
    5. teacher-forced log-probs of the samples, and their ratio to the old ones  logprobs.py, loss.py
    6. policy loss and its gradient, in micro-batches                            loss.py, model/batching.py
    7. clip the gradient, step the optimiser; repeat 5 to 7 mu times             model/optim.py

Run it: `python -m grpo grpo --config experiments/demo/grpo.yaml`. The same on one page: minimal.py.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from data import fitting, load_problems
from data.prompts import prompts_hash
from data.stream import Stream
from grpo.advantages import group_advantages, unscored
from grpo.evaluate import PROMPTS, check_evaluation
from grpo.experience import Batch, collect, make_prompts
from grpo.logprobs import completion_logps
from grpo.loss import KL_ESTIMATORS, policy_loss
from grpo.model.batching import my_micro_batches
from grpo.model.distributed import all_reduce, reduce_metrics
from grpo.model.optim import Optimizer
from grpo.model.policy import Policy, load_policy
from grpo.runs.config import Config
from grpo.runs.folder import Run, data_hash, fingerprint
from grpo.runs.keeper import Keeper
from grpo.scoring import load_rewards
from grpo.types import Rollouts
from rewards.scores import RewardFailure


def train_grpo(config: Config, run: Run) -> Policy:
    """Run GRPO in an open run folder, from the start or from its newest checkpoint."""
    problems = load_problems(config.data, config.seed)
    rewards = load_rewards(config.rewards, config.sandbox)
    policy = load_policy(config.model, config.seed, training=True)
    problems = fitting(problems, policy.tokenizer, config.prompt, config.data)
    prompts = make_prompts(config, policy, problems)  # a prompt that is too long is found before the first step
    check_evaluation(config, policy, run)
    run.note_input("data_hash", data_hash(problems), "training data")
    run.note_input("prompt_hash", prompts_hash(prompts), PROMPTS)
    run.note_input("model_hash", fingerprint(policy), "model at model.path")
    if config.loss.beta:
        policy.freeze_reference()
    policy.start_training(config.parallel)
    steps, updates = config.grpo.steps, config.grpo.updates_per_batch
    optimizer = Optimizer(policy.trainable(), config.optim, steps * updates, policy.masters)
    keeper = Keeper.resume(config, run, policy, optimizer, steps, updates)
    position = keeper.state.get("position", 0)
    stream = Stream(problems, config.seed, position, stage=run.stage, shuffle=config.data.shuffle)

    for step in keeper.steps_left("grpo"):
        with policy.unsharded(), keeper.saved_on(RewardFailure):
            batch = collect(config, policy, rewards, stream, step, keeper.log)
        metrics = batch.metrics | update(config, policy, optimizer, batch, rewards.weights, step)
        keeper.after_step(step, metrics, position=stream.position)
    return keeper.finish()


def update(
    config: Config, policy: Policy, optimizer: Optimizer, batch: Batch, weights: Tensor, step: int
) -> dict[str, float]:
    """Steps 4 to 7: mu optimiser steps on one batch. Returns the metrics of the last; `sampler_gap` is the first's."""
    rollouts = batch.rollouts
    mask = trained_tokens(config, batch)  # [N, T]
    if not mask.any():
        return {}  # every group was dropped, or every completion masked: no step on nothing
    ref_logps = reference_logps(config, policy, rollouts)  # [N, T], None without KL
    advantages = batch_advantages(config, policy, batch, weights, ref_logps)  # [N]
    loss_config = replace(config.loss, max_length=config.loss.max_length or config.sampling.max_new_tokens)
    # counts of the whole batch, before it is cut
    counts = {"num_tokens": mask.sum().clamp(min=1), "num_sequences": mask.any(dim=1).sum().clamp(min=1)}

    old_logps = torch.zeros_like(rollouts.sampler_logps)  # [N, T], filled in the first iteration
    gap, skipped = None, 0.0
    for iteration in range(config.grpo.updates_per_batch):
        sums: dict[str, Tensor] = {}
        for rows, part in my_micro_batches(rollouts, config.tokens_per_micro_batch):
            now = slice(part.mask.shape[1])  # slots that the micro-batch fills
            logps, entropy = completion_logps(policy, part, config.sampling.temperature)  # [B, T]
            if iteration == 0:
                old_logps[rows, now] = logps.detach()
            ref = None if ref_logps is None else ref_logps[rows, now]
            loss, parts = policy_loss(
                logps, old_logps[rows, now], ref, advantages[rows], mask[rows, now] & part.mask, loss_config, **counts
            )
            loss.backward()
            per_token = {"entropy": entropy, "sampler_gap": (logps.detach() - part.sampler_logps).abs()}
            means = {name: (x * part.mask).sum() / rollouts.mask.sum() for name, x in per_token.items()}
            _add(sums, {"loss": loss.detach(), **parts, **means})
        optimizer.reduce_gradients()
        metrics = reduce_metrics(sums)
        number = step * config.grpo.updates_per_batch + iteration
        metrics |= optimizer.step(number, metrics["loss"])
        skipped += metrics["skipped"]
        gap = metrics["sampler_gap"] if gap is None else gap  # it is one only before the first step
    return metrics | {"skipped": skipped, "sampler_gap": gap}


def trained_tokens(config: Config, batch: Batch) -> Tensor:
    """The tokens that are learned from, bool [N, T]: not those of a completion to which no reward applies."""
    out = unscored(batch.rewards)  # [N]
    if config.grpo.mask_truncated:
        out = out | batch.rollouts.truncated
    return batch.rollouts.mask & ~out[:, None]


def batch_advantages(config: Config, policy: Policy, batch: Batch, weights: Tensor, ref_logps: Tensor | None) -> Tensor:
    """Advantages [N]; with the KL in the reward, r_i loses beta * sum_t kl_it before it is compared."""
    rewards = batch.rewards
    if config.loss.beta and config.loss.kl_in == "reward":
        logps = frozen_logps(config, policy, batch.rollouts)
        kl = KL_ESTIMATORS[config.loss.kl](logps, ref_logps)  # [N, T]
        kl = (kl * batch.rollouts.mask).sum(dim=1, keepdim=True)  # [N, 1]: one more reward, of weight -beta
        kl = kl.masked_fill(unscored(rewards)[:, None], torch.nan)
        rewards = torch.cat([rewards, kl], dim=1)
        weights = torch.cat([weights, torch.tensor([-config.loss.beta])])
    return group_advantages(rewards, weights, config.grpo.group_size, config.loss.advantage)


def reference_logps(config: Config, policy: Policy, rollouts: Rollouts) -> Tensor | None:
    """Log-probs of the samples under the frozen reference, [N, T]; None where no KL is wanted."""
    if not config.loss.beta:
        return None
    with policy.reference() as reference:
        return frozen_logps(config, reference, rollouts)


@torch.no_grad()
def frozen_logps(config: Config, policy: Policy, rollouts: Rollouts) -> Tensor:
    """Log-probs of the samples without gradient, [N, T]."""
    logps = torch.zeros_like(rollouts.sampler_logps)
    for rows, part in my_micro_batches(rollouts, config.tokens_per_micro_batch):
        logps[rows, : part.mask.shape[1]] += completion_logps(policy, part, config.sampling.temperature)[0]
    return all_reduce(logps)


def _add(sums: dict[str, Tensor], parts: dict[str, Tensor]) -> None:
    """Micro-batches add up, except for maxima."""
    for name, value in parts.items():
        if name.endswith("_max"):
            sums[name] = torch.maximum(sums.get(name, value), value)
        else:
            sums[name] = sums.get(name, 0) + value
