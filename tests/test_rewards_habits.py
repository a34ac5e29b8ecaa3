"""The paper's reflection reward: its formula, its values, its words, and what it wrongly pays."""

from __future__ import annotations

import math
import time

import pytest

from rewards import get_reward, habits_reward, reflection_reward
from rewards.habits import HABITS, count_habits, habits_value

WORDS = {
    "backtracking": ["backtrack", "error", "fix", "mistake", "re-evaluate", "re-evaluation", "flawed approach",
                     "flawed step", "incorrect approach", "incorrect step"],
    "verification": ["verify", "check", "confirm", "test", "cross-validate", "cross-validation", "re-validate",
                     "re-validation", "unit analysis", "dimension analysis", "edge case", "boundary check"],
    "subgoals": ["step", "stage", "phase", "subtask", "decompose in 3", "decompose into 12", "milestone 2",
                 "checkpoint 7", "track progress at", "track progress on"],
    "backward chaining": ["target", "goal", "required", "work backwards", "working backwards", "reverse engineer",
                          "reverse logic", "deduce from final", "deduce from outcome"],
}  # fmt: skip


def by_the_formula(counts: list[int]) -> float:
    s = 0.0
    for n in counts:
        for i in range(1, n + 1):
            s += 0.5 / (1 + (i - 1) / 2.5)
    c = 0.8 * math.log(1 + s)
    return round(1 - 1 / (1 + c**1.2), 2)


@pytest.mark.parametrize(
    ("n", "one", "all_four"),
    [(0, 0.0, 0.0), (1, 0.21, 0.46), (2, 0.30, 0.55), (3, 0.35, None), (5, 0.41, 0.63), (10, 0.48, None),
     (20, 0.53, 0.70)],
)  # fmt: skip
def test_the_papers_values(n, one, all_four):
    for habit, words in WORDS.items():
        assert habits_reward([" and ".join([words[0]] * n)]) == [one], habit
    assert all_four in (None, habits_reward([" and ".join([words[0] for words in WORDS.values()] * n)])[0])
    assert habits_value({"verification": n}) == by_the_formula([n])


def test_unequal_counts_follow_the_formula():
    text = "Check it. Verify the goal, then the next step and the step after. Test."
    assert count_habits(text) == {"backtracking": 0, "verification": 3, "subgoals": 2, "backward chaining": 1}
    assert habits_reward([text]) == [by_the_formula([3, 2, 1])]


@pytest.mark.parametrize(("habit", "word"), [(habit, word) for habit, words in WORDS.items() for word in words])
def test_each_word_and_phrase_is_one_match_of_its_habit(habit, word):
    for text in (word, f"We {word.upper()}.", f"\n({word.replace(' ', chr(10))})\n", f"<think>{word}</think>"):
        counts = count_habits(text)
        if word.split()[-1] != "step":  # "flawed step" is a match of subgoals as well
            assert counts == {name: int(name == habit) for name in HABITS}, text
        assert counts[habit] == 1


def test_words_count_as_a_whole_alone():
    assert habits_reward(
        ["mistaken errors, fixed; checked and tested; steps, staged; goals, targets: milestone two"]
    ) == [0.0]
    assert habits_reward(["decompose into parts, revalidate, flawed idea, unit test analysis"]) == habits_reward(
        ["test"]
    )


def test_messages_are_read_and_right_or_wrong_is_no_matter():
    messages = [[{"role": "assistant", "content": "Let me check."}]]
    assert habits_reward(messages, answer=["4"], prompts=["2 + 2?"]) == [0.21] == get_reward("habits")(["check"])


@pytest.mark.parametrize(
    "piece", ["check ", "flawed ", "flawed   ", "re-", "decompose into 1", "milestone", "work ", " \n"]
)
def test_any_text_takes_linear_time(piece):
    started = time.process_time()
    habits_reward([piece * (1_000_000 // len(piece))])
    assert time.process_time() - started < 2


def test_headings_and_repetition_are_paid_here_and_not_by_ours():
    think = "6 * 7 = 42.\n"
    honest = think + "Wait, let me check: 7+7+7+7+7+7 = 42. Yes."
    headings = "".join(f"### Step {n}\n" for n in range(1, 10)) + think
    for stuffed in (headings, "check check check " + think, "The test has 6 test questions of 7 test parts. " + think):
        assert habits_reward([stuffed])[0] > habits_reward([honest])[0]
        texts = [f"<think>\n{text}\n</think>\n<answer>42</answer>" for text in (stuffed, honest)]
        ours, good = reflection_reward(texts, answer=["42", "42"])
        assert ours == 0.0 < good
