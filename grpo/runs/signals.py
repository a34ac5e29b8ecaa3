"""SIGTERM and SIGINT (Ctrl-C): the first lets a run finish its step and save, the second stops it at once."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from types import FrameType
from typing import Any

from grpo.distributed import all_gather


class Stopped(KeyboardInterrupt):
    """The run was asked to stop, and has. No `Exception`: nothing that catches those may continue."""

    def __init__(self, number: int, text: str):
        super().__init__(text)
        self.exit_code = 128 + number


class StopRequest:
    """Catches both signals while it is entered; a stage asks it, where it can continue from, whether to stop."""

    def __init__(self) -> None:
        self.signal = 0  # that has come to this process
        self.agreed = 0  # for which all processes stop
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():  # no other may set handlers
            self._before = {n: signal.signal(n, self._ask) for n in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self.signal:
            raise Stopped(number, "stopped at once; run the same command to continue from the last checkpoint")
        self.signal = number
        # no `print`: the signal may have come in the middle of one
        with contextlib.suppress(OSError):
            os.write(2, b"\ngrpo: stops as soon as this step is saved; once more to stop at once\n")

    def agree(self) -> bool:
        """Whether a signal has come to any process; all call this at the same point, and then stop together."""
        self.agreed = max(all_gather(self.signal))
        return bool(self.agreed)

    def check(self, done: str) -> None:
        """Raise Stopped if it was agreed; `done` is what was finished and saved last."""
        if self.agreed:
            raise Stopped(self.agreed, f"stopped after {done}, all of it saved; run the same command to continue")
