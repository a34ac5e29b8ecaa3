"""A reward of the user's is audited when GRPO begins: one line, whatever it does, and the run goes its way."""

from __future__ import annotations

import re
import time

import pytest
from helpers_runs import grpo, lines, write_module

from grpo import audits
from grpo.runs.config import Config, RewardConfig, SandboxConfig
from grpo.runs.hints import program
from grpo.scoring import load_rewards
from grpo.types import Problem

BODY = """
import re, time

def waits(completions, weight=1, **columns):
    return [weight * float("wait" in text.lower()) for text in completions]

def contains(completions, truth, **columns):
    return [float(gold in text) for text, gold in zip(completions, truth)]

def slow(completions, **columns):
    time.sleep(0.25)
    return [float(len(text)) for text in completions]

def hangs(completions, **columns):
    while any("wait" in text.lower() for text in completions):
        pass
    return [float("42" in text) for text in completions]

def needs(completions, nothing_has_it, **columns):
    return [1.0] * len(completions)

def text_only(completions, **columns):
    return [-float(len(made)) for made in completions]

def raises(completions, **columns):
    raise KeyError("a column")

def ends(completions, **columns):
    import os
    os._exit(3)

def waits_for_some(completions, **columns):
    time.sleep(0 if "42" in str(completions) else 9)
    return [float("42" in text) for text in completions]
"""
PROBLEM = Problem(id="p", question="What?", answer="4", solution="", columns={"truth": "4", "level": "1"})


@pytest.fixture
def said(tmp_path, monkeypatch, capsys):
    """What is said of a function of BODY."""
    module = write_module(tmp_path, monkeypatch, BODY)
    monkeypatch.setattr(audits, "BUDGET", 60.0)  # whatever else this machine does
    monkeypatch.setattr(audits, "SLOW", 0.2)

    def of(function: str, chat: bool = False, sandbox: bool = True, **args) -> str:
        config = Config(
            rewards={"mine": RewardConfig(function=f"{module}:{function}", args=args), "format": RewardConfig()}
        )
        rewards = load_rewards(config.rewards, SandboxConfig(enabled=sandbox))
        audits.say_audits(config, rewards, [PROBLEM], chat)
        if sandbox:
            assert rewards.functions["mine"].seconds == SandboxConfig().seconds  # the run's limit is as it was
            rewards.functions["mine"].close()
        text = capsys.readouterr().err
        assert text.startswith(f"audit of {module}:{function}: ") and text.count("\n") == 1, text  # and none of ours
        return text.partition(": ")[2].rstrip().replace(module, "M")

    return of


def test_the_last_line_of_the_audit_is_said_with_the_command_that_shows_all(said):
    text = said("waits", weight=2)
    assert text.startswith("pays for reflection; of 21 cases ")
    assert text.endswith(f"; all of it: {program()} audit M:waits --set 'weight=2'")


def test_a_column_of_the_data_that_holds_the_gold_is_found(said):
    wrong = re.match(
        r"pays for answer; of (\d+) cases (\d+) wrongly paid or failed, \d+ right ones refused;", said("contains")
    )
    assert int(wrong[1]) > 100 and int(wrong[2]) > 5


def test_a_reward_that_pays_all_messages_alike_says_so_where_completions_are_messages(said):
    assert "is constant on messages: pays everything alike (-1)" in said("text_only", chat=True)
    assert said("text_only").endswith("there is no case for what it pays")  # and no command, which says no more


@pytest.mark.parametrize(
    ("function", "words"),
    [
        ("slow", "not made, since a completion takes 0."),
        ("needs", "not made (needs needs nothing_has_it: "),
        ("raises", "not made (KeyError: 'a column');"),
        ("ends", "not made, since its worker ended"),
    ],
)
def test_what_cannot_be_audited_is_said_in_a_line(said, function, words):
    assert said(function).startswith(words)


def test_a_reward_that_hangs_is_killed_soon(said, monkeypatch):
    monkeypatch.setattr(audits, "LIMIT", 0.1)
    began = time.monotonic()
    assert said("hangs").startswith("pays for answer; of ")
    assert time.monotonic() - began < 30  # it hangs about ten times, and each would take the run's limit of 5 seconds


def test_an_audit_ends_when_its_time_is_used_up(said, monkeypatch):
    monkeypatch.setattr(audits, "BUDGET", 0.0)
    assert said("waits").startswith("not made, since it takes more than 0 s to see what the reward pays for")


def test_a_reward_that_hangs_on_some_completions_does_not_hold_up_the_probing(said, monkeypatch):
    monkeypatch.setattr(audits, "BUDGET", 1.0)
    assert said("waits_for_some").startswith("not made, since it takes more than 1 s to see")


def test_without_a_sandbox_none_is_made(said):
    assert "sandbox.enabled=false" in said("waits", sandbox=False)


def test_a_run_says_it_once_before_its_first_step(tmp_path, monkeypatch, capsys):
    module = write_module(tmp_path, monkeypatch, BODY)
    assert (
        grpo(
            "grpo",
            tmp_path / "run",
            f"rewards.mine.function={module}:waits",
            grpo__drop_zero_spread="false",
            sandbox__enabled="true",
        )
        == 0
    )
    text = capsys.readouterr().err
    assert text.count(f"audit of {module}:waits: pays for reflection") == 1
    assert text.index("audit of") < text.index("grpo 4/4")
    assert [row["killed"] for row in lines(tmp_path / "run" / "metrics.jsonl")] == [0.0] * 4
