"""Reflection counts what looks back, and nothing that only looks like it."""

from __future__ import annotations

import time

import pytest

from rewards import RewardError, count_reflections, reflection_reward


def tagged(think, answer="42"):
    return f"<think>{think}</think><answer>{answer}</answer>"


@pytest.mark.parametrize(
    ("think", "count"),
    [
        ("6*7 = 42.", 0),
        ("6*7 = 43? Wait, let me check: 7+7+7+7+7+7 = 42. So 42.", 1),
        ("WAIT!!! LET ME CHECK!!! 42", 1),
        ("I have 3 + 4 = 8. Hmm, 8 - 4 is not 3. Let me re-check: 3 + 4 = 7. Double-check: 7 - 4 = 3.", 2),
        ("She had 3 boxes of 4. Hold on, she also lost 2 boxes, so 1 box is left. Hmm, 4 - 2 = 2 boxes.", 2),
        ("3 + 4 = 8 . wait , 3 + 4 = 7 . 7 - 2 = 6 ; wait , 7 - 2 = 5 .", 2),
        ("wait , 3 + 4 = 7 . wait , 3 + 4 = 7 . hmm , 3 + 4 = 7 .", 1),
        ("Wait, the train leaves before the second bus arrives.", 1),
        ("But wait, 6*7 is 42.", 1),
        # nothing that only looks like it
        ("The waiter waits. They await 6 guests and verification of 7.", 0),
        ("They wait 6 hours and then wait 7 more.", 0),
        ('The sign says "go in, wait, 6 + 7 = 13 hours".', 0),
        ("The prerecheck of 6 and 7 gave 13 + 0.", 0),
        ("Wait times are 6 and 7 hours.", 0),
        ("6*7 = 42. I don't need to check anything, 6*7 = 42.", 0),
        ("6*7 = 42. I won't verify that 6*7 = 42. There is no need to double-check 6*7 = 42.", 0),
        ("6*7 = 42. I'm not sure, let me check: 42/7 = 6.", 1),
        ("Hold on to 42 apples and 7 pears.", 0),
        ('The sign says "wait, 6 + 7 = 13 hours".', 0),
        ("wait wait wait wait wait", 0),
        ("6*7 = 42. Done. Wait. Wait. Wait.", 0),
        ("Wait, let me double-check this. " * 20, 0),
        ("6*7 = 42. Wait, 1+1 = 2. Wait, 2+2 = 4. Wait, 3+3 = 9. Wait, 5+5 = 10.", 1),
        ("6*7 = 42. Wait, check 1: 6*7 = 42. Wait, check 2: 6*7 = 42. Wait, check 3: 6*7 = 42.", 1),
        ("6*7 = 42. Wait, cats like fish. Wait, the ocean is deep blue. Wait, grass grows green.", 1),
        ("6*7 = 42. Wait, 6*7 = 42. Wait, 6 \u00d7 7 = 42. Wait, 6 * 7 = 42.", 1),
        ("Wait 1. Wait 2. Wait 3. Wait 4. Wait 5.", 1),
        ("Wait. Hmm. Let me re-check. Double-check. 6*7 = 42.", 1),
        ("wait wait wait wait 6*7 = 42.", 1),
    ],
)
def test_counts(think, count):
    assert count_reflections(tagged(think)) == count


def test_only_the_think_span_counts():
    reflective = "Wait, 6*7 = 42."
    assert count_reflections(f"{reflective}<think>6*7</think><answer>42</answer>") == 0
    assert count_reflections(f"<think>6*7</think><answer>{reflective}</answer>") == 0
    assert count_reflections(reflective) == 0
    assert count_reflections(reflective, require_tags=False) == 1
    assert count_reflections(f"<think>{reflective}", require_tags=False) == 0


def test_what_the_prompt_says_is_no_reflection():
    prompt = "Wait, Anna has 6 apples and 7 pears. How many?"
    think = "Wait, Anna has 6 apples and 7 pears. Wait, 6 + 7 = 13."
    assert count_reflections(tagged(think), prompt=prompt) == 1
    rewards = reflection_reward([tagged(think)], prompts=[prompt], mode="ungated", cap=2)
    assert rewards == [0.5]


def test_gating_and_cap():
    think = "6*7 = 43? Wait, 6*7 = 42. Check again: 42/6 = 7. Let me verify: 42/7 = 6."
    right, wrong = tagged(think), tagged(think, "41")
    assert reflection_reward([right, wrong], answer=["42", "42"]) == [1.0, 0.0]
    assert reflection_reward([right, wrong], answer=["42", "42"], mode="ungated") == [1.0, 1.0]
    assert reflection_reward([right], answer=["42"], cap=6) == [0.5]
    assert reflection_reward([right], answer=["42"], cap=1) == [1.0]
    assert reflection_reward([right]) == [None]
    assert reflection_reward([right], mode="ungated") == [1.0]


def test_markers_are_a_setting():
    text = tagged("Yet 6*7 is 42 here.")
    assert count_reflections(text) == 0
    assert count_reflections(text, markers="maye") == 1
    assert count_reflections(text, markers=["yet"]) == 1
    assert count_reflections(tagged("I am re-evaluating 6*7 = 42."), markers=["re-evaluat*"]) == 1
    assert count_reflections(tagged("Wait, 6*7 = 42."), markers=["nevermind"]) == 0
    assert count_reflections(tagged("a (b: 6*7 = 42."), markers=["(b"]) == 1  # a phrase, not a pattern


@pytest.mark.parametrize("settings", [{"mode": "gate"}, {"cap": 0}, {"markers": "mayo"}])
def test_bad_settings(settings):
    with pytest.raises(RewardError):
        reflection_reward([tagged("Wait, 6*7 = 42.")], answer=["42"], **settings)


@pytest.mark.parametrize("unit", ["wait ", "wait, 6*7=42. ", '"', "“", "`", " ", "let me ", ".", "a\n", "(", "1+"])
def test_time_is_linear(unit):
    start = time.process_time()
    count_reflections(tagged(unit * (200_000 // len(unit))))
    assert time.process_time() - start < 3.0
