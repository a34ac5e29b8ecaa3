"""Does the thought look back at its own steps? Counted so that stuffing doesn't pay.

A reflection is a sentence of the think span that holds a marker ("wait", "let me check", ...) and
something to reflect on. Words in quotes, words within words ("waiter"), the same sentence twice and a
marker with nothing behind it earn nothing.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rewards.accuracy import accuracy_score, gold_column, grading_config
from rewards.answer import GradingConfig
from rewards.markers import HESITATIONS, PRESETS
from rewards.registry import RewardError, nearest, register_reward
from rewards.text import completion_texts, prompt_text, split_sections

MAX_CHARS = 100_000
"""Of a longer thought, what comes after isn't counted; nor are more than `MAX_COUNT` reflections."""
MAX_COUNT = 20
MAX_SENTENCE = 2000
"""Nothing is read of a sentence beyond this many characters."""

# A full stop within a number ends nothing; nor does one within a quotation, which is blanked out first.
_SENTENCE_END = re.compile(r"[!?;\n\u3002\uff01\uff1f\uff1b]|\.(?!\d)")
_QUOTED = re.compile(r"\"[^\"\n]*\"|“[^“”\n]*”|`[^`\n]*`")  # an opening quote ends the search: linear time
_TOKEN = re.compile(r"\d+(?:\.\d+)?|[^\W\d_]+(?:'[^\W\d_]+)?|[-+*/=<>^]")
_SPELLING = str.maketrans({"\u2019": "'", "\u00d7": "*", "\u00b7": "*", "\u00f7": "/", "\u2212": "-"})
_OPERATORS = frozenset("+-*/=<>^")
_CLAUSE_OPENS = re.compile(r"(?:^|[,:(\u2013\u2014-]|\b(?:but|and|oh|no|so|ah|ok|okay|well|hmm))\s*$")

# A check that the story tells of: "has to check 6 books out" is no reflection.
_TOLD_BEFORE = re.compile(r"\b(?:wants|wanted|has|had|needs|needed|goes|went|likes|able|allowed|asked|used|costs?)\s+$")
_TOLD_AFTER = re.compile(r"\s+(?:\w+\s+){0,4}(?:out|in|into)\b|\s+(?:accounts?|bags?|luggage)\b")
# "I don't need to check 6 * 7" says that there is none.
_DENIED = re.compile(r"(?:\b(?:no|not|never|without)|n't)\s+(?:(?:need|have|want|going|bother|even)\s+)?(?:to\s+)?$")

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

    A sentence counts if it holds a marker and, beyond it, a calculation, three different words, or a number and
    a word, one of which also occurs in the prompt, the answer or the other sentences of the thought. One with a
    marker alone ("Wait.") borrows the substance of the sentence that follows. A doubt with the check that
    follows it ("Hmm, not divisible by 6. Let me re-check: 6 x 7 = 42.") is one reflection. Sentences that say
    much the same count once, sentences of the prompt never. A thought without any such sentence, but with
    something behind a marker, counts as one.

    Args:
        text: the completion, with its tags.
        markers: a preset's name (see `rewards.markers`) or a list of phrases.
        prompt: the prompt's text, if its own sentences are not to count.
        require_tags: without tags, False reads all of the text, for base models; True finds none.

    >>> count_reflections("<think>6*7=43? Wait, 6*7=42. Wait. Wait.</think><answer>42</answer>")
    1
    """
    sections = split_sections(text)
    think = sections.think
    if think is None and not require_tags and not re.search(r"</?(?:think|answer)>", text):
        think = text
    pattern = _compile(markers if isinstance(markers, str) else tuple(markers))
    return _count(think, (sections.answer or "")[:MAX_SENTENCE], prompt, pattern) if think else 0


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
    prefilled: bool = False,
    grading: dict[str, Any] | GradingConfig | None = None,
    **columns: Any,
) -> list[float | None]:
    """min(reflections, cap) / cap, in [0, 1]; our own reading of a reflection reward (see docs/paper.md).

    Args:
        completions: texts, or TRL's conversational completions.
        answer, solution: the golds, as for `accuracy_reward`; read when gated.
        prompts: sentences copied from the prompt don't count; one that ends with `<think>` opens the thought.
        prefilled: as for `format_reward`.
        mode: "gated" pays only where the answer is correct; "ungated" pays reflection for its own sake.
        markers: a preset's name (see `rewards.markers`) or a list of phrases.
        cap: the number of reflections beyond which no more is paid.
        require_tags, grading: as for `accuracy_reward`.
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
    texts = completion_texts(completions, prompts, prefilled)
    golds = gold_column(answer, solution, len(texts)) if mode == "gated" else [""] * len(texts)
    config = grading_config(grading)
    asked = [prompt_text(prompt) for prompt in prompts] if prompts is not None else [""] * len(texts)
    rewards: list[float | None] = []
    for text, gold, prompt in zip(texts, golds, asked, strict=True):
        if gold is None:
            rewards.append(None)
        elif mode == "gated" and not accuracy_score(text, gold, require_tags=require_tags, grading=config):
            rewards.append(0.0)
        else:
            count = count_reflections(text, markers=markers, prompt=prompt, require_tags=require_tags)
            rewards.append(min(count, cap) / cap)
    return rewards


@dataclass(frozen=True)
class _Sentence:
    tokens: tuple[str, ...]
    """What it says beyond markers and empty words: numbers, words and operators; () if it says nothing."""
    kinds: frozenset[str]
    """The kinds of marker in it: "hesitation", "check"."""


def _count(think: str, context: str, prompt: str, pattern: re.Pattern[str]) -> int:
    sentences = [_read(sentence, pattern) for sentence in _sentences(think)]
    asked = {_read(sentence, pattern).tokens for sentence in _sentences(prompt)}
    plain = [sentence.tokens for sentence in sentences if not sentence.kinds]
    known = set(_TOKEN.findall(context.translate(_SPELLING).casefold())).union(*plain, *asked) - _OPERATORS
    found: list[set[tuple[str, str]]] = []
    # waiting, doubting: the sentence before was a bare marker, a doubt that checked nothing yet
    weak = waiting = doubting = False
    for sentence in sentences:
        if not sentence.tokens:
            waiting = waiting or bool(sentence.kinds)
        elif sentence.tokens in asked or not (sentence.kinds or waiting):
            doubting = False
        else:
            checks_a_doubt = doubting and sentence.kinds == {"check"}
            weak, waiting, doubting = True, False, False
            pairs = set(zip(sentence.tokens, sentence.tokens[1:], strict=False))
            new = not any(2 * len(pairs & other) >= len(pairs | other) for other in found)
            if _is_strong(sentence.tokens, known) and new and not checks_a_doubt:
                found.append(pairs)
                doubting = sentence.kinds == {"hesitation"} and "=" not in sentence.tokens
            if len(found) == MAX_COUNT:
                break
    # "Wait 1. Wait 2. Wait 3." is worth one reflection at the very most.
    return len(found) or int(weak)


def _is_strong(tokens: tuple[str, ...], known: set[str]) -> bool:
    """A calculation, three words, or a number and a word; one of them occurs in the rest of the text too."""
    numbers = sum(token[0].isdigit() for token in tokens)
    words = {token for token in tokens if token[0].isalpha()}
    calculation = numbers >= 2 and not _OPERATORS.isdisjoint(tokens)
    return (calculation or len(words) >= 3 or bool(numbers and words)) and not known.isdisjoint(tokens)


def _read(sentence: str, pattern: re.Pattern[str]) -> _Sentence:
    kinds, rest, end = set(), [], 0
    for match in pattern.finditer(sentence):
        kind, start = str(match.lastgroup), match.start()
        before = sentence[max(0, start - 32) : start]
        if kind == "hesitation":
            if not _CLAUSE_OPENS.search(before):
                continue
        elif re.search(r"[\w-]$", before) or _DENIED.search(before):
            continue
        told = _TOLD_BEFORE.search(before) or _TOLD_AFTER.match(sentence, match.end())
        if told and match[0] in ("to check", "checking", "verify", "verifying"):
            continue
        kinds.add(kind)
        rest.append(sentence[end:start])
        end = match.end()
    tokens = _TOKEN.findall(" ".join([*rest, sentence[end:]]))
    kept = tuple(token for token in tokens if token not in _EMPTY)
    return _Sentence(kept if any(token not in _OPERATORS for token in kept) else (), frozenset(kinds))


def _sentences(text: str) -> list[str]:
    folded = text[:MAX_CHARS].translate(_SPELLING).casefold()
    parts = _SENTENCE_END.split(_QUOTED.sub(" ", folded))
    return [part[:MAX_SENTENCE] for part in parts if part.strip()]


@functools.lru_cache(maxsize=32)
def _compile(markers: str | tuple[str, ...]) -> re.Pattern[str]:
    if isinstance(markers, str):
        if markers not in PRESETS:
            raise RewardError(f"no reflection markers are called {markers!r}{nearest(markers, PRESETS)}")
        markers = PRESETS[markers]
    phrases = sorted({marker.casefold() for marker in markers}, key=len, reverse=True)
    hesitations = "|".join(_phrase(p) for p in phrases if p in HESITATIONS) or r"(?!)"
    checks = "|".join(_phrase(p) for p in phrases if p not in HESITATIONS) or r"(?!)"
    # "wait times", "wait for" and "hold on to" are no hesitation; what stands before a marker is looked at in `_read`.
    times = r"(?!\s+(?:times?|for|to|until|till|lists?|periods?|staff|rooms?)\b)"
    return re.compile(rf"(?:(?P<hesitation>{hesitations}){times}|(?P<check>{checks}))(?![\w-])")


def _phrase(marker: str) -> str:
    body = r"\s+".join(re.escape(word) for word in marker.rstrip("*").split())
    return body + (r"\w*" if marker.endswith("*") else "")
