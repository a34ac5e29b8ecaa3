"""Is the answer right?"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from rewards.answer import GradingConfig, equivalent, extract_answer, last_boxed
from rewards.registry import RewardError, nearest, register_reward
from rewards.text import completion_texts


def accuracy_score(text: str, gold: str, *, require_tags: bool = True, grading: GradingConfig | None = None) -> float:
    """1.0 if the answer in a completion's text is equivalent to `gold`, else 0.0.

    >>> accuracy_score("<think>6 x 7</think><answer>42</answer>", "#### 42")
    1.0
    """
    answer = extract_answer(text, require_tags)
    return 1.0 if answer is not None and equivalent(gold_answer(gold), answer, grading) else 0.0


def gold_answer(gold: str) -> str:
    """The answer in a gold column: after GSM8K's `####`, in a worked solution's last box, or all of it.

    >>> gold_answer("16 - 3 - 4 = 9, 9 * 2 = 18\\n#### 18"), gold_answer("42")
    ('18', '42')
    """
    gold = str(gold)
    if "####" in gold:
        return gold.rpartition("####")[2].strip()
    return (last_boxed(gold) or gold).strip()


def gold_column(answer: Sequence[Any] | None, solution: Sequence[Any] | None, count: int) -> list[str | None]:
    """One gold per completion: `answer` where there is one, else `solution`, else None."""
    answers, solutions = answer or [None] * count, solution or [None] * count
    golds = [first if first is not None else second for first, second in zip(answers, solutions, strict=True)]
    return [None if gold is None else str(gold) for gold in golds]


def grading_config(settings: dict[str, Any] | GradingConfig | None) -> GradingConfig:
    """The grader's settings from a configuration file's mapping.

    Raises:
        RewardError: for an unknown setting (the message names the nearest) or value.
    """
    if isinstance(settings, GradingConfig):
        return settings
    known = [field.name for field in dataclasses.fields(GradingConfig)]
    for name in settings or {}:
        if name not in known:
            raise RewardError(f"grading has no setting {name!r}{nearest(name, known)}")
    config = GradingConfig(**(settings or {}))
    for name, values in (("percent", ("exact", "optional")), ("units", ("optional", "required"))):
        if getattr(config, name) not in values:
            raise RewardError(f"grading: {name} is {' or '.join(values)}, not {getattr(config, name)!r}")
    return config


@register_reward("accuracy")
def accuracy_reward(
    completions: list,
    answer: list | None = None,
    solution: list | None = None,
    prompts: list | None = None,
    *,
    require_tags: bool = True,
    prefilled: bool = False,
    grading: dict[str, Any] | GradingConfig | None = None,
    **columns: Any,
) -> list[float | None]:
    """The accuracy reward of DeepSeek-R1 (arXiv:2501.12948, section 2.2.2).

    Args:
        completions: texts, or TRL's conversational completions.
        answer: the gold answers; GSM8K's `... #### 18` is understood.
        solution: golds in TRL's and open-r1's name for the column; read where `answer` has none.
        prompts: if a prompt ends with `<think>`, its completion counts as opened.
        prefilled: as for `format_reward`.
        require_tags: pay only what stands in `<answer>` tags. Turn it off for a base model.
        grading: the policies of the grader, by the names of `GradingConfig`: {"percent": "optional"}.
        columns: not read.

    Returns:
        1.0 or 0.0 for each completion; None where there is no gold.
    """
    texts = completion_texts(completions, prompts, prefilled)
    golds, config = gold_column(answer, solution, len(texts)), grading_config(grading)
    return [
        None if gold is None else accuracy_score(text, gold, require_tags=require_tags, grading=config)
        for text, gold in zip(texts, golds, strict=True)
    ]
