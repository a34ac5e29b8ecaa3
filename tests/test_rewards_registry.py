"""Rewards by name and by import path, with their settings bound."""

from __future__ import annotations

import pickle
import sys
from types import SimpleNamespace

import pytest

from rewards import RewardError, get_reward, register_reward, registry, reward_names

RIGHT = "<think>6 x 7</think><answer>42</answer>"


def test_every_shipped_reward_answers_to_both_of_its_names():
    assert {"accuracy", "format", "length", "reflection", "repetition"} <= set(reward_names())
    for name in reward_names():
        assert get_reward(name) is get_reward(f"{name}_reward")
        state = SimpleNamespace(max_new_tokens=9)
        assert len(get_reward(name)([RIGHT], answer=["42"], prompts=["6 x 7?"], trainer_state=state)) == 1


def test_settings_are_bound_and_the_name_is_kept():
    reward = get_reward("length", max_length=4, cache=2)
    assert reward.__name__ == "length_reward"  # TRL logs rewards under it
    assert reward(["a b", "a b c", "a b c d e"]) == [0.0, -0.5, -1.0]
    assert pickle.loads(pickle.dumps(reward))(["a b c"]) == [-0.5]


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("acuracy", {}, "did you mean 'accuracy'"),
        ("length", {"max_lenght": 3}, "did you mean 'max_length'"),
        ("accuracy", {"answer": 3}, "no setting 'answer'"),  # a column, not a setting
        ("nowhere_at_all:reward", {}, "nowhere_at_all"),
        ("rewards:acuracy_reward", {}, "did you mean 'accuracy_reward'"),
        ("rewards:__name__", {}, "not a function"),
        ("rewards:", {}, "my_module:my_reward"),
    ],
)
def test_mistakes_name_the_nearest_right_thing(name, settings, message):
    with pytest.raises(RewardError, match=message.replace(":", r"\:")):
        get_reward(name, **settings)


def test_custom_reward_from_the_working_directory(tmp_path, monkeypatch):
    (tmp_path / "my_rewards.py").write_text(
        "def shout(completions, *, sign='!', **columns):\n    return [float(sign in text) for text in completions]"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    monkeypatch.delitem(sys.modules, "my_rewards", raising=False)  # another test has one of that name
    assert get_reward("my_rewards:shout", sign="?")(["what?", "what!"], prompts=["", ""]) == [1.0, 0.0]
    with pytest.raises(RewardError, match="did you mean 'sign'"):
        get_reward("my_rewards:shout", sing="?")


def test_a_broken_module_is_a_reward_error(tmp_path, monkeypatch):
    (tmp_path / "broken_rewards.py").write_text("import nothing_of_that_name\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RewardError, match="nothing_of_that_name"):
        get_reward("broken_rewards:shout")


def test_registering_adds_a_name_once(monkeypatch):
    monkeypatch.setattr(registry, "_REWARDS", dict(registry._REWARDS))

    @register_reward("mine")
    def mine(completions, **columns):
        return [0.5] * len(completions)

    assert get_reward("mine") is mine
    with pytest.raises(RewardError, match="mine"):
        register_reward("mine")(lambda completions, **columns: [])
