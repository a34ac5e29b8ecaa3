"""What the page says first: did it learn, against what, and how sure is that?"""

from __future__ import annotations

import re
from html import unescape
from pathlib import Path, PurePath

import pytest
from helpers_report import evaluation, html_of, write_run
from helpers_runs import grpo as run_stage

import grpo.report.live
from grpo.report.charts import Series, line_chart, thinned
from grpo.report.curves import arms
from grpo.report.learn import is_parent, verdicts
from grpo.report.live import LiveReport
from grpo.report.read import find_runs, natural, read_run


def verdict(folder: Path) -> str:
    return verdicts([read_run(path) for path in find_runs(folder)])[-1]


@pytest.mark.parametrize(
    ("interval", "words"),
    [
        ([0.02, 0.18], "run: it is better than p by +0.100 (+0.020 to +0.180) on the same 9 problems in pairs."),
        ([-0.18, -0.02], "run: it is worse than p: +0.100 (-0.180 to -0.020) on the same 9 problems in pairs."),
        ([-0.1, 0.2], "run: no difference from p is shown: +0.100 (-0.100 to +0.200) on the same 9 problems in pairs."),
    ],
)
def test_a_difference_is_stated_with_its_interval_or_said_not_to_be_shown(tmp_path, interval, words):
    paired = {"against": "p", "problems": 9, "sampled": 0.1, "sampled_ci95": interval}
    folder = write_run(tmp_path / "run", eval__json=evaluation(0.5) | {"paired": paired})
    assert verdict(folder).startswith(words)
    assert words.partition(": ")[2] in unescape(html_of(folder))


def test_without_pairs_it_is_said_that_there_is_no_interval(tmp_path):
    alone = evaluation(0.5) | {"paired": None}
    write_run(tmp_path / "1-sft", manifest__json={"stage": "sft"}, eval__json=alone)
    parent = {"stage": "grpo", "parent": {"model": "runs/demo/1-sft"}}
    write_run(tmp_path / "2-grpo", manifest__json=parent, eval__json=evaluation(0.75) | {"paired": None})
    text = verdict(tmp_path)
    assert "+0.250 from 1-sft's 0.500" in text and "so it has no interval here" in text


def test_a_run_without_an_evaluation_speaks_of_training_problems_alone(tmp_path):
    rows = [{"step": i, "reward_accuracy": i / 20} for i in range(1, 11)]
    text = verdict(write_run(tmp_path / "run", eval__json=None, metrics__jsonl=rows))
    assert "accuracy went from 0.125 (first 4 steps) to 0.425 (last 4)" in text and "not been evaluated" in text


def test_levels_have_their_number_of_problems_and_few_is_said(tmp_path):
    rows = [{"origin": ""}] + [{"problem": i, "id": f"p/{i}", "level": "Level 5", "kind": "sampled"} for i in range(12)]
    html = html_of(write_run(tmp_path / "run", eval__jsonl=rows * 2))
    assert "0.250 (n=12, few)" in html


def test_a_held_out_curve_is_drawn_over_training(tmp_path):
    curve = [{"step": s, "accuracy": 0.1 * s, "greedy": 0.2} for s in (0, 5)]
    html = unescape(html_of(write_run(tmp_path / "run", curve__jsonl=curve)))
    assert '["held-out, sampled",[[0,0],[5,0.5]]]' in html and "held-out, greedy" in html


# ---- charts ----------------------------------------------------------------------------------------------------


def test_a_spike_survives_thinning():
    points = [(float(i), 1.0 + (i % 7) / 10) for i in range(5000)]
    points[1234] = (1234.0, 50.0)
    points[4321] = (4321.0, -9.0)
    kept = thinned(points)
    assert len(kept) <= 302 and points[1234] in kept and points[4321] in kept
    assert kept[0] == points[0] and kept[-1] == points[-1] and kept == sorted(kept)
    assert "50]" in line_chart("grad_norm", [Series("run", points)])
    assert thinned(points[:50]) == points[:50]


def test_what_never_changes_is_in_one_strip(tmp_path):
    rows = [{"step": i, "updates": 1.0, "kl": i / 9} for i in range(1, 6)]
    html = html_of(write_run(tmp_path / "run", metrics__jsonl=rows))
    assert re.search(r"<li[^>]*>updates <b>1</b></li>", html) and 'aria-label="updates"' not in html
    assert 'aria-label="kl"' in html


# ---- many runs -------------------------------------------------------------------------------------------------


def test_runs_are_found_in_folders_of_folders_and_ordered_as_people_count(tmp_path):
    for arm in ("base", "dapo"):
        for seed in (2, 10, 1):
            config = f"loss: {{preset: {arm}}}\nseed: {seed}\n"
            write_run(tmp_path / arm / f"seed-{seed}", config__yaml=config)
    html = html_of(tmp_path)
    names = [path.relative_to(tmp_path).as_posix() for path in find_runs(tmp_path)]
    assert names == [f"{arm}/seed-{seed}" for arm in ("base", "dapo") for seed in (1, 2, 10)]
    grouped = arms([read_run(tmp_path / name, name) for name in names])
    assert [(name, len(runs)) for name, runs in grouped.items()] == [("base (3 seeds)", 3), ("dapo (3 seeds)", 3)]
    assert html.count('<polygon class="band s1"') >= 2 and "dapo/seed-10" in html
    assert '<th scope="row">loss.preset</th>' in html and (tmp_path / "dapo" / "seed-10" / "report.html").exists()
    assert sorted(["s10", "s9", "a"], key=natural) == ["a", "s9", "s10"]


def test_a_mean_is_of_runs_of_one_kind_with_a_seed_each(tmp_path):
    """GRPO from the base and after SFT has the same settings; only the model that it began from differs."""
    rows = []
    for seed in (0, 1, 2):
        for start in ("runs/sft-ab", "tiny"):
            folder = tmp_path / f"seed{seed}" / f"grpo-{PurePath(start).name}"
            parent = {"stage": "grpo", "parent": {"model": f"{start}/model" if seed else start}, "finished": "today"}
            write_run(folder, config__yaml=f"seed: {seed}\n", manifest__json=parent)
            rows.append(read_run(folder, f"seed{seed}/{folder.name}"))
    assert [[run.name[-6:] for run in some] for some in arms(rows).values()] == [["sft-ab"] * 3, ["o-tiny"] * 3]
    assert [len(some) for some in arms(rows[::2] + rows[:1]).values()] == [1, 1, 1, 1], "a seed stands twice"


def test_the_parent_is_the_run_that_the_path_names(tmp_path):
    names = ("seed0/sft-ab", "seed1/sft-ab", "seed1/grpo-cd")
    runs = {}
    for name in names:
        parent = {"stage": "grpo", "parent": {"model": f"runs/x/{names[1]}/model"}, "finished": "today"}
        runs[name] = read_run(write_run(tmp_path / name, manifest__json=parent), name)
    assert [is_parent(runs[name], runs[names[2]]) for name in names] == [False, True, False]


# ---- while a run continues ---------------------------------------------------------------------------------------


def test_the_page_is_refreshed_as_often_as_its_cost_allows(tmp_path, monkeypatch, capsys):
    folder = write_run(tmp_path / "run")
    now = [100.0]
    monkeypatch.setattr("grpo.report.live.time.monotonic", lambda: now[0])
    live = LiveReport(folder)
    live.refresh()
    assert not (folder / "report.html").exists()
    now[0] += 31
    live.refresh()
    assert (folder / "report.html").exists()
    monkeypatch.setattr("grpo.report.live.write_report", lambda folder: now.__setitem__(0, now[0] + 2))
    live.write()  # takes 2 seconds
    assert live._wait == 100
    monkeypatch.setattr("grpo.report.live.write_report", lambda folder: (_ for _ in ()).throw(OSError("full")))
    live.write()
    assert "report.html cannot be written: full" in capsys.readouterr().err
    monkeypatch.setattr("grpo.report.live.write_report", lambda folder: {}["a template of another version"])
    live.write()
    assert "report.html cannot be written: KeyError: 'a template of another version'" in capsys.readouterr().err


def test_while_grpo_is_at_work_its_page_has_the_newest_group(tmp_path, monkeypatch):
    pages, write = [], grpo.report.live.write_report

    def noted(folder: Path) -> None:
        write(folder)
        html = (folder / "report.html").read_text(encoding="utf-8")
        finished = "load this page again to see its newest state" not in html
        newest = re.search(r"<h3>run, step (\d+), demo/train/", html[html.index('id="browser"') :])[1]
        pages.append((int(newest), finished))

    monkeypatch.setattr(grpo.report.live, "EVERY", 0.0)
    monkeypatch.setattr(grpo.report.live, "SHARE", 1e9)
    monkeypatch.setattr(grpo.report.live, "write_report", noted)
    assert run_stage("grpo", tmp_path / "run", "rewards.accuracy.weight=1", grpo__drop_zero_spread="false") == 0
    assert pages == [(1, False), (2, False), (3, False), (4, False), (4, True)]
