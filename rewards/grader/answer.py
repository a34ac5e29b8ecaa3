"""Is this answer the gold answer? Read by a parser of our own, and never by `eval`.

`extract_answer` finds the answer in a completion, `equivalent` compares two answers. Whatever a model
writes, neither raises, and both stay within a bounded amount of work:

    text -> writing -> extract -> lexer -> parser -> values -> compare -> bool
                       sentences           units               numeric
                                           relations           algebra (sympy)
"""

from __future__ import annotations

import contextlib
import functools
import re
from dataclasses import dataclass

from rewards.grader.compare import Comparison
from rewards.grader.extract import MAX_CHARS, concluded, extract_answer, last_boxed
from rewards.grader.lexer import tokenize
from rewards.grader.numeric import LOCK
from rewards.grader.operations import replaced, variables
from rewards.grader.parser import Parser
from rewards.grader.sentences import qualified
from rewards.grader.settings import GradingConfig
from rewards.grader.units import measured
from rewards.grader.values import UNIT_VECTOR, Struct, Symbol, Unreadable, Value
from rewards.grader.writing import normalised, spelled

__all__ = ["GradingConfig", "equivalent", "extract_answer", "last_boxed", "read", "stated"]

_MARKUP = "*_` \t\r\n"
_BOLD = re.compile(r"(?<![\w)}])\*\*([^*\n]+)\*\*(?![\w({])")  # markdown; 2**3 is a power
_OPENING = re.compile(r"\A(?:=(?![=>])|==|=>|:|→|⇒|\\(?:Rightarrow|implies|rightarrow|to|therefore)(?![a-zA-Z]))\s*")
_MISSING = frozenset(["", "nan", "null"])  # what a broken data column holds, not an answer
_UPPER, _LOWER = str.maketrans("\u00b1\u2213", "+-"), str.maketrans("\u00b1\u2213", "-+")


def equivalent(gold: str, answer: str, config: GradingConfig | None = None) -> bool:
    """Whether an answer gives the gold, by value if both can be read, else as texts.

    A gold is not an answer: it may leave arithmetic undone, and an equation as gold is more than its right side.
    Deterministic; an answer is equivalent to itself unless it is missing ("", "nan").

    >>> equivalent("1,200", "1200.0"), equivalent("\\frac{1}{2}", "0.5"), equivalent("42", "42%")
    (True, True, False)
    >>> equivalent("(x+1)^2", "x^2 + 2x + 1"), equivalent("5!", "120"), equivalent("120", "5!")
    (True, True, False)
    """
    if not isinstance(gold, str) or not isinstance(answer, str):
        return False
    return verdict(gold.strip(), answer.strip(), config or GradingConfig()).paid


@dataclass
class Verdict:
    """Whether an answer is paid, the rule that decided it, and how both sides were read."""

    paid: bool
    rule: str
    gold: str = ""
    """What of it is compared, spelled in one way."""
    answer: str = ""


def verdict(gold: str, answer: str, config: GradingConfig) -> Verdict:
    """The verdict of `equivalent`, with its reason."""
    if not _MISSING.isdisjoint((gold.casefold(), answer.casefold())):
        return Verdict(False, "a missing gold or answer")
    if gold == answer:
        return Verdict(True, "the same text", gold, answer)
    if max(len(gold), len(answer)) > MAX_CHARS:
        return Verdict(False, f"a text of more than {MAX_CHARS} characters")
    try:
        (gold, domain), (answer, other) = (qualified(stated(text, config)) for text in (gold, answer))
    except Unreadable as error:
        return Verdict(False, f"not read: {error}")
    texts = gold, answer = spelled(gold), spelled(answer)
    if domain and other and domain != other:
        return Verdict(False, f"letters that are {domain} are not {other}", *texts)
    comparison = Comparison(config)
    try:
        comparison.families = bool(domain or other)
        golds, answers = readings(gold, trusted=True), readings(answer)
        with LOCK:
            same = any(comparison.same(a, b) for a in golds for b in answers)
        return Verdict(same, comparison.rule or "another value", *texts)
    except (Unreadable, ArithmeticError, RecursionError, ValueError) as error:
        first, second = (re.findall(r"[0-9.]+|\S", text) for text in texts)
        return Verdict(first == second != [], f"compared as texts, for one is not read ({error})", *texts)


def stated(text: str, config: GradingConfig) -> str:
    """The answer that a text states, bare: out of its box, its sentence, its `$` signs and its full stop.

    Raises:
        Unreadable: if it states several, or hedges.
    """
    text = normalised(text)
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
    text = re.sub(r"\s+", " ", text.strip(_MARKUP).rstrip(" .,;:\\\n\t"))  # one space: regexes have little to try
    text = _OPENING.sub("", text).strip(_MARKUP)
    inside = r"^(?:[\"'\u201c\u2018](.*)[\"'\u201d\u2019]|\(?([A-Ja-j])\)|(?:[Oo]ption|[Cc]hoice) \(?([A-J])\)?)$"
    return re.sub(inside, r"\1\2\3", text)


# ---------------------------------------------------------------------------------------------------


def readings(text: str, trusted: bool = False) -> list[Value]:
    """The values that a text may stand for: `70,110` is one number or two, `5 m` is a length or a product."""
    readings: list[Value] = []
    if quantity := measured(text):
        readings.append(Struct("quantity", (read(quantity[0]),), quantity[1]))
    with contextlib.suppress(*[Unreadable] * len(readings)):  # 5 J/kg is no product
        readings.append(read(text, trusted=trusted))
    if re.search(r"[0-9],[0-9]{3}(?![0-9])", text) and ",0" not in text:  # 3,005 is one number, 70,110 may be two
        readings.append(read(text, thousands=False))
    return readings


@functools.lru_cache(maxsize=1024)
def read(text: str, thousands: bool = True, trusted: bool = False) -> Value:
    """The value that a spelled answer stands for; with a plus-or-minus in it, the list of what either gives.

    Raises:
        Unreadable: if the text isn't in the grammar or exceeds a limit.
    """
    texts = dict.fromkeys((text.translate(_UPPER), text.translate(_LOWER)))
    values = [Parser(tokenize(each, thousands), trusted).answer() for each in texts]
    if len(values) == 1:
        value = values[0]
        if not value.kind and {"j"} <= variables(value) and "i" in re.findall("[a-z]+", repr(value)):  # 3i - 2j
            return replaced(value, {axis: Symbol(UNIT_VECTOR + axis) for axis in "ijk"})
        return value
    items = [item for value in values for item in (value.items if value.kind in ("{", "list") else (value,))]
    return Struct("list", tuple(dict.fromkeys(items)))
