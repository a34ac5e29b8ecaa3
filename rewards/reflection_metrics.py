"""Published measures of reflection over a batch: REA-RL's density and MAYE's five ratios.

They are measures, not rewards. What they count is our `count_reflections`, so that they can't be fooled by
what it isn't fooled by; `markers="rea_rl"` or `"maye"` counts those papers' words.
"""

from __future__ import annotations

from collections.abc import Sequence

from rewards.reflection import count_reflections

REA_RL_TOKENS = 225.09
"""Tokens to a reflection at the 0.8 quantile of REA-RL's training data (156.60 at 0.6, 299.11 at 0.9)."""


def reflection_density(
    text: str, tokens: int, *, markers: str | Sequence[str] = "rea_rl", scale: float = REA_RL_TOKENS
) -> float:
    """REA-RL's reflection reward (arXiv:2505.19862): min(1, reflections / tokens * scale), in [0, 1].

    Args:
        text: the completion, with its tags.
        tokens: how many tokens its thought has.
        markers: as for `count_reflections`.
        scale: the tokens to a reflection from which the density counts as full.

    >>> text = "<think>6*7 = 43? Wait, 6*7 = 42.</think><answer>42</answer>"
    >>> reflection_density(text, 100), round(reflection_density(text, 450), 2)
    (1.0, 0.5)
    """
    return min(1.0, count_reflections(text, markers=markers) / tokens * scale) if tokens > 0 else 0.0


def reflection_ratios(reflective: Sequence[bool], correct: Sequence[bool]) -> dict[str, float]:
    """MAYE's five ratios (arXiv:2504.02587, table 2), under its names; 0.0 where the denominator is 0.

    Args:
        reflective: for each completion, whether it reflects.
        correct: for each completion, whether its answer is correct.

    >>> ratios = reflection_ratios([True, True, False, False], [True, False, False, False])
    >>> ratios["correct_ratio_in_reflection_texts"]
    0.5
    """
    pairs = list(zip(reflective, correct, strict=True))

    def share(of: Sequence[bool]) -> float:
        return sum(of) / len(of) if of else 0.0

    return {
        "reflection_ratio": share([r for r, _ in pairs]),
        "reflection_ratio_in_correct_answers": share([r for r, c in pairs if c]),
        "reflection_ratio_in_incorrect_answers": share([r for r, c in pairs if not c]),
        "correct_ratio_in_reflection_texts": share([c for r, c in pairs if r]),
        "correct_ratio_in_no_reflection_texts": share([c for r, c in pairs if not r]),
    }
