"""What the tests of the grader's kinds share."""

from __future__ import annotations

from hypothesis import strategies as st

from rewards import accuracy_reward
from rewards.answer import GradingConfig, equivalent

numbers = st.integers(2, 99_999)
small = st.integers(2, 99)


def paid(gold: str, answer: str, **config) -> bool:
    """Both ways round, for what is the same as gold and as answer."""
    grading = GradingConfig(**config)
    result = equivalent(gold, answer, grading)
    assert result == equivalent(answer, gold, grading), (gold, answer)
    return result


def graded(gold: object, answer: str) -> bool:
    """Whether the answer in a completion's tags is paid."""
    return bool(accuracy_reward([f"<think>so</think>\n<answer>{answer}</answer>"], answer=[str(gold)])[0])
