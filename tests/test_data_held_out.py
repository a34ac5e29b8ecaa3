"""Own data: the held-out problems follow the training problems, and no row is left out unasked."""

from __future__ import annotations

import json

import pytest
from helpers_runs import grpo, lines, one_line

from data import DataConfig, DataError, load_problems
from grpo.runs.config import to_yaml
from grpo.runs.settings import load_config


@pytest.fixture
def own(tmp_path):
    """1,200 rows of 300 stories."""
    names = [f"{a}{b}{c}" for a in "bdfgk" for b in ("ako", "ine", "uma", "ore") for c in "abcdefghijklmno"]
    rows = [
        {"task": f"{name} {name}s has {i} and {k} {name}z.", "gold": i + k, "how": f"{i}+{k}={i + k}", "level": k}
        for i, name in enumerate(names)
        for k in range(4)
    ]
    path = tmp_path / "own.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


FIELDS = ["data.question_field=task", "data.answer_field=gold", "data.solution_field=how"]


def test_held_out_problems_follow_the_training_problems(own):
    config = load_config(None, [f"data.source={own}", "data.held_out=0.25", "data.where.level=[1,2]", *FIELDS])
    train, test = load_problems(config.data), load_problems(config.eval.data)
    assert len(train) == 450 and len(test) == 150, "all rows, not the demo's 1000; the cut is whole stories"
    assert not {p.question.split()[0] for p in train} & {p.question.split()[0] for p in test}
    assert {p.columns["level"] for p in test} == {1, 2}
    assert config.eval.data.split == "test" and config.eval.data.count == 200


def test_what_is_set_for_the_evaluation_stays(own):
    settings = [f"data.source={own}", "data.held_out=0.25", "data.start=5", "data.count=20", *FIELDS]
    config = load_config(None, [*settings, "eval.data.count=7", "eval.data.where.level=3"])
    assert (config.data.start, config.data.count) == (5, 20)
    assert [p.columns["level"] for p in load_problems(config.eval.data)] == [3] * 7
    other = load_config(None, [*settings, "eval.data.source=gsm8k"])
    assert other.eval.data == DataConfig("gsm8k", "test", count=200)


def test_the_resolved_configuration_reads_back(own, tmp_path):
    config = load_config(None, [f"data.source={own}", "data.held_out=0.25", *FIELDS])
    (tmp_path / "config.yaml").write_text(to_yaml(config))
    assert load_config(str(tmp_path / "config.yaml")) == config


def test_without_a_source_the_demo_stays():
    config = load_config(None, ["data.demo.slip_rate=0.1"])
    assert (config.data.count, config.eval.data) == (1000, DataConfig(split="test", count=200))
    assert load_config(None, ["data.source=demo"]).data.count == 1000


@pytest.mark.parametrize("name", ["gsm8k", "math", "svamp", "someone/maths"])
def test_a_data_set_with_a_test_split_is_evaluated_on_it(name):
    config = load_config(None, [f"data.source={name}", "data.root=here"])
    assert config.data == DataConfig(name, "train", "here")
    assert config.eval.data == DataConfig(name, "test", "here", count=200)


@pytest.mark.parametrize("second", ["", "gsm8k"], ids=["alone", "with gsm8k"])
def test_a_file_that_is_not_cut_has_no_held_out_problems(own, second):
    sources = [str(own), second] if second else str(own)
    config = load_config(None, [f"data.source={json.dumps(sources)}", *FIELDS])
    with pytest.raises(DataError, match=r"own\.jsonl: which problems are held out\? .*data\.held_out=0\.1.*eval\.data"):
        load_problems(config.eval.data)


def test_a_run_on_own_data_from_end_to_end(own, tmp_path, capsys):
    """Without a cut it says so before it trains; with one it trains on all that is left and evaluates on the rest."""
    text = "".join(f'{{"task": "Mia has {i} apples.", "gold": {i}, "how": "So {i}."}}\n' for i in range(1, 10))
    (tmp_path / "b.jsonl").write_text(text + '{"task": "Ben finds 5 eggs.", "gold": 5, "how": "So 5."}\n')
    run = tmp_path / "run"
    settings = [f"data.source={tmp_path / 'b.jsonl'}", *FIELDS]
    more = {"data__count": 0, "eval__at_end": "true", "eval__samples": 1, "eval__pass_at": "[1]", "sft__steps": 1}
    assert grpo("sft", run, *settings, **more) == 2
    assert "which problems are held out? Cut it by story with data.held_out=0.1" in one_line(capsys)
    assert not run.exists()
    assert grpo("sft", run, *settings, data__held_out=0.1, **more) == 0
    result = json.loads((run / "eval.json").read_text())
    assert result["problems"] == 1 and result["source"] == f"{tmp_path / 'b.jsonl'}/test"
    assert len(lines(run / "metrics.jsonl")) == 1
