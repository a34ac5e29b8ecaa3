"""Stage 3: which samples are kept, where they came from, and that it continues after a stop."""

from __future__ import annotations

import json
from collections import Counter

import pytest
import torch
from helpers_runs import grpo as run_stage
from helpers_runs import lines, manifest, memorised, metrics, one_line, weights
from hypothesis import given
from hypothesis import strategies as st

import grpo.rejection
from data import load_problems
from grpo.evaluation import Judged, judge
from grpo.model.policy import load_policy
from grpo.rejection import filter_samples
from grpo.runs.config import Config, RejectConfig
from grpo.runs.settings import load_config
from rewards import accuracy_reward, format_reward


def sample(text: str, correct: bool = True, well_formed: bool = True, reflections: int = 0) -> Judged:
    return Judged(0, text, correct, well_formed, reflections, answer="1", tokens=3, truncated=False)


def kept(samples: list[Judged], **reject) -> tuple[list[int], Counter]:
    counts: Counter = Counter()
    rows = filter_samples(list(enumerate(samples)), Config(reject=RejectConfig(**reject)), counts)
    assert all(samples[number] is row for number, row in rows)
    return [number for number, _ in rows], counts


def test_wrong_and_malformed_samples_are_never_kept():
    samples = [sample("a", correct=False), sample("b", well_formed=False), sample("c", False, False), sample("d")]
    numbers, counts = kept(samples, per_problem=9)
    assert numbers == [3]
    assert counts == {"wrong": 2, "malformed": 1, "over the cap": 0}


def test_equal_texts_are_kept_once_white_space_aside():
    assert kept([sample("a b"), sample("a  b\n"), sample("A b"), sample("a b")], per_problem=9)[0] == [0, 2]


def test_the_cap_keeps_the_first():
    numbers, counts = kept([sample(t) for t in "abcde"], per_problem=2)
    assert numbers == [0, 1] and counts["over the cap"] == 3


def test_reflective_samples_are_preferred_or_demanded():
    samples = [sample("a"), sample("b", reflections=1), sample("c"), sample("d", reflections=3)]
    assert kept(samples, per_problem=3)[0] == [0, 1, 2]
    assert kept(samples, per_problem=3, reflection="prefer")[0] == [1, 3, 0]
    numbers, counts = kept(samples, per_problem=3, reflection="only")
    assert numbers == [1, 3] and counts["without reflection"] == 2


judged = st.builds(sample, st.sampled_from("abcd"), st.booleans(), st.booleans(), st.integers(0, 2))


@given(st.lists(judged, max_size=12), st.integers(1, 4), st.sampled_from(["any", "prefer", "only"]))
def test_every_sample_is_accounted_for(samples, cap, reflection):
    numbers, counts = kept(samples, per_problem=cap, reflection=reflection)
    assert len(numbers) + sum(counts.values()) == len(samples)
    assert len(numbers) <= cap
    chosen = [samples[n] for n in numbers]
    assert all(s.correct and s.well_formed for s in chosen) and len({s.text for s in chosen}) == len(chosen)
    assert reflection != "only" or all(s.reflections for s in chosen)


# ---- the stage ----------------------------------------------------------------------------------------------


@pytest.fixture
def settings(tmp_path_factory) -> dict:
    _, settings = memorised(tmp_path_factory)
    return {**settings, "sft__steps": 0, "sft__epochs": 2, "sft__batch_size": 2, "reject__samples": 4}


def test_what_is_kept_is_right_well_formed_and_says_where_it_came_from(tmp_path, settings):
    run = tmp_path / "run"
    assert run_stage("reject", run, **settings, sampling__temperature=0.9) == 0
    rows, counts = lines(run / "samples.jsonl"), json.loads((run / "rejection.json").read_text())
    assert counts["sampled"] == 16 and counts["kept"] == len(rows) > 0
    assert sum(v for k, v in counts.items() if k not in ("sampled", "kept")) + counts["kept"] == 16
    texts, golds = [row["response"] for row in rows], [row["answer"] for row in rows]
    assert set(accuracy_reward(texts, answer=golds)) == set(format_reward(texts)) == {1.0}
    assert max(Counter(row["id"] for row in rows).values()) <= 2
    config = load_config(str(run / "config.yaml"))
    problems = load_problems(config.data, config.seed)
    drawn = judge(config, load_policy(config.model), problems, 4, 0.9, "")
    ids = [p.id for p in problems]
    for row in rows:
        assert row["response"] == drawn[4 * ids.index(row["id"]) + row["sample"]].text
        assert row["id"].startswith("demo/train/") and row["question"] and 0 <= row["sample"] < 4
        assert (row["model"], row["temperature"], row["seed"]) == (str(settings["model__path"]), 0.9, 0)
    assert len(metrics(run)) == 2 * -(-len(rows) // 2)
    assert manifest(run)["parent"]["stage"] == "sft" and manifest(run)["stage"] == "reject"


def test_it_is_fine_tuned_from_the_model_that_was_named(tmp_path, settings):
    """With a learning rate of next to nothing the result is the model that it began with."""
    assert run_stage("reject", tmp_path / "a", **settings, optim__lr=1e-30) == 0
    assert run_stage("reject", tmp_path / "b", **settings, optim__lr=1e-30, reject__sft_from="tiny-init") == 0
    key = "model.layers.0.mlp.up_proj.weight"
    start = weights(settings["model__path"])[key]
    assert torch.equal(weights(tmp_path / "a")[key], start)
    assert not torch.equal(weights(tmp_path / "b")[key], start)


def test_nothing_kept_is_one_line_and_another_setting_may_follow(tmp_path, capsys, settings):
    run = tmp_path / "run"
    assert run_stage("reject", run, **{**settings, "model__path": "tiny-init"}) == 2
    said = one_line(capsys)
    assert "none of 16 samples was kept (16 wrong, 0 malformed)" in said and "reject.samples" in said
    assert not (run / "samples.jsonl").exists()
    assert run_stage("reject", run, **settings) == 0


def test_it_goes_on_with_the_samples_that_it_drew(tmp_path, monkeypatch, settings):
    assert run_stage("reject", tmp_path / "whole", **settings) == 0

    def stop(*_):
        raise KeyboardInterrupt

    run = tmp_path / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(grpo.rejection, "fit", stop)
        assert run_stage("reject", run, **settings) == 130
    before = (run / "samples.jsonl").read_bytes()
    with pytest.MonkeyPatch.context() as patch:
        original = grpo.sft.sft_step
        patch.setattr(grpo.sft, "sft_step", lambda *a: stop() if a[-1] == 1 else original(*a))
        assert run_stage("reject", run, **settings) == 130
        patch.setattr(grpo.rejection, "sample_and_filter", stop)  # sampling again would be a mistake
        patch.setattr(grpo.sft, "sft_step", original)
        assert run_stage("reject", run, **settings) == 0
    assert (run / "samples.jsonl").read_bytes() == before == (tmp_path / "whole" / "samples.jsonl").read_bytes()
    ours, theirs = weights(run), weights(tmp_path / "whole")
    assert all(torch.equal(ours[k], theirs[k]) for k in theirs) and metrics(run) == metrics(tmp_path / "whole")
