"""A process that scores, and that can be killed; `rewards.sandbox` decides when.

The two processes talk in JSON, so that nothing of the parent (CUDA, threads, locks) is inherited and nothing is
unpickled; the worker imports `rewards` and the reward's module, and nothing else.

    parent                          worker (`python rewards/sandbox/__main__.py`)
    Worker.ask  -- columns -->      call_reward
                <-- scores ---
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import traceback
import weakref
from collections.abc import Mapping
from dataclasses import dataclass, field
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from rewards.registry import RewardError, get_reward
from rewards.sandbox.call import UnusableReward, call_reward

START_SECONDS = 120.0
"""How long a worker may take to start, with the imports of a custom reward."""
HOOKS = ("log_metric", "log_extra")
"""TRL's functions by which a reward tells figures of its own."""

Call = tuple[str, list, dict[str, Any]]  # a hook that the reward called: its name, its arguments


@dataclass(frozen=True)
class Answer:
    """What came of one call."""

    values: list[float | None] = field(default_factory=list)
    failure: str = ""
    """Why there are no values: "time", "memory" or "crash"; the worker is gone then."""
    logged: list[Call] = field(default_factory=list)
    seconds: float = 0.0
    """How long it took."""
    first: bool = False
    """Whether it was the worker's first call, which may have had more to do (imports, models)."""


class Worker:
    """The parent's end: starts the process when it is needed, asks it, kills it.

    label: the reward's name, for messages; arguments: the reward's name, settings and megabytes.
    """

    def __init__(self, label: str, arguments: list[Any]):
        self.label, self.arguments = label, json.dumps(arguments)
        self._process: subprocess.Popen[bytes] | None = None
        self._pipe: Connection | None = None

    def ask(self, columns: Mapping[str, Any], seconds: float) -> Answer:
        """One call of the reward, which may take so many seconds (the start of the process not counted).

        Raises:
            RewardError: the reward raised, or a column cannot be sent.
            UnusableReward: the process does not start, or what the reward returns is no list.
        """
        try:
            request = json.dumps(columns, default=_plain).encode()
        except TypeError as error:
            raise RewardError(f"{self.label}: a column can't be sent to the worker ({error})") from None
        first = self._pipe is None
        pipe = self._pipe or self._start()
        began = time.monotonic()
        try:
            pipe.send_bytes(request)
            kind, result = json.loads(pipe.recv_bytes()) if pipe.poll(seconds) else ("time", None)
        except (EOFError, OSError):
            kind, result = "crash", None
        took = time.monotonic() - began
        if kind == "unusable":
            raise UnusableReward(result)
        if kind == "error":
            raise RewardError(f"{self.label} raised in its worker:\n{result}")
        if kind != "scores":
            self.kill()  # after a MemoryError too: what is left of it may be in pieces
            return Answer(failure=kind, seconds=took)
        values, logged = result
        return Answer(values, logged=[tuple(call) for call in logged], seconds=took, first=first)

    def kill(self) -> None:
        """End the process; a later call starts a new one."""
        if self._process is not None:
            _end(self._process)
        if self._pipe is not None:
            self._pipe.close()
        self._process = self._pipe = None

    def _start(self) -> Connection:
        self._pipe, theirs = Pipe()
        # by its file: `-m` would look in the working directory first, where a `rewards.py` of the user's may lie
        program = str(Path(__file__).with_name("__main__.py"))
        command = [sys.executable, program, str(theirs.fileno()), self.arguments]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        said = ""
        try:
            self._process = subprocess.Popen(
                command,
                env=environment,
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
            theirs.close()
            weakref.finalize(self, _end, self._process)  # at exit too: a worker that hangs outlives nobody
            said = f"it was not ready after {START_SECONDS:.0f} s"
            if self._pipe.poll(START_SECONDS):
                said = json.loads(self._pipe.recv_bytes())
        except EOFError:
            said = f"it ended with exit code {self._process.wait()}"
        except OSError as error:
            said = str(error)
        if said != "ready":
            theirs.close()
            self.kill()
            raise UnusableReward(f"{self.label}: its worker process does not start: {' '.join(said.split())}")
        return self._pipe


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # with whatever processes the reward started
        process.wait()


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
    try:
        reward = get_reward(name, **settings)
    except Exception as error:
        pipe.send_bytes(json.dumps(str(error) or repr(error)).encode())
        return
    _limit_memory(megabytes)
    pipe.send_bytes(b'"ready"')
    while True:
        try:
            columns = json.loads(pipe.recv_bytes())
        except EOFError:
            return
        pipe.send_bytes(json.dumps(_answer(reward, columns), default=_any).encode())


def _answer(reward: Any, columns: dict[str, Any]) -> tuple[str, Any]:
    """One call: what kind of end it had, and the scores or the reason."""
    logged: list[Call] = []
    for hook in HOOKS:
        if hook in columns:
            columns[hook] = lambda *args, hook=hook, **named: logged.append((hook, list(args), named))
    if "trainer_state" in columns:
        columns["trainer_state"] = SimpleNamespace(**columns["trainer_state"])
    try:
        return "scores", ([_score(score) for score in call_reward(reward, columns)], logged)
    except UnusableReward as error:
        return "unusable", str(error)
    except MemoryError:
        return "memory", None
    except Exception:
        return "error", traceback.format_exc(limit=-5)


def _score(score: Any) -> Any:
    """A score as JSON can hold it; text is the caller's to refuse."""
    return score if score is None or isinstance(score, str) else float(score)


def _any(value: Any) -> Any:
    """What a hook was called with, as JSON can hold it."""
    return value.tolist() if hasattr(value, "tolist") else str(value)


def _limit_memory(megabytes: int) -> None:
    """Limit the address space to what it is now and this much more; Linux only."""
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        with open("/proc/self/statm") as statm:
            pages = int(statm.read().split()[0])
        limit = pages * resource.getpagesize() + megabytes * 2**20
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
