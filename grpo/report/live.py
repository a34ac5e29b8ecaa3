"""The page of a run, during it and at its end."""

from __future__ import annotations

import time
from pathlib import Path

from grpo.distributed import rank
from grpo.report.page import write_report
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
        if rank():
            return
        began = time.monotonic()
        try:
            write_report(self.folder)
        except (OSError, ValueError) as error:
            say(f"{self.folder}: report.html cannot be written: {error}")
        self._last = time.monotonic()
        self._wait = max(EVERY, (self._last - began) / SHARE)
