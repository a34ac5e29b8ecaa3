"""What does a reward wrongly pay? Try it: a battery of hacks, equivalences and attacks against any reward.

    python -m rewards.audit accuracy
    python -m rewards.audit my_module:my_reward --set threshold=0.5 --column ground_truth

The reward has TRL's signature and is called one completion at a time, in a worker process that is killed if
it hangs. First it is probed with honest completions, to find what it pays for (answers, form, reflection)
and in which style it reads them (tags or a box, text or messages); then it gets the cases for that.

Exit code: 0 if nothing is wrongly paid, raises, hangs or runs code; 1 if something does; 2 for a mistake in
the command. Right answers that it refuses are shown, and count with `--strict`.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rewards import audit_cases as cases
from rewards.audit_cases import Case
from rewards.registry import RewardError
from rewards.sandbox import Sandbox

STYLES: dict[str, Callable[[str, str], Any]] = {
    "tags": lambda think, answer: f"<think>{think}</think>\n<answer>{answer}</answer>",
    "box": lambda think, answer: f"{think}\n\n\\boxed{{{answer}}}",
}
PROMPT = "What is 6 times 7?"


@dataclass
class Probe:
    """What a reward pays honest completions, and so what it is."""

    style: str
    chat: bool
    aspects: tuple[str, ...]
    right: float
    wrong: float
    unformed: float
    reflective: float


@dataclass
class Finding:
    """What went wrong with one case."""

    case: Case
    problem: str
    """"paid", "refused", "raised", "slow", "killed" or "executed"."""
    score: float | None


@dataclass
class Report:
    """The outcome of an audit."""

    name: str
    probe: Probe
    counts: dict[tuple[str, str], int] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)
    slowest: dict[tuple[str, str], float] = field(default_factory=dict)

    def passed(self, strict: bool = False) -> bool:
        return all(finding.problem == "refused" and not strict for finding in self.findings)

    def text(self, shown: int = 40) -> str:
        """The table, one line a family, and the cases behind it."""
        probe = self.probe
        style = f"{probe.style}, {'messages' if probe.chat else 'text'}"
        lines = [f"{self.name} pays for {', '.join(probe.aspects) or 'nothing that was tried'} ({style})", ""]
        lines.append(f"{'':11}{'family':22}{'cases':>6}{'paid':>6}{'refused':>9}{'failed':>8}{'slowest':>11}")
        for (aspect, family), count in self.counts.items():
            mine = [f.problem for f in self.findings if (f.case.aspect, f.case.family) == (aspect, family)]
            paid, refused = mine.count("paid"), mine.count("refused")
            failed, slowest = len(mine) - paid - refused, self.slowest[aspect, family] * 1000
            lines.append(f"{aspect:11}{family:22}{count:6}{paid:6}{refused:9}{failed:8}{slowest:8.1f} ms")
        for finding in sorted(self.findings, key=lambda found: found.problem == "refused")[:shown]:
            text, gold = _shown(finding.case.completion), _shown(finding.case.gold)
            lines.append(f"{finding.problem:>9} {finding.score!s:>6}  gold {gold}  {text}")
        if len(self.findings) > shown:
            lines.append(f"... and {len(self.findings) - shown} more")
        wrong = sum(finding.problem != "refused" for finding in self.findings)
        lines += ["", f"{wrong} wrongly paid or failed, {len(self.findings) - wrong} right ones refused"]
        return "\n".join(lines)


class Audit:
    """A reward under audit, in its sandbox."""

    def __init__(self, name: str, settings: dict[str, Any], columns: tuple[str, ...] = (), seconds: float = 2.0):
        self.reward = Sandbox(name, settings, seconds=seconds)
        self.columns, self.seconds = {"answer", "solution", *columns}, seconds

    def score(self, completion: str, gold: str, chat: bool) -> float:
        made: Any = [{"role": "assistant", "content": completion}] if chat else completion
        score = self.reward([made], prompts=[PROMPT], **{column: [gold] for column in self.columns})[0]
        return score or 0.0

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

    def run(self) -> Report:
        """Every case that this reward is concerned with."""
        probe = self.probe()
        report = Report(self.reward.__name__, probe)
        with tempfile.TemporaryDirectory() as folder:
            canary = Path(folder) / "executed"
            for case in _cases(probe, str(canary)):
                self._try(case, probe, report)
                if canary.exists():
                    canary.unlink()
                    report.findings.append(Finding(case, "executed", None))
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


def _shown(text: str, length: int = 70) -> str:
    shown = ascii(text)
    return shown if len(shown) <= length else f"{shown[: length // 2]} ... {shown[-length // 3 :]}"


def main(argv: list[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="audit", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("reward", help="a registered name, or my_module:my_reward")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="a setting of the reward")
    parser.add_argument("--column", action="append", default=[], help="another column that the gold is passed under")
    parser.add_argument("--seconds", type=float, default=2.0, help="the limit for one completion")
    parser.add_argument("--strict", action="store_true", help="a right answer refused is a failure too")
    options = parser.parse_args(argv)
    try:
        settings = dict(_setting(text) for text in options.set)
        report = Audit(options.reward, settings, tuple(options.column), options.seconds).run()
    except RewardError as error:
        print(f"audit: {error}", file=sys.stderr)
        return 2
    print(report.text())
    return 0 if report.passed(options.strict) else 1


def _setting(text: str) -> tuple[str, Any]:
    import yaml

    name, equals, value = text.partition("=")
    if not equals:
        raise RewardError(f"--set {text}: write NAME=VALUE")
    return name, yaml.safe_load(value)


if __name__ == "__main__":
    sys.exit(main())
