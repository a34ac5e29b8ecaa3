"""Steps 1 to 3 of GRPO: sample groups of completions, score them, keep the groups that have something to teach.

    problems -> prompts -> sample_groups -> rewards [N, K] -> drop the groups without spread -> refill, bounded

Dropping such groups and sampling others in their place is DAPO's dynamic sampling (arXiv:2503.14476, section 3.2):
their advantage is 0, so but for the KL they would only shrink the batch.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field

import torch
from torch import Tensor

from data import Prompt, build_prompt
from data.stream import Stream
from grpo.advantages import spread, total_reward, zero_spread
from grpo.distributed import gather_results, rank_slice
from grpo.model.policy import Policy
from grpo.runs.config import Config
from grpo.sampling import sample_groups
from grpo.scoring import Completions, RewardSet, decode
from grpo.types import Problem, Rollouts, concat_rollouts

PER_TOKEN = ("old_logps", "ratio", "kl", "entropy", "weight", "clipped")
"""What is kept of each token, most of it from `loss.token_values`."""


@dataclass(frozen=True)
class Batch:
    """The groups that a step learns from."""

    rollouts: Rollouts
    """N = P * G completions."""
    rewards: Tensor
    """[N, K], one column per reward function, NaN where it does not apply. Never overwritten by the advantage."""
    metrics: dict[str, float]
    """Of everything that was sampled for this batch, dropped groups included."""
    sampled: list[ScoredGroups] = field(default_factory=list)
    """All of that."""
    per_token: dict[str, Tensor] = field(default_factory=dict)
    """`advantage` [N], and PER_TOKEN, [N, T] each, as of each token's last update."""

    def note(self, where: tuple[Tensor, slice], values: dict[str, Tensor]) -> None:
        """Keep the values [B, T] of a micro-batch; where: its rows and slots."""
        for name in (name for name in PER_TOKEN if name in values):
            self.per_token.setdefault(name, torch.zeros(self.rollouts.mask.shape))[where] = values[name].float()


@dataclass(frozen=True)
class ScoredGroups:
    """What one process sampled in one round; a step has one round, and one more for each refill."""

    rollouts: Rollouts
    completions: Completions
    rewards: Tensor
    """[N, K]"""
    kept: Tensor
    """Rows of the groups that are learned from."""
    killed: int
    """Completions whose scoring was killed."""


def collect(config: Config, policy: Policy, rewards: RewardSet, stream: Stream, step: int) -> Batch:
    """Sample and score groups until P of them have a spread of rewards, or the refills are used up."""
    started, missing, rounds = time.perf_counter(), config.grpo.prompts_per_step, 0
    sampled: list[ScoredGroups] = []
    stream.new_step()
    while missing and rounds <= config.grpo.max_refills:
        problems = stream.take(missing)
        if not problems:  # each problem of the data had its turn in this step
            break
        found = sample_round(config, policy, rewards, problems, step, stream.position / len(stream.items))
        sampled += found
        missing -= sum(len(groups.kept) for groups in found) // config.grpo.group_size
        rounds += 1
    metrics = describe(config, sampled, rewards)
    metrics |= {"refills": rounds - 1, "sampling_seconds": time.perf_counter() - started}
    return Batch(
        concat_rollouts([groups.rollouts.select(groups.kept) for groups in sampled]),
        torch.cat([groups.rewards[groups.kept] for groups in sampled]),
        metrics,
        sampled,
    )


def sample_round(
    config: Config, policy: Policy, rewards: RewardSet, problems: list[Problem], step: int, epoch: float
) -> list[ScoredGroups]:
    """G completions of each problem, scored, and which of the groups to keep; each process samples a slice of them."""
    mine = problems[rank_slice(len(problems))]
    gathered = gather_results(lambda: sample_and_score(config, policy, rewards, mine, step, epoch))
    return [groups for groups in gathered if groups]


def sample_and_score(
    config: Config, policy: Policy, rewards: RewardSet, problems: list[Problem], step: int, epoch: float
) -> ScoredGroups | None:
    """G completions of each of these problems, scored; None if there is no problem."""
    size, prompts, killed = config.grpo.group_size, make_prompts(config, policy, problems), rewards.killed
    found = sample_texts(config, policy, problems, prompts, size, step)
    if not found:
        return None
    rollouts, completions = found
    scores = rewards(completions, progress_of(config, step, epoch))  # [N, K]
    kept = groups_to_keep(config, rewards, scores).repeat_interleave(size).nonzero().squeeze(1)
    return ScoredGroups(rollouts, completions, scores, kept, rewards.killed - killed)


def progress_of(config: Config, step: int = 0, epoch: float = 0.0) -> dict[str, float]:
    """What rewards may know of the run, as TRL's `trainer_state`."""
    most = config.sampling.max_new_tokens
    return {"global_step": step, "max_steps": config.grpo.steps, "epoch": epoch, "max_new_tokens": most}


def groups_to_keep(config: Config, rewards: RewardSet, scores: Tensor) -> Tensor:
    """Groups with a spread of what `grpo.drop_by` names, or of the total reward, bool [P]. scores: [N, K].

    With the KL in the reward no total is flat: its part of the reward differs from completion to completion.
    """
    drop_by, weights = config.grpo.drop_by, rewards.weights
    if drop_by:
        columns = [i for i, name in enumerate(rewards.functions) if name in drop_by]
        scores, weights = scores[:, columns], torch.ones(len(columns))
    flat = zero_spread(scores, weights, config.grpo.group_size, config.loss.advantage)
    drops = config.grpo.drop_zero_spread and (drop_by or not config.loss.kl_in_reward)
    return ~flat if drops else torch.ones_like(flat)


def sample_texts(
    config: Config, policy: Policy, problems: list[Problem], prompts: list[Prompt], size: int, step: int
) -> tuple[Rollouts, Completions] | None:
    """`size` completions of each problem, as tokens and as texts; None without problems. All processes call it."""
    ids, token_ids = [p.id for p in problems], [p.ids for p in prompts]
    with policy.ready_to_sample():
        if not problems:
            return None
        rollouts = sample_groups(policy, token_ids, ids, size, config.sampling, config.seed, step)
    return rollouts, decode(policy, rollouts, prompts, problems)


def make_prompts(config: Config, policy: Policy, problems: list[Problem]) -> list[Prompt]:
    """The problems' prompts. Raises ValueError, with the setting to change, where one leaves no room to complete it."""
    prompts = [build_prompt(p, policy.tokenizer, config.prompt) for p in problems]
    policy.check_tokens(p.ids for p in prompts)
    context, most = policy.max_positions or math.inf, config.sampling.max_new_tokens
    longest, long = max((len(p.ids) for p in prompts), default=0), sum(len(p.ids) + most > context for p in prompts)
    if long:
        lower = f"lower sampling.max_new_tokens to {context - longest} or " if context > longest else ""
        raise ValueError(
            f"{long} of {len(prompts)} prompts are too long: a prompt of {longest} tokens + sampling.max_new_tokens="
            f"{most} exceeds the model's context of {context}; {lower}leave out the long ones"
        )
    return prompts


def describe(config: Config, sampled: list[ScoredGroups], rewards: RewardSet) -> dict[str, float]:
    """What was sampled in a step, dropped groups included; the glossary explains each metric."""
    size, weights = config.grpo.group_size, rewards.weights
    scores = torch.cat([groups.rewards for groups in sampled])  # [N, K]
    kept = torch.cat([groups.rewards[groups.kept] for groups in sampled])
    lengths = torch.cat([groups.rollouts.lengths for groups in sampled]).float()  # [N]
    reflections = [count for groups in sampled for count in groups.completions.reflections]  # [N]
    logged: dict[str, list[float]] = {}  # what the rewards logged themselves
    for name, values in (item for groups in sampled for item in groups.completions.metrics.items()):
        logged.setdefault(name, []).extend(values)
    return {
        **{name: sum(values) / len(values) for name, values in logged.items()},
        "reward": total_reward(scores, weights).nanmean().item(),
        "spread": spread(scores, weights, size),
        **{f"reward_{name}": m for name, m in zip(rewards.functions, scores.nanmean(dim=0).tolist(), strict=True)},
        "reflections": sum(reflections) / len(reflections),
        "zero_spread": zero_spread(scores, weights, size, config.loss.advantage).float().mean().item(),
        **shaping_only(config, rewards, kept),
        "killed": sum(groups.killed for groups in sampled),
        "groups": len(kept) / size,
        "dropped": (len(scores) - len(kept)) / size,
        "length": lengths.mean().item(),
        "length_max": lengths.max().item(),
        "truncated": torch.cat([groups.rollouts.truncated for groups in sampled]).float().mean().item(),
        "sampled_tokens": lengths.sum().item(),
    }


def shaping_only(config: Config, rewards: RewardSet, scores: Tensor) -> dict[str, float]:
    """The share of groups learned from in which all are equally right, so that the other rewards alone decide.

    scores: [N, K] of the kept groups. NaN where nothing is learned; no metric without a reward of correctness.
    """
    names, size = list(rewards.functions), config.grpo.group_size
    learned = ~zero_spread(scores, rewards.weights, size, config.loss.advantage)  # [P]
    if config.eval.reward not in names:
        return {}
    right = scores[:, [names.index(config.eval.reward)]]  # [N, 1]
    return {"shaping_only": zero_spread(right, torch.ones(1), size)[learned].float().mean().item()}
