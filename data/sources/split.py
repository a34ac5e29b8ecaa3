"""One file cut into training and held-out problems, by story: a story that is trained on is not evaluated.

    two problems tell the same story if 7 in 10 of their words are the same, numbers aside

SVAMP makes its 1000 problems out of far fewer stories: other numbers, another question, one sentence more. Cut by
rows, most held-out problems would have a training problem's story. So the stories are cut, each with all its problems.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter, defaultdict

ALIKE, OUT_OF = 7, 10
"""Share of words from which two stories are the same: |A and B| / |A or B| >= 7/10, A and B the sets of their words."""

_NUMBER_WORDS = """
zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen
eighteen nineteen twenty thirty forty fifty sixty seventy eighty ninety hundred thousand million"""
_NUMBERS = frozenset(_NUMBER_WORDS.split())


def story_words(text: str) -> frozenset[str]:
    """The words of a text without its numbers, in digits or in letters.

    >>> sorted(story_words("Mia has 7 apples, two of them red."))
    ['apples', 'has', 'mia', 'of', 'red', 'them']
    """
    return frozenset(re.findall(r"[^\W\d_]+", text.casefold())) - _NUMBERS


def same_story(first: frozenset[str], second: frozenset[str]) -> bool:
    """Whether two sets of words are one story."""
    return OUT_OF * len(first & second) >= ALIKE * len(first | second)


def stories(texts: list[str]) -> list[int]:
    """The number of each text's story: two texts have the same if a chain of alike texts leads from one to the other.

    Only texts that share one of their rarest words are compared. That finds every pair: of two alike sets, each has
    at least 7 in 10 of its words in common with the other, so in any one order of all words their first 3 in 10 (and
    one more) meet. This is the prefix filter of set similarity joins (Chaudhuri et al., ICDE 2006).
    """
    sets = [story_words(text) for text in texts]
    counts = Counter(word for words in sets for word in words)
    parent = list(range(len(sets)))
    seen: dict[str, list[int]] = defaultdict(list)  # word -> the texts that have it among their rarest
    for i, words in enumerate(sets):
        rarest = sorted(words, key=lambda word: (counts[word], word))[: len(words) + 1 + -len(words) * ALIKE // OUT_OF]
        for word in rarest or [""]:  # texts of numbers alone are one story
            for j in seen[word]:
                if _root(parent, i) != _root(parent, j) and same_story(words, sets[j]):
                    parent[_root(parent, i)] = _root(parent, j)
            seen[word].append(i)
    return [_root(parent, i) for i in range(len(sets))]


def held_out(texts: list[str], share: float) -> list[bool]:
    """Which texts are held out: whole stories, in an order that a hash decides, up to `share` of all texts."""
    story = stories(texts)
    sizes, room, out = Counter(story), int(share * len(texts)), set()
    for number in sorted(sizes, key=lambda number: hashlib.blake2b(texts[number].encode(), digest_size=8).digest()):
        if sizes[number] <= room:
            room -= sizes[number]
            out.add(number)
    return [number in out for number in story]


def _root(parent: list[int], i: int) -> int:
    while parent[i] != i:
        parent[i] = parent[parent[i]]
        i = parent[i]
    return i
