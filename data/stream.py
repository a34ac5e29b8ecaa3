"""The order of the data: shuffled passes without end."""

from __future__ import annotations

import random
from typing import Generic, TypeVar

T = TypeVar("T")


class Stream(Generic[T]):
    """Items in shuffled passes: what stands at position i is a function of (seed, i) alone, so a run can resume."""

    def __init__(self, items: list[T], seed: int, position: int = 0):
        self.items, self.seed, self.position = items, seed, position
        self._epoch, self._order = -1, []

    def take(self, count: int) -> list[T]:
        """The next `count` items; the position moves on by as many."""
        return [self._next() for _ in range(count)]

    def _next(self) -> T:
        epoch, i = divmod(self.position, len(self.items))
        if epoch != self._epoch:
            self._epoch = epoch
            self._order = random.Random(f"{self.seed}/{epoch}").sample(range(len(self.items)), len(self.items))
        self.position += 1
        return self.items[self._order[i]]
