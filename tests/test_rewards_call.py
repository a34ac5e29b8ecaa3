"""Columns of any name reach a reward, settings win over columns, and what is returned must be a list."""

from __future__ import annotations

import functools
import pickle
import sys
import warnings

import numpy as np
import pytest
import torch

from rewards import RewardError, UnusableReward, call_reward, get_reward, reflection_reward
from rewards.sandbox import Sandbox

REWARDS = '''
import functools

def keys(completions, **columns):
    """As many points as there are columns with a value for each completion."""
    return [float(len(columns))] * len(completions)

class Keys:
    def __call__(self, completions, **columns):
        return keys(completions, **columns)

    def method(self, completions, **columns):
        return keys(completions, **columns)

    async def later(self, completions, **columns):
        return keys(completions, **columns)

called, method, later = Keys(), Keys().method, Keys().later
part = functools.partial(keys, threshold=2)

def by_column(completions, target, *, scale=1.0, **columns):
    return [scale * each for each in target]

def returns(completions, *, what="dict", **columns):
    made = {"dict": {0: 0.5, 1: 0.7}, "set": {1.0, 2.0}, "text": "01", "none": None, "number": 1.0,
            "generator": (1.0 for _ in completions), "tuple": (0.5, None)}
    return made[what]
'''
FORM = "<think>6 x 7. Wait, 6 x 7 = 42.</think><answer>42</answer>"
ODD_NAMES = ["self", "reward", "function", "columns", "name", "label", "args", "kwargs", "seconds", "count", "scores"]


@pytest.fixture(autouse=True)
def module(tmp_path, monkeypatch):
    (tmp_path / "callees.py").write_text(REWARDS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    yield
    sys.modules.pop("callees", None)


def both_ways(name: str, columns: dict, **settings) -> list:
    """The scores, in this process and in the worker, which must be the same."""
    here = call_reward(get_reward(name, **settings), columns)
    sandbox = Sandbox(name, settings, seconds=20.0)
    there = sandbox(**columns)
    sandbox.close()
    assert here == there
    return here


@pytest.mark.parametrize(("name", "seen"), [("keys", 11), ("part", 12), ("called", 10), ("method", 10), ("later", 10)])
def test_a_column_may_have_any_name(name, seen):
    """A method has a `self` of its own: that one column cannot reach it. `part` sees its own `threshold` too."""
    columns = {"completions": ["a", "b"], **{odd: [1, 2] for odd in ODD_NAMES}}
    assert both_ways(f"callees:{name}", columns) == [float(seen)] * 2


@pytest.mark.parametrize("bound", [{"mode": "ungated", "cap": 1}, {"mode": "ungated"}])
def test_the_configuration_wins_over_a_column_of_its_name_and_says_so(bound):
    """Whether the setting was given or left at its default: `cap` and `grading` are settings of this reward."""
    columns = {"completions": [FORM], "prompts": [""], "cap": [7], "grading": [{"percent": "exact"}], "mode": ["gated"]}
    plain = reflection_reward([FORM], prompts=[""], **bound)
    with pytest.warns(UserWarning) as caught:
        assert both_ways("reflection", columns, **bound) == plain == [1.0 if "cap" in bound else 1 / 3]
    said = {str(warning.message) for warning in caught}
    assert len(caught) == 2 * len(said), "once here, and once where the sandbox is, not in its worker"
    assert len(said) == 3 and all("\n" not in line for line in said)
    assert any(line.startswith("reflection_reward: the data has a column 'cap', which is a setting") for line in said)


def test_a_column_that_another_ones_reward_reads_is_no_clash():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert both_ways("callees:by_column", {"completions": ["a"], "target": [3]}, scale=2.0) == [6.0]
    with pytest.warns(UserWarning, match="a column 'scale', which is a setting"):
        assert both_ways("callees:by_column", {"completions": ["a"], "target": [3], "scale": [9]}, scale=2.0) == [6.0]
    with pytest.warns(UserWarning, match="a column 'threshold', which is a setting"):
        assert both_ways("callees:part", {"completions": ["a"], "threshold": [9]}) == [1.0]


def test_settings_win_in_trl_too_and_travel():
    """TRL calls the function itself, with keyword arguments."""
    reward = get_reward("reflection", mode="ungated", cap=1)
    assert isinstance(reward, functools.partial) and reward.__name__ == "reflection_reward"
    assert pickle.loads(pickle.dumps(reward))(completions=[FORM], prompts=[""], cap=[3], mode=["gated"]) == [1.0]


@pytest.mark.parametrize("what", ["dict", "set", "text", "none", "number"])
def test_what_is_no_list_is_refused_in_one_line(what):
    reward = Sandbox("callees:returns", {"what": what}, seconds=20.0)
    for call in (lambda: call_reward(get_reward("callees:returns", what=what), {"completions": ["a", "b"]}),
                 lambda: reward(["a", "b"])):  # fmt: skip
        with pytest.raises(UnusableReward, match=r"^returns returned a \w+, not a list with a score for each comp"):
            call()
    assert reward.killed.total == 0
    reward.close()


def test_tuples_arrays_and_tensors_are_lists():
    assert both_ways("callees:returns", {"completions": ["a", "b"]}, what="tuple") == [0.5, None]
    assert both_ways("callees:returns", {"completions": ["a", "b"]}, what="generator") == [1.0, 1.0]
    for made in (np.array([0.5, 1.0]), torch.tensor([0.5, 1.0])):
        assert call_reward(lambda completions, made=made: made, {"completions": ["a", "b"]}) == [0.5, 1.0]
    with pytest.raises(UnusableReward, match="returned a float"):
        call_reward(lambda completions: torch.tensor(1.0), {"completions": ["a"]})
    assert issubclass(UnusableReward, RewardError)
