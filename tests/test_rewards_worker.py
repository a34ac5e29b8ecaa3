"""The sandbox: what hangs, swells or crashes costs its own completion and nothing else."""

from __future__ import annotations

import sys
import threading
import time
from types import SimpleNamespace

import pytest

from rewards import RewardError, accuracy_reward
from rewards.worker import Sandbox

REWARDS = """
import os, time, sys

def moody(completions, *, bonus=0.0, **columns):
    scores = []
    for text in completions:
        if text == "hang":
            while True:
                pass
        if text == "swell":
            huge = bytearray(1 << 33)
        if text == "crash":
            os.abort()
        if text == "exit":
            sys.exit(3)
        if text == "raise":
            raise KeyError("no such luck")
        if text == "print":
            print("not for the pipe", flush=True)
        scores.append(None if text == "none" else len(text) + bonus)
    return scores

class Stepping:
    async def __call__(self, completions, trainer_state, log_metric, **columns):
        log_metric("step", trainer_state.global_step)
        return [trainer_state.global_step / trainer_state.max_steps] * len(completions)

stepping = Stepping()

def relative(completions, answer, **columns):
    longest = max(map(len, completions))
    return [len(text) / longest if gold else None for text, gold in zip(completions, answer)]
"""


@pytest.fixture
def sandbox(tmp_path, monkeypatch):
    (tmp_path / "moods.py").write_text(REWARDS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    made = []

    def make(name="moods:moody", settings=None, **limits):
        made.append(Sandbox(name, settings, **{"seconds": 1.0, "megabytes": 300, **limits}))
        return made[-1]

    yield make
    for each in made:
        each.close()


def test_it_is_the_reward():
    text = "<think>6 x 7</think><answer>42</answer>"
    sandbox = Sandbox("accuracy", {"require_tags": True})
    assert sandbox.__name__ == "accuracy_reward"
    batch = {"answer": ["42", "41", None], "prompts": ["6 x 7?"] * 3}
    assert sandbox([text] * 3, **batch) == accuracy_reward([text] * 3, **batch) == [1.0, 0.0, None]
    assert sandbox(["42\ud800"], answer=["42"]) == [0.0]
    sandbox.close()


def test_settings_prints_nones_and_batches_pass_through(sandbox):
    assert sandbox(settings={"bonus": 0.5})(["ab", "print", "none"]) == [2.5, 5.5, None]
    assert sandbox("moods:relative")(["a", "bb", "cccc"], answer=[1, None, 1]) == [0.25, None, 1.0]


@pytest.mark.parametrize(
    ("culprit", "why"), [("hang", "time"), ("swell", "memory"), ("crash", "crash"), ("exit", "crash")]
)
def test_the_culprit_scores_zero_and_the_batch_goes_on(sandbox, culprit, why):
    reward = sandbox()
    assert reward(["ab", culprit, "abc", "none"]) == [2.0, 0.0, 3.0, None]
    assert getattr(reward.killed, why) == 1 and reward.killed.total == 1
    assert reward(["abcd"]) == [4.0]


def test_trls_hooks_and_coroutines(sandbox):
    state = SimpleNamespace(global_step=1, max_steps=4, best_model=object())
    hooks = {"trainer_state": state, "log_metric": print, "log_extra": print}
    reward = sandbox("moods:stepping")
    assert reward.__name__ == "Stepping" and reward(["a", "b"], **hooks) == [0.25, 0.25]


def test_a_kill_is_prompt_and_works_from_a_thread(sandbox):
    reward, results = sandbox(seconds=0.5), []
    thread = threading.Thread(target=lambda: results.append(reward(["hang"])))
    start = time.perf_counter()
    thread.start()
    thread.join(20)
    assert results == [[0.0]] and reward.killed.time == 1
    assert time.perf_counter() - start < 10


def test_threads_take_turns(sandbox):
    reward, results = sandbox(), []
    threads = [threading.Thread(target=lambda n=n: results.append(reward(["a" * n]) == [n])) for n in range(1, 9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [True] * 8


def test_what_a_reward_prints_stays_out_of_our_output(sandbox, capfd):
    sandbox()(["print"])
    captured = capfd.readouterr()
    assert captured.out == "" and "not for the pipe" in captured.err


def test_errors_name_the_reward(sandbox):
    with pytest.raises(RewardError, match=r"moody raised in its worker(.|\n)*no such luck"):
        sandbox()(["raise"])
    with pytest.raises(RewardError, match="did you mean 'bonus'"):
        sandbox(settings={"bonsu": 1})
    with pytest.raises(RewardError, match="can't be sent"):
        sandbox()(["a"], column=[object()])


def test_closing_ends_the_worker(sandbox):
    reward = sandbox()
    reward(["a"])
    process = reward._process
    reward.close()
    assert process.poll() is not None
    assert reward(["ab"]) == [2.0]
