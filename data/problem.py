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
    """The gold answer, never empty."""

    solution: str = ""
    """The worked solution without its final-answer marker; "" if the data has none."""

    columns: dict[str, Any] = field(default_factory=dict)
    """The row's other columns, handed to the rewards by name."""

    turns: list[dict[str, str]] = field(default_factory=list)
    """The messages before the question, `{"role": ..., "content": ...}` each; empty for a question alone."""
