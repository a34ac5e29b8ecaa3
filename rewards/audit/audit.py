"""What does a reward wrongly pay? Try it: a battery of hacks, equivalences and attacks against any reward.

    python -m rewards.audit accuracy
    python -m rewards.audit my_module:my_reward --set threshold=0.5 --column ground_truth --column level=3

The reward has TRL's signature and is called one completion at a time, in a worker process that is killed if
it hangs. It gets the columns that a trainer passes (prompts, answer, solution, ...). A column of the data that it
needs besides is given with --column NAME, which holds the gold answer then, or with --column NAME=VALUE.

First it is probed with honest completions, to find what it pays for (answers, form, reflection) and in which
style it reads them (tags or a box, text or messages); then it gets the cases for that. A reward that pays
everything alike teaches nothing, and says so here; so does one that pays all messages alike, which is what a chat
model's completions are.

Exit code: 0 if nothing is wrongly paid, raises, hangs or runs code, and the reward tells completions apart; 1 if
not; 2 for a mistake in the command. Right answers that it refuses are shown, and count with `--strict`.
"""

from __future__ import annotations

import argparse
import contextlib
import inspect
import math
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from rewards.audit import cases
from rewards.audit.cases import Case
from rewards.audit.report import FORMS, Finding, Probe, Report
from rewards.registry import COLUMNS, TRL_COLUMNS, RewardError, get_reward
from rewards.sandbox import Sandbox

STYLES: dict[str, Callable[[str, str], Any]] = {
    "tags": lambda think, answer: f"<think>{think}</think>\n<answer>{answer}</answer>",
    "box": lambda think, answer: f"{think}\n\n\\boxed{{{answer}}}",
}
PROMPT = "What is 6 times 7?"
GOLD = object()
"""In place of a column's value: the gold answer of the case."""
VARIED = (
    *(render(cases.NEUTRAL, answer) for render in STYLES.values() for answer in ("42", "43")),
    STYLES["tags"](cases.REFLECTIONS[0][1], "42"),
    *("", "42", "It must be 43", "7 + 7 = 14. " * 50),
)
"""Completions that any reward should tell apart in some place."""


class OutOfTime(Exception):
    """An audit has used up its seconds."""


class Audit:
    """A reward under audit, in its sandbox."""

    def __init__(
        self, name: str, settings: dict[str, Any], columns: dict[str, Any] | None = None, seconds: float = 2.0,
        reward: Sandbox | None = None,
    ):  # fmt: skip
        """columns: what the reward reads of the data besides, by name; GOLD stands for the gold answer. reward: its
        sandbox, where there is one already; it stays open."""
        self.reward, self._shared = reward or Sandbox(name, settings, seconds=seconds), reward is not None
        self.deadline = math.inf
        self.columns, self.seconds = {"answer": GOLD, "solution": GOLD, **(columns or {})}, seconds
        parameters = inspect.signature(get_reward(name, **settings)).parameters.values()
        needed = [
            p.name for p in parameters if p.default is p.empty and p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
        ]
        known = {*self.columns, *COLUMNS, *TRL_COLUMNS, *settings}
        if missing := [name for name in needed if name not in known]:
            raise RewardError(
                f"{self.reward.__name__} needs {', '.join(missing)}: if that is a column of the data, give it with "
                f"--column {missing[0]} (it holds the gold answer) or --column {missing[0]}=VALUE; if it is a setting, "
                f"with --set {missing[0]}=VALUE"
            )

    def score(self, completion: str, gold: str, chat: bool) -> float:
        return self._raw(completion, gold, chat) or 0.0

    def _raw(self, completion: str, gold: str, chat: bool) -> float | None:
        """What the reward returns, called as a trainer calls it. Raises OutOfTime."""
        if time.perf_counter() > self.deadline:
            raise OutOfTime
        columns = {name: [gold if value is GOLD else value] for name, value in self.columns.items()}
        words = [zlib.crc32(word.encode("utf-8", "surrogatepass")) for word in completion.split()]
        passed = {
            "completions": [[{"role": "assistant", "content": completion}] if chat else completion],
            "completion_ids": [words],
            "prompts": [[{"role": "user", "content": PROMPT}] if chat else PROMPT],
            "trainer_state": SimpleNamespace(global_step=0, max_steps=1),
            **dict.fromkeys(("log_metric", "log_extra"), lambda *_, **__: None),
        }
        return self.reward.score({**columns, **passed}).values[0]

    def constant(self) -> dict[str, float | None]:
        """The forms of a completion in which completions that have little in common are paid alike."""
        found = {}
        for chat, form in FORMS.items():
            paid = set()
            for completion in VARIED:
                with contextlib.suppress(RewardError):
                    paid.add(self._raw(completion, "42", chat))
            if len(paid) == 1:
                found[form] = paid.pop()
        return found

    def probe(self) -> Probe:
        """Find the style in which the reward tells a right answer from a wrong one, if it does in any."""
        tried = [self._probe(style, chat) for chat in (False, True) for style in STYLES]
        readable = [probe for probe in tried if probe is not None]
        if not readable:
            raise RewardError(f"{self.reward.__name__} raises on honest completions:\n{self.error}")
        return max(readable, key=lambda probe: len(probe.aspects))

    def _probe(self, style: str, chat: bool) -> Probe | None:
        render, thought, marker = STYLES[style], cases.NEUTRAL, cases.REFLECTIONS[0][1]
        try:
            right, wrong, reflective = (
                self.score(render(thought, answer), "42", chat)
                for thought, answer in ((thought, "42"), (thought, "43"), (marker, "42"))
            )
        except RewardError as error:
            self.error = error
            return None
        try:
            unformed = self.score("It must be 43", "42", chat)
        except RewardError:
            unformed = 0.0
        aspects = {
            "answer": right > wrong,
            "format": wrong > unformed and style == "tags",
            "reflection": reflective > right,
        }
        found = tuple(aspect for aspect, pays in aspects.items() if pays)
        return Probe(style, chat, found, right, wrong, unformed, reflective)

    def pace(self, budget: float = math.inf) -> float:
        """Seconds that it takes for one completion, once what it imports or loads with its first call is there.

        budget: seconds after which it is called no third time.
        """
        took: list[float] = []
        for chat in (False, True, False, True):
            if len(took) > 1 and sum(took) > budget:
                break
            began = time.perf_counter()
            with contextlib.suppress(RewardError):
                self._raw(VARIED[0], "42", chat)
            took.append(time.perf_counter() - began)
        return min(took)  # where other programs are at work, the others were waited for

    def run(self, budget: float = math.inf) -> Report:
        """Every case that this reward is concerned with, or as many as take so many seconds.

        Raises OutOfTime where they do not suffice to find what it pays for.
        """
        self.deadline = time.perf_counter() + budget
        probe = self.probe()
        report = Report(self.reward.__name__, probe, constant=self.constant())
        with tempfile.TemporaryDirectory() as folder:
            canary = Path(folder) / "executed"
            for case in _cases(probe, str(canary)):
                try:
                    self._try(case, probe, report)
                except OutOfTime:
                    report.left_out += 1
                    continue
                if canary.exists():
                    canary.unlink()
                    report.findings.append(Finding(case, "executed", None))
        if not self._shared:
            self.reward.close()
        return report

    def _try(self, case: Case, probe: Probe, report: Report) -> None:
        key = (case.aspect, case.family)
        killed, problem, score = self.reward.killed.total, "", None
        start = time.perf_counter()
        try:
            score = self.score(case.completion, case.gold, probe.chat)
            problem = self._judge(case, score, probe)
        except RewardError:
            problem = "raised"
        took = time.perf_counter() - start
        if self.reward.killed.total > killed:
            problem = "killed"
        elif took > self.seconds / 2:
            problem = problem or "slow"
        report.counts[key] = report.counts.get(key, 0) + 1
        report.slowest[key] = max(report.slowest.get(key, 0.0), took)
        if problem:
            report.findings.append(Finding(case, problem, score))

    def _judge(self, case: Case, score: float, probe: Probe) -> str:
        if case.aspect == "reflection":  # at most what one honest reflection earns; at least that for an honest one
            if score > probe.reflective + 1e-9:
                return "paid" if not case.pay else ""
            return "refused" if case.pay and score < probe.reflective - 1e-9 else ""
        low, high = (probe.wrong, probe.right) if case.aspect == "answer" else (probe.unformed, probe.wrong)
        paid = score > (low + high) / 2
        return "" if paid == case.pay else ("paid" if paid else "refused")


def _cases(probe: Probe, canary: str) -> Iterator[Case]:
    render = STYLES[probe.style]
    if "answer" in probe.aspects:
        for pairs, pay in ((cases.WRONG, False), (cases.SAME, True)):
            for family, members in pairs.items():
                for gold, answer in members:
                    yield Case(family, "answer", gold, render(cases.NEUTRAL, answer), pay)
        if probe.style == "tags":
            for family, completion in cases.MISPLACED:
                yield Case(family, "answer", "42", completion, False)
        for family, attacks in cases.ATTACKS.items():
            for attack in attacks:
                attack = attack.replace("{canary}", canary)
                yield Case(family, "answer", "42", render(cases.NEUTRAL, attack), False)
    if "format" in probe.aspects:
        for pay, completion in cases.FORMATS:
            gold = "42" if "answer" not in probe.aspects else "no answer earns anything here"
            yield Case("well formed" if pay else "malformed", "format", gold, completion, pay)
    if "reflection" in probe.aspects:
        for pay, thought in cases.REFLECTIONS:
            yield Case("honest" if pay else "stuffed", "reflection", "42", render(thought, "42"), pay)
        for family, thoughts in cases.WORDS_ALONE.items():
            for thought in thoughts:
                yield Case(family, "reflection", "42", render(thought, "42"), False)


def main(argv: list[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="audit", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("reward", help="a registered name, or my_module:my_reward")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="a setting of the reward")
    parser.add_argument(
        "--column", action="append", default=[], metavar="NAME[=VALUE]", help="a column of the data; the gold, or VALUE"
    )
    parser.add_argument("--seconds", type=float, default=2.0, help="the limit for one completion")
    parser.add_argument("--strict", action="store_true", help="a right answer refused is a failure too")
    options = parser.parse_args(argv)
    try:
        settings = dict(_setting(text) for text in options.set)
        columns = dict(_setting(text) if "=" in text else (text, GOLD) for text in options.column)
        report = Audit(options.reward, settings, columns, options.seconds).run()
    except RewardError as error:
        print(f"audit: {error}", file=sys.stderr)
        return 2
    print(report.text())
    return 0 if report.passed(options.strict) else 1


def _setting(text: str) -> tuple[str, Any]:
    import yaml

    name, equals, value = text.partition("=")
    if not equals:
        raise RewardError(f"{text}: write NAME=VALUE")
    return name, yaml.safe_load(value)
