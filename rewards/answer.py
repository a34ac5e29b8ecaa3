"""Is this answer the gold answer? Read by a parser of our own, and never by `eval`.

`extract_answer` finds the answer in a completion, `equivalent` compares two answers. Whatever a model
writes, neither raises, and both stay within a bounded amount of work:

    text -> rewards.lexer -> rewards.parser -> rewards.values -> rewards.compare -> bool
                                                                 rewards.numeric
"""

from __future__ import annotations

import functools
import re

from rewards.compare import Comparison, GradingConfig
from rewards.lexer import tokenize
from rewards.parser import Parser
from rewards.text import split_sections
from rewards.values import Struct, Unreadable, Value

MAX_CHARS = 1000
"""A longer answer is read by nobody: it equals only itself."""

_PHRASE = re.compile(r"\b(?:(?:the )?(?:final |correct )?answer is|(?:final )?answer ?[:=])[ :]*", re.IGNORECASE)
_HEDGE = re.compile(
    r"\b(?:not|never|cannot|isn't|aren't|wasn't|can't|don't|doesn't|won't|wrong|incorrect|either|or|maybe|perhaps"
    r"|possibly|might|could|may|unsure|rule out|ruled out|instead|unlikely)\b",
    re.IGNORECASE,
)
_MERIDIEM = re.compile(r"\b([AaPp])\.\s?[Mm]\b\.?")
_DELIMITER = re.compile(r"(?<!\\)\\[()\[\]]")
_MARKUP = "*_` \t\r\n"
_MISSING = frozenset(["", "nan", "null"])  # what a broken data column holds, not an answer


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


def equivalent(gold: str, answer: str, config: GradingConfig | None = None) -> bool:
    """Whether two answers are the same, by value if both can be read, else as texts.

    Symmetric and deterministic; an answer is equivalent to itself unless it is missing ("", "nan").

    >>> equivalent("1,200", "1200.0"), equivalent("\\\\frac{1}{2}", "0.5"), equivalent("42", "42%")
    (True, True, False)
    >>> equivalent("(x+1)^2", "x^2 + 2x + 1"), equivalent("x = 5", "5"), equivalent("42", "6*7")
    (True, True, False)
    """
    if not isinstance(gold, str) or not isinstance(answer, str):
        return False
    gold, answer = gold.strip(), answer.strip()
    if gold.casefold() in _MISSING or answer.casefold() in _MISSING:
        return False
    if gold == answer:
        return True
    if max(len(gold), len(answer)) > MAX_CHARS:
        return False
    config = config or GradingConfig()
    try:
        golds, answers = _readings(stated(gold, config)), _readings(stated(answer, config))
        return any(Comparison(config).same(a, b) for a in golds for b in answers)
    except (Unreadable, ArithmeticError, RecursionError):
        return _same_text(gold, answer, config)


def stated(text: str, config: GradingConfig) -> str:
    """The answer that a text states, bare: out of its box, its sentence, its `$` signs and its full stop.

    Raises:
        Unreadable: if it states several, or hedges.
    """
    if "\0" in text or text.startswith("~"):
        raise Unreadable("a null character, or an approximation")
    text = _MERIDIEM.sub(r"\1m", _concluded(text.strip(), config)).strip(_MARKUP)
    text = _DELIMITER.sub(" ", text).replace("\\$", "\0")
    if text.count("$") % 2:
        text = text.replace("$", "\0", 1)  # a currency sign; two are LaTeX's delimiters
    text = text.replace("$", "").replace("\0", "$")
    if config.decimal_comma:
        text = re.sub(r"(?<![0-9.,])([0-9]+),([0-9]{1,2}|[0-9]{4,})(?![0-9,.])", r"\1.\2", text)
    return text.rstrip(" .,;:\\\n\t").strip(_MARKUP)


def _concluded(text: str, config: GradingConfig) -> str:
    """What is in the only box, or follows the only "the answer is"; all of a text without either."""
    boxes = _boxes(text)
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
    if not config.sentences and (re.search(r"\w", before + after) or not (boxes or text == answer)):
        raise Unreadable("a sentence")
    return answer


# ---------------------------------------------------------------------------------------------------


def _readings(text: str) -> list[Value]:
    """The values that a text may stand for: `70,110` is one number or two."""
    ambiguous = re.search(r"[0-9],[0-9]{3}(?![0-9])", text)
    return [read(text, thousands) for thousands in ((True, False) if ambiguous else (True,))]


@functools.lru_cache(maxsize=1024)
def read(text: str, thousands: bool = True) -> Value:
    """The value that a bare answer stands for; with a plus-or-minus in it, the list of what either gives.

    Raises:
        Unreadable: if the text isn't in the grammar or exceeds a limit.
    """
    tokens = tokenize(text, thousands)
    if not any(token.text in ("+-", "-+") for token in tokens):
        return Parser(tokens).answer()
    both = []
    for sign in (0, 1):  # in "+-" and "-+", first the upper signs, then the lower ones
        chosen = [t._replace(text=t.text[sign]) if t.text in ("+-", "-+") else t for t in tokens]
        both.append(Parser(chosen).answer())
    kind = both[0].kind if isinstance(both[0], Struct) and both[0].kind in ("{", "list") else ""
    items = both[0].items + both[1].items if kind else tuple(both)
    return Struct(kind or "list", tuple(dict.fromkeys(items)))


def _same_text(gold: str, answer: str, config: GradingConfig) -> bool:
    """Whether two answers that can't be read are the same tokens, or else the same letters."""
    try:
        texts = [stated(text, config) for text in (gold, answer)]
    except Unreadable:
        return False
    try:
        first, second = ([token[:2] for token in tokenize(text)] for text in texts)
    except Unreadable:
        first, second = (["", *"".join(text.split())] for text in texts)
    return first == second and len(first) > 1


def _boxes(text: str, limit: int = 20) -> list[str]:
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


def last_boxed(text: str) -> str | None:
    """What is in the last box; None if there is none, or several different ones on its line."""
    line = text[text.rfind("\n", 0, max(0, text.rfind("\\boxed{"))) + 1 :]
    boxes = _boxes(line)
    return boxes[0] if boxes and len(set(boxes)) == 1 else None


def _after_mark(text: str) -> str | None:
    _, found, rest = text.rpartition("####")
    lines = rest[:MAX_CHARS].strip().splitlines()
    return lines[0] if found and lines else None


def _after_phrase(text: str) -> str | None:
    _, found, rest = _split_phrase(text[-10 * MAX_CHARS :])
    rest = rest.strip().partition("\n")[0]
    return re.split(r"[.!](?:\s|$)", rest, maxsplit=1)[0] if found else None


def _split_phrase(text: str) -> tuple[str, str, str]:
    """A text around its last "the answer is": what stands before, the phrase, and what follows."""
    phrases = list(_PHRASE.finditer(text))
    if not phrases:
        return "", "", text
    return text[: phrases[-1].start()], phrases[-1].group(), text[phrases[-1].end() :]
