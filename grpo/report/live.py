"""The page of a run, during it and at its end; and that of the runs that an evaluation compares."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from grpo.distributed import rank
from grpo.report.page import write_folder, write_report
from grpo.runs.log import say

EVERY = 30.0  # seconds between two pages, at least
SHARE = 0.02  # of a run's time that its pages may take


class LiveReport:
    """Writes report.html of a run now and then: as often as its cost, which grows with the run, allows."""

    def __init__(self, folder: Path):
        self.folder, self._wait, self._last = folder, EVERY, time.monotonic()

    def refresh(self) -> None:
        """Write the page if it is time to."""
        if time.monotonic() - self._last >= self._wait:
            self.write()

    def write(self) -> None:
        """Write the page. What stops it is said, and does not stop the run."""
        began = time.monotonic()
        written(self.folder, lambda: write_report(self.folder))
        self._last = time.monotonic()
        self._wait = max(EVERY, (self._last - began) / SHARE)


def write_evaluation(folder: Path | None, results: dict[str, dict[str, Any]], made: list[Path]) -> Path | None:
    """The pages of `grpo eval`: one of each evaluation that it made, and one of the folder whose models it compares.

    results: by the name of the run in that folder. Returns the page to look at, if there is one.
    """
    done = [run / "report.html" for run in made if written(run, lambda run=run: write_report(run))]
    if folder and written(folder, lambda: write_folder(folder, results)):
        return folder / "report.html"
    return done[0] if done and not folder else None


def written(folder: Path, write: Callable[[], None]) -> bool:
    """Whether the page could be written; of several processes, the first writes."""
    if rank():
        return False
    try:
        write()
    except Exception as error:  # whatever is wrong with a page, it must not cost a run
        text = str(error) if isinstance(error, OSError | ValueError) else f"{type(error).__name__}: {error}"
        say(f"{folder}: report.html cannot be written: {' '.join(text.split())}")
        return False
    return True
