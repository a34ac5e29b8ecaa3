"""Why was this answer paid, or not? What was extracted, how it was read, the rule, and what remains of the difference.

Reading is the grader's own. Showing an expression, and simplifying a difference, is sympy's, which may take for ever:
it runs in a process of its own that is killed after a few seconds.
"""

from __future__ import annotations

import functools
import json
import operator
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rewards.grader.answer import Verdict, readings, verdict
from rewards.grader.extract import extract_answer
from rewards.grader.matrices import sympy_module
from rewards.grader.operations import is_matrix
from rewards.grader.settings import GradingConfig
from rewards.grader.values import Number, Op, Symbol, Unreadable, Value

SECONDS = 10.0
MEGABYTES = 1024
# its first argument is the folder that holds `rewards`: in the working directory may lie a `rewards.py` of the user's
_CHILD = "import sys; sys.path[0] = sys.argv.pop(1); from rewards.grader.explain import main; main(sys.argv[1:])"


@dataclass
class Explanation:
    """What `explain` found; `str` of it is a page for people."""

    verdict: Verdict
    gold: str
    """How the gold was read; several lines where there are powers and fractions."""
    answer: str
    difference: str
    """The simplified difference of two expressions; or why there is none."""

    def __str__(self) -> str:
        lines = [f"{'paid' if self.verdict.paid else 'not paid'}: {self.verdict.rule}"]
        for name, text, shown in (
            ("gold", self.verdict.gold, self.gold),
            ("answer", self.verdict.answer, self.answer),
        ):
            lines += ["", f"{name}, as compared: {text.strip()}", *(f"    {line}" for line in shown.splitlines())]
        return "\n".join([*lines, "", f"gold - answer: {self.difference}"])


def explain(gold: str, answer: str, config: GradingConfig | None = None, seconds: float = SECONDS) -> Explanation:
    """Why an answer, or a completion with one in its tags, is paid for a gold or not.

    Args:
        gold, answer: as for `equivalent`.
        config: the grader's settings.
        seconds: what sympy may take to show and to simplify.

    >>> print(explain("x^2", "x^2 + 1").verdict.rule)
    by value, at a few random points
    """
    if "<answer>" in answer:
        answer = extract_answer(answer) or ""
    found = verdict(gold.strip(), answer.strip(), config or GradingConfig())
    if not (found.gold and found.answer):
        return Explanation(found, "not read", "not read", "none: nothing was compared")
    command = [sys.executable, "-c", _CHILD, str(Path(__file__).parents[2]), json.dumps([found.gold, found.answer])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "PYTHONIOENCODING": "utf-8"}
    late = f"sympy took more than {seconds:g} s and was stopped"
    try:
        child = subprocess.run(command, env=environment, capture_output=True, timeout=seconds, check=False)
        output, late = child.stdout, "sympy stopped: too much memory, or nothing that it knows"
    except subprocess.TimeoutExpired as error:
        output = error.stdout or b""
    shown = [json.loads(line) for line in output.decode().splitlines() if line.endswith('"')]
    return Explanation(found, *[*shown, *[late] * 3][:3])


# ---------------------------------------------------------------------------------------------------
# In the process


def build(value: Value) -> Any:
    """An expression or a matrix as sympy's object, built node by node, with no limit: the process is killed."""
    sympy = sympy_module()
    if isinstance(value, Number):
        return sympy.Rational(value.value.numerator, value.value.denominator)
    if isinstance(value, Symbol):
        constants = {"pi": sympy.pi, "e": sympy.E, "i": sympy.I, "infty": sympy.oo}
        return constants.get(value.name, sympy.Symbol(value.name))
    if value.kind in ("matrix", "("):
        rows = [row.items if row.kind == "row" else [row] for row in value.items]
        return sympy.ImmutableMatrix([list(map(build, row)) for row in rows])
    name, args = (value.name, value.args) if isinstance(value, Op) else (value.label, value.items)
    if name == "^" and is_matrix(args[0]) and args[1] in (Symbol("T"), Symbol("top")):
        return build(args[0]).T
    first, *rest = map(build, args)
    if name in ("+", "*"):
        return functools.reduce(operator.add if name == "+" else operator.mul, rest, first)
    if name in ("sum", "prod"):
        return (sympy.Sum if name == "sum" else sympy.Product)(first, tuple(rest))
    match name:
        case "^":
            return first ** rest[0]
        case "log":
            return sympy.log(first, *(rest or [10]))
        case "degree":
            return first * sympy.pi / 180
    known = {"ceil": "ceiling", "!": "factorial", "binom": "binomial", "abs": "Abs", "ln": "log"}
    function = getattr(sympy, known.get(name, name.replace("arc", "a")), None) or sympy.Function(name[:-2])
    return function(first, *rest)


def shown(value: Value, inside: bool = False) -> str:
    """A value as a person would write it; expressions by sympy's pretty printer."""
    sympy = sympy_module()
    if not value.kind or (is_matrix(value) and (value.kind != "(" or not inside)):
        with sympy.evaluate(False):
            built = build(value)
        return sympy.sstr(built) if inside else sympy.pretty(built, use_unicode=True)
    items = [shown(item, True) for item in value.items]
    match value.kind:
        case "words":
            return f'the words "{value.label}"'
        case "named":
            return f"{value.label} = {items[1]}"
        case "quantity":
            return f"{items[0]} [{value.label}]"
        case "relation":
            signs = [*value.label.split(), ""]
            return " ".join(f"{item} {sign}" for item, sign in zip(items, signs, strict=True)).strip()
        case "(" | "{":
            opening, closing = value.label or ("()" if value.kind == "(" else "{}")
            return f"{opening}{', '.join(items)}{closing}"
        case _:
            return f"{value.kind} of " + "; ".join(items) if items else f"{value.kind} {value.label}"


def main(argv: list[str]) -> None:
    """Print, a JSON text a line, how both sides are read and the simplified difference; each as soon as it is there."""
    import resource

    resource.setrlimit(resource.RLIMIT_AS, (MEGABYTES * 2**20,) * 2)
    golds, answers = (
        _readings(text, trusted) for text, trusted in zip(json.loads(argv[0]), (True, False), strict=True)
    )
    for values in (golds, answers):
        print(
            json.dumps("\nor ".join(dict.fromkeys(map(_shown, values))) or "not read, only compared as a text"),
            flush=True,
        )
    if not golds or not answers or golds[0].kind or answers[0].kind:
        print(json.dumps("none: not two expressions"), flush=True)
        return
    difference = sympy_module().simplify(build(golds[0]) - build(answers[0]))
    print(json.dumps(sympy_module().sstr(difference)), flush=True)


def _readings(text: str, trusted: bool) -> list[Value]:
    try:
        return readings(text, trusted)
    except Unreadable:
        return []


def _shown(value: Value) -> str:
    try:
        return shown(value)
    except (Unreadable, TypeError, ValueError, AttributeError) as error:
        return f"read, but not shown ({error})"
