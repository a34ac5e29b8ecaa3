"""The audit finds what is wrong with rewards that people write, and nothing with ours."""

from __future__ import annotations

import sys

import pytest

from rewards.audit import GOLD, Audit, main

REWARDS = '''
import re

def substring(completions, answer, **columns):
    """Pays whatever contains the gold."""
    return [float(bool(gold) and gold in text) for text, gold in zip(completions, answer)]

def last_number(completions, ground_truth, **columns):
    """Reads messages and the last number in them."""
    numbers = [re.findall(r"-?[0-9.]+", message[0]["content"].replace(",", "")) for message in completions]
    return [float(bool(found) and found[-1].strip(".") == gold) for found, gold in zip(numbers, ground_truth)]

def evaluating(completions, answer, **columns):
    """Runs what the model wrote."""
    scores = []
    for text, gold in zip(completions, answer):
        found = re.search("<answer>(.*?)</answer>", text, re.S)
        try:
            scores.append(float(bool(found) and str(eval(found[1])) == gold))
        except Exception:
            scores.append(0.0)
    return scores

def hanging(completions, answer, **columns):
    """A regex that backtracks."""
    scores = []
    for text, gold in zip(completions, answer):
        found = re.search(r"<answer>(.*)</answer>", text, re.S)
        inner = found[1] if found else ""
        re.match(r"(1+)+$", inner + ("!" if len(inner) > 1000 else ""))
        scores.append(float(inner.strip() == gold.strip() != ""))
    return scores

def raising(completions, answer, **columns):
    return [float(float(re.search("<answer>(.*)</answer>", text)[1]) == 42) for text in completions]

def loose_format(completions, **columns):
    pattern = r"^<think>.*?</think>\\s*<answer>.*?</answer>$"
    return [float(bool(re.match(pattern, text, re.S | re.M))) for text in completions]

def keyword(completions, **columns):
    return [0.1 * len(re.findall("wait|check|verify", text.lower())) for text in completions]

def composed(completions, answer, **columns):
    from rewards import accuracy_reward, format_reward, reflection_reward
    rewards = accuracy_reward, format_reward, reflection_reward
    parts = [reward(completions, answer=answer) for reward in rewards]
    return [a + 0.2 * f + 0.1 * r for a, f, r in zip(*parts)]
'''


ALIKE = """
from rewards.text import completion_text

def short(completions, *, scale=1.0, **columns):
    '''Meant for text; of a chat model's completion, a list of one message, `len` is 1.'''
    return [-scale * len(text) for text in completions]

def shorter(completions, **columns):
    return [-float(len(completion_text(made))) for made in completions]

def only_messages(completions, **columns):
    return [float("42" in made[0]["content"]) if isinstance(made, list) else 0.5 for made in completions]

def alike(completions, **columns):
    return [1.0] * len(completions)

def never(completions, **columns):
    return [None] * len(completions)

def by_level(completions, **columns):
    levels = columns.get("level") or [0] * len(completions)
    return [float(level) * ("<answer>42</answer>" in str(made)) for made, level in zip(completions, levels)]

def needs(completions, level, *, least, **columns):
    return [float(each >= least and "<answer>42</answer>" in made) for made, each in zip(completions, level)]

def called_as_by_a_trainer(completions, completion_ids, prompts, trainer_state, log_metric, log_extra, **columns):
    log_metric("a", 1.0)
    assert isinstance(prompts[0], type(completions[0])) and trainer_state.max_steps
    return [-float(len(ids)) for ids in completion_ids]
"""


@pytest.fixture(autouse=True)
def peers(tmp_path, monkeypatch):
    (tmp_path / "peers.py").write_text(REWARDS)
    (tmp_path / "alike.py").write_text(ALIKE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])


def findings(name, problem, **settings):
    report = Audit(name, {}, **settings).run()
    return report, {finding.case.family for finding in report.findings if finding.problem == problem}


@pytest.mark.parametrize("name", ["accuracy", "format"])
def test_ours_pass(name, capsys):
    assert main([name, "--strict"]) == 0
    assert "0 wrongly paid or failed, 0 right ones refused" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["reflection", "peers:composed"])
def test_of_reflection_two_weaknesses_of_ours_are_known(name):
    """A step of the calculation counts as a check if it calls itself one, and a check of nothing counts as well."""
    found = Audit(name, {}).run().findings
    assert [(finding.case.family, finding.problem) for finding in found] == [
        ("a step called a check", "paid"),
        ("checks of nothing", "paid"),
    ]


def test_each_weakness_is_found():
    report, paid = findings("peers:substring", "paid")
    assert report.probe.aspects == ("answer",)
    assert {"several answers", "hedged or denied", "only thought of", "broken tags"} <= paid
    report, refused = findings("peers:substring", "refused")
    assert {"fractions", "expressions"} <= refused
    assert not report.passed()

    report, paid = findings("peers:loose_format", "paid")
    assert report.probe.aspects == ("format",) and paid == {"malformed"}

    report, paid = findings("peers:keyword", "paid")
    assert report.probe.aspects == ("reflection",) and paid >= {"stuffed", "a word repeated"}


def test_messages_boxes_and_other_columns_are_found_by_probing():
    report, paid = findings("peers:last_number", "paid", columns={"ground_truth": GOLD})
    assert report.probe.chat and report.probe.aspects == ("answer",)
    assert "several answers" in paid


def test_code_that_runs_and_rewards_that_hang_or_raise():
    report, executed = findings("peers:evaluating", "executed", seconds=0.7)
    assert executed == {"code"} and not report.passed()
    _, killed = findings("peers:hanging", "killed", seconds=0.7)
    assert "huge numbers" in killed
    _, raised = findings("peers:raising", "raised")
    assert "no answer" in raised


@pytest.mark.parametrize(
    ("name", "value"), [("alike", "(1)"), ("never", "(None, does not apply)"), ("by_level", "(0)")]
)
def test_a_reward_that_pays_everything_alike_is_no_all_clear(capsys, name, value):
    assert main([f"alike:{name}"]) == 1
    said = capsys.readouterr().out
    assert said.startswith(f"{name} is constant: pays everything alike {value}\n")
    assert "--column NAME (it holds the gold answer) or --column NAME=VALUE" in said
    assert "wrongly paid" not in said


def test_a_reward_that_is_constant_for_a_chat_model_says_what_to_read(capsys):
    assert main(["alike:short"]) == 1
    said = capsys.readouterr().out
    assert said.startswith("short is constant on messages: pays everything alike (-1); a chat model gives them: read ")
    assert "rewards.text.completion_text(completion)" in said and "wrongly paid" not in said
    assert main(["alike:only_messages"]) == 1
    assert "only_messages is constant on text: pays everything alike (0.5);" in capsys.readouterr().out


def test_a_reward_without_cases_of_its_kind_is_no_all_clear_either(capsys):
    assert main(["alike:shorter"]) == 0
    said = capsys.readouterr().out
    about = "shorter looks at neither answer, form nor reflection, as a reward of length does"
    assert said == f"{about}: there is no case for what it pays\n"
    assert main(["alike:called_as_by_a_trainer"]) == 0


def test_columns_are_given_by_name(capsys):
    main(["alike:by_level", "--column", "level=2"])
    assert "by_level pays for answer (tags, text)" in capsys.readouterr().out
    assert main(["alike:needs"]) == 2
    said = capsys.readouterr().err
    assert said.startswith(
        "audit: needs needs level, least: if that is a column of the data, give it with --column level"
    )
    assert said.count("\n") == 1 and "--column level=VALUE" in said and "--set level=VALUE" in said
    main(["alike:needs", "--column", "level=2", "--set", "least=1"])
    assert "needs pays for answer (tags, text)" in capsys.readouterr().out


def test_exit_codes(capsys):
    assert main(["peers:loose_format"]) == 1
    assert "malformed" in capsys.readouterr().out
    assert main(["peers:nothing"]) == 2
    assert main(["accuracy", "--set", "requiretags=true"]) == 2
    assert "did you mean 'require_tags'" in capsys.readouterr().err
    assert main(["accuracy", "--set", "require_tags=false"]) == 0
