"""Is this answer the gold answer? Read by a parser of our own, and never by `eval`.

`extract_answer` finds the answer in a completion, `equivalent` compares two answers. Whatever a model
writes, neither raises, and both stay within a bounded amount of work:

    text -> lexer -> parser -> values -> compare -> bool
                     units               numeric
                     relations           sets
"""

from __future__ import annotations

import contextlib
import functools
import re

from rewards.grader.compare import Comparison, GradingConfig
from rewards.grader.extract import MAX_CHARS, concluded, extract_answer, last_boxed
from rewards.grader.lexer import spelled, tokenize
from rewards.grader.numeric import LOCK
from rewards.grader.parser import Parser
from rewards.grader.units import is_unit
from rewards.grader.values import Struct, Unreadable, Value

__all__ = ["GradingConfig", "equivalent", "extract_answer", "last_boxed", "read", "stated"]

_MARKUP = "*_` \t\r\n"
_BOLD = re.compile(r"(?<![\w)}])\*\*([^*\n]+)\*\*(?![\w({])")  # markdown; 2**3 is a power
_MISSING = frozenset(["", "nan", "null"])  # what a broken data column holds, not an answer
_UPPER, _LOWER = str.maketrans("\u00b1\u2213", "+-"), str.maketrans("\u00b1\u2213", "-+")


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
    first, second = sorted((gold.strip(), answer.strip()))  # one order, one result
    missing = not _MISSING.isdisjoint((first.casefold(), second.casefold()))
    if missing or first == second or max(len(first), len(second)) > MAX_CHARS:
        return first == second and not missing
    config = config or GradingConfig()
    try:
        texts = [spelled(stated(text, config)) for text in (first, second)]
    except Unreadable:
        return False
    try:
        comparison, (first_readings, second_readings) = Comparison(config), map(_readings, texts)
        with LOCK:
            return any(comparison.same(a, b) for a in first_readings for b in second_readings)
    except (Unreadable, ArithmeticError, RecursionError):
        first, second = (re.findall(r"[0-9.]+|\S", text) for text in texts)
        return first == second != []


def stated(text: str, config: GradingConfig) -> str:
    """The answer that a text states, bare: out of its box, its sentence, its `$` signs and its full stop.

    Raises:
        Unreadable: if it states several, or hedges.
    """
    if "\0" in text or text.startswith("~"):
        raise Unreadable("a null character, or an approximation")
    text = _BOLD.sub(r"\1", text.lstrip("# "))
    text = concluded(text, config.sentences).strip(_MARKUP)
    if text.startswith("~"):
        raise Unreadable("an approximation in a box")
    text = re.sub(r"(?<!\\)\\[()\[\]]", " ", text).replace("\\$", "\0")
    if text.count("$") % 2:
        text = text.replace("$", "\0", 1)  # a currency sign; two are LaTeX's delimiters
    text = text.replace("$", " ").replace("\0", "$")
    if config.decimal_comma:
        text = re.sub(
            r"(?<![0-9.,])[1-9][0-9]{0,2}(?:[. ][0-9]{3})+(?![0-9])", lambda m: re.sub("[. ]", "", m[0]), text
        )
        text = re.sub(r"(?<![0-9.,])(0(?=,[0-9]{3})|[0-9]+(?!,[0-9]{3}(?![0-9]))),([0-9]+)(?![0-9,.])", r"\1.\2", text)
    text = re.sub(r"(?<=\.)([0-9]{1,99})\.\.\.", r"\1\\ldots ", text)  # 0.333... repeats, 42... does not
    text = text.strip(_MARKUP).rstrip(" .,;:\\\n\t").removeprefix("=").strip(_MARKUP)
    return re.sub(
        r"^(?:[\"'\u201c\u2018](.*)[\"'\u201d\u2019]|\(?([A-Ja-j])\)|(?:[Oo]ption|[Cc]hoice) \(?([A-J])\)?)$",
        _inside,
        text,
    )


# ---------------------------------------------------------------------------------------------------


def _inside(match: re.Match[str]) -> str:
    return next((group for group in match.groups() if group is not None), "")


def _readings(text: str) -> list[Value]:
    """The values that a text may stand for: `70,110` is one number or two, `5 m` is a length or a product."""
    readings = []
    measured = re.fullmatch(r"([-0-9.,]*[0-9])(?:[\s~]|\\[,;: ])+([a-zA-Z][a-zA-Z^0-9/ *]*)", text)
    if measured and all(map(is_unit, re.findall("[a-zA-Z] [a-zA-Z]\\b|[a-zA-Z]+", measured[2]))):
        readings.append(read(spelled(f"{measured[1]}\\text{{ {measured[2].replace('*', ' ')}}}")))
    with contextlib.suppress(*[Unreadable] * len(readings)):  # 5 J/kg is no product
        readings.append(read(text))
    if re.search(r"[0-9],[0-9]{3}(?![0-9])", text) and ",0" not in text:  # 3,005 is one number, 70,110 may be two
        readings.append(read(text, thousands=False))
    return readings


@functools.lru_cache(maxsize=1024)
def read(text: str, thousands: bool = True) -> Value:
    """The value that a spelled answer stands for; with a plus-or-minus in it, the list of what either gives.

    Raises:
        Unreadable: if the text isn't in the grammar or exceeds a limit.
    """
    texts = dict.fromkeys((text.translate(_UPPER), text.translate(_LOWER)))
    values = [Parser(tokenize(each, thousands)).answer() for each in texts]
    if len(values) == 1:
        return values[0]
    items = [item for value in values for item in (value.items if value.kind in ("{", "list") else (value,))]
    return Struct("list", tuple(dict.fromkeys(items)))
