"""Evaluation's figures against brute force and known values, and evaluation on every kind of data."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers_runs import command, lines, manifest, memorised, write_module
from helpers_runs import grpo as run_stage
from helpers_slow import quick
from hypothesis import given
from hypothesis import strategies as st

from data import Problem, load_problems
from grpo import experience
from grpo.evaluation import (
    Judged,
    describe,
    evaluate,
    interval,
    judge,
    majority,
    pass_at_k,
    per_problem,
    without_middle,
)
from grpo.model.policy import load_policy
from grpo.report.tables import evaluation_table
from grpo.runs.evaluations import evaluation_of, read_evaluation
from grpo.runs.files import RunError
from grpo.runs.settings import ConfigError, load_config
from grpo.sampling import sample_groups
from rewards import accuracy_reward, count_reflections, format_reward

SHARED = Path(__file__).parents[1].parent / "shared" / "data"


def of(problem: int, answer: str | None, correct: bool = False, **facts) -> Judged:
    facts = {"text": "", "well_formed": True, "reflections": 0, "tokens": 1, "truncated": False, **facts}
    return Judged(problem, answer=answer, correct=correct, **facts)


def marks(rows: list[list[bool]]) -> list[Judged]:
    return [of(i, "1", c) for i, row in enumerate(rows) for c in row]


def problems(golds: list[str]) -> list[Problem]:
    return [Problem(f"p/{i}", "?", gold) for i, gold in enumerate(golds)]


# ---- pass@k -------------------------------------------------------------------------------------------------


@given(st.integers(1, 6).flatmap(lambda n: st.tuples(
    st.lists(st.lists(st.booleans(), min_size=n, max_size=n), min_size=1, max_size=4), st.integers(1, n))))  # fmt: skip
def test_pass_at_k_is_the_share_of_subsets_with_a_right_sample(case):
    rows, k = case
    per_row = [[any(chosen) for chosen in itertools.combinations(row, k)] for row in rows]
    expected = sum(sum(hits) / len(hits) for hits in per_row) / len(rows)
    assert pass_at_k(marks(rows), len(rows), k) == pytest.approx(expected, abs=1e-12)


def test_pass_at_1_is_the_accuracy_and_too_large_a_k_is_refused():
    judged = marks([[True, False, False], [True, True, True]])
    assert pass_at_k(judged, 2, 1) == pytest.approx(describe(judged)["accuracy"]) == pytest.approx(4 / 6)
    assert per_problem(judged, 2) == pytest.approx([1 / 3, 1.0])
    with pytest.raises(ValueError, match="pass@4 needs 4 samples per problem, there are 3"):
        pass_at_k(judged, 2, 4)


# ---- maj@k --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answers", "right"),
    [
        (["7", "8", "7"], True),
        (["8", "7", "8"], False),
        (["7", "8"], True),  # a tie goes to the first
        (["8", "7"], False),
        (["8", "7.0", "7"], True),  # equivalent answers vote together
        (["8", "7.000", "8", "7", "7.00"], True),
        ([None, None, "7"], True),  # no answer, no vote
        ([None, None], False),
        (["8", "9", "7", "7"], True),
    ],
)
def test_the_most_frequent_answer_counts(answers, right):
    judged = [of(0, a, a is not None and a in ("7", "7.0", "7.00", "7.000")) for a in answers]
    assert majority(judged, problems(["7"])) == float(right)


def test_majority_is_averaged_over_problems():
    judged = [
        of(0, "7", True),
        of(0, "7", True),
        of(1, "8"),
        of(1, "9"),
        of(2, "8"),
        of(2, "8"),
        of(3, "1", True),
        of(3, "2"),
    ]
    assert majority(judged, problems(["7", "7", "7", "1"])) == 0.5


@pytest.mark.parametrize("answers", sorted(set(itertools.permutations(["42", "42.0", "6*7", "6*7", "6*7"]))))
def test_an_answer_that_leaves_arithmetic_undone_does_not_vote_with_its_value(answers):
    """Whatever the order: as a gold 6*7 is 42, as an answer it is not, and it was judged so."""
    judged = [of(0, answer, answer != "6*7") for answer in answers]
    assert majority(judged, problems(["42"])) == 0.0
    assert majority([*judged, of(0, "42", True), of(0, "42", True)], problems(["42"])) == 1.0


# ---- intervals ----------------------------------------------------------------------------------------------


def test_the_interval_of_one_sample_has_its_published_values():
    """Newcombe 1998, table I (z = 1.96), method 4: Wilson's score interval with continuity correction."""
    for right, n, low, high in (
        (81, 263, 0.2535, 0.3682),
        (15, 148, 0.0598, 0.1644),
        (0, 20, 0.0, 0.2005),
        (1, 29, 0.0018, 0.1963),
    ):
        assert interval([1.0] * right + [0.0] * (n - right), 1) == pytest.approx([low, high], abs=1e-4)
        assert interval([0.0] * right + [1.0] * (n - right), 1) == pytest.approx([1 - high, 1 - low], abs=1e-4)


def test_the_interval_of_several_samples_lies_between_those_of_problems_and_of_completions():
    shares = [0.0, 0.25, 0.75, 1.0] * 25
    low, high = interval(shares, 4)
    by_problem, by_completion = interval([0.0, 1.0] * 50, 1), interval([0.0, 1.0] * 200, 1)
    assert by_problem[0] < low < by_completion[0] < 0.5 < by_completion[1] < high < by_problem[1]
    assert interval([0.0, 1.0] * 50, 4) == by_problem  # completions of a problem are alike: they are one trial
    assert interval([0.5] * 100, 4) == interval([0.0, 1.0] * 50, 1)  # no spread, so nothing is known of it
    assert interval([0.5], 4) == [0.0, 1.0]
    assert interval([0.0] * 50, 4)[1] > 0.05  # not a width of 0


@pytest.mark.parametrize("problems", quick((5, 20, 100, 500), 5, 20))
def test_the_interval_covers_the_accuracy_as_often_as_it_says(problems):
    """From 0.3 % to 99.7 %, whether the problems are equally hard (alike = 0) or each is mostly solved or never."""
    generator, trials, worst = np.random.default_rng(0), 1000, 1.0
    for samples, alike, p in itertools.product((4, 16), (0.0, 0.2, 0.8), (0.003, 0.03, 0.3, 0.5, 0.9, 0.997)):
        size = (trials, problems)
        strength = (1 - alike) / max(alike, 1e-9)
        solved = generator.beta(p * strength, (1 - p) * strength, size) if alike else np.full(size, p)
        shares = (generator.binomial(samples, solved) / samples).tolist()
        covered = sum(low <= p <= high for low, high in (interval(x, samples) for x in shares)) / trials
        worst = min(worst, covered)
    assert worst >= 0.93


# ---- figures ------------------------------------------------------------------------------------------------


def test_describe_averages_over_completions_and_splits_by_reflection():
    judged = [
        of(0, "1", True, reflections=2, tokens=10),
        of(0, "1", False, reflections=1, tokens=20, well_formed=False, truncated=True),
        of(1, "1", True, tokens=30),
        of(1, None, False, tokens=40),
        of(1, None, False, tokens=50),
    ]
    assert describe(judged) == {
        "accuracy": 0.4, "format": 0.8, "reflection_rate": 0.4, "reflections": 0.6, "accuracy_reflecting": 0.5,
        "accuracy_others": pytest.approx(1 / 3), "length": 30.0, "truncated": 0.2, "rewards": {},
    }  # fmt: skip
    assert describe(judged[:2])["accuracy_others"] is None and describe(judged[2:])["accuracy_reflecting"] is None


# ---- the whole ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def learned(tmp_path_factory):
    _, settings = memorised(tmp_path_factory)
    overrides = {k.replace("__", "."): v for k, v in settings.items()}
    overrides |= {
        "prompt.style": "plain",
        "prompt.template": '"{question}\\n"',
        "eval.samples": 6,
        "eval.pass_at": [1, 3, 6],
    }
    config = load_config(None, [f"{k}={v}" for k, v in overrides.items()])
    return config, load_policy(config.model)


def test_the_result_is_what_the_samples_say(learned):
    config, policy = learned
    result = evaluate(config, policy)
    given = load_problems(config.eval.data, config.seed)
    judged = judge(config, policy, given, 6, 1.0, "")
    texts, golds = [j.text for j in judged], [given[j.problem].answer for j in judged]
    correct = accuracy_reward(texts, answer=golds)
    sampled = result["sampled"]
    assert 0 < sampled["accuracy"] < 1 and sampled["accuracy"] == pytest.approx(sum(correct) / 24)
    assert sampled["format"] == pytest.approx(sum(format_reward(texts)) / 24)
    assert sampled["reflection_rate"] == pytest.approx(sum(count_reflections(t) > 0 for t in texts) / 24)
    assert sampled["pass_at"]["1"] == pytest.approx(sampled["accuracy"])
    assert sampled["pass_at"]["1"] <= sampled["pass_at"]["3"] <= sampled["pass_at"]["6"]
    assert set(sampled["maj"]) == {"6"} and (result["problems"], result["source"]) == (4, "demo/train")
    assert sampled["ci95"] == interval(per_problem(judged, 4), 6)
    greedy = judge(config, policy, given, 1, 0.0, "")
    assert result["greedy"]["accuracy"] == sum(j.correct for j in greedy) / 4
    assert result["greedy"]["ci95"] == interval([float(j.correct) for j in greedy], 1)
    assert json.loads(json.dumps(result)) == result
    assert "accuracy, sampled" in evaluation_table({"it": result})


def test_the_result_does_not_depend_on_how_many_rows_are_decoded_at_a_time(learned):
    config, policy = learned
    few = replace(config, sampling=replace(config.sampling, max_rows=7))
    assert evaluate(few, policy) == evaluate(config, policy)


def test_evaluation_draws_other_numbers_than_any_training_step(learned, monkeypatch):
    config, policy = learned
    steps = []
    original = experience.sample_groups
    monkeypatch.setattr(experience, "sample_groups", lambda *a, **k: steps.append(a[-1]) or original(*a, **k))
    evaluate(config, policy)
    assert set(steps) == {-1}


def test_tags_may_be_waived_for_base_models(learned, monkeypatch):
    config, policy = learned
    fake = ["so the answer is 7.", "<answer>7</answer> and 7"]
    given = [replace(load_problems(config.eval.data)[0], answer="7")]
    monkeypatch.setattr(
        experience,
        "decode",
        lambda policy, rollouts, prompts, problems: experience.Completions(fake, [[1]] * 2, prompts * 2, problems * 2),
    )
    strict = judge(config, policy, given, 2, 1.0, "")
    loose = judge(replace(config, eval=replace(config.eval, require_tags=False)), policy, given, 2, 1.0, "")
    assert [j.correct for j in strict] == [False, True] and [j.correct for j in loose] == [True, True]
    assert [j.answer for j in strict] == [None, "7"] and [j.answer for j in loose] == ["7", "7"]


def evaluated(learned, monkeypatch, texts: list[str], gold: str, **settings: str) -> dict:
    """The sampled figures of these completions of one problem."""
    config, policy = learned
    own = load_config(None, ["sandbox.enabled=false", *(f"{k}={v}" for k, v in settings.items())])
    config = replace(
        config, rewards=own.rewards, sandbox=own.sandbox, eval=replace(config.eval, reward=own.eval.reward)
    )
    given = [replace(load_problems(config.eval.data)[0], answer=gold)]
    monkeypatch.setattr(
        experience,
        "decode",
        lambda policy, rollouts, prompts, problems: experience.Completions(
            texts, [[1]] * len(texts), prompts * len(texts), problems * len(texts)
        ),
    )
    return describe(judge(config, policy, given, len(texts), 1.0, ""))


def test_evaluation_grades_by_the_rules_of_training(learned, monkeypatch):
    """The arguments of `rewards.accuracy` count, and every reward is scored on held-out data."""
    texts = ["<think>a</think><answer>50</answer>", "<think>a</think><answer>50%</answer>"]
    args = {"rewards.accuracy.args.grading.percent": "optional", "rewards.format.weight": "0.1"}
    assert evaluated(learned, monkeypatch, texts, "50%")["accuracy"] == 0.5
    sampled = evaluated(learned, monkeypatch, texts, "50%", **args)
    assert sampled["accuracy"] == 1.0 and sampled["rewards"] == {"accuracy": 1.0, "format": 1.0}


def test_the_reward_that_says_what_is_right_may_be_ones_own(learned, monkeypatch, tmp_path):
    (tmp_path / "long_is_right.py").write_text(
        "def grade(completions, least, **_):\n"
        "    return [None if not c else 1.0 if len(c) >= least else -1.0 for c in completions]\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    settings = {"rewards.long_is_right:grade.args.least": "3", "eval.reward": "'long_is_right:grade'"}
    sampled = evaluated(learned, monkeypatch, ["abc", "a", "", "abcd"], "7", **settings)
    assert sampled["accuracy"] == 0.5
    assert sampled["rewards"] == {"long_is_right:grade": pytest.approx(1 / 3)}


def test_a_reward_that_does_not_exist_cannot_say_what_is_right():
    with pytest.raises(ConfigError, match=r"eval.reward is none of the rewards and cannot be used: .*'acuracy'"):
        load_config(None, ["eval.reward=acuracy"])


@pytest.mark.parametrize("source", ["gsm8k", "math", "svamp"])
def test_public_sets_are_evaluated_through_the_configuration(tmp_path, source):
    if not (SHARED / "gsm8k_test.jsonl").exists():
        pytest.skip("no shared data")
    data = (f"eval.data.source={source}", "eval.data.split=test", f"eval.data.root={SHARED}")
    assert run_stage("eval", tmp_path / "run", *data, "eval.data.start=5") == 0
    result = json.loads((tmp_path / "run" / "eval.json").read_text())
    assert result["source"] == f"{source}/test" and result["problems"] == 3


def test_any_json_lines_file_is_evaluated_under_its_own_field_names(tmp_path):
    rows = [{"q": "What is 3 + 4?", "gold": 7}, {"q": "What is 3 + 5?", "gold": "8"}]
    (tmp_path / "mine.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    fields = (
        "eval.data.question_field=q",
        "eval.data.answer_field=gold",
        f"eval.data.source={tmp_path / 'mine.jsonl'}",
    )
    assert run_stage("eval", tmp_path / "run", *fields) == 0
    assert json.loads((tmp_path / "run" / "eval.json").read_text())["problems"] == 2


def test_a_prompt_longer_than_the_context_is_one_line(learned):
    config, policy = learned
    long = [Problem("p/0", "Ana has 3 apples. " * 100, "3")]
    with pytest.raises(ValueError, match="exceeds the model's context of 256; leave out"):
        judge(config, policy, long, 1, 1.0, "")


def test_a_reward_whose_column_the_held_out_data_lack_is_found_before_the_first_step(tmp_path, monkeypatch, capsys):
    module = write_module(tmp_path, monkeypatch, "def graded(completions, level, **_): return [1.0] * len(level)\n")
    (tmp_path / "train.jsonl").write_text('{"question": "1 + 1?", "answer": "2", "level": 1}\n')
    (tmp_path / "test.jsonl").write_text('{"question": "2 + 1?", "answer": "3"}\n')
    files = {"data.source": tmp_path / "train.jsonl", "eval.data.source": tmp_path / "test.jsonl"}
    settings = [f"{key}={value}" for key, value in files.items()]
    settings += [f"rewards.{module}:graded.weight=1", "eval.at_end=true"]
    assert run_stage("grpo", tmp_path / "run", *settings) == 2
    assert "level" in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_top_p_is_for_evaluation_alone(learned, monkeypatch):
    config, policy = learned
    seen = []

    def sample(*arguments):
        seen.append((arguments[4].temperature, arguments[4].top_p))
        return sample_groups(*arguments)

    monkeypatch.setattr(experience, "sample_groups", sample)
    evaluate(replace(config, eval=replace(config.eval, top_p=0.9, temperature=0.6)), policy)
    assert set(seen) == {(0.6, 0.9), (0.0, 0.9)}
    for setting, said in (("sampling.top_p=0.9", "is 1 in training.*set eval.top_p"), ("eval.top_p=0", "above 0")):
        with pytest.raises(ConfigError, match=said):
            load_config(None, [setting])


# ---- eval.jsonl ---------------------------------------------------------------------------------------------


def test_each_judged_completion_stays_in_the_run_folder(tmp_path, tmp_path_factory):
    _, settings = memorised(tmp_path_factory)
    run = tmp_path / "run"
    assert run_stage("eval", run, **settings, rewards__format__weight=1) == 0
    head, *rows = lines(run / "eval.jsonl")
    assert set(head) == {"origin"} and [row["kind"] for row in rows] == ["sampled"] * 8 + ["greedy"] * 4
    result, given = (
        json.loads((run / "eval.json").read_text()),
        load_problems(load_config(str(run / "config.yaml")).data),
    )
    assert result["reward_settings"] == {"format": {"function": ""}}
    sampled = rows[:8]
    assert [row["sample"] for row in sampled] == [0, 1] * 4
    assert result["sampled"]["accuracy"] == sum(row["correct"] for row in sampled) / 8
    assert result["sampled"]["length"] == sum(row["tokens"] for row in sampled) / 8
    assert result["greedy"]["accuracy"] == sum(row["correct"] for row in rows[8:]) / 4
    for row in rows:
        problem = given[row["problem"]]
        assert (row["id"], row["question"], row["gold"]) == (problem.id, problem.question, problem.answer)
        assert row["level"] == problem.columns["level"] and set(row["rewards"]) == {"accuracy", "format"}
        assert row["correct"] == bool(accuracy_reward([row["text"]], answer=[row["gold"]])[0])
        assert row["reflections"] == count_reflections(row["text"]) and not row["truncated"]
    assert read_evaluation(run) == [Judged(**row) for row in rows]
    (run / "eval.jsonl").write_bytes((run / "eval.jsonl").read_bytes()[:-1])
    with pytest.raises(RunError, match=r"eval.jsonl:13: is damaged; delete it"):
        read_evaluation(run)


def test_held_out_problems_and_their_random_numbers_are_those_of_eval_seed(tmp_path):
    """A run's own seed changes neither, so two seeds are evaluated in pairs; `eval.seed` changes both."""
    for name, seeds in {"a": {}, "b": {"seed": 1}, "c": {"eval__seed": 1}}.items():
        assert run_stage("eval", tmp_path / name, model__path="tiny", **seeds) == 0
    a, b, c = ((tmp_path / name / "eval.jsonl").read_bytes() for name in "abc")
    assert a == b != c
    questions = [[row["question"] for row in lines(tmp_path / name / "eval.jsonl")[1:]] for name in "ac"]
    assert not {*questions[0]} & {*questions[1]}


def test_texts_lose_their_middle_where_the_file_would_become_too_large(tmp_path):
    settings = {"model__path": "tiny", "sampling__max_new_tokens": 60}
    assert run_stage("eval", tmp_path / "whole", **settings) == 0
    assert run_stage("eval", tmp_path / "run", **settings, eval__megabytes=0.001) == 0
    whole, cut = (lines(tmp_path / name / "eval.jsonl")[1:] for name in ("whole", "run"))
    for row, short in zip(whole, cut, strict=True):
        assert row["correct"] == short["correct"] and row["tokens"] == short["tokens"]
        assert len(json.dumps(short["text"])) < 110
        if row["text"] != short["text"]:
            beginning, middle, end = short["text"].split(" ... ")
            assert row["text"].startswith(beginning) and row["text"].endswith(end) and "characters" in middle
    assert whole != cut
    for most in (100, 1000):
        for text in ("a" * 5000, "\u221a" * 5000, "\n" * 5000, "\U0001f600" * 2000):
            assert len(json.dumps(without_middle(text, most))) <= max(most, 12 * 40) + 40
    assert without_middle("abc", 5) == "abc"
    assert without_middle("\u4f60" * 25, 90) == "\u4f60" * 25, "shorter than the two ends together"
    assert without_middle("abcdefgh" * 30, 100).startswith("abcdefgh")


@pytest.mark.parametrize(
    "change",
    ["model.dtype=bfloat16", "sampling.max_new_tokens=5", "sampling.stop=[x]", "eval.temperature=0.5", "eval.top_p=0.9",
     "eval.seed=1", "eval.data.count=2", "eval.samples=3", "eval.require_tags=false", "prompt.template='{question}'",
     "rewards.accuracy.args.grading.percent=optional", "code", "versions", "eval_hash"],
)  # fmt: skip
def test_only_an_evaluation_that_was_made_in_the_same_way_is_taken_over(tmp_path, change):
    run = tmp_path / "run"
    assert run_stage("sft", run, sft__steps=1, eval__at_end="true") == 0
    base = command("eval", tmp_path / "eval", model__path=run)[1:]
    config, data = load_config(None, base), manifest(run)["eval_hash"]
    taken = evaluation_of(run, config, data)
    assert taken == json.loads((run / "eval.json").read_text())
    free = ["threads=2", "seed=5", "sampling.max_rows=3", "eval.every=3", "eval.against=x", "eval.megabytes=1"]
    assert evaluation_of(run, load_config(None, [*base, *free]), data) == taken
    if "=" in change:
        key = change.partition("=")[0]
        config = load_config(None, [*(one for one in base if not one.startswith(key + "=")), change])
    else:
        (run / "manifest.json").write_text(json.dumps(manifest(run) | {change: {"grpo": "other"}}))
    assert evaluation_of(run, config, data) is None


def test_an_evaluation_without_its_rows_is_made_again(tmp_path):
    run = tmp_path / "run"
    assert run_stage("sft", run, sft__steps=1, eval__at_end="true") == 0
    config = load_config(None, command("eval", tmp_path / "eval", model__path=run)[1:])
    (run / "eval.jsonl").unlink()
    assert evaluation_of(run, config, manifest(run)["eval_hash"]) is None
