"""The report of runs in any state: unfinished, damaged, empty."""

from __future__ import annotations

import json
import math
import os
import re
from pathlib import Path

import pytest
from helpers_report import evaluation, html_of, write_run

from grpo.cli import main
from grpo.report.page import write_reports

EXPERIMENTS = Path(__file__).parent.parent / "experiments" / "demo"


# ---- runs in any state ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("missing", ["manifest.json", "config.yaml", "metrics.jsonl", "completions.jsonl", "eval.json"])
def test_a_missing_file_is_left_out(tmp_path, missing):
    folder = write_run(tmp_path / "run", **{missing: None})
    html = html_of(folder)
    assert "</html>" in html and "run" in html
    assert ("two and two" in html) == (missing != "completions.jsonl")
    assert ("seed: 11" in html) == (missing != "config.yaml")


@pytest.mark.parametrize("only", ["manifest.json", "config.yaml", "metrics.jsonl", "eval.json"])
def test_any_file_of_a_run_makes_a_run(tmp_path, only):
    folder = write_run(tmp_path / "run")
    for path in folder.iterdir():
        if path.name != only:
            path.unlink()
    assert "</html>" in html_of(folder)


def test_a_chart_is_headed_by_the_last_value(tmp_path):
    html = html_of(write_run(tmp_path / "run"))
    assert '<span>kl</span> <b title="last step">0.05 nats</b>' in html


def test_an_unfinished_run_says_how_far_it_is(tmp_path):
    html = html_of(write_run(tmp_path / "run", manifest__json={"stage": "grpo"}))
    assert "unfinished, 5 steps so far" in html
    html = html_of(write_run(tmp_path / "new", manifest__json={"stage": "grpo"}, metrics__jsonl=""))
    assert "unfinished, 0 steps so far" in html and "No step has been logged" in html


def test_values_that_are_no_numbers_are_left_out(tmp_path):
    values = [1.0, math.nan, math.inf, None, "x", True, 10**400, 1e308, 3.0]
    rows = [{"step": i, "kl": v, "reward": math.nan} for i, v in enumerate(values)]
    rows += [{"step": 9}, {"step": None, "kl": 5.0}, {"step": math.nan, "kl": 6.0}]
    html = html_of(write_run(tmp_path / "run", metrics__jsonl=rows))
    figure = re.search(r'<svg[^>]*aria-label="kl".*?</svg>', html)[0]
    assert len(re.search('class="line s0" points="(.*?)"', figure)[1].split()) == 2  # 1.0 and 3.0
    assert "no finite value was logged" in html  # reward
    assert not re.search(r"\b(nan|inf)\b", "".join(re.findall(r"<svg.*?</svg>", html)))


@pytest.mark.parametrize("broken", [b'{"step": 6, "rew', b"[1, 2]", b"\x00\xff", b"[" * 100_000])
def test_what_a_kill_left_behind_is_named_and_skipped(tmp_path, broken):
    folder = write_run(tmp_path / "run")
    (folder / "metrics.jsonl").write_bytes(b'{"step": 1, "reward": 0.25}\n' + broken)
    (folder / "eval.json").write_bytes(broken)
    html = html_of(folder)
    assert "run: could not be read: eval.json, metrics.jsonl." in html
    assert 'aria-label="reward"' in html


def test_half_a_surrogate_pair_is_no_obstacle(tmp_path):
    rows = [{"step": 1, "completion": "before \ud800 after"}]
    assert "before ? after" in html_of(write_run(tmp_path / "run", completions__jsonl=rows))


def test_an_interrupted_write_leaves_the_old_report(tmp_path, monkeypatch):
    folder = write_run(tmp_path / "run")
    before = html_of(folder)
    (folder / "config.yaml").write_text("seed: 99\n")

    def full(source, target):
        raise OSError(28, "No space left on device", str(target))

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(ValueError, match=r"report\.html cannot be written: No space left on device"):
        write_reports(folder)
    assert (folder / "report.html").read_text() == before


def test_a_folder_without_runs_is_one_line(tmp_path, capsys):
    (tmp_path / "empty" / "inner").mkdir(parents=True)
    for folder, reason in ((tmp_path / "empty", "holds no run"), (tmp_path / "none", "no such folder")):
        with pytest.raises(ValueError, match=reason) as error:
            write_reports(folder)
        assert "\n" not in str(error.value) and str(folder) in str(error.value)
        assert main(["report", str(folder)]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 2
    assert not list(tmp_path.rglob("report.html"))


def test_the_command_prints_the_table(tmp_path, capsys):
    folder = write_run(tmp_path / "run")
    assert main(["report", str(folder)]) == 0
    out = capsys.readouterr().out
    assert "accuracy, sampled" in out and out.endswith(f"report: {folder / 'report.html'}\n")


def test_the_command_says_which_runs_have_no_evaluation(tmp_path, capsys):
    write_run(tmp_path / "a")
    write_run(tmp_path / "b", eval__json=None, manifest__json={"stage": "grpo"})
    assert main(["report", str(tmp_path)]) == 0
    table, others, _ = capsys.readouterr().out.split("\n\n")
    assert table.splitlines()[0].split() == ["a"] and others == "b: no evaluation; unfinished, 5 steps so far"
    assert main(["report", str(tmp_path / "b")]) == 0
    assert capsys.readouterr().out.startswith("b: no evaluation; unfinished, 5 steps so far\n\nreport: ")


def test_runs_in_hidden_folders_are_not_looked_for(tmp_path):
    for name in ("seen", ".venv/lib/run"):
        write_run(tmp_path / name)
    write_reports(tmp_path)
    assert [path.parent.name for path in sorted(tmp_path.rglob("report.html"))] == [tmp_path.name, "seen"]


def test_the_report_as_json_has_the_evaluations_by_the_path_of_their_run(tmp_path, capsys):
    for arm, accuracy in (("a", 0.25), ("b", 0.5)):
        write_run(tmp_path / arm / "seed-1", eval__json=evaluation(accuracy))
    write_run(tmp_path / "c", eval__json=None)
    assert main(["report", str(tmp_path), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    accuracies = {name: one["sampled"]["accuracy"] for name, one in found["evaluations"].items()}
    assert accuracies == {"a/seed-1": 0.25, "b/seed-1": 0.5}
    assert Path(found["report"]) == tmp_path / "report.html" and Path(found["report"]).is_file()


def test_the_current_folder_has_a_name(tmp_path, monkeypatch):
    monkeypatch.chdir(write_run(tmp_path / "parent" / "here"))
    assert "<h1>here</h1>" in html_of(Path("."))
    monkeypatch.chdir(tmp_path / "parent")
    assert "<h1>parent</h1>" in html_of(Path("."))
