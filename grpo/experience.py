"""Steps 1 to 3 of GRPO: sample groups of completions, score them, keep the groups that have something to teach.

    problems -> prompts -> sample_groups -> rewards [N, K] -> drop the groups without spread -> refill, bounded

Dropping such groups and sampling others in their place is DAPO's dynamic sampling (arXiv:2503.14476, section 3.2):
their advantage is 0, so they would only shrink the batch.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import torch
from torch import Tensor

from data import Prompt, build_prompt
from data.stream import Stream
from grpo.advantages import spread, total_reward, zero_spread
from grpo.model.distributed import gather_results, rank_slice
from grpo.model.policy import Policy
from grpo.runs.config import Config
from grpo.runs.log import RunLog
from grpo.sampling import sample_groups
from grpo.scoring import RewardSet, decode
from grpo.types import Problem, Rollouts, concat_rollouts
from rewards import count_reflections


@dataclass(frozen=True)
class Batch:
    """The groups that a step learns from."""

    rollouts: Rollouts
    """N = P * G completions."""
    rewards: Tensor
    """[N, K], one column per reward function, NaN where it does not apply. Never overwritten by the advantage."""
    metrics: dict[str, float]
    """Figures about everything that was sampled for this batch, dropped groups included."""


@dataclass(frozen=True)
class Round:
    """One round of sampling; a step has one, and one more for each refill."""

    rollouts: Rollouts
    scores: Tensor
    """[N, K]"""
    texts: list[str]
    """[N]"""
    problems: list[Problem]
    """[P]"""
    killed: int
    """Completions whose scoring was killed."""
    kept: Tensor
    """Rows of the groups that are learned from."""


def collect(config: Config, policy: Policy, rewards: RewardSet, stream: Stream, step: int, log: RunLog) -> Batch:
    """Sample and score groups until P of them have a spread of rewards, or the refills are used up."""
    size, started = config.grpo.group_size, time.perf_counter()
    rounds: list[Round] = []
    missing = config.grpo.prompts_per_step
    stream.new_step()
    while len(rounds) <= config.grpo.max_refills and (problems := stream.take(missing)):
        rounds.append(sample_round(config, policy, rewards, problems, step))
        missing -= len(rounds[-1].kept) // size
    log_completions(log, step, rounds[0], rewards, config.log.completions_per_step)
    learned = [r for r in rounds if len(r.kept)] or rounds[:1]  # of nothing at all, the first round's nothing
    return Batch(
        concat_rollouts([r.rollouts.select(r.kept) for r in learned]),
        torch.cat([r.scores[r.kept] for r in learned]),
        describe(rounds, rewards, size, config.loss.advantage) | {"sampling_seconds": time.perf_counter() - started},
    )


def sample_round(config: Config, policy: Policy, rewards: RewardSet, problems: list[Problem], step: int) -> Round:
    """G completions of each problem, scored, and which of the groups to keep; each process does a share of it."""
    size = config.grpo.group_size
    prompts = [build_prompt(p, policy.tokenizer, config.prompt) for p in problems]
    check_lengths(policy, prompts, config.sampling.max_new_tokens)
    mine = rank_slice(len(problems))
    parts = gather_results(lambda: sample_slice(config, policy, rewards, problems[mine], prompts[mine], step))
    rollouts, scores, texts, killed = zip(*filter(None, parts), strict=True)
    scores = torch.cat(scores)  # [N, K]
    flat = zero_spread(scores, rewards.weights, size, config.loss.advantage)  # [P]
    keep = ~flat if config.grpo.drop_zero_spread else torch.ones_like(flat)
    kept = keep.repeat_interleave(size).nonzero().squeeze(1)
    return Round(
        concat_rollouts(rollouts), scores, [text for part in texts for text in part], problems, sum(killed), kept
    )


def sample_slice(
    config: Config, policy: Policy, rewards: RewardSet, problems: list[Problem], prompts: list[Prompt], step: int
) -> tuple[Rollouts, Tensor, list[str], int] | None:
    """Completions of these problems, their scores [N, K] and texts, and how many were killed in scoring."""
    if not problems:
        return None
    ids, token_ids = [p.id for p in problems], [p.ids for p in prompts]
    rollouts = sample_groups(policy, token_ids, ids, config.grpo.group_size, config.sampling, config.seed, step)
    scored, killed = decode(policy, rollouts, prompts, problems), rewards.killed
    progress = {"global_step": step, "max_steps": config.grpo.steps, "max_new_tokens": config.sampling.max_new_tokens}
    scores = rewards(scored, progress)
    return rollouts, scores, scored.texts, rewards.killed - killed


def check_prompts(config: Config, policy: Policy, problems: list[Problem]) -> None:
    """Find a prompt that is too long before the first step, not at some later one. Raises ValueError."""
    if policy.max_positions:
        prompts = [build_prompt(p, policy.tokenizer, config.prompt) for p in problems]
        check_lengths(policy, prompts, config.sampling.max_new_tokens)


def check_lengths(policy: Policy, prompts: list[Prompt], max_new_tokens: int) -> None:
    """Refuse prompts that leave no room in the model's context. Raises ValueError with the setting to change."""
    room = (policy.max_positions or math.inf) - max_new_tokens
    longest, long = max(len(p.ids) for p in prompts), sum(len(p.ids) > room for p in prompts)
    if long:
        fitting = policy.max_positions - longest
        lower = f"lower sampling.max_new_tokens to {fitting} or " if fitting > 0 else ""
        raise ValueError(
            f"{long} of {len(prompts)} prompts are too long: a prompt of {longest} tokens + sampling.max_new_tokens="
            f"{max_new_tokens} exceeds the model's context of {policy.max_positions}; {lower}leave out the long ones"
        )


def describe(rounds: list[Round], rewards: RewardSet, size: int, normalise: str) -> dict[str, float]:
    """What was sampled in a step; the README's glossary explains each figure."""
    scores = torch.cat([r.scores for r in rounds])  # [N, K], dropped groups included
    lengths = torch.cat([r.rollouts.lengths for r in rounds]).float()
    reflections = [count_reflections(text) for r in rounds for text in r.texts]
    return {
        "reward": total_reward(scores, rewards.weights).mean().item(),
        "spread": spread(scores, rewards.weights, size),
        **{f"reward_{name}": m for name, m in zip(rewards.functions, scores.nanmean(dim=0).tolist(), strict=True)},
        "reflections": sum(reflections) / len(reflections),
        "zero_spread": zero_spread(scores, rewards.weights, size, normalise).float().mean().item(),
        "killed": sum(r.killed for r in rounds),
        "refills": len(rounds) - 1,
        "groups": sum(len(r.kept) for r in rounds) / size,
        "length": lengths.mean().item(),
        "length_max": lengths.max().item(),
        "truncated": torch.cat([r.rollouts.truncated for r in rounds]).float().mean().item(),
        "sampled_tokens": lengths.sum().item(),
    }


def log_completions(log: RunLog, step: int, some: Round, rewards: RewardSet, count: int) -> None:
    """Write the first completions of a step with what each reward gave them."""
    for row in range(min(count, len(some.texts))):
        given = {n: None if s != s else s for n, s in zip(rewards.functions, some.scores[row].tolist(), strict=True)}
        problem = some.problems[int(some.rollouts.prompt_index[row])]
        log.sample(step + 1, problem=problem.id, answer=problem.answer, completion=some.texts[row], rewards=given)
