"""GRPO, top to bottom (arXiv:2402.03300, algorithm 1).

    1. sample G completions of each of P prompts from the current policy        experience.py, sampling.py
    2. score every completion with every reward function                        scoring.py, rewards/
    3. drop the groups whose completions all earned the same, and refill         experience.py
    4. advantage: how much better a completion is than its siblings              advantages.py
    5. teacher-forced log-probs of the samples, and their ratio to the old ones  logprobs.py, loss.py
    6. policy loss and its gradient, in micro-batches                            loss.py, model/batching.py
    7. clip the gradient, step the optimiser; 5 to 7 for each mini-batch, mu times model/optim.py

Run it: `python -m grpo grpo --config experiments/demo/grpo.yaml`. The same on one page: minimal.py.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from data import fitting, load_problems
from data.prompts import prompts_hash
from data.stream import Stream
from grpo.advantages import group_advantages, unscored
from grpo.distributed import all_reduce, reduce_metrics
from grpo.evaluate import PROMPTS, check_evaluation
from grpo.experience import Batch, collect, log_completions, make_prompts
from grpo.logprobs import completion_logps
from grpo.loss import KL_ESTIMATORS, policy_loss
from grpo.model.batching import my_micro_batches
from grpo.model.optim import Optimizer
from grpo.model.policy import Policy, load_policy
from grpo.runs.config import Config
from grpo.runs.folder import Run, data_hash, fingerprint
from grpo.runs.keeper import Keeper
from grpo.runs.log import say
from grpo.sampling import uniforms
from grpo.scoring import load_rewards
from grpo.types import Rollouts
from rewards.sandbox.scores import RewardFailure


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
    steps, updates = config.grpo.steps, config.grpo.updates_per_batch * config.grpo.mini_batches
    if updates == 1 and (config.loss.surrogate != "reinforce" or config.loss.weight):
        say("NOTE: one update a batch: every ratio is 1, clips and masks by distance do nothing; see grpo.mini_batches")
    optimizer = Optimizer(policy.trainable(), config.optim, steps * updates, policy.masters)
    keeper = Keeper.resume(config, run, policy, optimizer, steps, updates)
    position = keeper.state.get("position", 0)
    stream = Stream(problems, config.seed, position, stage=run.stage, shuffle=config.data.shuffle)

    for step in keeper.steps_left("grpo"):
        with policy.unsharded(), keeper.saved_on(RewardFailure):
            batch = collect(config, policy, rewards, stream, step)
        metrics = batch.metrics | update(config, policy, optimizer, batch, rewards.weights, step)
        log_completions(keeper.log, step, batch, rewards, policy.tokenizer, config)
        keeper.after_step(step, metrics, position=stream.position)
    return keeper.finish()


@dataclass(frozen=True)
class Fixed:
    """What stays as it is while a batch is learned from, whatever the policy becomes meanwhile."""

    mask: Tensor
    """[N, T] bool: the tokens that are learned from."""
    advantages: Tensor
    """[N], of the whole batch, before it is cut into mini-batches."""
    ref_logps: Tensor | None
    """[N, T], None without KL."""
    old_logps: Tensor | None
    """[N, T] of the policy before its first update on the batch; None where there is one: they are the present ones."""
    old_entropy: Tensor | None


def update(
    config: Config, policy: Policy, optimizer: Optimizer, batch: Batch, weights: Tensor, step: int
) -> dict[str, float]:
    """Steps 4 to 7: mu passes over the mini-batches of a batch, an optimiser step each.

    Returns the metrics of the last pass, as means over its optimiser steps; `sampler_gap` is of the first one, before
    which the policy is the sampler's. Fills `batch.figures` with what each token had in the last pass.
    """
    mask = trained_tokens(config, batch)  # [N, T]
    if not mask.any():
        return figures_alone(config, policy, optimizer, batch, step)  # all were dropped or masked: no step on nothing
    parts, passes = mini_batches(config, batch.rollouts, step), config.grpo.updates_per_batch
    ref_logps = reference_logps(config, policy, batch.rollouts)
    advantages = batch_advantages(config, policy, batch, weights, ref_logps)
    old = (None, None) if is_one_update(config) else frozen_logps(config, policy, batch.rollouts, parts)
    fixed = Fixed(mask, advantages, ref_logps, *old)
    made = []
    for number, rows in enumerate(parts * passes, step * passes * config.grpo.mini_batches):
        if mask[rows].any():
            metrics = gradient(config, policy, batch, fixed, rows)
            optimizer.reduce_gradients()
            metrics = reduce_metrics(metrics)
            made.append(metrics | optimizer.step(number, metrics["loss"]))
    batch.figures.update({name: all_reduce(x) for name, x in batch.figures.items()}, advantage=advantages)
    last = made[-len(made) // passes :]
    means = {name: sum(metrics[name] for metrics in last) / len(last) for name in last[0]}
    whole = {"ratio_max": max(m["ratio_max"] for m in last), "skipped": sum(m["skipped"] for m in made)}
    return means | whole | {"sampler_gap": made[0]["sampler_gap"]}


def gradient(config: Config, policy: Policy, batch: Batch, fixed: Fixed, mini: Tensor) -> dict[str, Tensor]:
    """Steps 5 and 6: add the gradient of the loss of these rows, in micro-batches. Returns its metrics, still to be
    summed over processes."""
    loss_config = replace(config.loss, max_length=config.loss.max_length or config.sampling.max_new_tokens)
    rollouts, mask = batch.rollouts.select(mini), fixed.mask[mini]
    # counts of the mini-batch, before it is cut
    counts = {"num_tokens": mask.sum(), "num_sequences": mask.any(dim=1).sum()}
    entropies = None if fixed.old_entropy is None else fixed.old_entropy[mini][mask]  # [M]
    sums: dict[str, Tensor] = {}
    for rows, part in my_micro_batches(rollouts, config.tokens_per_micro_batch):
        now = (mini[rows], slice(part.mask.shape[1]))  # rows of the batch, and the slots that the micro-batch fills
        logps, entropy = completion_logps(policy, part, config.sampling.temperature)  # [B, T]
        old_logps = logps.detach() if fixed.old_logps is None else fixed.old_logps[now]
        figures: dict[str, Tensor] = {}
        loss, terms = policy_loss(
            logps, old_logps, None if fixed.ref_logps is None else fixed.ref_logps[now], fixed.advantages[now[0]],
            fixed.mask[now] & part.mask, loss_config, **counts, sampler_logps=part.sampler_logps, entropy=entropy,
            batch_entropy=entropies, per_token=figures,
        )  # fmt: skip
        loss.backward()
        per_token = {"entropy": entropy.detach(), "sampler_gap": (logps.detach() - part.sampler_logps).abs()}
        means = {name: (x * part.mask).sum() / rollouts.mask.sum() for name, x in per_token.items()}
        _add(sums, {"loss": loss.detach(), **terms, **means})
        batch.note(now, figures)
    return sums


def is_one_update(config: Config) -> bool:
    """Whether a batch gets one optimiser step, which needs no log-probs and entropies from before it."""
    several = config.grpo.mini_batches * config.grpo.updates_per_batch > 1
    return not several and "top_entropy" not in str(config.loss.weight)


def figures_alone(config: Config, policy: Policy, optimizer: Optimizer, batch: Batch, step: int) -> dict[str, float]:
    """What a step that learns nothing tells of the policy, for one that has collapsed: entropy, KL, learning rate."""
    rollouts = batch.rollouts if len(batch.rollouts) else batch.parts[0].rollouts
    logps, entropy = frozen_logps(config, policy, rollouts)  # [N, T] each
    figures = {"entropy": entropy, "sampler_gap": (logps - rollouts.sampler_logps).abs()}
    if (ref_logps := reference_logps(config, policy, rollouts)) is not None:
        figures["kl"] = KL_ESTIMATORS["k3"](logps, ref_logps)
    number = step * config.grpo.updates_per_batch * config.grpo.mini_batches
    return {name: x[rollouts.mask].mean().item() for name, x in figures.items()} | {"lr": optimizer.lr(number)}


def mini_batches(config: Config, rollouts: Rollouts, step: int) -> list[Tensor]:
    """The groups in `grpo.mini_batches` parts, as rows of the batch; which, is a function of seed and step alone.

    The cut is the same in every pass, as bf16 log-probs depend on what is computed together: ratios begin at 1.
    """
    groups = torch.arange(len(rollouts)).view(-1, config.grpo.group_size)  # [P, G]
    order = torch.from_numpy(uniforms(config.seed, step, "mini-batches", 0, len(groups)).argsort())
    parts = order.tensor_split(config.grpo.mini_batches)
    return [groups[part.sort().values].flatten() for part in parts if len(part)]


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
        logps, _ = frozen_logps(config, policy, batch.rollouts)
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
        return frozen_logps(config, reference, rollouts)[0]


@torch.no_grad()
def frozen_logps(
    config: Config, policy: Policy, rollouts: Rollouts, parts: list[Tensor] | None = None
) -> tuple[Tensor, Tensor]:
    """Log-probs and entropies of the samples without gradient, [N, T] each, computed in these parts."""
    found = torch.zeros(2, *rollouts.mask.shape)
    for mini in parts or [torch.arange(len(rollouts))]:
        for rows, part in my_micro_batches(rollouts.select(mini), config.tokens_per_micro_batch):
            both = completion_logps(policy, part, config.sampling.temperature)
            found[:, mini[rows], : part.mask.shape[1]] += torch.stack(both)
    return tuple(all_reduce(found))


def _add(sums: dict[str, Tensor], parts: dict[str, Tensor]) -> None:
    """Micro-batches add up, except for maxima."""
    for name, value in parts.items():
        if name.endswith("_max"):
            sums[name] = torch.maximum(sums.get(name, value), value)
        else:
            sums[name] = sums.get(name, 0) + value
