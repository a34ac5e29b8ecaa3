"""Judged completions, kept on the disk as they come: an evaluation or rejection sampling continues after a stop.

    eval.jsonl      {"origin": ...}, then one judged completion a line: the sampled ones, then the greedy ones
    sampled.jsonl   the same of rejection sampling, until what is kept of it is in samples.jsonl

They are sampled in rounds, a batch each; a round that is not there in full is sampled again. Rows of another origin,
of a model, prompts or problems that were replaced meanwhile, are thrown away.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from itertools import takewhile

from grpo.distributed import from_first, rank
from grpo.runs.files import sync
from grpo.runs.folder import Run


@dataclass(frozen=True)
class Judged:
    """One completion with what was found of it: a row of eval.jsonl."""

    problem: int
    """The problem's place among those that were asked, from 0."""
    text: str
    """In eval.jsonl without its middle, if it is longer than `eval.megabytes` allows."""
    correct: bool
    well_formed: bool
    reflections: int
    answer: str | None
    """What was read as its answer."""
    tokens: int
    truncated: bool
    rewards: dict = field(default_factory=dict)
    """What each reward gave it, before its weight; None where it does not apply."""
    kind: str = "sampled"
    """`sampled` or `greedy`."""
    sample: int = 0
    """Its place among the completions of the problem."""
    id: str = ""
    level: str | None = None
    question: str = ""
    gold: str = ""


class Journal:
    """The judged completions of a run in one of its files; without a run or a file nothing is kept.

    origin: fingerprints of what sampled and of what was asked.
    """

    def __init__(self, run: Run | None = None, file: str = "", origin: str = ""):
        self.run, self.path = run, run.folder / file if run and file else None
        self.head = (json.dumps({"origin": origin}) + "\n").encode()
        self.rows: list[Judged] = from_first(self._read) if self.path else []
        """All that is judged, in the order in which it was."""

    def _read(self) -> list[Judged]:
        """The rows that are there, up to the first that is cut short or damaged."""
        lines = self.path.read_bytes().splitlines(keepends=True) if self.path.exists() else []
        if lines[:1] != [self.head]:
            self.path.write_bytes(self.head)
            return []
        return list(takewhile(lambda row: row is not None, map(parse, lines[1:])))

    def resume(self, kind: str, total: int, per_round: int) -> list[Judged]:
        """The rows of a kind, of which `total` are to come, as far as there are whole rounds; the rest is cut off.

        All rows of the kind before must be there.
        """
        before = next((i for i, row in enumerate(self.rows) if row.kind == kind), len(self.rows))
        there = sum(row.kind == kind for row in self.rows)
        if there < total:
            self.rows = self.rows[: before + there // per_round * per_round]
        if self.path and rank() == 0:
            lines = self.path.read_bytes().splitlines(keepends=True)
            os.truncate(self.path, sum(map(len, lines[: 1 + len(self.rows)])))
        return self.rows[before : before + total]

    def add(self, judged: list[Judged], done: str) -> None:
        """Append a round. done: what is finished then, in words. Raises Stopped if the run was asked to stop."""
        self.rows += judged
        if not self.run:
            return
        if self.path and rank() == 0:
            with self.path.open("ab") as f:
                f.write(b"".join((json.dumps(asdict(one)) + "\n").encode() for one in judged))
            sync(self.path)
        self.run.stop.agree()
        self.run.stop.check(f"{self.run.folder}: {done if self.path else 'the last step'}")


def parse(line: bytes) -> Judged | None:
    """A judged completion, by its line in a journal; None if that is cut short or damaged."""
    try:
        return Judged(**json.loads(line)) if line.endswith(b"\n") else None
    except (ValueError, TypeError, RecursionError):
        return None
