"""Problems from a known data set, a file, the hub, or the embedded generator: one record, one loader.

    DataConfig -> rows -> Problem(question, answer, solution, columns)

Every row goes through the same three rules, so that a copy of GSM8K under another name reads as GSM8K does:

1. an answer whose last line is `#### N` is GSM8K's: N is the gold, the lines before it the worked solution;
2. where there is no answer, the gold is what the last `\\boxed{...}` of the solution holds (MATH);
3. calculator annotations `<<48/2=24>>` leave the solution's text; the annotated text stays in the column
   `annotated_solution`, for SFT to check.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path

from data.embedded import SPLIT_BUCKETS, DemoConfig, make_problems
from data.errors import DataError
from data.jsonl import Row, parse_row, read_lines
from data.problem import Problem
from data.sources import CUT_SPLITS, FILES, PLAIN, PLAIN_QUESTIONS, SOURCES, Fields, Source
from data.split import held_out
from data.tables import RIGHT, TRACES, choice, read_hub, read_parquet, with_trace
from data.text import has_final_line, last_boxed, never_matched, number_text, split_final_answer, strip_annotations

# --------------------------------------------------------------------------- what to load


def _default_root() -> str:
    return os.environ.get("GRPO_DATA") or "datasets"


@dataclass(frozen=True)
class DataConfig:
    """Which problems to load."""

    source: str = "demo"
    """`demo` (embedded), a name in `data/sources.py` (`gsm8k`, `math`, `svamp`, ...), the path of a .jsonl or .parquet
    file, or the name of a data set on the hub."""

    split: str = "train"
    """Which part of the source; for a path it only names the problems, unless `held_out` cuts the file."""

    root: str = field(default_factory=_default_root)
    """Folder of the downloaded files; the environment variable GRPO_DATA, else `datasets`."""

    held_out: float = 0.0
    """Cut the one file of a path (or SVAMP's) by story: `split: test` is this share of it, `split: train` the rest,
    `split: all` the whole; 0: the source's own cut (SVAMP: 0.3), a path is not cut. Use it for both splits alike."""

    start: int = 0
    """First row (or demo problem) to take, from 0. Rows are counted before bad ones are skipped; in a file that is
    cut by story, they are the rows of the split."""

    count: int = 0
    """How many rows to take, at most; 0 takes all there are. The demo has no end: it needs a count."""

    question_field: Fields = ""
    """Field of the question, or several to join with a space; empty: the source's own (else `question`). One field may
    hold a conversation, as TRL's `prompt` does: a list of messages `{"role": ..., "content": ...}`, the last the
    user's."""

    answer_field: Fields = ""
    """Field of the gold answer, or several; empty: the source's own (else `answer`, else `\\boxed{}`)."""

    solution_field: Fields = ""
    """Field of the worked solution, or several; empty: the source's own (`solution`, if there is one)."""

    subset: str = ""
    """Configuration of a hub data set, where it has several."""

    revision: str = ""
    """Branch, tag or commit of a hub data set; empty: its main branch."""

    trace: str = ""
    """What SFT teaches of a row with traces of a model (`generations`): `first`; `correct`, the first that
    `correctness_math_verify` calls right; `shortest`, the shortest of those; empty: the row's own solution."""

    skip_bad_rows: bool = False
    """Skip malformed rows with a warning that counts them, instead of stopping at the first."""

    shuffle: bool = True
    """Train on the problems in another order in each pass, by seed and stage; false: in the file's order, pass after
    pass, for a curriculum."""

    max_prompt_tokens: int = 0
    """Leave out problems whose prompt has more tokens than this, and say how many; 0: such a prompt is an error."""

    demo: DemoConfig = field(default_factory=DemoConfig)
    """Knobs of the embedded generator, for `source: demo`."""

    def __post_init__(self) -> None:
        if self.start < 0 or self.count < 0:
            raise DataError(f"data.start {self.start} and data.count {self.count} must not be negative")
        if self.max_prompt_tokens < 0:
            raise DataError(f"data.max_prompt_tokens {self.max_prompt_tokens} must not be negative")
        if self.trace not in TRACES:
            raise DataError(f"data.trace: {self.trace!r} is none of {', '.join(TRACES[1:])}, or empty")
        if not 0 <= self.held_out < 1:
            raise DataError(f"data.held_out {self.held_out} is a share, from 0 to less than 1")


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
    where, name, source = _locate(config)
    share = 0.0 if config.split == "all" else config.held_out or source.held_out
    problems: list[Problem] = []
    stories: list[str] = []
    bad: list[str] = []
    left_out = 0
    start, count = (0, 0) if share else (config.start, config.count)
    for number, place, row in _rows(where, config, source, start, count):
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
            problems.append(_to_problem(id, row, question, source, config))
            stories.append(_conversation(row, _names(question)[:1])[1])
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


def _locate(config: DataConfig) -> tuple[Path | str, str, Source]:
    """A file, a folder or a name on the hub; what to call it; and its data set: of a path, the plainest fields."""
    source, path = SOURCES.get(config.source), Path(config.source)
    if source is None and path.suffix in FILES:
        if config.held_out and config.split not in CUT_SPLITS:
            raise DataError(f"data.split: with data.held_out it is {', '.join(CUT_SPLITS)}, not {config.split!r}")
        return _there(path, "look at data.source"), path.stem, PLAIN
    if source is None and (path.is_dir() or config.source.count("/") == 1):
        return config.source, path.name, PLAIN
    if source is None:
        names = ["demo", *SOURCES]
        near = get_close_matches(config.source, names, n=1)
        kinds = f"it is {', '.join(names)}, the path of a .jsonl or .parquet file, or a name on the hub"
        hint = f"did you mean {near[0]!r}?" if near else kinds
        raise DataError(f"data.source: unknown source {config.source!r}; {hint}")
    known = source.splits or tuple(source.files)
    if config.split not in known:
        raise DataError(f"data.split: {config.source} has no split {config.split!r}, only {', '.join(known)}")
    if config.held_out and not source.held_out:
        raise DataError(f"data.held_out: {config.source} has splits of its own, {', '.join(known)}")
    if not source.hub:
        return _there(Path(config.root) / source.files[config.split], source.advice), config.source, source
    copies = [Path(config.root) / f"{config.source}_{config.split}{suffix}" for suffix in FILES]
    return next((path for path in copies if path.is_file()), source.hub), config.source, source


def _there(path: Path, advice: str) -> Path:
    if not path.is_file():
        raise DataError(f"{path}: no such file; {advice}")
    return path


def _rows(
    where: Path | str, config: DataConfig, source: Source, start: int, count: int
) -> Iterator[tuple[int, str, Row | bytes]]:
    """Number from 0, place and content of each row; a line of a .jsonl file is not parsed yet."""
    if isinstance(where, Path) and where.suffix == ".jsonl":
        yield from ((n, f"{where}:{line}", text) for n, line, text in read_lines(where, start, count))
        return
    if isinstance(where, Path):
        rows = read_parquet(where, start, count)
    else:
        rows = read_hub(where, config.subset or source.subset, config.split, config.revision, start, count)
    yield from ((n, f"{where}, row {n}", row) for n, row in rows)


def _to_problem(id: str, row: Row, question_field: Fields, source: Source, config: DataConfig) -> Problem:
    """One row as a Problem; a field that the user named must be there, the source's own may be missing."""
    answer_field = config.answer_field or source.answer
    solution_field = config.solution_field or source.solution
    turns, question = _conversation(row, question_field)
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
    used = {*_names(question_field), *_names(answer_field), *_names(solution_field), *RESERVED_COLUMNS}
    columns = {name: value for name, value in row.items() if name not in used}
    plain = strip_annotations(solution)
    if plain != solution:
        columns["annotated_solution"] = solution
    return Problem(id, question, answer, plain, columns, turns)


_PASSED_ANYWAY = "prompts completions completion_ids question answer solution trainer_state log_extra log_metric"
RESERVED_COLUMNS = frozenset(_PASSED_ANYWAY.split())
"""What a reward is called with anyway: a column of that name would shadow it, and is left out."""


def _conversation(row: Row, fields: Fields) -> tuple[list[dict[str, str]], str]:
    """The turns before the question, and the question; no turns where the field is text."""
    names = _names(fields)
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


def _names(fields: Fields) -> list[str]:
    return [fields] if isinstance(fields, str) else fields


def _join(row: Row, fields: Fields, *, optional: bool = False, numbers: bool = False) -> str:
    """The text of one field, or of several joined with a space. `numbers`: a JSON number will do as well."""
    texts = []
    for name in _names(fields):
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
