"""The order of the data: passes without end, shuffled or as in the file.

stream = Stream(problems, seed, position, stage="grpo-2", shuffle=True)
for step in ...:
    stream.new_step()                   # no problem twice from here on, until the next new_step
    problems = stream.take(8)
    more = stream.take(3)               # a refill; [] when every problem has had its turn in this step
    save(position=stream.position)
"""

from __future__ import annotations

import random
from typing import Generic, TypeVar

T = TypeVar("T")


class Stream(Generic[T]):
    """Items in passes: what stands at place i is a function of (seed, stage, i) alone, so a run can resume.

    Args:
        items: at least one.
        seed, stage: another seed or stage is another order; two stages of training on the same problems do not
            meet them in the same order.
        position: the place to continue from, counted through all passes.
        shuffle: each pass in an order of its own; False: each in the order of the items, for a curriculum.
    """

    def __init__(self, items: list[T], seed: int, position: int = 0, *, stage: str = "", shuffle: bool = True):
        self.items, self.seed, self.position, self.stage, self.shuffle = items, seed, position, stage, shuffle
        self._pass, self._order = -1, list(range(len(items)))
        self._given: set[int] | None = None  # in this step

    def new_step(self) -> None:
        """From now on, `take` gives no item twice: one that a pass begins with may have ended the pass before.

        The place of such an item is left out, so that what comes after a step depends on `position` alone.
        """
        self._given = set()

    def take(self, count: int) -> list[T]:
        """The next `count` items; the position moves on. Fewer, when the step has had them all."""
        taken: list[T] = []
        while len(taken) < count and (self._given is None or len(self._given) < len(self.items)):
            item = self._next()
            if self._given is not None:
                if item in self._given:
                    continue
                self._given.add(item)
            taken.append(self.items[item])
        return taken

    def take_within_pass(self, count: int) -> list[T]:
        """The next `count` items, fewer where the pass ends: in whole passes each item comes equally often."""
        return [self.items[self._next()] for _ in range(min(count, len(self.items) - self.position % len(self.items)))]

    def _next(self) -> int:
        """The index of the item at the position, which moves on."""
        number, place = divmod(self.position, len(self.items))
        if self.shuffle and number != self._pass:
            name = f"{self.seed}/{self.stage}/{number}" if self.stage else f"{self.seed}/{number}"
            self._pass, self._order = number, random.Random(name).sample(range(len(self.items)), len(self.items))
        self.position += 1
        return self._order[place]
