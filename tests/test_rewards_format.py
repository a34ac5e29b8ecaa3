"""The tags: what is well formed, and where the answer is taken from."""

from __future__ import annotations

import time

import pytest

from rewards import accuracy_reward, format_reward
from rewards.text import split_sections

WELL_FORMED = [
    "<think>6*7</think><answer>42</answer>",
    "<think>\n6*7\n</think>\n<answer>\n42\n</answer>\n",
    "  <think> 1 < 2 and </b> </think> <answer> 42 </answer>",
]
# completion, and the answer that may be taken from it all the same
MALFORMED = [
    ("", None),
    ("42", None),
    ("<answer>42</answer>", "42"),
    ("<think></think><answer>42</answer>", "42"),
    ("<think>.</think><answer>42</answer>", "42"),
    ("<think>a</think><answer> </answer>", " "),
    *((f"<think>a</think><answer>{sign}</answer>", sign) for sign in "\u200b\u2800\u3164\u00ad"),  # nothing is seen
    ("<think>\u3164</think><answer>42</answer>", "42"),
    ("<think>a</think>so<answer>42</answer>", "42"),
    ("so<think>a</think><answer>42</answer>", "42"),
    ("<think>a</think><answer>42</answer>.", "42"),
    ("<answer>42</answer><think>a</think>", None),
    ("<think>a</think><think>b</think><answer>42</answer>", "42"),
    ("<think>a<think>b</think></think><answer>42</answer>", "42"),
    ("<think>a</think><answer>41</answer><answer>42</answer>", None),
    ("<think>a</think><answer><answer>42</answer></answer>", None),
    ("<think>a<answer>42</answer></think>", None),
    ("<think>a<answer>42</answer>", None),
    ("a<answer>42</answer></think>", None),
    ("<think>a<answer></think>42</answer>", None),
    ("<think>a</think><answer>41<think>b</think>42</answer>", None),
    ("<think>a</think><answer>42", None),
    ("<think>a</think></answer>42<answer>", None),
    ("<THINK>a</THINK><ANSWER>42</ANSWER>", None),
    ("&lt;think&gt;a&lt;/think&gt;&lt;answer&gt;42&lt;/answer&gt;", None),
    ("a</think><answer>42</answer>", "42"),
    ("<think></think>" * 60 + "<answer>42</answer>", None),
]


@pytest.mark.parametrize("text", WELL_FORMED)
def test_well_formed(text):
    assert format_reward([text]) == [1.0]
    assert split_sections(text).answer.strip() == "42"


@pytest.mark.parametrize(("text", "answer"), MALFORMED)
def test_malformed_earns_nothing_and_yields_at_most_one_answer(text, answer):
    assert format_reward([text]) == [0.0]
    assert split_sections(text).answer == answer


def test_conversational_completions_read_like_plain_ones():
    chats = [[{"role": "assistant", "content": text}] for text in WELL_FORMED]
    assert format_reward(chats) == [1.0] * len(chats)
    parts = [[{"role": "assistant", "content": [{"type": "text", "text": WELL_FORMED[0]}]}]]
    assert format_reward(parts) == [1.0]


@pytest.mark.parametrize("prompt", ["Q\n<think>\n", [{"role": "user", "content": "Q"}, {"content": "<think>"}]])
def test_a_prompt_that_opens_the_thought(prompt):
    rest = "6*7</think><answer>42</answer>"
    assert format_reward([rest], prompts=[prompt]) == [1.0]
    assert format_reward(["<think>" + rest], prompts=[prompt]) == [1.0]  # the trainer hands it over whole
    assert format_reward([rest], prompts=["Q"]) == [0.0]
    # what the prompt opened holds the answer too
    assert accuracy_reward(["<answer>42</answer>"], answer=["42"], prompts=[prompt]) == [0.0]


@pytest.mark.parametrize("unit", ["<think>", "</think>", "<answer>", "<think></think>", "<", "a "])
def test_time_is_linear(unit):
    start = time.process_time()
    format_reward(["<think>" + unit * (400_000 // len(unit)) + "</think><answer>42</answer>"])
    assert time.process_time() - start < 2.0


@pytest.mark.parametrize(
    "end",
    ["<|im_end|>", "<|endoftext|>", "<|eot_id|>", "</s>", "<end_of_turn>\n", "<\uff5cend\u2581of\u2581sentence\uff5c>",
     " <|im_end|>\n", "<|im_end|>" + "<|endoftext|>" * 3],
)  # fmt: skip
def test_an_end_of_turn_token_that_was_decoded_costs_nothing(end):
    """Other trainers leave it in the text."""
    good, bad = "<think>6 x 7</think><answer>42</answer>", "<think>6 x 7</think><answer>42</answer> I mean 43"
    assert format_reward([good + end, [{"role": "assistant", "content": good + end}], bad + end]) == [1.0, 1.0, 0.0]
    assert format_reward([good + end + "x", good + end + "42" + end, good.replace("</answer>", end)]) == [0.0] * 3
    assert accuracy_reward(["The answer is 42" + end], answer=["42"], require_tags=False) == [1.0]


def test_many_end_of_turn_tokens_take_linear_time():
    started = time.process_time()
    assert format_reward([("</s>" + " " * 50) * 20_000 + "x"]) == [0.0]
    assert format_reward(["<think>6 x 7</think><answer>42</answer>" + "</s> " * 100_000]) == [1.0]
    assert time.process_time() - started < 2
