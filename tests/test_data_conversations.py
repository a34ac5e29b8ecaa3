"""Prompts that are message lists: from a row to what the model reads, with several turns and a system message."""

from __future__ import annotations

import json

import pytest
from helpers_prompts import CHATML, DROPS_SYSTEM, NO_SYSTEM, make_tokenizer

from data import DataConfig, DataError, Problem, PromptConfig, build_prompt, load_problems

TURNS = [{"role": "user", "content": "1 + 1?"}, {"role": "assistant", "content": "2"}]
LAST = {"role": "user", "content": "And one more?"}


def load(tmp_path, row: dict) -> Problem:
    file = tmp_path / "talk.jsonl"
    file.write_text(json.dumps(row) + "\n")
    return load_problems(DataConfig(source=str(file), question_field="prompt"))[0]


def contents(text: str) -> list[str]:
    return [turn.split("\n", 1)[1] for turn in text.split("<bos>")[1:-1]]


def test_a_row_of_messages_is_a_conversation(tmp_path):
    problem = load(tmp_path, {"prompt": [*TURNS, {**LAST, "name": "Ana"}], "answer": "3", "level": 2})
    assert (problem.question, problem.turns) == ("And one more?", TURNS)
    assert problem.columns == {"level": 2}  # the prompt reaches the rewards as `prompts`
    prompt = build_prompt(problem, make_tokenizer(CHATML), PromptConfig(system="Think.", instruction="Now."))
    user = {"role": "user", "content": "And one more?\n\nNow."}
    assert prompt.messages == [{"role": "system", "content": "Think."}, *TURNS, user]
    assert [text.removesuffix("<eos>\n") for text in contents(prompt.text)] == [
        "Think.", "1 + 1?", "2", "And one more?\n\nNow.",
    ]  # fmt: skip


def test_text_in_that_field_is_a_question_alone(tmp_path):
    problem = load(tmp_path, {"prompt": "1 + 1?", "answer": "2"})
    assert (problem.question, problem.turns) == ("1 + 1?", [])


def test_a_conversation_with_a_system_message_keeps_its_own():
    problem = Problem("a/b/0", "Go.", "1", turns=[{"role": "system", "content": "Mine."}])
    messages = build_prompt(problem, make_tokenizer(CHATML), PromptConfig(system="Ours.")).messages
    assert [m["content"] for m in messages] == ["Mine.", "Go."]


@pytest.mark.parametrize("template", [NO_SYSTEM, DROPS_SYSTEM])
def test_the_system_text_joins_the_first_turn_of_the_user(template):
    problem = Problem("a/b/0", "And one more?", "3", turns=TURNS)
    messages = build_prompt(problem, make_tokenizer(template), PromptConfig(system="Think.")).messages
    assert messages == [{"role": "user", "content": "Think.\n\n1 + 1?"}, TURNS[1], LAST]
    assert TURNS[0]["content"] == "1 + 1?"  # the problem itself is as it was


def test_a_conversation_needs_a_chat_template():
    with pytest.raises(DataError, match="a/b/0 is a conversation, which needs a chat template"):
        build_prompt(Problem("a/b/0", "Go.", "1", turns=TURNS), make_tokenizer(), PromptConfig())


@pytest.mark.parametrize(
    ("messages", "reason"),
    [
        ([*TURNS], "a conversation whose last message is not the user's"),
        ([], "a conversation whose last message is not the user's"),
        (["1 + 1?"], "a list, but not of messages"),
        ([{"role": "user", "content": [{"type": "text", "text": "1 + 1?"}]}], "a list, but not of messages"),
        ([{"role": "user"}], "a list, but not of messages"),
        ([{"role": "user", "content": " "}], "the question is empty"),
    ],
)
def test_what_is_no_conversation_is_refused(tmp_path, messages, reason):
    with pytest.raises(DataError, match=rf"talk.jsonl:1: .*{reason}"):
        load(tmp_path, {"prompt": messages, "answer": "1"})
