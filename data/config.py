"""Which problems to load: `data:` and `eval.data:` of a configuration."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from typing import Any

from data.embedded.stories import DemoConfig
from data.errors import DataError
from data.solutions.traces import TRACES
from data.sources.named import SOURCES, Fields, is_file_name
from data.sources.select import check_where


def _default_root() -> str:
    return os.environ.get("GRPO_DATA") or "datasets"


@dataclass(frozen=True)
class DataConfig:
    """Which problems to load."""

    source: str | list[str] = "demo"
    """`demo` (embedded), a name in `data/sources/named.py` (`gsm8k`, `math`, `svamp`, ...), the path of a .jsonl,
    .json, .csv, .tsv (each also .gz) or .parquet file, or the name of a data set on the hub. Or a list of several,
    which are read one after the other; `demo` stands alone."""

    split: str = "train"
    """Which part of the source; for a path it only names the problems, unless `held_out` cuts the file."""

    root: str = field(default_factory=_default_root)
    """Folder of the downloaded files; the environment variable GRPO_DATA, else `datasets`."""

    held_out: float = 0.0
    """Cut what has no test split of its own (files, SVAMP) by story: `split: test` is this share of it, `split: train`
    the rest, `split: all` the whole; 0: the source's own cut (SVAMP: 0.3), a path is not cut. Use it for both splits
    alike; `eval.data` does where it names no source."""

    where: dict[str, Any] = field(default_factory=dict)
    """Take only rows whose columns are as it says: `{level: 5, subject: [Algebra, Geometry]}`, `{level: ">=4"}`,
    `{source: "!=synthetic"}`; on the command line `data.where.level=5`."""

    start: int = 0
    """First row (or demo problem) to take, from 0. Rows are counted before bad ones are left out. Of several sources,
    of a file that is cut by story, and with `where`, they are the rows of all that, of the split, and that are asked
    for."""

    count: int = 0
    """How many rows to take, at most; 0 takes all there are. The demo has no end: it needs a count."""

    question_field: Fields = ""
    """Field of the question, or several to join with a space; empty: the source's own (else the first that is there of
    `question`, `problem`, `prompt`, `messages`). One field may hold a conversation: a list of messages `{"role": ...,
    "content": ...}`, the last the user's (TRL's `prompt`), or the reply that SFT teaches (`messages`)."""

    answer_field: Fields = ""
    """Field of the gold answer, or several; empty: the source's own (else `answer`, else `\\boxed{}`)."""

    solution_field: Fields = ""
    """Field of the worked solution, or several; empty: the source's own (`solution`, if there is one). Without it, SFT
    teaches the `completion` beside a `prompt`, or the reply at the end of `messages`, as it is."""

    subset: str = ""
    """Configuration of a hub data set, where it has several."""

    revision: str = ""
    """Branch, tag or commit of a hub data set; empty: its main branch."""

    trace: str = ""
    """What SFT teaches of a row with traces of a model (`generations`): `first`; `correct`, the first that
    `correctness_math_verify` calls right; `shortest`, the shortest of those; empty: the row's own solution."""

    skip_bad_rows: bool = False
    """Skip malformed rows with a warning that counts them, instead of stopping at the first."""

    keep_ungradable: bool = False
    """Keep rows whose answer no completion can match: `proof`, `notfound`, `nan`, `see solution`, an empty box. False:
    they are left out, with a line that names them."""

    shuffle: bool = True
    """Train on the problems in another order in each pass, by seed and stage; false: in the file's order, pass after
    pass, for a curriculum."""

    max_prompt_tokens: int = 0
    """Leave out problems whose prompt has more tokens than this, and say how many; 0: such a prompt is an error."""

    demo: DemoConfig = field(default_factory=DemoConfig)
    """Knobs of the embedded generator, for `source: demo`."""

    @property
    def sources(self) -> list[str]:
        """The sources, one or several."""
        return [self.source] if isinstance(self.source, str) else list(self.source)

    @property
    def label(self) -> str:
        """What is read, in a word or two: `gsm8k/test`."""
        return f"{'+'.join(self.sources)}/{self.split}"

    def __post_init__(self) -> None:
        if not self.sources or not all(self.sources):
            raise DataError("data.source: name a data set or a file")
        if "demo" in self.sources[1:] or self.sources[0] == "demo" != self.source:
            raise DataError("data.source: the demo's problems are made, and cannot stand in a list")
        check_where(self.where)
        if self.start < 0 or self.count < 0:
            raise DataError(f"data.start {self.start} and data.count {self.count} must not be negative")
        if self.max_prompt_tokens < 0:
            raise DataError(f"data.max_prompt_tokens {self.max_prompt_tokens} must not be negative")
        if self.trace not in TRACES:
            raise DataError(f"data.trace: {self.trace!r} is none of {', '.join(TRACES[1:])}, or empty")
        if not 0 <= self.held_out < 1:
            raise DataError(f"data.held_out {self.held_out} is a share, from 0 to less than 1")


HELD_OUT_COUNT = 200
"""Held-out problems of an evaluation, unless `eval.data.count` says otherwise."""


def held_out_of(train: DataConfig, **given: Any) -> DataConfig:
    """The held-out problems that belong to the training problems, for an evaluation that names no source.

    They come from the same sources and columns: of the split `test`, or, where `held_out` cuts, of what is cut off. A
    file that is not cut has none: the split is "" then, and loading it says what to do.

    Args:
        train: the training problems.
        given: settings of the evaluation, which take precedence.
    """
    files = [name for name in train.sources if name not in SOURCES and is_file_name(name)]
    split = "" if files and not train.held_out else "test"
    return replace(train, **{"split": split, "start": 0, "count": HELD_OUT_COUNT, "trace": "", **given})
