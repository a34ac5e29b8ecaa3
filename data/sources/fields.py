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
from data.sources.named import Fields, Source
from data.sources.text import (
    has_final_line,
    last_boxed,
    never_matched,
    number_text,
    split_final_answer,
    strip_annotations,
)


def to_problem(id: str, row: Row, question_field: Fields, source: Source, config: DataConfig) -> Problem:
    """One row as a Problem; a field that the user named must be there, the source's own may be missing."""
    answer_field = config.answer_field or source.answer
    solution_field = config.solution_field or source.solution
    turns, question = conversation(row, question_field)
    solution = _join(row, solution_field, optional=not config.solution_field)
    may_be_boxed = bool(solution) and not config.answer_field
    answer = _join(row, answer_field, optional=may_be_boxed, numbers=True)
    if source.marked and not has_final_line(answer):
        raise DataError("the answer does not end in a line `#### N`")
    worked, answer = split_final_answer(answer)
    solution = solution or worked
    if may_be_boxed and not answer:
        answer = last_boxed(solution)
    for name, text in (("question", question), ("answer", answer)):
        if not text:
            raise DataError(f"the {name} is empty")
    if never_matched(answer):
        raise DataError(
            f"the answer {answer[:40]!r} can never be matched; mend the row, or skip it: data.skip_bad_rows=true"
        )
    used = {*names_of(question_field), *names_of(answer_field), *names_of(solution_field), *RESERVED_COLUMNS}
    columns = {name: value for name, value in row.items() if name not in used}
    plain = strip_annotations(solution)
    if plain != solution:
        columns["annotated_solution"] = solution
    return Problem(id, question, answer, plain, columns, turns)


_PASSED_ANYWAY = "prompts completions completion_ids question answer solution trainer_state log_extra log_metric"
RESERVED_COLUMNS = frozenset(_PASSED_ANYWAY.split())
"""What a reward is called with anyway: a column of that name would shadow it, and is left out."""


def conversation(row: Row, fields: Fields) -> tuple[list[dict[str, str]], str]:
    """The turns before the question, and the question; no turns where the field is text."""
    names = names_of(fields)
    messages = row.get(names[0])
    if len(names) > 1 or not isinstance(messages, list):
        return [], _join(row, fields)
    for message in messages:
        if not isinstance(message, dict) or not all(isinstance(message.get(key), str) for key in ("role", "content")):
            raise DataError(f"the field {names[0]!r} is a list, but not of messages {{'role': text, 'content': text}}")
    if not messages or messages[-1]["role"] != "user":
        raise DataError(f"the field {names[0]!r} is a conversation whose last message is not the user's")
    turns = [{"role": message["role"], "content": message["content"]} for message in messages[:-1]]
    return turns, messages[-1]["content"].strip()


def names_of(fields: Fields) -> list[str]:
    return [fields] if isinstance(fields, str) else fields


def _join(row: Row, fields: Fields, *, optional: bool = False, numbers: bool = False) -> str:
    """The text of one field, or of several joined with a space. `numbers`: a JSON number will do as well."""
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
            wanted = "text or a number" if numbers else "text"
            raise DataError(f"the field {name!r} must be {wanted}, not {_JSON_NAMES[type(value)]}")
        texts.append(value.strip())
    return " ".join(filter(None, texts))


_JSON_NAMES = {dict: "an object", list: "a list", int: "a number", float: "a number", bool: "true or false"}
