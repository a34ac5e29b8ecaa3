"""Judged completions, kept on the disk as they come: a long evaluation or rejection sampling goes on after a stop.

    runs/demo/3-reject/judged/sampling.jsonl     {"weights": fingerprint}, then a line per completion

It goes on after the last whole round: a round is sampled in one batch, and what is done again after a stop must be
computed exactly as it was. The samples of other weights, of a model that was replaced meanwhile, are thrown away.
"""

from __future__ import annotations

import dataclasses
import json
import os
from dataclasses import dataclass, field
from itertools import takewhile
from typing import get_type_hints

from grpo.model.distributed import from_first, rank
from grpo.runs.files import sync
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
    rewards: dict = field(default_factory=dict)
    """What each reward gave it; None where it does not apply."""


class Journal:
    """The judged completions of one sampling in a run.

    name: of the sampling. weights: what sampled. per_round: completions sampled at a time, of `total`. Without a run
    nothing is kept.
    """

    def __init__(self, run: Run | None, name: str, weights: str, per_round: int, total: int):
        self.run, self.name, self.per_round, self.total = run, name, per_round, total
        self.head = (json.dumps({"weights": weights}) + "\n").encode()
        self.path = run and run.folder / "judged" / f"{name.replace(' ', '-')}.jsonl"
        self.judged: list[Judged] = from_first(self._read) if run else []
        """All that is judged, in the order of the problems."""

    def _read(self) -> list[Judged]:
        """What is there, up to the last whole round; a round that is cut short or damaged is cut off."""
        self.path.parent.mkdir(exist_ok=True)
        lines = self.path.read_bytes().splitlines(keepends=True) if self.path.exists() else []
        judged = list(takewhile(bool, map(parse, lines[1:] if lines[:1] == [self.head] else [])))
        count = len(judged) if len(judged) == self.total else len(judged) // self.per_round * self.per_round
        if count:
            os.truncate(self.path, sum(map(len, lines[: 1 + count])))
        else:
            self.path.write_bytes(self.head)
        return judged[:count]

    def add(self, judged: list[Judged]) -> None:
        """Append a round. Raises Stopped if the run was asked to stop."""
        self.judged += judged
        if not self.run:
            return
        if rank() == 0:
            with self.path.open("a", encoding="utf-8") as f:
                f.writelines(json.dumps(dataclasses.asdict(j)) + "\n" for j in judged)
            sync(self.path)
        self.run.stop.agree()
        self.run.stop.check(f"{self.run.folder}: {self.name}, {len(self.judged)} of {self.total} completions")


def parse(line: bytes) -> Judged | None:
    """A line of a journal; None if it is not one, cut short or damaged."""
    types = get_type_hints(Judged)
    try:
        facts = json.loads(line) if line.endswith(b"\n") else {}
        if facts.keys() == types.keys() and all(isinstance(facts[key], kind) for key, kind in types.items()):
            return Judged(**facts)
    except (ValueError, AttributeError, RecursionError):
        pass
    return None
