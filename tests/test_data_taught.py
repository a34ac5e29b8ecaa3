"""What SFT is taught: worked solutions, TRL's prompt and completion, the reply at the end of a conversation."""

from __future__ import annotations

import json

import pytest
from helpers_prompts import CHATML, make_tokenizer

from data import ColdStartConfig, DataConfig, DataError, PromptConfig, build_prompt, load_problems, response_text

USER, REPLY = (
    {"role": "user", "content": "2 + 2?"},
    {"role": "assistant", "content": "<think>\n4.\n</think>\n\nIt is 4."},
)
SYSTEM = {"role": "system", "content": "Think."}
SHARED = [{"from": "human", "value": "2 + 2?"}, {"from": "gpt", "value": REPLY["content"]}]
TURN = [{"role": "user", "content": "1 + 1?"}, {"role": "assistant", "content": "2"}]


def load(tmp_path, *rows, teach=True, **config):
    (tmp_path / "x.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return load_problems(DataConfig(str(tmp_path / "x.jsonl"), **config), teach=teach)


@pytest.mark.parametrize(
    ("row", "question", "turns", "taught"),
    [
        ({"messages": [USER, REPLY]}, "2 + 2?", [], REPLY["content"]),
        ({"messages": [SYSTEM, *TURN, USER, REPLY]}, "2 + 2?", [SYSTEM, *TURN], REPLY["content"]),
        ({"messages": [USER, REPLY], "prompt": "another"}, "2 + 2?", [], REPLY["content"]),
        ({"conversations": SHARED}, "2 + 2?", [], REPLY["content"]),
        ({"conversations": [{"from": "system", "value": "Think."}, *SHARED]}, "2 + 2?", [SYSTEM], REPLY["content"]),
        ({"conversations": SHARED, "system": "Think."}, "2 + 2?", [SYSTEM], REPLY["content"]),
        ({"conversations": [USER, REPLY], "system": " "}, "2 + 2?", [], REPLY["content"]),
        ({"conversations": SHARED, "prompt": "another"}, "2 + 2?", [], REPLY["content"]),
        ({"prompt": "2 + 2?", "completion": " 4"}, "2 + 2?", [], " 4"),
        ({"prompt": [USER], "completion": [REPLY]}, "2 + 2?", [], REPLY["content"]),
        ({"prompt": [*TURN, USER], "completion": "4"}, "2 + 2?", TURN, "4"),
        ({"prompt": "2 + 2?", "completion": "4", "messages": TURN}, "2 + 2?", [], "4"),
        ({"prompt": "2 + 2?", "solution": "It is 4.", "completion": "5", "answer": 4}, "2 + 2?", [],
         "<think>\nIt is 4.\n</think>\n<answer>4</answer>"),
        ({"problem": "2 + 2?", "solution": "It is 4.", "answer": "4", "messages": TURN}, "2 + 2?", [],
         "<think>\nIt is 4.\n</think>\n<answer>4</answer>"),
    ],
)  # fmt: skip
def test_each_form_is_taught_as_it_is(tmp_path, row, question, turns, taught):
    (problem,) = load(tmp_path, row)
    assert (problem.question, problem.turns) == (question, turns)
    assert response_text(problem, ColdStartConfig()) == taught


def test_openr1s_messages_are_taught_if_the_question_field_says_so(tmp_path):
    row = {"problem": "2 + 2?", "solution": "It is 4.", "answer": "4", "messages": [USER, REPLY]}
    (problem,) = load(tmp_path, {**row, "solution": None}, question_field="messages")
    assert response_text(problem, ColdStartConfig()) == REPLY["content"] and problem.answer == "4"
    prompt = build_prompt(problem, make_tokenizer(CHATML), PromptConfig(system=""))
    assert prompt.messages == [USER]


def test_a_conversation_also_serves_grpo_if_there_is_an_answer(tmp_path):
    (problem,) = load(tmp_path, {"messages": [USER, REPLY], "answer": "4"}, teach=False)
    assert (problem.question, problem.answer) == ("2 + 2?", "4")
    boxed = {"role": "assistant", "content": r"It is $\boxed{4}$."}
    assert load(tmp_path, {"messages": [USER, boxed]}, teach=False)[0].answer == "4"
    with pytest.raises(DataError, match=r"x\.jsonl:1: the answer is empty"):
        load(tmp_path, {"messages": [USER, REPLY]}, teach=False)


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"messages": [REPLY]}, "a conversation whose last message before the reply is not the user's"),
        ({"messages": [USER, {**REPLY, "content": " "}]}, "a conversation whose reply is empty"),
        ({"messages": []}, "a conversation whose last message is not the user's"),
        ({"messages": [USER, {**REPLY, "content": None}]}, "a list, but not of messages"),
        ({"conversations": SHARED[1:]}, "a conversation whose last message before the reply is not the user's"),
        (
            {"conversations": [*SHARED, {"from": "tool", "value": "4"}]},
            "has a message from 'tool'; there may be human, ",
        ),
        ({"conversations": [{"from": "human", "value": None}]}, "a list, but not of messages"),
        ({"conversations": [SHARED[0], REPLY]}, "a list, but not of messages"),
        ({"prompt": "q", "completion": [USER]}, "'completion' is a list, but not of one message of the assistant"),
        ({"prompt": "q", "completion": [REPLY, REPLY]}, "but not of one message"),
        ({"prompt": "q", "completion": 4}, "the field 'completion' must be text or messages, not a number"),
        ({"prompt": "q", "completion": " "}, "the completion is empty"),
        ({"question": "q", "answer": "1", "solution": ["s"]}, "the field 'solution' must be text, not a list"),
    ],
)
def test_what_cannot_be_taught_names_file_and_row(tmp_path, row, reason):
    with pytest.raises(DataError, match=rf"x\.jsonl:2: .*{reason}") as caught:
        load(tmp_path, {"messages": [USER, REPLY]}, row)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (
            {"messages": [USER]},
            "has no worked solution to learn from; see data.solution_field, and data.question_field",
        ),
        ({"question": "q", "answer": "1"}, "has no worked solution"),
        ({"question": "q", "solution": "It is so."}, "has no answer to put between the tags; see data.answer_field"),
        ({"question": "q", "solution": "It is so.", "answer": [1]}, "has no answer to put between the tags"),
    ],
)
def test_what_has_nothing_to_teach_names_file_and_row(tmp_path, row, reason):
    with pytest.raises(DataError, match=rf"x\.jsonl:1 {reason}"):
        response_text(load(tmp_path, row)[0], ColdStartConfig())


def test_a_solution_as_it_is_needs_no_answer(tmp_path):
    (problem,) = load(tmp_path, {"question": "q", "solution": "It is so."})
    assert response_text(problem, ColdStartConfig(as_it_is=True)) == "It is so."


@pytest.mark.parametrize("solution", [["It is 4.", "2 + 2"], {"steps": ["4"]}, 4, True])
def test_a_solution_that_is_no_text_does_not_stop_grpo(tmp_path, solution):
    row = {"question": "2 + 2?", "answer": "4", "solution": solution}
    for config in ({}, {"solution_field": "solution"}):
        (problem,) = load(tmp_path, row, teach=False, **config)
        assert (problem.answer, problem.solution, problem.columns) == ("4", "", {})
    with pytest.raises(DataError, match=r"x\.jsonl:1: the field 'solution' must be text"):
        load(tmp_path, row)


def test_a_completion_that_is_no_text_does_not_stop_grpo(tmp_path):
    (problem,) = load(tmp_path, {"prompt": "2 + 2?", "answer": "4", "completion": 5}, teach=False)
    assert (problem.answer, problem.response) == ("4", "")
