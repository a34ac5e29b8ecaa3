"""PyPI's reward-doctor as a second auditor, where it is installed (the `dev` extra)."""

from __future__ import annotations

import pytest

from rewards import accuracy_reward, format_reward, reflection_reward

reward_doctor = pytest.importorskip("reward_doctor")


def composed(completions, answer, **columns):
    """What a run of this project pays: accuracy, form and gated reflection."""
    rewards = accuracy_reward, format_reward, reflection_reward
    scores = [reward(completions, answer=answer) for reward in rewards]
    return [a + 0.2 * f + 0.2 * r for a, f, r in zip(*scores, strict=True)]


def tagged(answer):
    return f"<think>6 times 7 is what was asked.</think><answer>{answer}</answer>"


def cases(*categories):
    return [case for case in reward_doctor.ALL_CASES if case.category in categories]


def test_no_exploit_is_accepted():
    exploits = cases("exploit")
    assert len(exploits) > 15
    accepted = [case.id for case in exploits if composed([case.completion], answer=[case.reference])[0] > 0]
    assert accepted == []


def test_no_wrong_answer_is_accepted_in_tags():
    wrong = [c for c in cases("distinction") if accuracy_reward([tagged(c.completion)], answer=[c.reference]) != [0.0]]
    assert [case.id for case in wrong] == []


def test_right_answers_are_accepted_in_tags():
    right = cases("equivalence")
    refused = [c for c in right if accuracy_reward([tagged(c.completion)], answer=[c.reference]) != [1.0]]
    assert len(refused) <= 0.1 * len(right), [case.id for case in refused]
