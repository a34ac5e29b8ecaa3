"""Which problems to load: `data:` and `eval.data:` of a configuration."""

from __future__ import annotations

import os
from dataclasses import dataclass, field

from data.embedded.stories import DemoConfig
from data.errors import DataError
from data.solutions.traces import TRACES
from data.sources.named import Fields


def _default_root() -> str:
    return os.environ.get("GRPO_DATA") or "datasets"


@dataclass(frozen=True)
class DataConfig:
    """Which problems to load."""

    source: str = "demo"
    """`demo` (embedded), a name in `data/sources/named.py` (`gsm8k`, `math`, `svamp`, ...), the path of a .jsonl or
    .parquet file, or the name of a data set on the hub."""

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
