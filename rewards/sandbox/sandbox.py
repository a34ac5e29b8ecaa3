"""Scoring that nothing can stop: a backstop for rewards that hang, swell or crash.

The grader here bounds its own work, but a custom reward may not, and `signal.alarm` stops neither a thread nor a
call into C. So a reward runs in a worker process. If a completion takes it over the limit of time or memory, the
worker is killed, that completion gets no score and is counted, and the batch continues.

No score, because any score may be the best there is: 0 is, of a penalty. And nobody may earn by it: `score` says
which completions were killed, so that the trainer can leave them out of their groups, whatever else they got.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from rewards.registry import RewardError, get_reward, reward_label
from rewards.sandbox.call import UnusableReward, usable_columns
from rewards.sandbox.worker import HOOKS, Answer, Call, Worker

MAX_LOST = 8
"""Kills and new starts may cost a batch this many times `seconds`; what is left of it then goes unscored."""
MAX_FIRST_KILLS = 8
"""A reward that has never scored anything is no good after so many kills."""


@dataclass
class Kills:
    """Completions that a sandboxed reward had to give up on, since it was made; none of them has a score."""

    time: int = 0
    """It took too long."""
    memory: int = 0
    """It took too much memory."""
    crash: int = 0
    """It ended the worker: a segmentation fault, an exit."""
    skipped: int = 0
    """It was not tried: others of its batch had cost too much time."""

    @property
    def total(self) -> int:
        return self.time + self.memory + self.crash + self.skipped


@dataclass(frozen=True)
class Scores:
    """What a reward gave a batch."""

    values: list[float | None]
    """One for each completion; None: it does not apply, or it was killed."""
    killed: list[int] = field(default_factory=list)
    """Which completions were killed."""


class Sandbox:
    """The reward called `name`, run in a worker process. It is a reward itself, safe to call from any thread.

    The worker starts with the first call, and again after each kill. A batch is sent whole, as the reward would get
    it. If that fails, each completion is tried alone to find the culprits, and the others are scored once more
    together, for a reward may compare them.

    A batch may take `seconds`, and three times what the last one took for each completion. So a hang costs twice
    about that, and a new start of the worker.

    Args:
        name, settings: as for `get_reward`. A reward is known by its name here, so it can't be a closure.
        seconds: the limit of one completion, by the clock on the wall.
        megabytes: how much memory may be taken beyond what the imports take (where the system can tell).

    Raises:
        RewardError: when made, as `get_reward`; when called, if the reward raises, with its traceback.
        UnusableReward: the worker does not start, the first completions were all killed, or a score list is none.
    """

    def __init__(self, name: str, settings: dict | None = None, *, seconds: float = 5.0, megabytes: int = 1024):
        self._reward = get_reward(name, **(settings or {}))
        self.__name__ = reward_label(self._reward)
        self.seconds, self.killed = seconds, Kills()
        self._worker, self._lock = Worker(self.__name__, [name, settings or {}, megabytes]), threading.Lock()
        self._usual, self._has_scored = 0.0, False  # seconds a completion, in the last batch that went well

    def __call__(self, /, completions: list, **columns: Any) -> list[float | None]:
        return self.score({**columns, "completions": completions}).values

    def score(self, columns: Mapping[str, Any]) -> Scores:
        """The scores of a batch, and which completions were killed.

        columns: all arguments of the reward by name, `completions` among them. TRL's hooks (`log_metric`,
        `log_extra`) are called here with what the reward tells them there.
        """
        sent = usable_columns(self._reward, columns)
        hooks = {name: sent[name] for name in HOOKS if name in sent}
        sent |= dict.fromkeys(hooks)
        if "trainer_state" in sent:
            state = getattr(sent["trainer_state"], "__dict__", {})
            sent["trainer_state"] = {key: v for key, v in state.items() if isinstance(v, int | float | str)}
        with self._lock:
            scores, logged = self._score(sent)
        for name, args, named in logged:
            hooks[name](*args, **named)
        return scores

    def close(self) -> None:
        """End the worker; a later call starts a new one."""
        with self._lock:
            self._worker.kill()

    def _score(self, columns: dict[str, Any]) -> tuple[Scores, list[Call]]:
        count = len(columns["completions"])
        answer = self._ask(columns, count)
        if not answer.failure:
            return Scores(answer.values), answer.logged
        if count == 1:
            self._count(answer.failure)
            return Scores([None], [0]), []
        alone, killed = self._try_each(columns, count)
        rest = list(alone)  # their rows
        together = self._ask(_rows(columns, rest, count), len(rest)) if len(rest) > 1 else Answer(failure="alone")
        if together.failure:  # together they are too many: what each got alone must do
            together = _joined(alone.values())
        scores = dict(zip(rest, together.values, strict=True))
        logged = [_on_rows(call, rest, count) for call in together.logged]
        return Scores([scores.get(row) for row in range(count)], killed), logged

    def _try_each(self, columns: dict[str, Any], count: int) -> tuple[dict[int, Answer | RewardError], list[int]]:
        """What each completion gets alone (or how the reward raises then) by its row, and which were killed."""
        alone: dict[int, Answer | RewardError] = {}
        killed: list[int] = []
        lost, good = 0.0, []
        for row in range(count):
            if lost > MAX_LOST * self.seconds:
                killed.append(row)
                self._count("skipped")
                continue
            began = time.monotonic()
            try:
                answer = self._ask(_rows(columns, [row], count), 1, learn=False)
            except UnusableReward:
                raise
            except RewardError as error:
                alone[row] = error
                continue
            lost += time.monotonic() - began
            if answer.failure:
                killed.append(row)
                self._count(answer.failure)
            else:
                alone[row] = answer
                lost -= answer.seconds
                good += [] if answer.first else [answer.seconds]
        if good:
            self._usual = sum(good) / len(good)
        return alone, killed

    def _ask(self, columns: dict[str, Any], count: int, learn: bool = True) -> Answer:
        answer = self._worker.ask(columns, self.seconds + (3 * self._usual * count if learn else 0.0))
        if not answer.failure:
            self._has_scored = True
            if learn and not answer.first:
                self._usual = answer.seconds / max(count, 1)
        return answer

    def _count(self, failure: str) -> None:
        setattr(self.killed, failure, getattr(self.killed, failure) + 1)
        if not self._has_scored and self.killed.total >= MAX_FIRST_KILLS:
            raise UnusableReward(
                f"{self.__name__}: none of the first {self.killed.total} completions could be scored within "
                f"{self.seconds:g} s and its memory: allow more, or look at the reward"
            )


def _joined(answers: Iterable[Answer | RewardError]) -> Answer:
    """The answers of several calls as one; raises where one of them raised."""
    values, logged, columns = [], [], {}
    for answer in answers:
        if isinstance(answer, RewardError):
            raise answer
        for hook, args, named in answer.logged:
            if hook == "log_extra":
                column, extra = _extra(*args, **named)
                columns.setdefault(column, [None] * len(values)).extend(extra)
            else:
                logged.append((hook, args, named))
        values += answer.values
        columns = {column: extra + [None] * (len(values) - len(extra)) for column, extra in columns.items()}
    return Answer(values, logged=logged + [("log_extra", [column, extra], {}) for column, extra in columns.items()])


def _extra(column: str, values: list[Any]) -> tuple[str, list[Any]]:
    """What `log_extra` was called with, in either way of writing it."""
    return column, list(values)


def _on_rows(call: Call, rows: list[int], count: int) -> Call:
    """A call of `log_extra` for some rows as one for all `count` rows, with None for the others."""
    hook, args, named = call
    if hook != "log_extra":
        return call
    column, values = _extra(*args, **named)
    if len(values) != len(rows):
        return call  # the hook says so
    there = dict(zip(rows, values, strict=True))
    return hook, [column, [there.get(row) for row in range(count)]], {}


def _rows(columns: dict[str, Any], rows: list[int], count: int) -> dict[str, Any]:
    """These rows of the columns; what is no column (a hook, the trainer's state) stays as it is."""
    return {
        name: [column[row] for row in rows] if isinstance(column, list) and len(column) == count else column
        for name, column in columns.items()
    }
