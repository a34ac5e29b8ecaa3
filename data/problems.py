"""Problems from GSM8K, MATH, SVAMP, any JSON Lines file, or the embedded generator: one record, one loader.

    DataConfig -> rows of a JSON Lines file (or the generator) -> Problem(question, answer, solution, columns)

Every file goes through the same three rules, so that a copy of GSM8K under another name reads as GSM8K does:

1. an answer whose last line is `#### N` is GSM8K's: N is the gold, the lines before it the worked solution;
2. where there is no answer, the gold is what the last `\\boxed{...}` of the solution holds (MATH);
3. calculator annotations `<<48/2=24>>` leave the solution's text; the annotated text stays in the column
   `annotated_solution`, for the cold start to check.
"""

from __future__ import annotations

import os
import warnings
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path

from data.embedded import SPLIT_BUCKETS, DemoConfig, make_problems
from data.errors import DataError
from data.jsonl import Row, parse_row, read_lines
from data.problem import Problem
from data.split import held_out
from data.text import has_final_line, last_boxed, number_text, split_final_answer, strip_annotations

# --------------------------------------------------------------------------- what to load


@dataclass(frozen=True)
class Source:
    """A known data set: its file per split, and the fields that make up a problem."""

    files: dict[str, str]
    question: str | list[str] = "question"
    answer: str | list[str] = "answer"
    solution: str | list[str] = "solution"
    marked: bool = False
    """Whether every answer must end in a line `#### N`."""
    held_out: float = 0.0
    """Share of a single file that is held out for the split `test`, by story (`data.split`); 0: it is not cut."""
    advice: str = "put it there, or name its folder with data.root=DIR"
    """What to do when a file is missing."""


CUT_SPLITS = ("train", "test", "all")
"""The splits of a single file that is cut by story."""

SOURCES = {
    "gsm8k": Source(
        files={"train": "gsm8k_train.jsonl", "test": "gsm8k_test.jsonl"},
        marked=True,
        advice="`make data` downloads it, data.root=DIR names another folder",
    ),
    "math": Source(
        files={"train": "math_train.jsonl", "test": "math500_test.jsonl"},
        question="problem",
        advice="`python -m data.download math` fetches it, data.root=DIR names another folder",
    ),
    "svamp": Source(
        files=dict.fromkeys(CUT_SPLITS, "svamp_test.jsonl"),
        question=["Body", "Question"],
        answer="Answer",
        solution="Equation",
        held_out=0.3,
    ),
}
"""The data sets known by name. `demo` is made, not read; anything else is the path of a .jsonl file."""

Fields = str | list[str]


def _default_root() -> str:
    return os.environ.get("GRPO_DATA") or "datasets"


@dataclass(frozen=True)
class DataConfig:
    """Which problems to load."""

    source: str = "demo"
    """`demo` (embedded), `gsm8k`, `math`, `svamp`, or the path of a .jsonl file."""

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
        if not 0 <= self.held_out < 1:
            raise DataError(f"data.held_out {self.held_out} is a share, from 0 to less than 1")


def load_problems(config: DataConfig, seed: int = 0) -> list[Problem]:
    """Load the problems that `config` asks for.

    Args:
        config: source, split, slice and field names.
        seed: seeds the problems if they are made (`demo`).

    Returns:
        At least one problem, at most `config.count` if that is not 0, in the file's order: `config.shuffle` is for
        the `Stream` that training takes them from.

    Raises:
        DataError: unknown source or split, missing file, malformed row (unless skipped), or no row at all.
    """
    if config.source != "demo":
        return _read_problems(config)
    if config.held_out:
        raise DataError(f"data.held_out: the demo has splits of its own, {', '.join(SPLIT_BUCKETS)}")
    if not config.count:
        raise DataError("data.count is 0, but the demo's problems have no end: say how many")
    return make_problems(config.split, config.start + config.count, seed, config.demo)[config.start :]


# --------------------------------------------------------------------------- from a file


def _read_problems(config: DataConfig) -> list[Problem]:
    path, source = _locate(config)
    name = config.source if config.source in SOURCES else path.stem
    share = 0.0 if config.split == "all" else config.held_out or source.held_out
    rows = read_lines(path) if share else read_lines(path, config.start, config.count)
    problems: list[Problem] = []
    stories: list[str] = []
    bad: list[str] = []
    for number, line, text in rows:
        try:
            row = parse_row(text)
            problems.append(_to_problem(f"{name}/{config.split}/{number}", row, source, config))
            stories.append(_conversation(row, _names(config.question_field or source.question)[:1])[1])
        except DataError as error:
            bad.append(f"{path}:{line}: {error}")
            if not config.skip_bad_rows:
                raise DataError(bad[0]) from error
    if bad:
        warnings.warn(f"skipped {len(bad)} bad rows; the first: {bad[0]}", stacklevel=3)
    if share:
        out = held_out(stories, share)
        kept = [problem for problem, is_out in zip(problems, out, strict=True) if is_out == (config.split == "test")]
        problems = kept[config.start : config.start + config.count if config.count else None]
    if not problems:
        cut = f" data.split={config.split} data.held_out={share}: whole stories are held out" if share else ""
        raise DataError(f"{path}: no problem there (data.start={config.start} data.count={config.count}{cut})")
    return problems


def _locate(config: DataConfig) -> tuple[Path, Source]:
    """The file to read and its data set; a path is a data set with the plainest field names."""
    if Path(config.source).suffix == ".jsonl":
        path, source, advice = Path(config.source), Source({}), "look at data.source"
        if config.held_out and config.split not in CUT_SPLITS:
            raise DataError(f"data.split: with data.held_out it is {', '.join(CUT_SPLITS)}, not {config.split!r}")
    elif config.source in SOURCES:
        source = SOURCES[config.source]
        known = ", ".join(source.files)
        if config.split not in source.files:
            raise DataError(f"data.split: {config.source} has no split {config.split!r}, only {known}")
        if config.held_out and not source.held_out:
            raise DataError(f"data.held_out: {config.source} has splits of its own, {known}")
        path, advice = Path(config.root) / source.files[config.split], source.advice
    else:
        names = ["demo", *SOURCES]
        near = get_close_matches(config.source, names, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"it is {', '.join(names)} or the path of a .jsonl file"
        raise DataError(f"data.source: unknown source {config.source!r}; {hint}")
    if not path.is_file():
        raise DataError(f"{path}: no such file; {advice}")
    return path, source


def _to_problem(id: str, row: Row, source: Source, config: DataConfig) -> Problem:
    """One row as a Problem; a field that the user named must be there, the source's own may be missing."""
    question_field = config.question_field or source.question
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
