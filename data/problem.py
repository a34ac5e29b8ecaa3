"""The record that everything about data speaks of."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Problem:
    """One problem with its gold answer: all that prompts, rewards and SFT need to know."""

    id: str
    """`<source>/<split>/<row>`, the same in every run: provenance, and the seed of per-problem randomness."""

    question: str
    """The problem as it is put to the model: the user's last turn."""

    answer: str
    """The gold answer; empty only for SFT, which may have none."""

    solution: str = ""
    """The worked solution without its final-answer marker; "" if the data has none."""

    columns: dict[str, Any] = field(default_factory=dict)
    """The row's other columns, handed to the rewards by name."""

    turns: list[dict[str, str]] = field(default_factory=list)
    """The messages before the question, `{"role": ..., "content": ...}` each; empty for a question alone."""

    response: str = ""
    """A whole response to teach as it is: the last message of a conversation, TRL's `completion`; "" otherwise."""

    place: str = field(default="", compare=False)
    """Where it stands, for messages: `mine.jsonl:7`; "" for a problem that was made."""

    @property
    def called(self) -> str:
        """The problem in a message: its place, or else its id."""
        return self.place or f"problem {self.id}"
