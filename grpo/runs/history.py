"""The rows of metrics.jsonl as columns, and their means over a window of steps."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

WINDOW = 4  # steps: a step of 32 problems has a noise of several points

Row = Mapping[str, Any]


class History:
    """The rows of a run as columns: [n] each, NaN where a row lacks the metric."""

    def __init__(self, rows: Sequence[Row]):
        self.steps = [int(row["step"]) for row in rows]
        self._rows, self._means = rows, {}

    def column(self, name: str) -> np.ndarray:
        """[n], as it was logged."""
        return np.array([_number(row.get(name)) for row in self._rows])

    def mean(self, name: str) -> np.ndarray:
        """[n]: the mean over the last WINDOW rows, fewer at the start; NaN entries stay out of it."""
        if name not in self._means:
            x = self.column(name)
            sums, counts = (trailing(y) for y in (np.nan_to_num(x), ~np.isnan(x)))
            self._means[name] = np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)
        return self._means[name]


def _number(value: Any) -> float:
    good = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e100
    return float(value) if good else math.nan


def trailing(x: np.ndarray) -> np.ndarray:
    """Sums over the last WINDOW entries, fewer at the start: [n]."""
    total = np.concatenate([[0.0], np.cumsum(x, dtype=float)])
    ends = np.arange(1, len(x) + 1)
    return total[ends] - total[np.maximum(ends - WINDOW, 0)]
