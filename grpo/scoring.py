"""From sampled tokens to rewards: decode, then call each reward function in TRL's convention.

Every reward keeps its own column of the [N, K] matrix; the total is only ever formed in `advantages.py`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cached_property
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from data import Prompt
from grpo.model.policy import Policy
from grpo.runs.config import RewardConfig, SandboxConfig
from grpo.types import Problem, Rollouts
from rewards import count_reflections, get_reward
from rewards.sandbox import Sandbox
from rewards.sandbox.scores import checked_scores


@dataclass(frozen=True)
class RewardSet:
    """The composition r = sum_k w_k r_k."""

    functions: dict[str, Any]
    weights: Tensor
    """[K]"""

    def __call__(self, batch: Completions, progress: dict[str, float]) -> Tensor:
        """Score every completion with every function. Returns [N, K] fp32; NaN where one does not apply.

        A completion that was killed in scoring is NaN throughout: it has no reward, and may have no advantage.
        progress: `global_step`, `max_steps`, `epoch` and `max_new_tokens`, which reach the functions as TRL's
        `trainer_state`.
        """
        hooks = {"log_metric": batch.log_metric, "log_extra": batch.log_extra}
        columns = {**batch.columns(), "trainer_state": SimpleNamespace(**progress), **hooks}
        places = [f"problem {p.id}, completion {text!r}" for p, text in zip(batch.problems, batch.texts, strict=True)]
        given = [checked_scores(name, function, columns, places) for name, function in self.functions.items()]
        scores = torch.tensor([each.values for each in given], dtype=torch.float32).T  # [N, K]
        for each in given:
            scores[each.killed] = math.nan
        return scores

    @property
    def killed(self) -> int:
        """Completions whose scoring was killed so far, for its time or its memory; none has a score."""
        return sum(f.killed.total for f in self.functions.values() if isinstance(f, Sandbox))


def load_rewards(configs: dict[str, RewardConfig], sandbox: SandboxConfig) -> RewardSet:
    """The functions that the configuration names. Raises RewardError for a name or argument that does not exist."""
    limits = {"seconds": sandbox.seconds, "megabytes": sandbox.megabytes}
    functions = {
        name: Sandbox(c.function or name, c.args, **limits)
        if sandbox.enabled
        else get_reward(c.function or name, **c.args)
        for name, c in configs.items()
    }
    return RewardSet(functions, torch.tensor([c.weight for c in configs.values()]))


@dataclass(frozen=True)
class Completions:
    """Completions with all that a reward may look at. N rows; prompts and problems are given per row."""

    texts: list[str]
    """Responses: what the prompt prefilled of them (`<think>`, mostly nothing) plus what was sampled."""
    token_ids: list[list[int]]
    prompts: list[Prompt]
    problems: list[Problem]
    metrics: dict[str, list[float]] = field(default_factory=dict)
    """Figures that the rewards logged of the batch, each as often as it was logged."""
    extras: dict[str, list[Any]] = field(default_factory=dict)
    """Columns that the rewards logged, a value per completion."""

    @cached_property
    def reflections(self) -> list[int]:
        """Of each text; counted once for the step's metrics and its records."""
        return [count_reflections(text) for text in self.texts]

    def log_metric(self, name: str, value: float) -> None:
        """TRL's hook for a figure of the batch; it is logged as the mean over the step."""
        self.metrics.setdefault(name, []).append(float(value))

    def log_extra(self, column: str, values: list[Any]) -> None:
        """TRL's hook for a value per completion; it stands beside the text in completions.jsonl."""
        if len(values) != len(self.texts):
            raise ValueError(
                f"a reward called log_extra({column!r}) with {len(values)} values for {len(self.texts)} texts"
            )
        self.extras[column] = list(values)

    def columns(self) -> dict[str, list]:
        """Keyword arguments of a reward function. Chat prompts make chat completions, as in TRL."""
        chat = self.prompts[0].messages is not None
        names = dict.fromkeys(name for p in self.problems for name in p.columns)
        return {
            **{name: [p.columns.get(name) for p in self.problems] for name in names},
            "prompts": [p.messages if chat else p.text for p in self.prompts],
            "completions": [[{"role": "assistant", "content": t}] if chat else t for t in self.texts],
            "completion_ids": self.token_ids,
            "question": [p.question for p in self.problems],
            "answer": [p.answer for p in self.problems],
            # peers' rewards look for the gold in here, and a worked solution may not state it
            "solution": [p.solution if "\\boxed" in p.solution else p.answer for p in self.problems],
        }


def decode(policy: Policy, rollouts: Rollouts, prompts: list[Prompt], problems: list[Problem]) -> Completions:
    """The text of each completion, exactly as sampled but for the final end-of-sequence token.

    prompts, problems: [P], one per row of `rollouts.prompts`.
    """
    index = rollouts.prompt_index.tolist()
    ids = rollouts.token_lists()
    bodies = [row[:-1] if row and row[-1] in policy.eos_ids else row for row in ids]
    texts = policy.tokenizer.batch_decode(bodies, skip_special_tokens=False, clean_up_tokenization_spaces=False)
    return Completions(
        texts=[prompts[i].prefill + text for i, text in zip(index, texts, strict=True)],
        token_ids=ids,
        prompts=[prompts[i] for i in index],
        problems=[problems[i] for i in index],
    )
