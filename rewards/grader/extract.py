"""Where in a completion the answer is: in its answer tags, its last box, or after a phrase that announces it."""

from __future__ import annotations

import re

from rewards.grader.sentences import ALSO_CHANGING, HEDGE, PHRASE, leads, said, split_phrase
from rewards.grader.units import CHANGING, SCALES
from rewards.grader.values import Unreadable
from rewards.grader.writing import group_end
from rewards.text import split_sections

MAX_CHARS = 1000
"""A longer answer is read by nobody: it equals only itself."""
MAX_BOXES = 20
_CHANGES = "|".join(sorted(CHANGING | ALSO_CHANGING))
_CHANGED_BEFORE = re.compile(rf"\b(?:{_CHANGES})(?: of| than| the| a)*[\s$*(\[\\]*$", re.IGNORECASE)
_SCALED = f"(?:{'|'.join(SCALES)})s?\\b"
_CHANGED_AFTER = re.compile(rf"^[\s$*)\]\\]*(?!{_SCALED})(?:[a-z]+ ){{0,4}}?(?:{_CHANGES})\b", re.IGNORECASE)
"""Words next to a box that make another number of it: "twice", "the square root of", "at least", "below zero"."""
_LISTED_BEFORE = re.compile(
    r"[0-9)}]\s*\$?,?\s*(?:and|or)[\s$]*(?:[a-z]\s*=)?[\s$]*$"  # 4 and \boxed{3}
    r"|(?:^|[=,;])[\s$]*[-0-9.]+\s*\$?[,;][\s$]*(?:[a-z]\s*=)?[\s$]*$"  # x = 4, x = \boxed{3}
    r"|(?<![a-zA-Z\\])[a-zA-Z](?:[_^]?\{|\(|\s*[-+*/^]\s*)?$"  # x\boxed{3}, f(\boxed{3}), x + \boxed{3}
)
_LEFT_SIDE = re.compile(
    r"(?:[0-9.(){}+*/^ -]|\\(?:frac|sqrt|cdot|times)(?![a-z])|(?<![a-zA-Z\\])[a-zA-Z](?![a-zA-Z])){1,60}=[\s$]*$"
)
_BOX = re.compile(r"\\(?:boxed\s+|fbox\s*|framebox\s*)\{")
_BEFORE_BOX = re.compile(r"(?:\\[a-zA-Z]+|[^A-Za-z:=\n一-鿿])*$")  # signs, numbers and commands right before a box
_NO_MATHS = re.compile(
    r"\\(?:text|mbox)\{[^{}]*\}|\\(?:therefore|implies|Rightarrow|quad|qquad|displaystyle)\b|\\[()\[\]]"
)


def extract_answer(text: str, require_tags: bool = True) -> str | None:
    """The answer in a completion, or None.

    With tags it is the content of the only answer span; see `rewards.text.split_sections`. Without
    (`require_tags=False`, for base models that know no tags; ignored where there are answer tags): the last
    `\\boxed{}` with what stands beside it, else what follows the last `####`, else what follows the last
    "the answer is".

    >>> extract_answer("<think>6*7</think><answer> 42 </answer>")
    '42'
    >>> extract_answer("so it is \\\\boxed{42}", require_tags=False)
    '42'
    """
    found = split_sections(text).answer
    if found is None and not require_tags and "<answer>" not in text and "</answer>" not in text:
        tail = text.rpartition("</think>")[2].partition("<think>")[0]  # a thought that never ends holds no answer
        found = _from_box(tail) or _after_mark(tail) or _after_phrase(tail)
    return (found or "").strip() or None


def concluded(text: str, sentences: bool = True) -> str:
    """What is in the only box, or follows the only "the answer is"; all of a text without either.

    Raises Unreadable if it states several answers, or hedges, or is a sentence where `sentences` are off.
    """
    text = text.removesuffix(" I hope it is correct.")
    text = re.sub(r"\\boxed\{\s*(\\boxed\{[^{}]*\})\s*\}", r"\1", _BOX.sub(r"\\boxed{", text))
    boxes = _boxed(text)
    return _around_box(text, boxes, sentences) if boxes else said(text, sentences)


def _around_box(text: str, boxes: list[tuple[str, int, int]], sentences: bool) -> str:
    """The expression that a box stands in: `-4` for `-\\boxed{4}`, `4 cm` for `\\boxed{4}` cm, else what is in the box.

    Raises Unreadable for different boxes, an empty one, a hedge, or a number after the box.
    """
    (answer, last, end), (_, start, first_end) = boxes[0], boxes[-1]
    if len({box.strip() for box, _, _ in boxes}) > 1 or not answer.strip() or len(boxes) == MAX_BOXES:
        raise Unreadable("several boxes, or an empty one")
    before, between, after = text[:start], text[first_end:last], text[end:]
    if first_end == last:
        between = "*"  # \boxed{4}\boxed{4} is a product, or 44
    clause = re.split(r"[.;,\n]|:(?=[^:]*[a-zA-Z])", before)[-1]  # a colon right before the box ends no clause
    before = re.sub(r"(?<=[a-zA-Z)])[.,;](?=[\s$*]*$)", " ", before)
    after = re.sub(r"\\(?:text|mbox|mathrm)\{([^{}]*)\}", r" \1 ", after)
    changed = _CHANGED_BEFORE.search(clause) or _CHANGED_AFTER.search(re.split(r"[.,;:\n]", after)[0])
    if re.search(r"[-+*/^=<>0-9\\]", _NO_MATHS.sub("", between)) or _LISTED_BEFORE.search(before):
        raise Unreadable("an expression or a list of boxes")
    if changed or HEDGE.search(clause) or HEDGE.search(after) or PHRASE.search(after):
        raise Unreadable("a hedged answer")
    if not sentences and re.search(r"\w", before + after):
        raise Unreadable("a sentence")
    near, far, *_ = [*re.split(r"[.,;:\n](?=\s|$)|[$*\s]*$", after, maxsplit=1), ""]
    far = re.sub(r"\\(?:(?:black)?square|checkmark|qed)(?![a-zA-Z])", "", _NO_MATHS.sub("", far))
    if re.search(r"[0-9]|(?<![\w'])[b-zA-HJ-Z](?!\w)|\\[a-zA-Z]", far):
        raise Unreadable("an afterthought")
    left = re.split(r"[.,;](?=\s)", _BEFORE_BOX.search(before)[0])[-1]  # the point of 0.\boxed{4} ends no sentence
    if (equation := _LEFT_SIDE.search(before)) and re.search(r"[a-zA-Z]", equation[0]):
        left = equation[0]  # 2x = \boxed{4} is no 4
    left, right = (re.sub(r"\*\*|_+$|^_+", "", _NO_MATHS.sub("", part)).strip(" $\n\t") for part in (left, near))
    if re.match(r"[a-z]+ ", right, re.IGNORECASE) and not re.search(r"[0-9\\]", right):
        right = right if len(right.split()) == 1 or re.match(_SCALED, right) else ""  # prose follows
    return f"{left}{answer}{' ' * right[:1].isalpha()}{right}" if left or right else answer


def last_boxed(text: str) -> str | None:
    """What is in the last box; None if there is none, or several different ones on its line."""
    text = _BOX.sub(r"\\boxed{", text)
    line = text[text.rfind("\n", 0, max(0, text.rfind("\\boxed{"))) + 1 :]
    boxes = {box for box, _, _ in _boxed(line)}
    return boxes.pop() if len(boxes) == 1 else None


def _from_box(text: str) -> str | None:
    """What the last box says with what stands beside it in its sentence, as -4 in `x = -\\boxed{4}`; None in doubt."""
    found = _BOX.sub(r"\\boxed{", text)
    if last_boxed(found) is None:
        return None
    _, start, end = _boxed(found)[0]
    line = found.rfind("\n", 0, start) + 1
    after = re.split(r"[.!?](?:\s|$)|\n", found[end : end + MAX_CHARS // 2], maxsplit=1)[0]
    try:
        return concluded(found[max(line, start - MAX_CHARS // 2) : end] + after)
    except Unreadable:
        return None


def _boxed(text: str) -> list[tuple[str, int, int]]:
    """The last boxes in a text, the last one first: what is in each, where it begins and where it ends."""
    boxes: list[tuple[str, int, int]] = []
    before = len(text)
    while len(boxes) < MAX_BOXES and (start := text.rfind("\\boxed{", 0, before)) >= 0:
        end, before = group_end(text, start + 6), start
        boxes.append((text[start + 7 : end - 1] if text[end - 1] == "}" else "", start, end))
    return boxes


def _after_mark(text: str) -> str | None:
    _, found, rest = text.rpartition("####")
    lines = rest[:MAX_CHARS].strip().splitlines()
    return lines[0] if found and lines else None


def _after_phrase(text: str) -> str | None:
    before, found, rest = split_phrase(text[-10 * MAX_CHARS :])
    if not found or not leads(before) or HEDGE.search(re.split(r"[.;:,\n]", before)[-1]):
        return None
    return re.split(r"[.!](?:\s|$)", rest.strip().partition("\n")[0], maxsplit=1)[0]
