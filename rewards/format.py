"""Does the completion have the form `<think>…</think><answer>…</answer>`?"""

from __future__ import annotations

from typing import Any

from rewards.registry import register_reward
from rewards.text import completion_texts, split_sections


def format_score(text: str) -> float:
    """1.0 if each tag occurs once, in order, the spans aren't empty and nothing surrounds them; else 0.0.

    >>> format_score("<think>6 x 7</think><answer>42</answer>")
    1.0
    >>> format_score("<think>6 x 7</think><answer>42</answer> I mean 43")
    0.0
    """
    return 1.0 if split_sections(text).ok else 0.0


@register_reward("format")
def format_reward(
    completions: list, prompts: list | None = None, *, prefilled: bool = False, **columns: Any
) -> list[float]:
    """The format reward of DeepSeek-R1 (arXiv:2501.12948, section 2.2.2), by linear scan instead of a regex.

    Args:
        completions: texts, or TRL's conversational completions.
        prompts: if a prompt ends with `<think>`, its completion counts as opened.
        prefilled: the chat template writes `<think>` after the last message. Our trainer puts it back by itself; inside
            TRL, whose rewards see messages and not the template, set it: `partial(format_reward, prefilled=True)`.
        columns: not read.

    Returns:
        1.0 or 0.0 for each completion.
    """
    return [format_score(text) for text in completion_texts(completions, prompts, prefilled)]
