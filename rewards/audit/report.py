"""What an audit found, as a table."""

from __future__ import annotations

from dataclasses import dataclass, field

from rewards.audit.cases import Case

FORMS = {False: "text", True: "messages"}
READ = "read completion[0]['content'], or rewards.text.completion_text(completion)"
NO_CASE = "looks at neither answer, form nor reflection, as a reward of length does: there is no case for what it pays"
GIVE = "If it reads a column of the data, give it: --column NAME (it holds the gold answer) or --column NAME=VALUE."


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
    constant: dict[str, float | None] = field(default_factory=dict)
    """The forms of a completion ("text", "messages") that it pays all alike, and what."""
    slowest: dict[tuple[str, str], float] = field(default_factory=dict)
    left_out: int = 0
    """Cases that were not tried, for their time."""

    def passed(self, strict: bool = False) -> bool:
        return not self.constant and all(found.problem == "refused" and not strict for found in self.findings)

    def line(self, chat: bool) -> str:
        """The outcome in one line. chat: whether the run's completions are messages."""
        if FORMS[chat] in self.constant:
            return next(line for line in self._constant() if len(self.constant) == len(FORMS) or FORMS[chat] in line)
        if not self.probe.aspects:
            return NO_CASE
        tried, wrong = sum(self.counts.values()), sum(finding.problem != "refused" for finding in self.findings)
        more = f", {self.left_out} not tried for their time" if self.left_out else ""
        return (
            f"pays for {', '.join(self.probe.aspects)}; of {tried} cases {wrong} wrongly paid or failed, "
            f"{len(self.findings) - wrong} right ones refused{more}"
        )

    def text(self, shown: int = 40) -> str:
        """The table, one line a family, and the cases behind it."""
        probe = self.probe
        lines = self._constant()
        if len(self.constant) == len(FORMS):
            return "\n".join([*lines, GIVE])
        if not probe.aspects:
            return "\n".join([*lines, f"{self.name} {NO_CASE}"])
        lines += [f"{self.name} pays for {', '.join(probe.aspects)} ({probe.style}, {FORMS[probe.chat]})", ""]
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
        lines += ["why the grader pays an answer or not: grpo grade GOLD ANSWER"] * ("answer" in probe.aspects)
        return "\n".join(lines)

    def _constant(self) -> list[str]:
        value = {form: "None, does not apply" if paid is None else f"{paid:g}" for form, paid in self.constant.items()}
        if len(value) == len(FORMS):
            return [f"{self.name} is constant: pays everything alike ({', '.join(dict.fromkeys(value.values()))})"]
        advice = {"text": "a model without a chat template gives text", "messages": f"a chat model gives them: {READ}"}
        return [
            f"{self.name} is constant on {form}: pays everything alike ({value[form]}); {advice[form]}"
            for form in value
        ]


def _shown(text: str, length: int = 70) -> str:
    shown = ascii(text)
    return shown if len(shown) <= length else f"{shown[: length // 2]} ... {shown[-length // 3 :]}"
