"""The embedded problems: short stories of additions and subtractions, made from a seed, nothing to download.

    Mia has 7 apples. She finds 5 more. She gives 13 to Tom. How many apples does Mia have now?

Five levels of difficulty: more steps, and larger numbers. A worked solution states the running total step by step.
Three things make it an experiment on reflection: a step with a carry or a borrow may *slip* (it forgets it, and the
next steps continue from there), a *reflective* solution states steps again after the word "Wait", and doing so puts a
slip right:

    plain, with a slip    7 + 5 = 2. 2 - 1 = 1.                      -> 1, wrong
    reflective            7 + 5 = 2. Wait, 7 + 5 = 12. 12 - 1 = 11.  -> 11, right

What the base model was trained on is careless and often has no tags; the teacher of the SFT is better at both.
`experiments/demo/` has the rates.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from dataclasses import dataclass

from data.errors import DataError
from data.problem import Problem

# --------------------------------------------------------------------------- configuration

LEVELS = {1: (1, 9), 2: (2, 9), 3: (3, 9), 4: (4, 19), 5: (5, 29)}
"""Steps of a story, and the largest number that a step adds or takes away, by level of difficulty."""


@dataclass(frozen=True)
class DemoConfig:
    """Knobs of the embedded generator. The first shapes the questions, the others the solutions."""

    levels: tuple[int, ...] = (1, 2, 3, 4, 5)
    """Which levels of difficulty the stories have, all alike often (`LEVELS`)."""

    reflective_share: float = 0.3
    """Share of the solutions that are reflective: they recompute steps after "Wait"."""

    slip_rate: float = 0.6
    """Chance that a plain solution slips in a step with a carry or a borrow; nobody catches it."""

    reflective_slip_rate: float = 0.6
    """Chance that a reflective solution slips in such a step; it then always recomputes the step."""

    recheck_rate: float = 0.5
    """Chance that a reflective solution also recomputes a step that was right."""

    correction_rate: float = 1.0
    """Chance that recomputing a wrong step gives the right result; else it states the wrong one again."""

    untagged_share: float = 0.0
    """Share of the solutions without tags: the text ends in "So 11."."""

    def __post_init__(self) -> None:
        if not self.levels or not set(self.levels) <= LEVELS.keys():
            raise DataError(f"demo: levels {list(self.levels)} are not some of {', '.join(map(str, LEVELS))}")
        rates = {name: value for name, value in vars(self).items() if name.endswith(("_rate", "_share"))}
        for name, rate in rates.items():
            if not 0 <= rate <= 1:
                raise DataError(f"demo: {name} {rate} is not between 0 and 1")


# --------------------------------------------------------------------------- stories

PEOPLE = dict.fromkeys(("Ana", "Eve", "Mia", "Zoe"), "She") | dict.fromkeys(("Ben", "Leo", "Max", "Tom"), "He")
THINGS = ("apples", "books", "cards", "coins", "eggs", "pens", "shells", "stones")
GAINS = ("{who} finds {n} more.", "{who} buys {n} more.", "{who} gets {n} from {friend}.")
LOSSES = ("{who} loses {n}.", "{who} sells {n}.", "{who} gives {n} to {friend}.")
OPENING = "{name} has {n} {things}."
QUESTION = "How many {things} does {name} have now?"

SPLIT_BUCKETS = {"test": (0,), "validation": (1,), "train": tuple(range(2, 10))}
"""Which of the ten hash buckets of number chains belong to which split."""


def make_problems(split: str, count: int, seed: int = 0, config: DemoConfig | None = None) -> list[Problem]:
    """Make `count` problems; problem i is a function of (split, seed, i, config) alone.

    The splits share no question, and not even a chain of numbers: a chain such as "7 5 -3" is hashed to one
    of ten buckets and each bucket belongs to one split, whatever the seed. A test story never repeats the
    arithmetic of a training story under other names.

    Args:
        split: "train", "validation" or "test".
        count: how many problems; a longer list begins with the shorter one.
        seed: another seed gives other problems of the same split.
        config: the generator's knobs; the question does not depend on those that shape the solution.

    Returns:
        Problems whose `solution` is a full response (with its own final answer, which a slip makes wrong) and
        whose `columns` hold `level` ("Level 3"), `reflective` and `slips` (the solution's wrong steps, caught or not).

    Raises:
        DataError: unknown split or a negative count.
    """

    config = config or DemoConfig()
    if split not in SPLIT_BUCKETS:
        raise DataError(f"demo: no split {split!r}; there are {', '.join(SPLIT_BUCKETS)}")
    if count < 0:
        raise DataError(f"demo: cannot make {count} problems")
    problems = []
    for index in range(count):
        # A str seeds random.Random through SHA-512: the same on every machine and version.
        story = random.Random(f"question/{split}/{seed}/{index}")
        level = story.choice(config.levels)
        chain = _draw_chain(story, split, *LEVELS[level])
        question = _tell_story(story, chain)
        solution, facts = _solve(random.Random(f"solution/{split}/{seed}/{index}"), chain, config)
        columns = {"level": f"Level {level}", **facts}
        problems.append(Problem(f"demo/{split}/{seed}-{index}", question, str(sum(chain)), solution, columns))
    return problems


def split_of(chain: list[int]) -> str:
    """The split that owns a chain of signed numbers, from a hash of the chain."""
    digest = hashlib.blake2b(" ".join(map(str, chain)).encode(), digest_size=4).digest()
    bucket = int.from_bytes(digest, "big") % 10
    return next(split for split, buckets in SPLIT_BUCKETS.items() if bucket in buckets)


def _draw_chain(rng: random.Random, split: str, steps: int, most: int) -> list[int]:
    """A start and signed steps whose running total never falls below zero, owned by `split`."""
    while True:  # one try in ten or better succeeds
        chain = [rng.randint(2, 9)]
        for _ in range(steps):
            operand = rng.randint(1, most)
            takes_away = operand <= sum(chain) and rng.random() < 0.5
            chain.append(-operand if takes_away else operand)
        if split_of(chain) == split:
            return chain


def _tell_story(rng: random.Random, chain: list[int]) -> str:
    name = rng.choice(list(PEOPLE))
    friends = [person for person in PEOPLE if person != name]
    words = {"name": name, "who": PEOPLE[name], "things": rng.choice(THINGS)}
    sentences = [OPENING.format(n=chain[0], **words)]
    for step in chain[1:]:
        template = rng.choice(GAINS if step > 0 else LOSSES)
        sentences.append(template.format(n=abs(step), friend=rng.choice(friends), **words))
    return " ".join([*sentences, QUESTION.format(**words)])


# --------------------------------------------------------------------------- worked solutions


def _solve(rng: random.Random, chain: list[int], config: DemoConfig) -> tuple[str, dict[str, int | bool]]:
    """A worked solution of `chain`, and whether it is reflective and how many slips it makes."""
    reflective = rng.random() < config.reflective_share
    slip_rate = config.reflective_slip_rate if reflective else config.slip_rate
    total, slips, sentences = chain[0], 0, []
    for step in chain[1:]:
        left = f"{total} {'+' if step > 0 else '-'} {abs(step)}"
        right = max(0, total + step)  # after a slip a story may take away more than the total holds
        carries = total % 10 + step % 10 > 9 if step > 0 else total % 10 < -step % 10
        slipped = rng.random() < slip_rate and carries
        slips += slipped
        total = right + (-10 if step > 0 else 10) * slipped  # 7 + 5 = 2, 12 - 5 = 17, 18 + 15 = 23
        sentences.append(f"{left} = {total}.")
        if reflective and (slipped or rng.random() < config.recheck_rate):
            if rng.random() < config.correction_rate:
                total = right
            sentences.append(f"Wait, {left} = {total}.")
    thought = " ".join(sentences)
    text = f"<think>{thought}</think>\n<answer>{total}</answer>"
    text = f"{thought} So {total}." if rng.random() < config.untagged_share else text
    return text, {"reflective": reflective, "slips": slips}


# --------------------------------------------------------------------------- what the tokenizer must know


def every_text() -> Iterator[str]:
    """Texts that together hold each word and sign of the questions and solutions, digits aside."""
    for name, pronoun in PEOPLE.items():
        for things in THINGS:
            words = {"name": name, "who": pronoun, "friend": name, "things": things, "n": 1}
            yield " ".join(text.format(**words) for text in (OPENING, *GAINS, *LOSSES, QUESTION)) + "\n"
    yield "<think>1 + 1 = 2. Wait, 1 - 1 = 0.</think>\n<answer>0</answer> So 0."
