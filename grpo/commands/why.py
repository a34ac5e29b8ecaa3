"""Why a completion earned what it earned, in words: for `grpo sample` and `grpo base`.

accuracy    1.00 x 1    42: the same number
format      0.00 x 0.2  </answer> is missing
reflection  0.00 x 0.2  2 reflections; the answer is wrong
total       1
"""

from __future__ import annotations

from typing import Any

from grpo.runs.config import Config
from grpo.runs.journal import Judged
from rewards.accuracy import gold_answer, grading_config
from rewards.answer import extract_answer
from rewards.format import format_score
from rewards.grader.answer import verdict
from rewards.habits import count_habits

TAGS = ("<think>", "</think>", "<answer>", "</answer>")


def earned(config: Config, judged: Judged) -> list[dict[str, Any]]:
    """What each reward of the run gave a completion: its name, score (None: it does not apply), weight, and why."""
    rows = []
    for name, score in judged.rewards.items():
        reward = config.rewards.get(name)
        function = ((reward.function if reward else "") or name).removesuffix("_reward")
        args = reward.args if reward else {"require_tags": config.eval.require_tags}
        text = "does not apply" if score is None else reason(function, args, judged)
        rows.append({"reward": name, "score": score, "weight": reward.weight if reward else 0.0, "why": text})
    return rows


def lines(config: Config, judged: Judged) -> str:
    """The same as a table, with the total."""
    rows, name_width = earned(config, judged), max(map(len, [*judged.rewards, "total"]))
    shown = [("-" if row["score"] is None else f"{row['score']:.2f}") + f" x {row['weight']:g}" for row in rows]
    width = max(map(len, shown), default=0)
    table = [
        f"    {row['reward']:<{name_width}}  {text:<{width}}  {row['why']}".rstrip()
        for row, text in zip(rows, shown, strict=True)
    ]
    total = sum(row["score"] * row["weight"] for row in rows if row["score"] is not None)
    return "\n".join([*table, f"    {'total':<{name_width}}  {total:.4g}"])


def reason(function: str, args: dict[str, Any], judged: Judged) -> str:
    """Why one of our rewards gave its score; empty for another's."""
    if function == "accuracy":
        return _accuracy(args, judged)
    if function == "format":
        return "think, then answer, nothing else" if format_score(judged.text) else what_is_wrong(judged.text)
    if function == "reflection":
        gated = args.get("mode", "gated") == "gated" and not judged.correct
        return f"{_number(judged.reflections, 'reflection')}{'; the answer is wrong' if gated else ''}"
    if function == "habits":
        found = [f"{name} {count}" for name, count in count_habits(judged.text).items() if count]
        return ", ".join(found) or "no such word"
    if function in ("length", "repetition"):
        return f"{_number(judged.tokens, 'token')}{', cut off' if judged.truncated else ''}"
    return ""


def _accuracy(args: dict[str, Any], judged: Judged) -> str:
    require_tags = args.get("require_tags", True)
    answer = extract_answer(judged.text, require_tags)
    if answer is None:
        return "no answer in <answer> tags" if require_tags else "no answer is found"
    found = verdict(gold_answer(judged.gold), answer, grading_config(args.get("grading")))
    return f"{' '.join(answer.split())[:60]!r}: {found.rule}" + ("" if found.paid else f", gold {judged.gold!r}")


def what_is_wrong(text: str) -> str:
    """The first thing that keeps a completion from having the form of the format reward."""
    for tag in TAGS:
        if (count := text.count(tag)) != 1:
            return f"{tag} is missing" if not count else f"{tag} occurs {count} times"
    places = [text.index(tag) for tag in TAGS]
    if places != sorted(places):
        return "the tags are in another order"
    thought, answer = (text[places[i] + len(TAGS[i]) : places[i + 1]].strip() for i in (0, 2))
    for name, part in (("thought", thought), ("answer", answer)):
        if not part:
            return f"the {name} is empty"
    outside = {
        "before <think>": text[: places[0]],
        "between </think> and <answer>": text[places[1] + len(TAGS[1]) : places[2]],
        "after </answer>": text[places[3] + len(TAGS[3]) :],
    }
    found = (f"there is text {where}" for where, part in outside.items() if part.strip())
    return next(found, "the thought says nothing")


def _number(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"
