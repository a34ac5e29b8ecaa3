"""Judged completions, kept on the disk as they come: a long evaluation or rejection sampling goes on after a stop.

    runs/demo/4-reject/judged/sampling.jsonl     {"origin": ...}, then a line per round

A round is what is sampled in one batch; one that is not there in full is sampled again. The samples of another
origin, of a model, prompts or problems that were replaced meanwhile, are thrown away.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from itertools import chain, takewhile

from grpo.distributed import from_first, rank
from grpo.runs.files import sync
from grpo.runs.folder import Run


@dataclass(frozen=True)
class Judged:
    """What is known of one completion."""

    problem: int  # its index
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
    """The judged completions of one sampling in a run; without a run nothing is kept.

    name: of the sampling. origin: fingerprints of what sampled and what was asked. total: completions to come.
    """

    def __init__(self, run: Run | None, name: str, origin: str, total: int):
        self.run, self.name, self.total = run, name, total
        self.head = (json.dumps({"origin": origin}) + "\n").encode()
        self.path = run and run.folder / "judged" / f"{name.replace(' ', '-')}.jsonl"
        self.judged: list[Judged] = from_first(self._read) if run else []
        """All that is judged, in the order of the problems."""

    def _read(self) -> list[Judged]:
        """What is there, up to the first round that is cut short or damaged; the file is cut off there."""
        self.path.parent.mkdir(exist_ok=True)
        lines = self.path.read_bytes().splitlines(keepends=True) if self.path.exists() else []
        if lines[:1] != [self.head]:
            self.path.write_bytes(self.head)
            return []
        rounds = list(takewhile(bool, map(parse, lines[1:])))
        os.truncate(self.path, sum(map(len, lines[: 1 + len(rounds)])))
        return list(chain(*rounds))

    def add(self, judged: list[Judged]) -> None:
        """Append a round. Raises Stopped if the run was asked to stop."""
        self.judged += judged
        if not self.run:
            return
        if rank() == 0:
            with self.path.open("a", encoding="utf-8") as f:
                f.write(json.dumps([asdict(one) for one in judged]) + "\n")
            sync(self.path)
        self.run.stop.agree()
        self.run.stop.check(f"{self.run.folder}: {self.name}, {len(self.judged)} of {self.total} completions")


def parse(line: bytes) -> list[Judged]:
    """A round, by its line in a journal; empty if that is cut short or damaged."""
    try:
        return [Judged(**row) for row in json.loads(line)] if line.endswith(b"\n") else []
    except (ValueError, TypeError, RecursionError):
        return []
