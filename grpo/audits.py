"""When GRPO begins: what does a reward of the user's wrongly pay? A line for each, of `python -m grpo audit`.

    audit of my_rewards:contains: pays for answer; of 201 cases 58 wrongly paid or failed, 31 right ones refused; all of
    it: python -m grpo audit my_rewards:contains

It runs in the worker process that the reward has in any case, and takes milliseconds; a reward that is too slow for
that (a model that judges) is not audited. Nothing that an audit finds, or that goes wrong in it, stops a run.
"""

from __future__ import annotations

import json

from grpo.distributed import rank
from grpo.runs.config import Config, RewardConfig
from grpo.runs.hints import program
from grpo.runs.log import say
from grpo.scoring import RewardSet
from grpo.types import Problem
from rewards.audit import GOLD, Audit
from rewards.audit.audit import PROMPT, OutOfTime
from rewards.audit.report import NO_CASE
from rewards.sandbox import Sandbox

SLOW = 0.05  # seconds a completion from which on a reward is not audited
BUDGET = 1.0  # seconds that finding its pace may take, and again what is tried then
LIMIT = 0.5  # seconds after which a case is killed, where a completion of the run may take longer


def say_audits(config: Config, rewards: RewardSet, problems: list[Problem], chat: bool) -> None:
    """Audit each reward that is named by its import path. chat: whether completions are messages."""
    if rank():
        return
    for name, reward in config.rewards.items():
        path = reward.function or name
        if ":" in path:
            try:
                found = audit_line(path, reward, rewards.functions[name], problems[0], chat)
            except Exception as error:  # the user's code; whatever it does here, it may work in the run
                found = f"not made ({said(error)[:200]})"
            more = "" if found == NO_CASE else f"; all of it: {command(path, reward)}"
            say(f"audit of {path}: {found}{more}")


def audit_line(path: str, reward: RewardConfig, function: object, problem: Problem, chat: bool) -> str:
    """The outcome for one reward. function: what the run calls; problem: one of the data, for its columns."""
    if not isinstance(function, Sandbox):
        return "not made in the trainer's own process (sandbox.enabled=false)"
    columns = {key: GOLD if value == problem.answer else value for key, value in problem.columns.items()}
    audit = Audit(path, reward.args, {"question": PROMPT, **columns}, LIMIT, reward=function)
    seconds, function.seconds = function.seconds, LIMIT
    try:
        killed = function.killed.total
        pace = audit.pace(BUDGET)
        if function.killed.total > killed:
            return f"not made, since its worker ended, or was killed after {LIMIT:g} s"
        if pace > SLOW:
            return f"not made, since a completion takes {pace:.2g} s"
        return audit.run(BUDGET).line(chat)
    except OutOfTime:
        return f"not made, since it takes more than {BUDGET:g} s to see what the reward pays for"
    finally:
        function.seconds = seconds


def said(error: Exception) -> str:
    """An error in a line; of a worker's traceback what was raised."""
    lines = str(error).splitlines()
    start = max((i for i, line in enumerate(lines) if "Traceback (most recent call last)" in line), default=-1)
    return " ".join(" ".join(line for line in lines[start + 1 :] if start < 0 or line[:1].strip()).split())


def command(path: str, reward: RewardConfig) -> str:
    """The command that shows the whole audit."""
    settings = "".join(f" --set '{key}={json.dumps(value)}'" for key, value in reward.args.items())
    return f"{program()} audit {path}{settings}"
