"""GRPO, top to bottom (arXiv:2402.03300, algorithm 1 with one outer iteration: the reference never changes).

    1. sample G completions of each of P prompts from the current policy        experience.py, sampling.py
    2. score every completion with every reward function                        scoring.py, rewards/
    3. drop the groups whose completions all earned the same, and refill         experience.py
    4. advantage: how much better a completion is than its siblings              advantages.py
    5. teacher-forced log-probs of the samples, and their ratio to the old ones  logprobs.py, loss.py
    6. policy loss and its gradient, in micro-batches                            loss.py, model/batching.py
    7. clip the gradient, step the optimiser; 5 to 7 for each mini-batch, mu times model/optim.py

Step 3 is DAPO's (arXiv:2503.14476) and on by default; without it: grpo.drop_zero_spread=false.

Run it: `python -m grpo grpo --config experiments/demo/grpo.yaml`. The same on one page: minimal.py.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from data import fitting, load_problems
from data.prompts import prompts_hash
from data.stream import Stream
from grpo.advantages import group_advantages, unscored
from grpo.audits import say_audits
from grpo.distributed import all_reduce, reduce_metrics
from grpo.evaluation import PROMPTS, check_evaluation
from grpo.experience import Batch, collect, make_prompts
from grpo.golds import gradable
from grpo.logprobs import completion_logps, logps_without_grad
from grpo.loss import KL_ESTIMATORS, Counts, token_loss, token_means
from grpo.metrics import add_metrics, metrics_without_update, summary
from grpo.model.batching import my_micro_batches
from grpo.model.optim import Optimizer
from grpo.model.policy import Policy, load_policy
from grpo.records import record_step
from grpo.results.curve import held_out_point
from grpo.runs.config import Config
from grpo.runs.folder import Run, data_hash, fingerprint
from grpo.runs.keeper import Keeper
from grpo.runs.log import say
from grpo.runs.start import say_start
from grpo.sampling import uniforms
from grpo.scoring import load_rewards
from grpo.weights import Tokens, needs_batch_entropy
from rewards.sandbox.scores import RewardFailure


def train_grpo(config: Config, run: Run) -> Policy:
    """Run GRPO in an open run folder, from the start or from its newest checkpoint."""
    problems = load_problems(config.data, config.seed)
    rewards = load_rewards(config.rewards, config.sandbox)
    policy = load_policy(config.model, config.seed, training=True, parallel=config.parallel)
    problems = fitting(problems, policy.tokenizer, config.prompt, config.data)
    problems = gradable(problems, config.rewards, config.data)
    prompts = make_prompts(config, policy, problems)  # a prompt that is too long is found before the first step
    check_evaluation(config, policy, run)
    run.note_input("data_hash", data_hash(problems), "training data")
    run.note_input("prompt_hash", prompts_hash(prompts), PROMPTS)
    run.note_input("model_hash", fingerprint(policy), "model at model.path")
    if config.loss.beta:
        policy.freeze_reference()
    policy.start_training(config.parallel, config.by_layer("grpo"))
    steps, updates = config.grpo.steps, config.grpo.updates_per_batch * config.grpo.mini_batches
    if updates == 1 and config.loss.surrogate != "reinforce":
        say("NOTE: one update a batch: every ratio pi / pi_old is 1, so clips and gates do nothing; see "
            "grpo.mini_batches")  # fmt: skip
    optimizer = Optimizer(policy.trainable(), config.optim, steps * updates, policy.masters)
    keeper = Keeper.resume(config, run, policy, optimizer, steps)
    position = keeper.state.get("position", 0)
    stream = Stream(problems, config.seed, position, stage=run.stage, shuffle=config.data.shuffle)

    say_start("grpo", config, policy, len(problems))
    say_audits(config, rewards, problems, chat=prompts[0].messages is not None)
    for step in keeper.steps_left("grpo", held_out_point):
        with keeper.saved_on(RewardFailure):
            batch = collect(config, policy, rewards, stream, step)
        metrics = batch.metrics | update(config, policy, optimizer, batch, rewards.weights, step)
        metrics |= record_step(keeper.log, step, batch, rewards, policy, config)
        keeper.after_step(step, metrics, position=stream.position)
    return keeper.finish()


@dataclass(frozen=True)
class BatchConstants:
    """What stays the same through all updates on a batch, whatever the policy becomes meanwhile."""

    advantages: Tensor
    """[N], of the whole batch, before it is cut into mini-batches."""
    reference: Tensor | None
    """[N, T] log-probs of the frozen reference; None without KL."""
    old: Tensor | None
    """[N, T] log-probs of the policy before its first update on the batch. None where a batch gets one
    update: then they are the current ones."""
    old_entropy: Tensor | None
    """[N, T] entropies of that policy, for weights that compare a token with all others of its mini-batch."""


def update(
    config: Config, policy: Policy, optimizer: Optimizer, batch: Batch, weights: Tensor, step: int
) -> dict[str, float]:
    """Steps 4 to 7: mu passes over the mini-batches of a batch, an optimiser step each.

    Returns the metrics of the last pass, as means over its optimiser steps; `sampler_gap` is of the first one, before
    which the policy is the sampler's. Fills `batch.per_token` with the values of each token in the last pass.
    """
    trained = trained_rows(config, batch)  # [N]
    if not trained.any():
        return metrics_without_update(config, policy, optimizer, batch, step)
    cut, passes = mini_batches(config, trained, step), config.grpo.updates_per_batch
    constants = batch_constants(config, policy, batch, weights, cut)
    updates = []
    for number, rows in enumerate(cut * passes, step * passes * config.grpo.mini_batches):
        counts = count(config, batch.rollouts.mask[rows], trained.sum().item() / len(cut))
        sums = add_gradient(config, policy, batch, constants, rows, counts)
        optimizer.reduce_gradients()
        metrics = reduce_metrics(sums)
        updates.append(metrics | optimizer.step(number, metrics["loss"]))
    batch.per_token.update({n: all_reduce(x) for n, x in batch.per_token.items()}, advantage=constants.advantages)
    return summary(updates, len(cut))


def count(config: Config, mask: Tensor, mean_rows: float) -> Counts:
    """What the loss of a mini-batch is divided by. mask: of its rows; mean_rows: rows of a mini-batch on average.

    Where 5 groups make 4 mini-batches, one has two groups. Its loss is divided by the counts of an average one, so that
    a completion weighs the same in each.
    """
    share = mean_rows / len(mask)
    max_length = config.loss.length_divisor(config.sampling.max_new_tokens)
    return Counts(mask.sum().item() * share, len(mask) * share, max_length)


def add_gradient(
    config: Config, policy: Policy, batch: Batch, constants: BatchConstants, mini: Tensor, counts: Counts
) -> dict[str, Tensor]:
    """Steps 5 and 6: add the gradient of the loss of these rows, in micro-batches.

    Returns the metrics of this process's micro-batches, whose sum over processes is the mini-batch's.
    """
    rollouts = batch.rollouts.select(mini)
    num_tokens, sums = rollouts.mask.sum(), {}
    entropies = None if constants.old_entropy is None else constants.old_entropy[mini][batch.rollouts.mask[mini]]  # [M]
    for rows, micro in my_micro_batches(rollouts, config.tokens_per_micro_batch, policy.passes.prompts_shared):
        here = (mini[rows], slice(micro.mask.shape[1]))  # rows of the batch, and the slots that the micro-batch fills
        logps, entropy = completion_logps(policy, micro, config.sampling.temperature)  # [B, T] each
        tokens = Tokens.of(
            micro.mask, entropies, logps=logps, old=logps.detach() if constants.old is None else constants.old[here],
            sampler=micro.sampler_logps, reference=None if constants.reference is None else constants.reference[here],
            entropy=entropy, advantages=constants.advantages[here[0]],
        )  # fmt: skip
        loss, values = token_loss(tokens, config.loss, counts)
        loss.backward()
        values["sampler_gap"] = (tokens.logps.detach() - tokens.sampler).abs()
        add_metrics(sums, {"loss": loss.detach(), **token_means(values, num_tokens)})
        batch.note(here, values | {"old_logps": tokens.old})
    return sums


def needs_old_values(config: Config) -> bool:
    """Whether log-probs and entropies are computed before the updates. Not for a single update, which computes them
    itself, unless a weight needs the entropies of the whole mini-batch."""
    several = config.grpo.mini_batches * config.grpo.updates_per_batch > 1
    return several or needs_batch_entropy(config.loss.weight)


def mini_batches(config: Config, trained: Tensor, step: int) -> list[Tensor]:
    """The rows that are trained on, in at most `grpo.mini_batches` sets of groups; a function of seed and step alone.

    trained: [N] bool. The cut is the same in every pass: bf16 log-probs depend on what is computed together, and ratios
    should begin at 1.
    """
    groups = torch.arange(len(trained)).view(-1, config.grpo.group_size)  # [P, G]
    groups = groups[trained[groups].any(dim=1)]
    order = torch.from_numpy(uniforms(config.seed, step, "mini-batches", 0, len(groups)).argsort())
    sets = [groups[some.sort().values].flatten() for some in order.tensor_split(config.grpo.mini_batches) if len(some)]
    return [rows[trained[rows]] for rows in sets]


def trained_rows(config: Config, batch: Batch) -> Tensor:
    """Which completions are learned from, bool [N]: all that have a reward; with `mask_truncated`, without those that
    were cut off."""
    left_out = unscored(batch.rewards)  # [N]
    if config.grpo.mask_truncated:
        left_out = left_out | batch.rollouts.truncated
    return ~left_out


def batch_constants(config: Config, policy: Policy, batch: Batch, weights: Tensor, cut: list[Tensor]) -> BatchConstants:
    """Advantages, and the log-probs that they and the updates need, each computed once. cut: the mini-batches."""
    rows = cut
    if config.loss.kl_in_reward:  # of all completions with a reward
        others = ~unscored(batch.rewards)
        others[torch.cat(cut)] = False
        rows = [*cut, others.nonzero().squeeze(1)]
    how = config.sampling.temperature, config.tokens_per_micro_batch
    reference = old = entropy = None
    if config.loss.beta:
        with policy.reference() as frozen:
            reference, _ = logps_without_grad(frozen, batch.rollouts, *how, rows)
    if config.loss.kl_in_reward or needs_old_values(config):
        old, entropy = logps_without_grad(policy, batch.rollouts, *how, rows)
    advantages = batch_advantages(config, batch, weights, old, reference)
    if not needs_old_values(config):
        old = entropy = None
    return BatchConstants(advantages, reference, old, entropy)


def batch_advantages(
    config: Config, batch: Batch, weights: Tensor, logps: Tensor | None, ref_logps: Tensor | None
) -> Tensor:
    """Advantages [N]; with the KL in the reward, r_i loses beta * sum_t kl_it before it is compared."""
    rewards = batch.rewards
    if config.loss.kl_in_reward:
        kl = KL_ESTIMATORS[config.loss.kl](logps, ref_logps)  # [N, T]
        kl = (kl * batch.rollouts.mask).sum(dim=1, keepdim=True)  # [N, 1]: one more reward, of weight -beta
        kl = kl.masked_fill(unscored(rewards)[:, None], torch.nan)
        rewards = torch.cat([rewards, kl], dim=1)
        weights = torch.cat([weights, torch.tensor([-config.loss.beta])])
    return group_advantages(rewards, weights, config.grpo.group_size, config.loss.advantage)
