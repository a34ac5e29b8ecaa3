"""The responses that SFT teaches: a worked solution in tags, and in some of them a computation that is checked.

    <think>
    Natalia sold 48/2 = 24 clips in May.
    Natalia sold 48+24 = 72 clips altogether in April and May.
    Wait, let me check: 48 + 24 = 72. Yes.
    </think>
    <answer>72</answer>

The reflection is genuine: it carries out a computation of the solution again, step by step, in exact
arithmetic, and it is written only if the result is what the solution claims. The computations come from
GSM8K's calculator annotations (`<<48+24=72>>`) or from a solution that is nothing but an equation (SVAMP).
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass

from data.errors import DataError
from data.problem import Problem
from data.solutions.arithmetic import compute
from data.sources.text import ANNOTATION, strip_annotations


@dataclass(frozen=True)
class ColdStartConfig:
    """How worked solutions become responses."""

    reflect_share: float = 0.5
    """Share of the responses with a reflection, among those whose solution has a computation to check."""

    check: str = "Wait, let me check: {computation}. Yes."
    """The reflection, a line of its own after the line that it checks; {computation} reads "48 + 24 = 72"."""

    as_it_is: bool = False
    """Teach each solution as the data has it, with tags or without: nothing is put into the format or checked."""

    def __post_init__(self) -> None:
        if not 0 <= self.reflect_share <= 1:
            raise DataError(f"coldstart.reflect_share {self.reflect_share} is not between 0 and 1")
        if "{computation}" not in self.check:
            raise DataError("coldstart.check: there is no {computation} in it")
        if TAG.search(self.check):
            raise DataError("coldstart.check: a tag of the response format cannot stand in it")


def response_text(problem: Problem, config: ColdStartConfig, seed: int = 0) -> str:
    """The response that SFT teaches for one problem.

    A solution that is a whole response already (the embedded problems', with slips and reflections of their
    own) is taken as it is, and so is a conversation's reply.

    Args:
        problem: a problem with a worked solution.
        config: how often to reflect, and in which words.
        seed: the choices depend on (seed, problem.id) alone.

    Returns:
        `<think>\\n...\\n</think>\\n<answer>...</answer>`, or what is taken as it is.

    Raises:
        DataError: the problem has no worked solution, no answer, or stray tags in them.
    """
    if problem.response:
        return problem.response
    if not problem.solution:
        raise DataError(
            f"{problem.called} has no worked solution to learn from; see data.solution_field, and data.question_field "
            "for conversations"
        )
    if config.as_it_is:
        return problem.solution
    tags = TAG.findall(problem.solution)
    if len(tags) == 4 and RESPONSE.fullmatch(problem.solution):
        return problem.solution
    if tags or TAG.search(problem.answer):
        raise DataError(f"{problem.called}: the solution or answer has tags, but is no whole response")
    if not problem.answer:
        raise DataError(
            f"{problem.called} has no answer to put between the tags; see data.answer_field, or teach the solution as "
            "it is: coldstart.as_it_is=true"
        )
    lines, checks = _worked_lines(problem)
    rng = random.Random(f"coldstart/{seed}/{problem.id}")
    if rng.random() < config.reflect_share and checks:
        line, computation = rng.choice(checks)
        lines.insert(line + 1, config.check.replace("{computation}", computation))
    thought = "\n".join(lines)
    return f"<think>\n{thought}\n</think>\n<answer>{problem.answer}</answer>"


TAG = re.compile("</?(?:think|answer)>")
RESPONSE = re.compile("<think>.*</think>\\s*<answer>.*</answer>", re.DOTALL)


def _worked_lines(problem: Problem) -> tuple[list[str], list[tuple[int, str]]]:
    """The solution's lines, and its true computations as (index of the line it stands in, "48 + 24 = 72").

    A solution that is a bare equation (SVAMP's "( 290.0 / 2.0 )") becomes its steps, one a line. Where its
    value is not the gold answer, as in one row of SVAMP, it stays as it is: nothing true to claim or check.
    """
    equation = true_steps(f"{problem.solution}={problem.answer}")
    if equation:
        return [f"{step}." for step in equation], list(enumerate(equation))
    annotated = problem.columns.get("annotated_solution")
    if not isinstance(annotated, str) or strip_annotations(annotated) != problem.solution:
        annotated = problem.solution
    lines = annotated.split("\n")
    checks = [
        (index, ", ".join(steps))
        for index, line in enumerate(lines)
        for claim in ANNOTATION.findall(line)
        if (steps := true_steps(claim))
    ]
    return [strip_annotations(line) for line in lines], checks


def true_steps(claim: str) -> list[str]:
    """Carry out the left side of a claim such as "48/2=24": its steps, ["48 / 2 = 24"], if the claim is true.

    Empty if it is false, is no claim, has no operation ("5=5"), or if a step is no finite decimal (a third).
    """
    left, _, right = claim.rpartition("=")
    try:
        value, steps = compute(left)
        claimed, _ = compute(right)
    except ValueError:
        return []
    return steps if value == claimed and not any("(" in step for step in steps) else []
