"""Where in a completion the answer is: in its answer tags, its last box, or after a phrase that announces it."""

from __future__ import annotations

import re

from rewards.text import split_sections
from rewards.values import Unreadable

MAX_CHARS = 1000
"""A longer answer is read by nobody: it equals only itself."""
_PHRASE = re.compile(r"\b(?:(?:the )?(?:final |correct )?answer is|(?:final )?answer ?[:=])[ :]*", re.IGNORECASE)
_HEDGE = re.compile(
    r"\b(?:not|never|cannot|isn't|aren't|wasn't|can't|don't|doesn't|won't|wrong|incorrect|either|or|maybe|perhaps"
    r"|possibly|might|could|may|unsure|rule out|ruled out|instead|unlikely)\b",
    re.IGNORECASE,
)


def extract_answer(text: str, require_tags: bool = True) -> str | None:
    """The answer in a completion, or None.

    With tags it is the content of the only answer span; see `rewards.text.split_sections`. Without
    (`require_tags=False`, for base models that know no tags; ignored where there are answer tags): the last
    `\\boxed{}`, else what follows the last `####`, else what follows the last "the answer is".

    >>> extract_answer("<think>6*7</think><answer> 42 </answer>")
    '42'
    >>> extract_answer("so it is \\\\boxed{42}", require_tags=False)
    '42'
    """
    found = split_sections(text).answer
    if found is None and not require_tags and "<answer>" not in text and "</answer>" not in text:
        tail = text.rpartition("</think>")[2]
        found = last_boxed(tail) or _after_mark(tail) or _after_phrase(tail)
    return (found or "").strip() or None


def concluded(text: str, sentences: bool = True) -> str:
    """What is in the only box, or follows the only "the answer is"; all of a text without either.

    Raises:
        Unreadable: if it states several answers, or hedges, or is a sentence where `sentences` are off.
    """
    boxes = _boxed(text)
    if boxes:
        answer, before = boxes[0], text[: text.find("\\boxed{")]
        after = text[text.rfind(answer) + len(answer) :]
        if len({box.strip() for box in boxes}) > 1 or not answer.strip() or re.search("[0-9]", after):
            raise Unreadable("several boxes, an empty one, or an afterthought")
    else:
        (before, _, answer), after = _split_phrase(text), ""
    phrases = [answer] if boxes else [answer, before]
    if _HEDGE.search(before) or _HEDGE.search(after) or any(map(_PHRASE.search, phrases)):
        raise Unreadable("a hedged answer")
    if not sentences and (re.search(r"\w", before + after) or not (boxes or text == answer)):
        raise Unreadable("a sentence")
    return answer


def last_boxed(text: str) -> str | None:
    """What is in the last box; None if there is none, or several different ones on its line."""
    line = text[text.rfind("\n", 0, max(0, text.rfind("\\boxed{"))) + 1 :]
    boxes = _boxed(line)
    return boxes[0] if boxes and len(set(boxes)) == 1 else None


def _boxed(text: str, limit: int = 20) -> list[str]:
    """The contents of the last boxes in a text, the last one first, by counting braces."""
    boxes: list[str] = []
    end = len(text)
    while len(boxes) < limit and (start := text.rfind("\\boxed{", 0, end)) >= 0:
        depth = 0
        for at in range(start + 6, min(len(text), start + 6 + MAX_CHARS)):
            depth += {"{": 1, "}": -1}.get(text[at], 0)
            if depth == 0:
                boxes.append(text[start + 7 : at])
                break
        else:
            boxes.append("")
        end = start
    return boxes


def _split_phrase(text: str) -> tuple[str, str, str]:
    """A text around its last "the answer is": what stands before, the phrase, and what follows."""
    phrases = list(_PHRASE.finditer(text))
    if not phrases:
        return "", "", text
    return text[: phrases[-1].start()], phrases[-1].group(), text[phrases[-1].end() :]


def _after_mark(text: str) -> str | None:
    _, found, rest = text.rpartition("####")
    lines = rest[:MAX_CHARS].strip().splitlines()
    return lines[0] if found and lines else None


def _after_phrase(text: str) -> str | None:
    _, found, rest = _split_phrase(text[-10 * MAX_CHARS :])
    rest = rest.strip().partition("\n")[0]
    return re.split(r"[.!](?:\s|$)", rest, maxsplit=1)[0] if found else None
