"""Judged completions, kept on the disk as they come: a long evaluation or rejection sampling goes on after a stop.

    runs/demo/3-reject/judged/sampling.jsonl     {"weights": fingerprint}, then a line per completion

It goes on after the last whole round: a round is sampled in one batch, and what is done again after a stop must be
computed exactly as it was. The samples of other weights, of a model that was replaced meanwhile, are thrown away.
"""

from __future__ import annotations

import dataclasses
import json
import os
from dataclasses import dataclass
from itertools import takewhile

from grpo.model.distributed import rank
from grpo.runs.folder import Run


@dataclass(frozen=True)
class Judged:
    """What is known of one completion."""

    problem: int
    """Index of its problem."""
    text: str
    correct: bool
    well_formed: bool
    reflections: int
    answer: str | None
    tokens: int
    truncated: bool


class Journal:
    """The judged completions of one sampling in a run.

    name: of the file. per_round: completions sampled at a time, of `total`.
    """

    def __init__(self, run: Run, name: str, weights: str, per_round: int, total: int):
        self.run, self.name, self.per_round, self.total = run, name, per_round, total
        self.path = run.folder / "judged" / f"{name.replace(' ', '-')}.jsonl"
        self.head = (json.dumps({"weights": weights}) + "\n").encode()
        self.count = 0

    def read(self) -> list[Judged]:
        """What is there, up to the last whole round; a round that is cut short or damaged is cut off."""
        self.path.parent.mkdir(exist_ok=True)
        lines = self.path.read_bytes().splitlines(keepends=True) if self.path.exists() else []
        judged = list(takewhile(bool, map(parse, lines[1:] if lines[:1] == [self.head] else [])))
        self.count = len(judged) if len(judged) == self.total else len(judged) // self.per_round * self.per_round
        kept = [self.head, *lines[1 : 1 + self.count]]
        if self.count:
            os.truncate(self.path, sum(map(len, kept)))
        else:
            self.path.write_bytes(self.head)
        return judged[: self.count]

    def add(self, judged: list[Judged]) -> None:
        """Append a round. Raises Stopped if the run was asked to stop."""
        self.count += len(judged)
        if rank() == 0:
            with self.path.open("a", encoding="utf-8") as f:
                f.writelines(json.dumps(dataclasses.asdict(j)) + "\n" for j in judged)
                f.flush()
                os.fsync(f.fileno())
        self.run.stop.agree()
        self.run.stop.check(f"{self.run.folder}: {self.name}, {self.count} of {self.total} completions")


def parse(line: bytes) -> Judged | None:
    """A line of a journal; None if it is not one, cut short or damaged."""
    try:
        facts = json.loads(line) if line.endswith(b"\n") else None
        types = {"text": str, "answer": str | None, **dict.fromkeys(("problem", "reflections", "tokens"), int)}
        types |= dict.fromkeys(("correct", "well_formed", "truncated"), bool)
        if facts.keys() != types.keys() or not all(isinstance(facts[key], kind) for key, kind in types.items()):
            return None
    except (ValueError, AttributeError, RecursionError):
        return None
    return Judged(**facts)
