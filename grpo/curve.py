"""The held-out curve: evaluations during training, before the first step, every `eval.every` steps and after the last.

    curve.jsonl     a line per evaluation: finished steps, completions sampled for training so far, shares of right
                    completions, and `right`, how many of its sampled completions are right for each problem in turn
    best/           the model of the highest sampled accuracy so far (`eval.keep_best`)

Problems and random numbers are those of every evaluation, so that points, runs and arms can be compared in pairs. A
run that continues from step s evaluates at s again and drops what came after it: the curve is the same as without a
stop.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from grpo.distributed import from_first
from grpo.evaluation import describe, held_out, judge_held_out, origin, per_problem
from grpo.model.policy import Policy
from grpo.runs.config import Config
from grpo.runs.files import write_text
from grpo.runs.folder import EVALUATION
from grpo.runs.journal import Journal
from grpo.runs.keeper import Keeper
from grpo.runs.log import say

CURVE = "curve.jsonl"
FIGURES = ("format", "reflections", "length", "truncated")


def held_out_point(keeper: Keeper, step: int) -> None:
    """Evaluate the policy after `step` finished steps, if it is time to; note it in curve.jsonl. Raises Stopped."""
    config, policy, run, last = keeper.config, keeper.policy, keeper.run, step == keeper.steps
    every = config.eval.every
    if not every or (step % every and not last):
        return
    journal = Journal(run)  # asks whether to stop, and keeps nothing
    if last and config.eval.at_end and not config.eval.every_count:
        problems = held_out(config, policy)
        journal = Journal(run, EVALUATION, origin(config, policy, problems))  # what the end would evaluate again
    row = point(config, policy, step, journal)
    before = from_first(lambda: [one for one in read_curve(run.folder) if one["step"] < step])
    if config.eval.keep_best and all(row["accuracy"] > one["accuracy"] for one in before):
        keeper.save_model("best")
    row["completions"] = from_first(lambda: sampled_before(run.folder, step, config.grpo.group_size))
    write_text(run.folder / CURVE, "".join(json.dumps(one) + "\n" for one in [*before, row]))
    run.tell("evaluation", step, row)
    say(f"step {step}: held-out accuracy {row['accuracy']:.3f}, greedy {row['greedy']:.3f}")


def point(config: Config, policy: Policy, step: int, journal: Journal | None = None) -> dict[str, Any]:
    """A point of the curve: the policy after `step` steps on the first `eval.every_count` held-out problems."""
    problems = held_out(config, policy)[: config.eval.every_count or None]
    sampled, greedy = judge_held_out(config, policy, problems, journal or Journal())
    now, shares = describe(sampled), per_problem(sampled, len(problems))
    return {
        "step": step,
        "problems": len(problems),
        "accuracy": now["accuracy"],
        "greedy": describe(greedy)["accuracy"],
        **{name: now[name] for name in FIGURES},
        "rewards": now["rewards"],
        "right": [round(share * config.eval.samples) for share in shares],
    }


def read_curve(run: Path) -> list[dict[str, Any]]:
    """The points of a run's curve, in order; those before the first damaged line, none without a curve."""
    rows: list[dict[str, Any]] = []
    for row in read_rows(run / CURVE):
        if not isinstance(row.get("accuracy"), float | int):
            break
        rows.append(row)
    return rows


def sampled_before(run: Path, step: int, group_size: int) -> int:
    """How many completions were sampled for training in the first `step` steps, dropped groups included."""
    rows = [row for row in read_rows(run / "metrics.jsonl") if row["step"] <= step]
    return round(sum(row.get("groups", 0) + row.get("dropped", 0) for row in rows) * group_size)


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The objects with a step in a file of JSON lines, up to the first line that is damaged."""
    rows: list[dict[str, Any]] = []
    for line in path.read_bytes().splitlines() if path.is_file() else ():
        try:
            row = json.loads(line)
        except ValueError:
            break
        if not isinstance(row, dict) or not isinstance(row.get("step"), int):
            break
        rows.append(row)
    return rows
