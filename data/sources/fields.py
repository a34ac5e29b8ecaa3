"""One row becomes a Problem: its fields, by name.

Every row goes through the same three rules, so that a copy of GSM8K under another name reads as GSM8K does:

1. an answer whose last line is `#### N` is GSM8K's: N is the gold, the lines before it the worked solution;
2. where there is no answer, the gold is what the last `\\boxed{...}` of the solution holds (MATH);
3. calculator annotations `<<48/2=24>>` leave the solution's text; the annotated text stays in the column
   `annotated_solution`, for SFT to check.
"""

from __future__ import annotations

from data.config import DataConfig
from data.errors import DataError
from data.problem import Problem
from data.sources.jsonl import Row
from data.sources.named import CONVERSATIONS, PLAIN_QUESTIONS, Fields, Source
from data.sources.text import (
    has_final_line,
    last_boxed,
    number_text,
    split_final_answer,
    strip_annotations,
)


def question_of(row: Row, source: Source, config: DataConfig, teach: bool) -> Fields:
    """The field of the question. SFT takes a conversation where nothing else says what to teach."""
    if config.question_field or source.question:
        return config.question_field or source.question
    if teach and not row.keys() & {"solution", "completion", "answer"}:
        for name in CONVERSATIONS:
            if name in row:
                return name
    return next((name for name in PLAIN_QUESTIONS if name in row), PLAIN_QUESTIONS[0])


def to_problem(
    id: str, place: str, row: Row, question_field: Fields, source: Source, config: DataConfig, teach: bool
) -> Problem:
    """One row as a Problem; a field that the user named must be there, the source's own may be missing.

    teach: for SFT, which needs something to teach and may have no answer. Otherwise an answer is needed, and what
    there is to teach may be of any kind.
    """
    answer_field = config.answer_field or source.answer
    solution_field = config.solution_field or source.solution
    turns, question, response = conversation(row, question_field)
    solution = _join(row, solution_field, optional=not config.solution_field, lenient=not teach)
    if not config.solution_field and not solution and not response and question_field == "prompt":
        response = _completion(row, lenient=not teach)
    may_be_boxed = bool(solution or response) and not config.answer_field
    answer = _join(row, answer_field, optional=may_be_boxed or teach, numbers=True, lenient=teach)
    if source.marked and not has_final_line(answer):
        raise DataError("the answer does not end in a line `#### N`")
    worked, answer = split_final_answer(answer)
    solution = solution or worked
    if may_be_boxed and not answer:
        answer = last_boxed(solution or response, lenient=teach)
    if not question:
        raise DataError("the question is empty")
    if not answer and not teach:
        raise DataError("the answer is empty")
    used = {*names_of(question_field), *names_of(answer_field), *names_of(solution_field), *RESERVED_COLUMNS}
    columns = {name: value for name, value in row.items() if name not in used}
    plain = strip_annotations(solution)
    if plain != solution:
        columns["annotated_solution"] = solution
    return Problem(id, question, answer, plain, columns, turns, "" if solution else response, place)


SHAREGPT = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}
"""Who speaks in ShareGPT's conversations, and the role that this is."""
_PASSED_ANYWAY = "prompts completions completion_ids question answer solution trainer_state log_extra log_metric"
RESERVED_COLUMNS = frozenset(_PASSED_ANYWAY.split())
"""What a reward is called with anyway: a column of that name would shadow it, and is left out."""


def conversation(row: Row, fields: Fields) -> tuple[list[dict[str, str]], str, str]:
    """The turns before the question, the question, and the reply that follows it, if the conversation has one.

    No turns and no reply where the field is text. TRL's `prompt` ends with the question. ShareGPT's `conversations`
    may have a column `system` beside them.
    """
    names = names_of(fields)
    messages = row.get(names[0])
    if len(names) > 1 or not isinstance(messages, list):
        return [], _join(row, fields), ""
    if messages and all(isinstance(message, dict) and message.keys() >= {"from", "value"} for message in messages):
        messages = _from_sharegpt(names[0], messages)
    _check_messages(names[0], messages)
    system = row.get("system")
    if names[0] == "conversations" and isinstance(system, str) and system.strip() and messages[:1]:
        messages = messages if messages[0]["role"] == "system" else [{"role": "system", "content": system}, *messages]
    reply, end = "", "last message"
    if messages and messages[-1]["role"] == "assistant" and names[0] != "prompt":
        *messages, last = messages
        reply, end = last["content"], "last message before the reply"
        if not reply.strip():
            raise DataError(f"the field {names[0]!r} is a conversation whose reply is empty")
    if not messages or messages[-1]["role"] != "user":
        raise DataError(f"the field {names[0]!r} is a conversation whose {end} is not the user's")
    turns = [{"role": message["role"], "content": message["content"]} for message in messages[:-1]]
    return turns, messages[-1]["content"].strip(), reply


def _completion(row: Row, lenient: bool) -> str:
    """TRL's `completion` beside a `prompt`: text, or a list of one message of the assistant; "" if there is none."""
    value = row.get("completion")
    try:
        if isinstance(value, list):
            _check_messages("completion", value)
            if len(value) != 1 or value[0]["role"] != "assistant":
                raise DataError("the field 'completion' is a list, but not of one message of the assistant")
            value = value[0]["content"]
        if value is not None and not isinstance(value, str):
            raise DataError(f"the field 'completion' must be text or messages, not {_JSON_NAMES[type(value)]}")
        if value is not None and not value.strip():
            raise DataError("the completion is empty")
    except DataError:
        if lenient:
            return ""
        raise
    return value or ""


def _check_messages(name: str, messages: list) -> None:
    for message in messages:
        if not isinstance(message, dict) or not all(isinstance(message.get(key), str) for key in ("role", "content")):
            raise DataError(f"the field {name!r} is a list, but not of messages {{'role': text, 'content': text}}")


def _from_sharegpt(name: str, messages: list[dict]) -> list[dict]:
    """{'from', 'value'} as {'role', 'content'}."""
    for message in messages:
        if str(message["from"]) not in SHAREGPT:
            there = ", ".join(SHAREGPT)
            raise DataError(f"the field {name!r} has a message from {message['from']!a}; there may be {there}")
    return [{"role": SHAREGPT[message["from"]], "content": message["value"]} for message in messages]


def names_of(fields: Fields) -> list[str]:
    return [fields] if isinstance(fields, str) else fields


def _join(row: Row, fields: Fields, *, optional: bool = False, numbers: bool = False, lenient: bool = False) -> str:
    """The text of one field, or of several joined with a space.

    optional: it may be missing. numbers: a JSON number will do as well. lenient: anything else counts as empty.
    """
    texts = []
    for name in names_of(fields):
        value = row.get(name)
        if value is None:
            if optional:
                continue
            there = ", ".join(f"{key[:40]!a}" for key in list(row)[:10]) or "nothing"
            raise DataError(f"the field {name!r} is null or missing; the row has {there}")
        if numbers and isinstance(value, (int, float)) and not isinstance(value, bool):
            value = number_text(value)
        if not isinstance(value, str):
            if lenient:
                return ""
            wanted = "text or a number" if numbers else "text"
            raise DataError(f"the field {name!r} must be {wanted}, not {_JSON_NAMES[type(value)]}")
        texts.append(value.strip())
    return " ".join(filter(None, texts))


_JSON_NAMES = {dict: "an object", list: "a list", int: "a number", float: "a number", bool: "true or false"}
