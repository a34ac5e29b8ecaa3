"""Models in pairs: each with its parent or with a named one, on the same problems, with the interval."""

from __future__ import annotations

import json
import re
import shutil

import pytest
from helpers_runs import PARITY, lines, memorised, one_line, write_module
from helpers_runs import grpo as run_stage

from grpo.report.tables import evaluation_table
from grpo.results.compare import compare_runs
from grpo.runs.files import RunError


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """base, an SFT run from it and one from that, in a folder, evaluated by themselves on 12 problems."""
    _, settings = memorised(tmp_path_factory)
    folder = tmp_path_factory.mktemp("runs")
    settings = {**settings, "eval__data__count": 12, "eval__at_end": "true", "data__count": 12}
    settings |= {"sft__steps": 20, "sft__batch_size": 12, "optim__lr": "1e-3"}
    first = settings.pop("model__path")
    assert run_stage("base", folder / "1-base", **settings, model__path=first) == 0
    assert run_stage("sft", folder / "2-sft", **settings, model__path=first) == 0
    assert run_stage("sft", folder / "3-sft", **settings, model__path=folder / "2-sft") == 0
    return folder, {**settings, "eval__folder": folder}


def rows(run, kind: str) -> dict[str, float]:
    marks: dict[str, list[bool]] = {}
    for row in lines(run / "eval.jsonl")[1:]:
        if row["kind"] == kind:
            marks.setdefault(row["id"], []).append(row["correct"])
    return {id: sum(right) / len(right) for id, right in marks.items()}


def test_a_stage_says_how_it_differs_from_its_parent(runs):
    folder, _ = runs
    for name, parent in (("2-sft", "1-base"), ("3-sft", "2-sft")):
        found = json.loads((folder / name / "eval.json").read_text())["paired"]
        ours, theirs = rows(folder / name, "sampled"), rows(folder / parent, "sampled")
        d = [ours[id] - theirs[id] for id in ours]
        mean = sum(d) / 12
        half = 2.20099 * (sum((x - mean) ** 2 for x in d) / 11 / 12) ** 0.5  # Student's t, 11 degrees of freedom
        assert (found["against"], found["problems"]) == (parent, 12) and found["sampled"] == pytest.approx(mean)
        assert found["sampled_ci95"] == pytest.approx([mean - half, mean + half], abs=1e-5)
        assert found["greedy"] == pytest.approx(
            (sum(rows(folder / name, "greedy").values()) - sum(rows(folder / parent, "greedy").values())) / 12
        )
    assert "paired" not in json.loads((folder / "1-base" / "eval.json").read_text())


def test_a_reward_of_ones_own_does_not_keep_a_run_from_its_parent(runs, tmp_path, monkeypatch):
    """Its module is code that the parent did not have, and no matter of which completions are right."""
    folder, settings = runs
    module = write_module(tmp_path, monkeypatch, PARITY)
    mine = {"eval__folder": "", "model__path": folder / "2-sft", "grpo__steps": 1, "grpo__drop_zero_spread": "false"}
    assert run_stage("grpo", tmp_path / "run", f"rewards.mine.function={module}:parity", **settings | mine) == 0
    assert json.loads((tmp_path / "run" / "eval.json").read_text())["paired"]["against"] == "2-sft"


def test_grpo_eval_shows_each_model_beside_its_parent(runs, tmp_path, capsys):
    folder, settings = runs
    assert run_stage("eval", tmp_path / "eval", **settings) == 0
    table = capsys.readouterr().out
    assert not (tmp_path / "eval").exists()  # all three were taken over
    words = next(line for line in table.splitlines() if line.startswith("compared with")).split()
    assert words[2:] == ["-", "1-base", "2-sft"]
    found = json.loads((folder / "3-sft" / "eval.json").read_text())["paired"]
    assert f"{found['sampled']:+.3f}" in table and f"{found['sampled_ci95'][0]:+.3f} to " in table


def test_grpo_eval_writes_the_page_of_the_folder_and_of_what_it_evaluated(runs, tmp_path, capsys):
    folder, settings = runs
    (folder / "report.html").unlink(missing_ok=True)
    assert run_stage("eval", tmp_path / "eval", **settings, eval__against="1-base") == 0
    assert f"report: {folder / 'report.html'}" in capsys.readouterr().err
    page = (folder / "report.html").read_text(encoding="utf-8")
    verdict = re.search(r'<p class="lead">3-sft: (.*?)</p>', page)[1]
    assert (
        "1-base" in verdict and "2-sft" not in verdict and "on the same 12 problems" in verdict
    )  # as the table has it
    one = {k: v for k, v in settings.items() if k != "eval__folder"} | {"model__path": folder / "3-sft"}
    assert run_stage("eval", tmp_path / "alone", **one, eval__against=folder / "1-base") == 0
    assert f"report: {tmp_path / 'alone' / 'report.html'}" in capsys.readouterr().err
    paired = json.loads((tmp_path / "alone" / "eval.json").read_text())["paired"]
    assert paired["against"] == str(folder / "1-base") and paired["problems"] == 12
    assert "1-base" in (tmp_path / "alone" / "report.html").read_text(encoding="utf-8").partition("By level")[0]
    assert json.loads((folder / "3-sft" / "eval.json").read_text())["paired"]["against"] == "2-sft"  # as it was
    assert (folder / "1-base" / "report.html").is_file()  # a stage's page, written at its end


def test_evaluations_as_json_are_all_that_stands_on_stdout(runs, tmp_path, capsys):
    folder, settings = runs
    assert run_stage("eval", tmp_path / "eval", "--json", **settings) == 0
    results = json.loads(capsys.readouterr().out)
    assert list(results) == ["1-base", "2-sft", "3-sft"] and results["3-sft"]["paired"]["against"] == "2-sft"
    stored = json.loads((folder / "2-sft" / "eval.json").read_text())
    assert results["2-sft"] == stored and stored["problems"] == 12


def test_a_named_model_takes_the_parents_place(runs, tmp_path, capsys):
    _, settings = runs
    assert run_stage("eval", tmp_path / "eval", **settings, eval__against="1-base") == 0
    words = next(x for x in capsys.readouterr().out.splitlines() if x.startswith("compared with")).split()
    assert words[2:] == ["-", "1-base", "1-base"]
    assert run_stage("eval", tmp_path / "other", **settings, eval__against="tiny-init") == 0  # of no run: evaluated
    words = next(x for x in capsys.readouterr().out.splitlines() if x.startswith("compared with")).split()
    assert words[2:] == ["tiny-init"] * 3 + ["-"] and (tmp_path / "other" / "tiny-init" / "eval.jsonl").exists()


def test_one_model_is_compared_with_its_parent_or_with_the_named_one(runs, tmp_path, capsys):
    folder, settings = runs
    one = {k: v for k, v in settings.items() if k != "eval__folder"} | {"model__path": folder / "3-sft"}
    for more, against in (({}, "2-sft"), ({"eval__against": folder / "1-base"}, str(folder / "1-base"))):
        assert run_stage("eval", tmp_path / "eval", **one, **more) == 0
        line = next(x for x in capsys.readouterr().out.splitlines() if x.startswith("compared with"))
        assert line.split()[2:][0] == against
    assert run_stage("eval", tmp_path / "few", **one | {"eval__data__count": 5}) == 0
    assert "compared with" not in capsys.readouterr().out  # the parent was evaluated on more problems


def test_other_problems_are_never_paired(runs, tmp_path):
    folder, _ = runs
    shutil.copytree(folder / "2-sft", tmp_path / "2-sft")
    path = tmp_path / "2-sft" / "eval.jsonl"
    path.write_text(path.read_text().replace('"id": "demo/train/0-0"', '"id": "another"'))
    with pytest.raises(RunError, match="were evaluated on other problems"):
        compare_runs(tmp_path / "2-sft", folder / "1-base", "1-base")


def test_a_named_model_that_is_not_there_is_one_line(runs, tmp_path, capsys):
    _, settings = runs
    assert run_stage("eval", tmp_path / "eval", **settings, eval__against="./none") == 2
    assert "model.path=./none: cannot be loaded" in one_line(capsys)


def test_the_table_has_signs_and_no_rows_of_pairs_where_there_are_none():
    one = {"sampled": {"accuracy": 0.5}, "greedy": {}}
    assert "compared" not in evaluation_table({"a": one})
    pair = {
        "against": "a",
        "problems": 9,
        "sampled": 0.25,
        "sampled_ci95": [-0.1, 0.6],
        "greedy": 0,
        "greedy_ci95": [0, 0],
    }
    table = evaluation_table({"a": one, "b": {**one, "paired": pair}})
    assert "+0.250" in table and "-0.100 to +0.600" in table
