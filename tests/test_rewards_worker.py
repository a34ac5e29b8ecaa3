"""The sandbox: what hangs, swells or crashes costs its own completion and nothing else, and earns nothing by it."""

from __future__ import annotations

import sys
import threading
import time
from types import SimpleNamespace

import pytest

from rewards import RewardError, UnusableReward, accuracy_reward
from rewards.sandbox import MAX_LOST, Sandbox
from rewards.sandbox.worker import Worker

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
    async def __call__(self, completions, trainer_state, log_metric, log_extra, **columns):
        log_metric("step", value=trainer_state.global_step)
        log_extra("lengths", [len(text) for text in completions])
        return [trainer_state.global_step / trainer_state.max_steps] * len(completions)

stepping = Stepping()

def relative(completions, answer, **columns):
    while "hang" in completions:
        pass
    time.sleep(0.05 * completions.count("slow"))
    longest = max(map(len, completions))
    return [len(text) / longest if gold else None for text, gold in zip(completions, answer)]

def penalty(completions, **columns):
    return [-1.0 if text != "crash" else os.abort() for text in completions]

def in_pairs(completions, **columns):
    if "crash" in completions:
        os.abort()
    if len(completions) % 2:
        raise ValueError("pairs, please")
    return [1.0, 0.0] * (len(completions) // 2)

def large(completions, **columns):
    return [len(bytearray(len(completions) << 27)) and 0.5] * len(completions)

def telling(completions, log_extra, **columns):
    if "crash" in completions:
        os.abort()
    log_extra("lengths", [len(text) for text in completions])
    return [float(len(text)) for text in completions]

def telling_large(completions, log_extra, **columns):
    log_extra(column="lengths", values=[len(text) for text in completions])
    return large(completions)

def short(completions, **columns):
    return [0.0] * (len(completions) - 1)
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
def test_the_culprit_has_no_score_and_the_batch_goes_on(sandbox, culprit, why):
    reward = sandbox()
    scores = reward.score({"completions": ["ab", culprit, "abc", "none"]})
    assert (scores.values, scores.killed) == ([2.0, None, 3.0, None], [1])
    assert getattr(reward.killed, why) == 1 and reward.killed.total == 1
    assert reward(["abcd"]) == [4.0] and reward.score({"completions": ["none"]}).killed == []


def test_nobody_gains_by_ending_the_grader(sandbox):
    """0 would be the best value that this reward has."""
    assert sandbox("moods:penalty")(["a", "crash", "b"]) == [-1.0, None, -1.0]


def test_the_others_are_scored_together(sandbox):
    """As if the culprit had not been there: a reward may compare completions, or count on their number."""
    columns = {"completions": ["a", "hang", "bb", "cccc"], "answer": [1, 1, None, 1]}
    scores = sandbox("moods:relative").score(columns)
    assert (scores.values, scores.killed) == ([0.25, None, None, 1.0], [1])
    scores = sandbox("moods:in_pairs").score({"completions": ["a", "crash", "b"]})
    assert (scores.values, scores.killed) == ([1.0, None, 0.0], [1]), "alone, it raises; that is no kill"


def test_what_is_too_much_together_is_scored_alone(sandbox):
    reward = sandbox("moods:large")
    assert reward(["a", "b", "c"]) == [0.5] * 3 and reward.killed.total == 0


def test_trls_hooks_and_coroutines(sandbox):
    state = SimpleNamespace(global_step=1, max_steps=4, best_model=object())
    told = []
    hooks = {
        "trainer_state": state,
        "log_metric": lambda name, value: told.append((name, value)),
        "log_extra": lambda column, values: told.append((column, values)),
    }
    reward = sandbox("moods:stepping")
    assert reward.__name__ == "Stepping" and reward(["a", "bb"], **hooks) == [0.25, 0.25]
    assert told == [("step", 1), ("lengths", [1, 2])], "what the reward tells, it tells here"


@pytest.mark.parametrize(("texts", "lengths"), [(["a", "crash", "bbb"], [1, None, 3]), (["crash", "bb"], [None, 2])])
def test_a_column_that_a_reward_tells_stays_with_its_rows(sandbox, texts, lengths):
    """One completion is killed: the others are scored again without it."""
    told = []
    hooks = {"log_extra": lambda column, values: told.append((column, values)), "log_metric": lambda *_: None}
    scores = sandbox("moods:telling")(texts, **hooks)
    assert told == [("lengths", lengths)] and scores == [None if x is None else float(x) for x in lengths]


def test_columns_told_one_by_one_are_joined(sandbox):
    told = []
    hooks = {"log_extra": lambda column, values: told.append((column, values)), "log_metric": lambda *_: None}
    assert sandbox("moods:telling_large")(["a", "bb", "ccc"], **hooks) == [0.5] * 3
    assert told == [("lengths", [1, 2, 3])]


def test_a_kill_is_prompt_and_works_from_a_thread(sandbox):
    reward, results = sandbox(seconds=0.5), []
    thread = threading.Thread(target=lambda: results.append(reward(["hang"])))
    start = time.perf_counter()
    thread.start()
    thread.join(20)
    assert results == [[None]] and reward.killed.time == 1
    assert time.perf_counter() - start < 10


@pytest.fixture
def limits(monkeypatch):
    """The time limit of each call that a worker gets, and whether it failed."""
    seen, ask = [], Worker.ask

    def watched(self, columns, seconds):
        answer = ask(self, columns, seconds)
        seen.append((seconds, answer.failure))
        return answer

    monkeypatch.setattr(Worker, "ask", watched)
    return seen


def test_a_hang_costs_seconds_in_a_batch_of_any_size(sandbox, limits):
    """Counted in what calls may take and not by the clock, which other programs share."""
    reward, seconds = sandbox(seconds=0.5), 0.5
    for _ in range(3):
        reward(["ab"] * 256)
    usual = 256 * reward._usual
    scores = reward.score({"completions": ["ab"] * 200 + ["hang"] + ["ab"] * 55})
    assert scores.killed == [200] and scores.values.count(2.0) == 255
    lost = [limit for limit, failure in limits if failure]
    assert len(lost) == 2 and sum(lost) == pytest.approx(2 * seconds + 3 * usual)
    assert sum(lost) < 0.1 * 256 * seconds / 2, "half of what a tenth of the limit for each completion would be"


def test_many_hangs_do_not_cost_a_batch_more_than_a_bound(sandbox, limits):
    reward = sandbox(seconds=0.3)
    assert reward(["ab", "abc"]) == [2.0, 3.0]
    scores = reward.score({"completions": ["ab"] + ["hang"] * 60 + ["abc"]})
    assert scores.values == [2.0] + [None] * 61 and scores.killed == list(range(1, 62))
    assert len([1 for _, failure in limits if failure]) <= 1 + MAX_LOST + 1
    assert reward.killed.time >= 1 and reward.killed.skipped >= 60 - MAX_LOST
    assert reward.killed.total == 61
    assert reward(["abcd"]) == [4.0]


def test_a_reward_that_is_slow_is_known_after_its_first_batch(sandbox, limits):
    reward = sandbox("moods:relative", seconds=1.0)
    columns = {"completions": ["slow"] * 29 + ["very slow"], "answer": [1] * 30}
    right = [4 / 9] * 29 + [1.0]
    assert reward(**columns) == right and limits[0][1] == "time" and reward.killed.total == 0
    before = len(limits)
    assert reward(**columns) == right and [failure for _, failure in limits[before:]] == [""]


def test_a_reward_that_never_scores_anything_stops_the_run(sandbox):
    with pytest.raises(UnusableReward, match=r"^moody: none of the first 8 completions could be scored within 1 s "):
        sandbox()(["exit"] * 30)


NOT_READY = {
    "os._exit(7)": r"its worker process does not start: it ended with exit code 7$",
    "time.sleep(600)": r"its worker process does not start: it was not ready after 1 s$",
    "import nothing_like_it": r"does not start: reward 'late:f': importing 'late' failed: .*nothing_like_it'",
}


@pytest.mark.parametrize("what", NOT_READY)
def test_a_worker_that_is_never_ready_stops_the_run(sandbox, tmp_path, monkeypatch, what):
    """It used to score a whole batch 0."""
    (tmp_path / "late.py").write_text(
        "import os, sys, time\n"
        f"if sys.argv[0].endswith('sandbox/__main__.py'): {what}\n"
        "def f(completions, **columns): return [1.0] * len(completions)\n"
    )
    monkeypatch.setattr("rewards.sandbox.worker.START_SECONDS", 1.0 if "sleep" in what else 60.0)
    reward = sandbox("late:f")
    sys.modules.pop("late")
    for _ in range(2):
        with pytest.raises(UnusableReward, match=NOT_READY[what]) as caught:
            reward(["a", "b"])
        assert "\n" not in str(caught.value)
    assert reward.killed.total == 0


def test_a_worker_that_cannot_be_started_again_stops_the_run(sandbox, tmp_path):
    reward = sandbox()
    assert reward(["a"]) == [1.0]
    (tmp_path / "moods.py").write_text("gone = True")
    with pytest.raises(UnusableReward, match="does not start: reward 'moods:moody': 'moods' has no 'moody'"):
        reward(["a", "crash", "b"])


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
    with pytest.raises(UnusableReward, match="short returned 2 scores for 3 completions"):
        sandbox("moods:short")(["a", "b", "c"])


def test_closing_ends_the_worker(sandbox):
    reward = sandbox()
    reward(["a"])
    process = reward._worker._process
    reward.close()
    assert process.poll() is not None
    assert reward(["ab"]) == [2.0]
