"""Problems from a known data set, a file, the hub, or the embedded generator: one record, one loader.

DataConfig -> rows -> Problem(question, answer, solution, columns)
"""

from __future__ import annotations

import warnings

from data.config import DataConfig
from data.embedded.stories import SPLIT_BUCKETS, make_problems
from data.errors import DataError
from data.problem import Problem
from data.solutions.traces import with_trace
from data.sources.choices import RIGHT, choice
from data.sources.fields import conversation, names_of, to_problem
from data.sources.jsonl import parse_row
from data.sources.named import PLAIN_QUESTIONS
from data.sources.rows import locate, rows
from data.sources.split import held_out


def load_problems(config: DataConfig, seed: int = 0) -> list[Problem]:
    """Load the problems that `config` asks for.

    Args:
        config: source, split, slice and field names.
        seed: seeds the problems if they are made (`demo`), and the order of choices.

    Returns:
        At least one problem, at most `config.count` if that is not 0, in the file's order: `config.shuffle` is for
        the `Stream` that training takes them from.

    Raises:
        DataError: unknown source or split, missing file, malformed row (unless skipped), or no row at all.
    """
    if config.source != "demo":
        return _read_problems(config, seed)
    if config.held_out:
        raise DataError(f"data.held_out: the demo has splits of its own, {', '.join(SPLIT_BUCKETS)}")
    if not config.count:
        raise DataError("data.count is 0, but the demo's problems have no end: say how many")
    return make_problems(config.split, config.start + config.count, seed, config.demo)[config.start :]


# --------------------------------------------------------------------------- from a file


def _read_problems(config: DataConfig, seed: int) -> list[Problem]:
    where, name, source = locate(config)
    share = 0.0 if config.split == "all" else config.held_out or source.held_out
    problems: list[Problem] = []
    stories: list[str] = []
    bad: list[str] = []
    left_out = 0
    start, count = (0, 0) if share else (config.start, config.count)
    for number, place, row in rows(where, config, source, start, count):
        id = f"{name}/{config.split}/{number}"
        try:
            row = parse_row(row) if isinstance(row, bytes) else row
            row = choice(row, id, seed) if RIGHT in row else row
            row = with_trace(row, config.trace) if config.trace else row
            if row is None:
                left_out += 1
                continue
            question = config.question_field or source.question
            question = question or next((name for name in PLAIN_QUESTIONS if name in row), PLAIN_QUESTIONS[0])
            problems.append(to_problem(id, row, question, source, config))
            stories.append(conversation(row, names_of(question)[:1])[1])
        except DataError as error:
            bad.append(f"{place}: {error}")
            if not config.skip_bad_rows:
                raise DataError(bad[0]) from error
    if bad:
        warnings.warn(f"skipped {len(bad)} bad rows; the first: {bad[0]}", stacklevel=1)
    if left_out:
        warnings.warn(f"{left_out} rows have no trace for data.trace={config.trace}: left out", stacklevel=1)
    if share:
        out = held_out(stories, share)
        kept = [problem for problem, is_out in zip(problems, out, strict=True) if is_out == (config.split == "test")]
        problems = kept[config.start : config.start + config.count if config.count else None]
    if not problems:
        cut = f" data.split={config.split} data.held_out={share}: whole stories are held out" if share else ""
        raise DataError(f"{where}: no problem there (data.start={config.start} data.count={config.count}{cut})")
    return problems
