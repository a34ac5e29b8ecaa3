"""Does the thought look back at its own steps? Counted so that stuffing doesn't pay.

A reflection is a sentence of the think span that holds a marker ("wait", "let me check", ...) and
something to reflect on. Words in quotes, words within words ("waiter"), the same sentence twice and a
marker with nothing behind it earn nothing.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Sequence
from typing import Any

from rewards.accuracy import accuracy_score, gold_column
from rewards.markers import HESITATIONS, PRESETS
from rewards.registry import RewardError, nearest, register_reward
from rewards.text import completion_texts, prompt_text, split_sections

# A full stop within a number ends nothing; nor does one within a quotation, which is blanked out first.
_SENTENCE_END = re.compile(r"[!?;\n\u3002\uff01\uff1f\uff1b]|\.(?!\d)")
_QUOTED = re.compile(r"\"[^\"\n]*\"|“[^“”\n]*”|`[^`\n]*`")  # an opening quote ends the search: linear time
_TOKEN = re.compile(r"\d+(?:\.\d+)?|[^\W\d_]+(?:'[^\W\d_]+)?|[+*/=<>\u00d7\u00f7\u00b7^-]")
_OPERATORS = frozenset("+-*/=<>\u00d7\u00f7\u00b7^")

# What a marker may be wrapped in without there being anything to reflect on.
_EMPTY_WORDS = """
    a again all also am an and answer answers are be but calculation calculations can carefully
    computation correct do each everything final first for get give go have here hm hmm i if in is
    it it's its just let let's make may me more my need no not now of oh ok okay on once one or our
    out over please problem quickly really result results reasoning right second should so solution
    step steps sure that that's the them then there these they think this those thought time to too
    up us very wait was we well were what will with work would yes yet you check checked checking
    verify verified
"""
_EMPTY = frozenset(_EMPTY_WORDS.split())


def count_reflections(
    text: str, *, markers: str | Sequence[str] = "default", prompt: str = "", require_tags: bool = True
) -> int:
    """The number of distinct reflections in a completion's think span.

    A sentence counts if it holds a marker and, beyond it, a calculation or at least three words of
    substance; one with a marker alone ("Wait.") borrows the substance of the sentence that follows.
    A hesitation with the check that follows it ("Hmm, not divisible by 6. Let me re-check: 6 x 7 = 42.")
    is one reflection. Sentences of the same substance count once, sentences of the prompt never.

    Args:
        text: the completion, with its tags.
        markers: a preset's name (see `rewards.markers`) or a list of phrases.
        prompt: the prompt's text, if its own sentences are not to count.
        require_tags: without tags, False reads all of the text, for base models; True finds none.

    >>> count_reflections("<think>6*7=43? Wait, 6*7=42. Wait. Wait.</think><answer>42</answer>")
    1
    """
    think = split_sections(text).think
    if think is None:
        if require_tags or re.search(r"</?(?:think|answer)>", text):
            return 0
        think = text
    pattern = _compile(markers if isinstance(markers, str) else tuple(markers))
    echoes = {_substance(sentence, pattern)[0] for sentence in _sentences(prompt)} if prompt else set()
    return _count(_sentences(think), pattern, echoes)


@register_reward("reflection")
def reflection_reward(
    completions: list,
    answer: list | None = None,
    solution: list | None = None,
    prompts: list | None = None,
    *,
    mode: str = "gated",
    markers: str | Sequence[str] = "default",
    cap: int = 3,
    require_tags: bool = True,
    **columns: Any,
) -> list[float | None]:
    """min(reflections, cap) / cap, in [0, 1]; our own reading of a reflection reward (see the README).

    Args:
        completions: texts, or TRL's conversational completions.
        answer, solution: the golds, as for `accuracy_reward`; read when gated.
        prompts: sentences copied from the prompt don't count; one that ends with `<think>` opens the thought.
        mode: "gated" pays only where the answer is correct; "ungated" pays reflection for its own sake.
        markers: a preset's name (see `rewards.markers`) or a list of phrases.
        cap: the number of reflections beyond which no more is paid.
        require_tags: as for `accuracy_reward`.
        columns: not read.

    Returns:
        A value for each completion; None where it is gated and there is no gold.

    Raises:
        RewardError: for an unknown mode or preset, or a cap below 1.
    """
    if mode not in ("gated", "ungated"):
        raise RewardError(f"reflection_reward: mode is 'gated' or 'ungated', not {mode!r}")
    if cap < 1:
        raise RewardError(f"reflection_reward: cap must be at least 1, not {cap}")
    texts = completion_texts(completions, prompts)
    golds = gold_column(answer, solution, len(texts)) if mode == "gated" else [""] * len(texts)
    asked = [prompt_text(prompt) for prompt in prompts] if prompts is not None else [""] * len(texts)
    rewards: list[float | None] = []
    for text, gold, prompt in zip(texts, golds, asked, strict=True):
        if gold is None:
            rewards.append(None)
        elif mode == "gated" and not accuracy_score(text, gold, require_tags=require_tags):
            rewards.append(0.0)
        else:
            count = count_reflections(text, markers=markers, prompt=prompt, require_tags=require_tags)
            rewards.append(min(count, cap) / cap)
    return rewards


def _count(sentences: Iterable[str], pattern: re.Pattern[str], echoes: set[tuple[str, ...]]) -> int:
    distinct: set[tuple[str, ...]] = set()
    weak = waiting = hesitated = (
        False  # waiting, hesitated: the sentence before was a bare marker, only a doubt
    )
    for sentence in sentences:
        substance, kinds = _substance(sentence, pattern)
        if not substance:
            waiting = waiting or bool(kinds)
            continue
        if substance in echoes or not (kinds or waiting):
            hesitated = False
            continue
        if not _is_strong(substance):
            weak = True
        elif not (hesitated and kinds == {"check"}):
            distinct.add(substance)
        hesitated, waiting = kinds == {"hesitation"} and "=" not in substance, False
    # "Wait 1. Wait 2. Wait 3." is worth one reflection at the very most.
    return len(distinct) or int(weak)


def _substance(sentence: str, pattern: re.Pattern[str]) -> tuple[tuple[str, ...], set[str]]:
    """What a sentence says beyond markers and empty words, and the kinds of marker in it."""
    kinds = {match.lastgroup or "" for match in pattern.finditer(sentence)}
    tokens = _TOKEN.findall(pattern.sub(" ", sentence))
    kept = tuple(token for token in tokens if token not in _EMPTY)
    return (kept if any(token not in _OPERATORS for token in kept) else ()), kinds


def _is_strong(substance: tuple[str, ...]) -> bool:
    numbers = sum(token[0].isdigit() for token in substance)
    words = {token for token in substance if token[0].isalpha()}
    calculation = numbers >= 2 and any(token in _OPERATORS for token in substance)
    return calculation or len(words) >= 3 or (numbers >= 1 and len(words) >= 1)


def _sentences(text: str) -> list[str]:
    folded = text.replace("\u2019", "'").casefold()
    return [part for part in _SENTENCE_END.split(_QUOTED.sub(" ", folded)) if part.strip()]


@functools.lru_cache(maxsize=32)
def _compile(markers: str | tuple[str, ...]) -> re.Pattern[str]:
    if isinstance(markers, str):
        if markers not in PRESETS:
            raise RewardError(f"no reflection markers are called {markers!r}{nearest(markers, PRESETS)}")
        markers = PRESETS[markers]
    phrases = sorted({marker.casefold() for marker in markers}, key=len, reverse=True)
    # Hesitations open a clause; "wait times" and "wait for" are no hesitation.
    hesitations = "|".join(_phrase(p) for p in phrases if p in HESITATIONS) or r"(?!)"
    checks = "|".join(_phrase(p) for p in phrases if p not in HESITATIONS) or r"(?!)"
    return re.compile(
        r"(?:^|(?<=[,:(\u2013\u2014-])|(?<=\b(?:but|and|ohh))|(?<=\b(?:oh|no|so|ah|ok)))\s*"
        rf"(?P<hesitation>{hesitations})(?![\w-])(?!\s+(?:times?|for|until|till|lists?|periods?|staff|rooms?)\b)"
        rf"|(?<![\w-])(?P<check>{checks})(?![\w-])"
    )


def _phrase(marker: str) -> str:
    body = r"\s+".join(re.escape(word) for word in marker.rstrip("*").split())
    return body + (r"\w*" if marker.endswith("*") else "")
