"""How far a command is: one line that fits the terminal's width, or, where stderr is no terminal, a line now and then.

    grpo 12/25  accuracy 0.61  reward 0.78  length 41  kl 0.003  3.1 s/step  0:40 left  ########------
    grpo 12/25  accuracy 0.61  reward 0.78  length 41  kl 0.003  loss 0.0012  after 0:37, 3.1 s/step, 0:40 left

What does not fit is left out from the end of the values, so the most important ones come first.
"""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from tqdm import tqdm

EVERY = 10.0
"""Seconds between two lines where stderr is no terminal; the first and the last step have theirs in any case."""


class Progress:
    """Counts steps of a kind of work; a context manager, or an iterator over `items`.

    total, initial: steps in all, and those done before. desc: the name of the work. unit: of a step. leave: whether the
    last state stays on the screen.
    """

    def __init__(
        self, items: Iterable | None = None, total: int | None = None, initial: int = 0, desc: str = "",
        unit: str = "step", leave: bool = True, disable: bool = False,
    ):  # fmt: skip
        self.items, self.initial, self.n, self.desc, self.unit = items, initial, initial, desc, unit
        self.total = len(items) if total is None and hasattr(items, "__len__") else total
        self.values: dict[str, str] = {}
        self._began, self._said, self._shown = time.monotonic(), -EVERY, initial
        self._disable, self._leave, self._bar = disable, leave, None
        if not disable and sys.stderr.isatty():
            # a size, so that tqdm does not ask the terminal for one: some say 0 rows, and then nothing is drawn
            size = {"ncols": 80, "nrows": 20, "leave": leave}
            self._bar = _Bar(self, file=sys.stderr, total=self.total, initial=initial, mininterval=0.2, **size)

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __iter__(self) -> Iterator[Any]:
        with self:
            for item in self.items or ():
                yield item
                self.update()

    def update(self, n: int = 1) -> None:
        """So many more steps are done."""
        self.n += n
        if self._bar is not None:
            self._bar.update(n)
        elif time.monotonic() - self._began - self._said >= EVERY:
            self._say()

    def set_postfix(self, values: Mapping[str, str] | None = None, **named: str) -> None:
        """What to show beside the count, the most important value first; shown with the next update."""
        self.values = {**(values or {}), **named}

    def close(self) -> None:
        """Show the last state, or clear it."""
        if self._bar is not None:
            self._bar.refresh()
            self._bar.close()
        elif self._leave and self.n > self._shown:
            self._say()

    def line(self, width: int) -> str:
        """The line that fits in so many columns."""
        head = f"{self.desc} {self._count()}"
        tail = "".join(f"  {text}" for text in self._times())
        for name, value in self.values.items():
            if len(head) + 2 + len(name) + 1 + len(value) + len(tail) > width:
                break
            head += f"  {name} {value}"
        room = width - len(head) - len(tail) - 2
        if not self.total or room < 8:
            return (head + tail)[:width]
        size = min(room, 30)
        done = round(size * min(1.0, self.n / self.total))
        return f"{head}{tail}  {'#' * done}{'-' * (size - done)}"

    def _say(self) -> None:
        """A plain line, where stderr is a file or a pipe."""
        self._said, self._shown = time.monotonic() - self._began, self.n
        if not self._disable:
            values = "".join(f"  {name} {value}" for name, value in self.values.items())
            after = ", ".join((f"after {_clock(self._said)}", *self._times()))
            print(f"{self.desc} {self._count()}{values}  {after}", file=sys.stderr, flush=True)

    def _count(self) -> str:
        return f"{self.n}/{self.total}" if self.total else str(self.n)

    def _times(self) -> list[str]:
        """The rate, and the time that is left at this rate."""
        done, seconds = self.n - self.initial, time.monotonic() - self._began
        if done <= 0 or seconds <= 0:
            return []
        each = seconds / done
        rate = f"{each:.1f} s/{self.unit}" if each >= 1 else f"{1 / each:.1f} {self.unit}s/s"
        return [rate, f"{_clock(each * (self.total - self.n))} left"] if self.total else [rate]


class _Bar(tqdm):
    """tqdm draws, clears and makes room for other lines; what it draws is ours."""

    monitor_interval = 0  # no thread beside ours

    def __init__(self, progress: Progress, **options: Any):
        self.progress = progress
        super().__init__(**options)

    def __str__(self) -> str:
        return self.progress.line(shutil.get_terminal_size().columns - 1)


def _clock(seconds: float) -> str:
    """0:37, 12:05, 3:02:00."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
