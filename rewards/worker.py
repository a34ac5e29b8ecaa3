"""Scoring in a process that can be killed: a backstop for rewards that hang, swell or crash.

The grader here bounds its own work, but a custom reward may not, and `signal.alarm` stops neither a thread
nor a call into C. So a reward runs in a worker process of its own. If a completion takes it over the
wall-clock or the memory limit, the worker is killed, that completion scores 0 and is counted, and the batch
goes on.

The two processes talk in JSON, so that nothing of the parent (CUDA, threads, locks) is inherited and
nothing is unpickled; the worker imports `rewards` and the reward's module, and nothing else.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import traceback
import weakref
from dataclasses import dataclass
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from types import SimpleNamespace
from typing import Any

from rewards.call import UnusableReward, call_reward, usable_columns
from rewards.registry import TRL_COLUMNS, RewardError, get_reward, reward_label

START_SECONDS = 120.0
"""How long a worker may take to start, with the imports of a custom reward."""


@dataclass
class Kills:
    """Completions that a sandboxed reward had to give up on, since it was made; each scored 0."""

    time: int = 0
    """It took too long."""
    memory: int = 0
    """It took too much memory."""
    crash: int = 0
    """It ended the worker: a segmentation fault, an exit."""

    @property
    def total(self) -> int:
        return self.time + self.memory + self.crash


class Sandbox:
    """The reward called `name`, run in a worker process. It is a reward itself, safe to call from any thread.

    The worker starts with the first call, and again after each kill. A batch is sent whole, as the reward
    would get it; only if that fails is it scored one completion at a time, so that the culprit alone pays.

    Args:
        name, settings: as for `get_reward`. A reward is known by its name here, so it can't be a closure.
        seconds: the wall-clock limit of one completion; a batch may take a tenth of it for each one more.
        megabytes: how much memory may be taken beyond what the imports take (where the system can tell).

    Raises:
        RewardError: when made, as `get_reward`; when called, if the reward raises, with its traceback.
    """

    def __init__(self, name: str, settings: dict | None = None, *, seconds: float = 5.0, megabytes: int = 1024):
        self._reward = get_reward(name, **(settings or {}))
        self.__name__ = reward_label(self._reward)
        self.seconds, self.killed = seconds, Kills()
        self._arguments = json.dumps([name, settings or {}, megabytes])
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._pipe: Connection | None = None

    def __call__(self, /, completions: list, **columns: Any) -> list[float | None]:
        columns = usable_columns(self._reward, columns)
        state = vars(columns.get("trainer_state") or SimpleNamespace())
        plain = {key: value for key, value in state.items() if isinstance(value, int | float | str)}
        columns |= {name: plain for name in TRL_COLUMNS & columns.keys()}
        count = len(completions)
        with self._lock:
            scores, failure = self._score(completions, columns, self.seconds * (1 + 0.1 * count))
            if not failure:
                return scores
            scores = []
            for at in range(count):
                row = {name: _row(column, at, count) for name, column in columns.items()}
                score, failure = self._score(completions[at : at + 1], row, self.seconds)
                scores += [0.0] if failure else score
                if failure:
                    setattr(self.killed, failure, getattr(self.killed, failure) + 1)
            return scores

    def close(self) -> None:
        """End the worker; a later call starts a new one."""
        with self._lock:
            self._kill()

    def _score(self, completions: list, columns: dict, seconds: float) -> tuple[list[float | None], str]:
        """The scores, or why there are none: "time", "memory" or "crash"."""
        try:
            request = json.dumps([completions, columns], default=_plain).encode()
        except TypeError as error:
            raise RewardError(f"{self.__name__}: a column can't be sent to the worker ({error})") from None
        try:
            pipe = self._start()
            pipe.send_bytes(request)
            if not pipe.poll(seconds):
                self._kill()
                return [], "time"
            kind, result = json.loads(pipe.recv_bytes())
        except (EOFError, OSError):
            self._kill()
            return [], "crash"
        if kind == "unusable":
            raise UnusableReward(result)
        if kind == "error":
            raise RewardError(f"{self.__name__} raised in its worker:\n{result}")
        if kind == "memory":
            self._kill()  # what is left of it may be in pieces
        return result, "memory" if kind == "memory" else ""

    def _start(self) -> Connection:
        if self._pipe is not None:
            return self._pipe
        self._pipe, theirs = Pipe()
        command = [sys.executable, "-m", "rewards.worker", str(theirs.fileno()), self._arguments]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        self._process = subprocess.Popen(
            command,
            env=environment,
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
        theirs.close()
        weakref.finalize(self, _end, self._process)  # at exit too: a worker that hangs outlives nobody
        if not self._pipe.poll(START_SECONDS) or json.loads(self._pipe.recv_bytes()) != "ready":
            raise RewardError(f"{self.__name__}: its worker process doesn't start")
        return self._pipe

    def _kill(self) -> None:
        if self._process is not None and self._pipe is not None:
            _end(self._process)
            self._pipe.close()
        self._process = self._pipe = None


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # with whatever processes the reward started
        process.wait()


def _row(column: Any, at: int, count: int) -> Any:
    return column[at : at + 1] if isinstance(column, list) and len(column) == count else column


def _plain(value: Any) -> Any:
    """Tensors and arrays as lists."""
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"a {type(value).__name__}")


# ---------------------------------------------------------------------------------------------------
# In the worker


def main(argv: list[str]) -> None:
    """Score what comes through the pipe, until it is closed."""
    pipe = Connection(int(argv[0]))
    name, settings, megabytes = json.loads(argv[1])
    os.dup2(2, 1)  # what a reward prints is not lost
    reward = get_reward(name, **settings)
    _limit_memory(megabytes)
    pipe.send_bytes(b'"ready"')
    while True:
        try:
            completions, columns = json.loads(pipe.recv_bytes())
        except EOFError:
            return
        for name in TRL_COLUMNS & columns.keys():
            columns[name] = SimpleNamespace(**columns[name]) if name == "trainer_state" else _ignore
        try:
            scores = call_reward(reward, {**columns, "completions": completions})
            answer = ["scores", [_score(score) for score in scores]]
        except UnusableReward as error:
            answer = ["unusable", str(error)]
        except MemoryError:
            answer = ["memory", []]
        except Exception:
            answer = ["error", traceback.format_exc(limit=-5)]
        pipe.send_bytes(json.dumps(answer).encode())


def _ignore(*_: Any) -> None:
    """TRL's hooks for a reward's own figures; what they are told is not kept."""


def _score(score: Any) -> Any:
    """A score as JSON can hold it; text is the caller's to refuse."""
    return score if score is None or isinstance(score, str) else float(score)


def _limit_memory(megabytes: int) -> None:
    """Limit the address space to what it is now and this much more; Linux only."""
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        with open("/proc/self/statm") as statm:
            pages = int(statm.read().split()[0])
        limit = pages * resource.getpagesize() + megabytes * 2**20
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


if __name__ == "__main__":
    main(sys.argv[1:])
