"""A multiple choice (GPQA) becomes a question with its choices in a random order, and a letter as its answer."""

from __future__ import annotations

import random

from data.errors import DataError
from data.sources.jsonl import Row

RIGHT, WRONG = "Correct Answer", [f"Incorrect Answer {i}" for i in (1, 2, 3)]
LETTERS = "ABCD"
ASK = "Answer with the letter of the right choice."


def choice(row: Row, id: str, seed: int) -> Row:
    """A row of GPQA as `question` and `answer`: the choices in an order that depends on (seed, id) alone.

    Raises:
        DataError: a choice is missing or is no text.
    """
    texts = [row.get(name) for name in (RIGHT, *WRONG)]
    for name, text in zip((RIGHT, *WRONG), texts, strict=True):
        if not isinstance(text, str) or not text.strip():
            raise DataError(f"the field {name!r} is missing or empty; the row has {', '.join(map(repr, row))}")
    order = random.Random(f"choices/{seed}/{id}").sample(range(4), 4)
    choices = [f"{letter}) {texts[i].strip()}" for letter, i in zip(LETTERS, order, strict=True)]
    question = row.get("Question") or row.get("question") or ""
    rest = {name: value for name, value in row.items() if name not in ("Question", "question", "answer", "solution")}
    text = "\n".join([question.strip(), "", *choices, "", ASK]) if question.strip() else ""
    return {**rest, "question": text, "answer": LETTERS[order.index(0)]}
