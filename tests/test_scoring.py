"""Reward functions are called in TRL's convention; one that fails stops the run, which goes on when it is fixed."""

from __future__ import annotations

import pytest
import torch
from helpers_runs import PARITY, lines, manifest, metrics, one_line, weights, write_module
from helpers_runs import grpo as run_stage
from helpers_slow import slow

from data import DataConfig, Problem, Prompt, load_problems
from grpo.model.policy import ModelConfig, load_policy
from grpo.runs.config import RewardConfig, SandboxConfig
from grpo.scoring import Completions, RewardSet, decode, load_rewards
from rewards.sandbox.scores import RewardFailure

PROGRESS = {"global_step": 3, "max_steps": 9}


def scored(texts: list[str], chat: bool = False, columns: list[dict] | None = None, **problem) -> Completions:
    messages = [{"role": "user", "content": "2+2?"}] if chat else None
    prompt = Prompt([1, 2], "2+2?\n", messages, "")
    facts = {"answer": "4", "solution": "2+2 is 4", **problem}
    rows = columns or [{}] * len(texts)
    return Completions(
        texts=texts,
        token_ids=[[5] * len(t) for t in texts],
        prompts=[prompt] * len(texts),
        problems=[Problem(f"p/{i}", "2+2?", columns=c, **facts) for i, c in enumerate(rows)],
    )


def score(function, batch: Completions) -> torch.Tensor:
    return RewardSet({"mine": function}, torch.ones(1))(batch, PROGRESS)


@pytest.mark.parametrize("chat", [False, True])
def test_a_function_sees_what_trl_would_show_it(chat):
    seen = {}

    def reward(
        prompts, completions, completion_ids, answer, solution, level, trainer_state, log_extra, log_metric, **rest
    ):
        seen.update(locals())
        log_extra("level", level)
        log_metric("mean", 0.5)
        return [float(n) for n in range(len(completions))]

    batch = scored(["a", "bb"], chat, columns=[{"level": 3}, {"other": "x"}])
    assert score(reward, batch).tolist() == [[0.0], [1.0]]
    if chat:
        assert seen["completions"] == [[{"role": "assistant", "content": t}] for t in ("a", "bb")]
        assert seen["prompts"] == [[{"role": "user", "content": "2+2?"}]] * 2
    else:
        assert seen["completions"] == ["a", "bb"] and seen["prompts"] == ["2+2?\n"] * 2
    assert seen["completion_ids"] == [[5], [5, 5]] and seen["answer"] == ["4", "4"]
    assert seen["level"] == [3, None] and seen["rest"]["other"] == [None, "x"]
    assert (seen["trainer_state"].global_step, seen["trainer_state"].max_steps) == (3, 9)
    assert batch.metrics == {"mean": [0.5]} and batch.extras == {"level": [3, None]}


def test_the_solution_column_holds_the_gold_unless_the_solution_states_it():
    def gold(completions, solution, **columns):
        seen.append(solution[0])
        return [0.0]

    seen: list[str] = []
    score(gold, scored(["a"]))
    score(gold, scored(["a"], solution="so \\boxed{4}"))
    assert seen == ["4", "so \\boxed{4}"]


def test_each_function_has_a_column_and_none_does_not_apply():
    rewards = RewardSet(
        {"a": lambda completions, **_: [None, 1], "b": lambda completions, **_: torch.tensor([0.5, 2.0])}, torch.ones(2)
    )
    matrix = rewards(scored(["x", "y"]), PROGRESS)
    assert matrix.dtype == torch.float32 and matrix[1].tolist() == [1.0, 2.0]
    assert matrix[0, 0].isnan() and matrix[0, 1] == 0.5


def test_async_functions_are_awaited():
    async def reward(completions, **columns):
        return [0.25] * len(completions)

    assert score(reward, scored(["a", "b"])).tolist() == [[0.25], [0.25]]


def raise_on_b(completions, **columns):
    if "bad" in completions:
        raise KeyError("oops")
    return [1.0] * len(completions)


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (raise_on_b, "raised KeyError('oops') on problem p/1, completion 'bad'"),
        (lambda completions, **_: [1.0, float("nan"), 1.0], "returned nan, not a finite number, on problem p/1"),
        (lambda completions, **_: [1.0, float("inf"), 1.0], "returned inf, not a finite number, on problem p/1"),
        (lambda completions, **_: [1.0, "1.0", 1.0], "returned '1.0', not a finite number, on problem p/1"),
        (lambda completions, **_: [1.0, [1.0], 1.0], "returned [1.0], not a finite number, on problem p/1"),
        (lambda completions, **_: [1.0], "returned 1 scores for 3 completions"),
        (lambda completions, **_: None, "returned a NoneType, not a list with a score for each completion"),
        (lambda completions, **_: dict.fromkeys(range(3), 0.5), "returned a dict, not a list"),
        (lambda completions: [1.0] * 3, "raised TypeError"),
        (lambda completions, **_: [1.0] if len(completions) == 1 else 1 / 0, "on no completion alone"),
    ],
)
def test_a_failure_names_the_function_and_the_completion(function, said):
    with pytest.raises(RewardFailure) as caught:
        score(function, scored(["good", "bad", "good"]))
    assert "reward 'mine'" in str(caught.value) and said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("enabled", [False, True])
def test_names_and_arguments_come_from_the_configuration(tmp_path, monkeypatch, enabled):
    name = write_module(tmp_path, monkeypatch, "def f(completions, k=1, **columns): return [k] * len(completions)\n")
    configs = {"short": RewardConfig(2.0, f"{name}:f", {"k": 3}), f"{name}:f": RewardConfig(0.5)}
    rewards = load_rewards(configs, SandboxConfig(enabled))
    assert rewards.weights.tolist() == [2.0, 0.5]
    assert rewards(scored(["a"]), PROGRESS).tolist() == [[3.0, 1.0]]


def test_a_reward_that_hangs_is_killed_and_the_batch_goes_on(tmp_path, monkeypatch):
    source = (
        "def f(completions, **columns):\n    while 'bad' in completions: pass\n    return [1.0] * len(completions)\n"
    )
    name = write_module(tmp_path, monkeypatch, source)
    configs = {"slow": RewardConfig(1.0, f"{name}:f"), "length": RewardConfig(-1.0, args={"max_length": 9, "cache": 4})}
    rewards = load_rewards(configs, SandboxConfig(seconds=0.5))
    scores = rewards(scored(["good", "bad", "good"]), PROGRESS)
    assert scores[[0, 2]].tolist() == [[1.0, 0.0], [1.0, 0.0]]
    assert scores[1].isnan().all(), "what the other reward gave it counts as little: nobody gains by ending a grader"
    assert rewards.killed == 1


def test_a_worker_that_cannot_start_stops_the_run_in_one_line(tmp_path, monkeypatch):
    source = "import os, sys\nif sys.argv[0].endswith('sandbox/__main__.py'): os._exit(7)\n"
    source += "def f(completions, **columns): pass\n"
    name = write_module(tmp_path, monkeypatch, source)
    rewards = load_rewards({"r": RewardConfig(1.0, f"{name}:f")}, SandboxConfig())
    with pytest.raises(RewardFailure, match=r"^reward 'r' cannot be used: f: .* it ended with exit code 7$"):
        rewards(scored(["good", "bad"]), PROGRESS)


@pytest.mark.parametrize("enabled", [False, True])
def test_a_column_of_any_name_reaches_the_reward(tmp_path, monkeypatch, enabled):
    source = "def f(completions, function, **columns): return [a + b for a, b in zip(function, columns['self'])]\n"
    name = write_module(tmp_path, monkeypatch, source)
    rewards = load_rewards({"r": RewardConfig(1.0, f"{name}:f")}, SandboxConfig(enabled))
    odd = dict.fromkeys(("self", "function", "columns", "name", "batch", "progress"), 2)
    assert rewards(scored(["a", "b"], columns=[odd, odd]), PROGRESS).tolist() == [[4.0], [4.0]]


def test_a_failure_in_the_worker_is_one_line_too(tmp_path, monkeypatch):
    name = write_module(
        tmp_path, monkeypatch, "def f(completions, **columns): return [1 / len(c) for c in completions]\n"
    )
    rewards = load_rewards({"inverse": RewardConfig(1.0, f"{name}:f")}, SandboxConfig())
    with pytest.raises(RewardFailure, match=r"'inverse' raised ZeroDivisionError: .* on problem p/1, completion ''$"):
        rewards(scored(["a", "", "b"]), PROGRESS)


def test_texts_are_what_was_sampled_without_the_final_end_token():
    policy = load_policy(ModelConfig("tiny-init"))
    problems = load_problems(DataConfig(count=1))
    text = problems[0].question
    ids = policy.tokenizer(text)["input_ids"]
    eos = policy.tokenizer.eos_token_id

    class Fake:
        prompt_index = torch.tensor([0, 0])

        def token_lists(self):
            return [[*ids, eos], ids]

    prompt = Prompt([1], "q\n<think>\n", None, "<think>\n")
    out = decode(policy, Fake(), [prompt], problems)
    assert out.texts == ["<think>\n" + text] * 2
    assert out.token_ids == [[*ids, eos], ids] and out.problems == problems * 2


# ---- in a run -----------------------------------------------------------------------------------------------

BROKEN = """
import torch
from pathlib import Path
HERE = Path(__file__).parent
def parity(completions, completion_ids, trainer_state, **columns):
    scores = [float(ids[0] % 2) for ids in completion_ids]
    if trainer_state.global_step == 2 and not (HERE / "fixed").exists():
        FAIL
    return scores
"""


@pytest.mark.parametrize(
    ("failure", "said"),
    [
        slow("raise RuntimeError('no more credit')", "raised RuntimeError: no more credit on problem demo/train/"),
        ("scores[1] = float('nan')", "returned nan, not a finite number, on problem demo/train/"),
        slow("scores.pop()", "returned 7 scores for 8 completions"),
    ],
)
def test_a_reward_that_fails_stops_the_run_and_the_run_goes_on_when_it_is_mended(
    tmp_path, monkeypatch, capsys, failure, said
):
    """No checkpoint was due, and still no finished step is lost."""
    whole = write_module(tmp_path, monkeypatch, PARITY)
    assert run_stage("grpo", tmp_path / "whole", f"rewards.r.function={whole}:parity", log__save_every=100) == 0
    name = write_module(tmp_path, monkeypatch, BROKEN.replace("FAIL", failure))
    run, arguments = tmp_path / "run", (f"rewards.r.function={name}:parity", "sandbox.enabled=true")
    capsys.readouterr()
    assert run_stage("grpo", run, *arguments, log__save_every=100) == 2
    message = one_line(capsys)
    assert "reward 'r' " in message and said in message
    assert "pop" in failure or "completion '" in message
    assert [row["step"] for row in lines(run / "metrics.jsonl")] == [1, 2]
    assert [p.stem for p in (run / "checkpoints").iterdir()] == ["step-00000002"]
    assert run_stage("grpo", run, *arguments, log__save_every=100) == 2  # still broken: stops at the same place
    assert [row["step"] for row in lines(run / "metrics.jsonl")] == [1, 2]
    (tmp_path / "fixed").touch()
    assert run_stage("grpo", run, *arguments, log__save_every=100) == 0
    assert manifest(run)["finished"]
    ours, theirs = weights(run), weights(tmp_path / "whole")
    assert all(torch.equal(ours[k], theirs[k]) for k in theirs)
    assert metrics(run) == metrics(tmp_path / "whole")


def test_a_reward_that_fails_at_once_leaves_nothing_that_hinders_another_try(tmp_path, monkeypatch, capsys):
    name = write_module(tmp_path, monkeypatch, "def f(completions, **columns): return [None, 'x'] * 4\n" + PARITY)
    assert run_stage("grpo", tmp_path / "run", f"rewards.r.function={name}:f") == 2
    assert "reward 'r' returned 'x'" in one_line(capsys)
    assert not (tmp_path / "run" / "checkpoints").exists()
    assert run_stage("grpo", tmp_path / "run", f"rewards.r.function={name}:parity") == 0
