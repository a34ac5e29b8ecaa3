"""Ranges of settings, as types: `lr: Positive = 1e-6` says beside the field what `runs/validate.py` checks."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated


@dataclass(frozen=True)
class Range:
    """Finite numbers from `least` on; `open`: above it."""

    least: float
    open: bool = False

    def refuses(self, value: float) -> str:
        """What a value must be, if it is not; empty if it lies in the range."""
        if self.least <= value < math.inf and not (self.open and value == self.least):
            return ""
        return f"must be {f'above {self.least:g}' if self.open else f'{self.least:g} or more'}, not {value}"


PositiveInt = Annotated[int, Range(0, open=True)]
Positive = Annotated[float, Range(0, open=True)]
NotNegativeInt = Annotated[int, Range(0)]
NotNegative = Annotated[float, Range(0)]
