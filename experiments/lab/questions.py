"""The questions of the findings, and the tables of their answers, for docs/findings.md and README."""

from __future__ import annotations

from experiments.lab.tables import in_a_cell, read, together

Question = tuple[str, str, tuple[str, ...], str, str]
"""A question, its page, the results (their seeds are taken together) and the two variants that answer it."""
TEN = ("paper", "again/paper")
"""Seeds 0 to 4 and 5 to 9."""
UNPAID = "no reflection reward"
FINDINGS: tuple[Question, ...] = (
    ("Does SFT help?", "stages", TEN, "SFT, full", "base"),
    ("Does GRPO add to SFT?", "stages", TEN, "SFT + GRPO", "SFT, full"),
    ("Does SFT before GRPO help, at equal steps of GRPO?", "stages", TEN, "SFT + GRPO", "GRPO only"),
    (
        "Does SFT before GRPO help, at about equal compute?",
        "stages",
        ("again/paper",),
        "SFT + GRPO",
        "GRPO only, equal compute",
    ),
    ("Does SFT with LoRA, rank 16, differ from full-parameter SFT?", "stages", TEN, "SFT, LoRA", "SFT, full"),
    ("Do they differ after GRPO from each?", "sft", ("sft",), "LoRA 16", "full"),
    (
        "Does a loss on the prompts too, in full-parameter SFT, cost accuracy after GRPO?",
        "sft",
        ("sft",),
        "full, prompts too",
        "full",
    ),
    ("Dr. GRPO's preset in place of GRPO's, same learning rate?", "losses", ("losses",), "dr_grpo", "grpo"),
    (
        "SAPO's (a soft gate, no KL)? Of 13 compared: not shown if corrected for that",
        "losses",
        ("losses",),
        "sapo",
        "grpo",
    ),
    ("The KL left out, four mini-batches a rollout?", "kl", ("kl",), "none", "k3"),
    ("There, k1 in place of k3? Of 8 compared: not shown if corrected for that", "kl", ("kl",), "k1", "k3"),
    ("There, an entropy bonus of 0.01?", "kl", ("kl",), "k3, entropy bonus", "k3"),
    ("There, the clip wide open, KL kept?", "kl", ("kl",), "no clip", "k3"),
    ("Groups of 4 in place of 8, at equal samples?", "groups", ("groups",), "64 x 4, no refill", "32 x 8, no refill"),
    ("Groups of 32 in place of 8, at equal samples?", "groups", ("groups",), "8 x 32, no refill", "32 x 8, no refill"),
    ("No refilling: dropped groups are not replaced?", "groups", ("groups",), "32 x 8, no refill", "32 x 8"),
    ("Flat groups kept, at equal samples?", "groups", ("groups",), "32 x 8, nothing dropped", "32 x 8, no refill"),
    ("Samples drawn at temperature 0.3 in training?", "failures", ("failures",), "temperature 0.3", "the demo"),
    (
        "100 steps without KL in place of 25 with it? (two changes)",
        "failures",
        ("failures",),
        "no KL, 100 steps",
        "the demo",
    ),
    ("Does TRL's trainer learn the same from the same recipe?", "trl", ("trl",), "ours", "TRL"),
    ("Where a check corrects a slip: does `gated` change accuracy?", "reflection", ("reflection",), "gated", "none"),
    ("There, `ungated`?", "reflection", ("reflection",), "ungated", "none"),
    ("Where a check repeats a slip: does `gated` change accuracy?", "reflection", ("incompetent",), "gated", "none"),
    ("There, `ungated`?", "reflection", ("incompetent",), "ungated", "none"),
    (
        "Groups of equal accuracy train, a check repeats a slip: what does `gated`, divided by the spread, change?",
        "spread",
        ("spread",),
        "gated, group",
        f"{UNPAID}, group",
    ),
    ("There, `gated`, not divided by the spread?", "spread", ("spread",), "gated, none", f"{UNPAID}, none"),
    (
        "There, `waits`, divided by the spread? Of 6 compared: not shown if corrected for that",
        "spread",
        ("spread",),
        "waits, group",
        f"{UNPAID}, group",
    ),
    ("There, `waits`, not divided?", "spread", ("spread",), "waits, none", f"{UNPAID}, none"),
    (
        "Groups of equal accuracy train, a check corrects a slip: what does `gated`, divided by the spread, change?",
        "spread",
        ("spread_helps",),
        "gated, group",
        f"{UNPAID}, group",
    ),
    (
        "There, `gated`, not divided by the spread?",
        "spread",
        ("spread_helps",),
        "gated, none",
        f"{UNPAID}, none",
    ),
    (
        "There, `waits`, divided by the spread? Of 6 compared: not shown if corrected for that",
        "spread",
        ("spread_helps",),
        "waits, group",
        f"{UNPAID}, group",
    ),
    (
        "There, `waits`, not divided? Of 6 compared: not shown if corrected for that",
        "spread",
        ("spread_helps",),
        "waits, none",
        f"{UNPAID}, none",
    ),
)


SUMMARY: tuple[Question, ...] = (
    (
        "SFT before GRPO, not GRPO alone, at about equal compute",
        "stages",
        ("again/paper",),
        "SFT + GRPO",
        "GRPO only, equal compute",
    ),
    (
        "a loss on the prompts too, in full-parameter SFT, after GRPO",
        "sft",
        ("sft",),
        "full, prompts too",
        "full",
    ),
    ("the reflection reward, where a check corrects a slip", "reflection", ("reflection",), "gated", "none"),
    ("the reflection reward, where it repeats it", "reflection", ("incompetent",), "gated", "none"),
    (
        "there, a reward for the word `wait`, weight 0.2, divided by the spread",
        "spread",
        ("spread",),
        "waits, group",
        f"{UNPAID}, group",
    ),
    ("the same, not divided", "spread", ("spread",), "waits, none", f"{UNPAID}, none"),
    ("Dr. GRPO's preset (loss, advantage, no KL) in place of GRPO's", "losses", ("losses",), "dr_grpo", "grpo"),
    ("the clip wide open, with four mini-batches a rollout", "kl", ("kl",), "no clip", "k3"),
    ("groups of 32, not 8, at equal samples", "groups", ("groups",), "8 x 32, no refill", "32 x 8, no refill"),
    (
        "a learning rate 30 times as high, and other failures",
        "failures",
        ("failures",),
        "learning rate 30 times as high",
        "the demo",
    ),
    ("SmolLM2-135M-Instruct on SVAMP: GRPO after SFT", "svamp", ("svamp",), "SFT + GRPO", "SFT"),
)
"""Those of the README, in fewer words."""


def answer(names: tuple[str, ...], one: str, other: str) -> str:
    """The paired difference in sampled accuracy, over the seeds of these results, and how many those are."""
    d = together([read(name) for name in names], one, other, "sampled")
    return f"{in_a_cell(d)} | {d.seeds}"


def findings() -> str:
    """A row per question: the paired difference that answers it."""
    lines = ["| question | difference in sampled accuracy | shown? | seeds | page |", "|---|---|---|---|---|"]
    for question, page, names, one, other in FINDINGS:
        cell = answer(names, one, other)
        lines.append(f"| {question} | `{one}` less `{other}`: {cell} | [{page}](findings/{page}.md) |")
    return "\n".join(lines)


def summary() -> str:
    """The README's rows: one or two of each page of findings."""
    heads = ["what it does to accuracy, sampled and held out", "in pairs", "is a difference shown?", "seeds"]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for question, page, names, one, other in SUMMARY:
        cell = answer(names, one, other)
        lines.append(f"| [{question}](docs/findings/{page}.md) | {cell} |")
    ends = (
        "All rows but the last: one small model, one kind of problem. AMD EPYC. The commands, and more questions: "
        "[docs/findings.md](docs/findings.md)."
    )
    return "\n".join([*lines, "", ends])
