"""Is this answer the gold answer? Exact arithmetic, and never `eval`.

`extract_answer` finds the answer of a completion; `equivalent` compares two of them. Both take linear
time, bound what they read and never raise, whatever a model writes.
"""

from __future__ import annotations

import re
from fractions import Fraction

from rewards.text import split_sections

MAX_CHARS = 2000
"""A longer answer is no answer: nothing is read from it."""
MAX_DIGITS = 400
"""Digits of one number, mantissa and exponent's effect together."""

_NUMBER = re.compile(
    r"(?P<sign>[+-]?)\s*(?P<whole>\d{1,3}(?:,\d{3})+|\d*)(?P<point>\.\d*)?(?:[eE](?P<power>[+-]?\d{1,4}))?"
)
_PART = r"(\{[^{}]*\}|\d)"
_FRACTION = re.compile(rf"(?P<sign>[+-]?)\s*(?P<whole>\d*)\s*\\frac{_PART}\s*{_PART}")
_LEAD = re.compile(r"^(?:so |therefore,? |thus,? )?(?:the )?(?:final )?answer(?: is:?|:)\s*", re.IGNORECASE)
_NOISE = re.compile(r"\\[!,;: ]|\\left|\\right|\\(?:text|mathrm|mbox)\{[^{}]*\}|\^?\\circ|°|[$€£]|\\\$")


def extract_answer(text: str, require_tags: bool = True) -> str | None:
    """The answer in a completion, or None.

    With tags it is the content of the only answer span. Without (`require_tags=False`, for base models
    that know no tags): the last `\\boxed{}`, else what follows the last `####`, else what follows the
    last "answer is".

    >>> extract_answer("<think>6*7</think><answer> 42 </answer>")
    '42'
    >>> extract_answer("so it is \\\\boxed{42}", require_tags=False)
    '42'
    """
    found = split_sections(text).answer
    if found is None and not require_tags and "<answer>" not in text and "</answer>" not in text:
        found = last_boxed(text) or _after(text, "####") or _after(text, "nswer is")
    found = (found or "").strip()
    return found if found and len(found) <= MAX_CHARS else None


def equivalent(gold: str, answer: str) -> bool:
    """Whether two answers are the same number, or failing that the same text.

    >>> equivalent("1,200", "1200.0"), equivalent("\\\\frac{1}{2}", "0.5"), equivalent("42", "42%")
    (True, True, False)
    """
    if not isinstance(gold, str) or not isinstance(answer, str) or max(len(gold), len(answer)) > MAX_CHARS:
        return False
    left, right = _value(gold), _value(answer)
    if left is None and right is None:
        text = _plain(gold)
        return bool(text) and text not in ("nan", "inf") and text == _plain(answer)
    return left is not None and left == right


def last_boxed(text: str) -> str | None:
    """The content of the last `\\boxed{...}` whose braces close, by counting braces."""
    start = text.rfind("\\boxed{")
    if start < 0:
        return None
    depth = 0
    for at in range(start + 6, min(len(text), start + 6 + MAX_CHARS)):
        depth += {"{": 1, "}": -1}.get(text[at], 0)
        if depth == 0:
            return text[start + 7 : at]
    return None


def _after(text: str, mark: str) -> str | None:
    _, found, rest = text.rpartition(mark)
    lines = rest[:MAX_CHARS].strip().splitlines()
    return lines[0].strip().rstrip(".") if found and lines else None


def _unboxed(text: str) -> str:
    """Without a box or a short "The answer is ..." around all of it."""
    text = _LEAD.sub("", text.strip())
    inner = last_boxed(text)
    return inner if inner is not None and text in (f"\\boxed{{{inner}}}", f"$\\boxed{{{inner}}}$") else text


def _plain(text: str) -> str:
    text = _unboxed(text)
    text = re.sub(r"\\(?:text|mathrm|textbf|mbox)\{([^{}]*)\}", r"\1", text)
    return re.sub(r"\s+", " ", text.strip().strip("$").rstrip(".")).strip().casefold()


def _value(text: str) -> Fraction | None:
    """The exact value of a numeral, a fraction or a percentage; None for anything else."""
    text = _unboxed(text)
    text = _NOISE.sub(
        "", text.replace("\u2212", "-").replace("\\dfrac", "\\frac").replace("\\tfrac", "\\frac")
    )
    text = text.replace("{,}", ",").strip().rstrip(".\\")
    if text.endswith("%"):
        part = _value(text.rstrip("%\\"))
        return part if part is None else part / 100
    latex = _FRACTION.fullmatch(text)
    if latex:
        top, bottom = _number(latex[3].strip("{}")), _number(latex[4].strip("{}"))
        if top is None or not bottom:
            return None
        value = Fraction(latex["whole"] or 0) + top / bottom
        return -value if latex["sign"] == "-" else value
    top_text, slash, bottom_text = text.partition("/")
    top, bottom = _number(top_text.strip()), _number(bottom_text.strip(" ()")) if slash else Fraction(1)
    return None if top is None or not bottom else top / bottom


def _number(text: str) -> Fraction | None:
    match = _NUMBER.fullmatch(text)
    if not match or not text.isascii() or not (match["whole"] or (match["point"] or ".") != "."):
        return None
    digits, power = match["whole"].replace(",", ""), int(match["power"] or 0)
    decimals = (match["point"] or ".")[1:]
    if len(digits) + len(decimals) + abs(power) > MAX_DIGITS:
        return None
    value = Fraction(int(digits + decimals or 0)) * Fraction(10) ** (power - len(decimals))
    return -value if match["sign"] == "-" else value
