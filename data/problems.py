"""Problems from a known data set, a file, the hub, or the embedded generator: one record, one loader.

DataConfig -> rows -> Problem(question, answer, solution, columns)
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field

from data.config import DataConfig
from data.embedded.stories import SPLIT_BUCKETS, make_problems
from data.errors import DataError
from data.problem import Problem
from data.solutions.traces import with_trace
from data.sources.choices import RIGHT, choice
from data.sources.fields import conversation, names_of, question_of, to_problem
from data.sources.jsonl import Row
from data.sources.rows import Located, locate, rows
from data.sources.select import Selection
from data.sources.split import held_out
from data.sources.text import ungradable


def load_problems(config: DataConfig, seed: int = 0, *, teach: bool = False) -> list[Problem]:
    """Load the problems that `config` asks for.

    Args:
        config: sources, split, slice, conditions and field names.
        seed: seeds the problems if they are made (`demo`), and the order of choices.
        teach: for SFT, which needs a solution or a response and no answer; all others need an answer alone.

    Returns:
        At least one problem, at most `config.count` if that is not 0, in the file's order: `config.shuffle` is for
        the `Stream` that training takes them from.

    Raises:
        DataError: unknown source or split, missing file, malformed row (unless skipped), or no row at all.
    """
    if config.source != "demo":
        return _read_problems(config, seed, teach)
    if config.held_out:
        raise DataError(f"data.held_out: the demo has splits of its own, {', '.join(SPLIT_BUCKETS)}")
    if config.where:
        raise DataError("data.where: the demo's problems are made, not selected; see data.demo.levels")
    if not config.count:
        raise DataError("data.count is 0, but the demo's problems have no end: say how many")
    return make_problems(config.split, config.start + config.count, seed, config.demo)[config.start :]


# --------------------------------------------------------------------------- from files and the hub


@dataclass
class _Rows:
    """The rows of all sources, read one by one."""

    config: DataConfig
    seed: int
    teach: bool
    selection: Selection
    problems: list[Problem | None] = field(default_factory=list)
    """One a row that can be read; None where it is not asked for or has no trace."""
    stories: list[str | None] = field(default_factory=list)
    """The text by which a row is held out; None where its source is not cut."""
    bad: list[str] = field(default_factory=list)
    untraced: int = 0

    def add(self, row: Row, number: int, place: str, one: Located) -> None:
        """A row's problem and story. Raises DataError where the row is bad."""
        config, id = self.config, f"{one.name}/{self.config.split}/{number}"
        row = choice(row, id, self.seed) if RIGHT in row else row
        question = question_of(row, one.source, config, self.teach)
        story = conversation(row, names_of(question)[:1])[1] if one.held_out else None
        problem = None
        if self.selection(row):
            row = with_trace(row, config.trace) if config.trace else row
            self.untraced += row is None
            problem = to_problem(id, place, row, question, one.source, config, self.teach) if row is not None else None
        self.problems.append(problem)
        self.stories.append(story)

    def warn(self) -> None:
        """Say what was left out."""
        if self.bad:
            warnings.warn(f"skipped {len(self.bad)} bad rows; the first: {self.bad[0]}", stacklevel=1)
        if self.untraced:
            text = f"{self.untraced} rows have no trace for data.trace={self.config.trace}: left out"
            warnings.warn(text, stacklevel=1)


def _read_problems(config: DataConfig, seed: int, teach: bool) -> list[Problem]:
    located, found = locate(config), _Rows(config, seed, teach, Selection(config.where))
    share = max(one.held_out for one in located)
    whole = len(located) > 1 or share > 0 or bool(config.where)  # the slice is then of what is left
    for one in located:
        for number, place, read in rows(one, config, 0 if whole else config.start, 0 if whole else config.count):
            try:
                found.add(read(), number, place, one)
            except DataError as error:
                found.bad.append(f"{place}: {error}")
                if not config.skip_bad_rows:
                    raise DataError(found.bad[0]) from error
    found.warn()
    problems = _of_the_split(found, share) if share else [problem for problem in found.problems if problem]
    if whole:
        problems = problems[config.start : config.start + config.count if config.count else None]
    if not problems:
        where = ", ".join(str(one.where) for one in located)
        if config.where and found.problems and not any(found.problems):
            raise DataError(f"{where}: no row is as data.where asks: {found.selection.nothing()}")
        cut = f" data.split={config.split} data.held_out={share}: whole stories are held out" if share else ""
        raise DataError(f"{where}: no problem there (data.start={config.start} data.count={config.count}{cut})")
    return problems if config.keep_ungradable else _gradable(problems, teach)


def _of_the_split(found: _Rows, share: float) -> list[Problem]:
    """Problems of the split, where stories are held out: of all rows, so that other conditions give the same cut."""
    out = iter(held_out([story for story in found.stories if story is not None], share))
    asked = found.config.split == "test"
    kept = [story is None or next(out) == asked for story in found.stories]
    return [problem for problem, keep in zip(found.problems, kept, strict=True) if problem and keep]


def _gradable(problems: list[Problem], teach: bool) -> list[Problem]:
    """The problems whose answer a completion can match; a warning names the others. SFT may need no answer."""
    asked = [problem for problem in problems if not (teach and (problem.response or not problem.answer))]
    bad = {problem.id: problem for problem in asked if ungradable(problem.answer)}
    if not bad:
        return problems
    first = ", ".join(f"{problem.place} {problem.answer[:40]!r}" for problem in list(bad.values())[:5])
    text = f"{len(bad)} of {len(problems)} answers can never be matched ({first}{', ...' if len(bad) > 5 else ''})"
    if len(bad) == len(problems):
        raise DataError(f"{text}: look at data.answer_field; data.keep_ungradable=true keeps such rows")
    warnings.warn(f"{text}: left out; data.keep_ungradable=true keeps them", stacklevel=1)
    return [problem for problem in problems if problem.id not in bad]
