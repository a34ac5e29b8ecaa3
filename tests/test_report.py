"""The report: complete, readable, safe to open, and there whatever state the runs are in."""

from __future__ import annotations

import json
import math
import os
import re
import sys
import xml.etree.ElementTree as ET
from collections import Counter
from html import unescape
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grpo.charts import Line, chart, nice_ticks, number, thin
from grpo.cli import main
from grpo.config import Config, RejectConfig
from grpo.evaluate import WIDTH, Judged, evaluation_rows, evaluation_table
from grpo.glossary import EVALUATION, METRICS, REJECTION, explain, in_order
from grpo.rejection import filter_samples
from grpo.report import write_reports

EXPERIMENTS = Path(__file__).parent.parent / "experiments" / "demo"


def evaluation(accuracy: float = 0.5, **sampled) -> dict:
    figures = {
        "accuracy": accuracy,
        "format": 0.875,
        "reflection_rate": 0.25,
        "reflections": 1.5,
        "accuracy_reflecting": None,
        "accuracy_others": 0.4,
        "length": 41.25,
        "truncated": 0.0,
        "ci95": [accuracy - 0.125, accuracy + 0.125],
        "pass_at": {"1": accuracy, "4": 0.75},
        "maj": {"4": 0.625},
    }
    return {"sampled": figures | sampled, "greedy": {"accuracy": 0.9375, "ci95": [0.8, 1.0]}}


def write_run(folder: Path, **files) -> Path:
    """A run folder by hand: a finished GRPO run, but for what `files` replaces (None: leave out)."""
    content = {
        "manifest.json": {"stage": "grpo", "parent": {"model": "the/parent", "seed": 7}, "finished": "today"},
        "config.yaml": "seed: 11\n",
        "metrics.jsonl": [{"step": i, "reward": i / 10, "reward_accuracy": 0.5, "kl": 0.01 * i} for i in range(1, 6)],
        "completions.jsonl": [
            {"step": 1, "problem": "p/1", "answer": "4", "completion": "two and two", "rewards": {"accuracy": 0.0}}
        ],
        "eval.json": evaluation(),
    }
    folder.mkdir(parents=True)
    for name, value in (content | {k.replace("__", "."): v for k, v in files.items()}).items():
        if isinstance(value, list):
            value = "".join(json.dumps(row) + "\n" for row in value)
        if value is not None:
            (folder / name).write_text(value if isinstance(value, str) else json.dumps(value), encoding="utf-8")
    return folder


def html_of(folder: Path) -> str:
    write_reports(folder)
    return (folder / "report.html").read_text(encoding="utf-8")


# ---- the glossary is complete ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def real_runs(tmp_path_factory) -> Path:
    """One step of SFT and of GRPO from random weights."""
    parent = tmp_path_factory.mktemp("runs")
    common = ["model.path=tiny-init", "threads=1", "data.count=8", "eval.at_end=false"]
    sft = ["sft.steps=1", "sft.batch_size=4"]
    # nothing is right yet, so no group has a spread: keep them, or there is no update to log
    grpo = [
        "grpo.steps=1",
        "grpo.prompts_per_step=2",
        "grpo.group_size=2",
        "grpo.drop_zero_spread=false",
        "loss.beta=0.01",
    ]
    for stage, extra in (("sft", sft), ("grpo", grpo)):
        run = [f"run={parent / stage}", "sampling.max_new_tokens=12", *common, *extra]
        assert main([stage, "--config", str(EXPERIMENTS / f"{stage}.yaml"), *run]) == 0
    return parent


def test_every_logged_metric_is_explained_and_nothing_else(real_runs):
    logged = set()
    for stage in ("sft", "grpo"):
        lines = (real_runs / stage / "metrics.jsonl").read_text().splitlines()
        logged |= {name for line in lines for name in json.loads(line)} - {"step"}
    assert {"loss", "kl", "reward_accuracy", "tokens"} <= logged  # the runs did log what they are for
    assert [name for name in sorted(logged) if not explain(name)] == []
    known = {n for n in METRICS if n != "reward_<name>"}
    assert known <= logged, "explained, but not logged by any stage"
    assert all(name.startswith("reward_") for name in logged - known)


def test_a_real_run_has_a_chart_of_each_metric(real_runs):
    html = unescape(html_of(real_runs))
    assert "<title>step</title>" not in html
    for stage in ("sft", "grpo"):
        line = json.loads((real_runs / stage / "metrics.jsonl").read_text().splitlines()[-1])
        for name in line.keys() - {"step"}:
            assert f"<title>{name}</title>" in html and explain(name) in html
    assert "Not evaluated yet" in html and "tiny-init" in html


def test_every_evaluated_figure_is_explained():
    labels = [label.strip() for label, _ in evaluation_rows([evaluation()])]
    assert [x for x in labels if re.sub(r"@\d+$", "@k", x) not in EVALUATION] == []
    assert len(EVALUATION) == len(set(labels))


def test_every_rejection_count_is_explained():
    counts: Counter[str] = Counter({"sampled": 6, "kept": 1})

    def sample(text: str, correct: bool = True, formed: bool = True, reflections: int = 1) -> Judged:
        return Judged(0, text, correct, formed, reflections, "1", 3, False)

    samples = [
        sample("a", correct=False),
        sample("b", formed=False),
        sample("c", reflections=0),
        sample("d"),
        sample("d"),
        sample("e"),
    ]
    config = Config(reject=RejectConfig(per_problem=1, reflection="only"))
    filter_samples(list(enumerate(samples)), config, counts)
    assert set(counts) == set(REJECTION)


def test_metrics_come_in_the_glossary_s_order_with_unknown_ones_last():
    groups = in_order(["mine", "kl", "reward_accuracy", "reward", "loss", "reward_format"])
    assert groups == {
        "Reward": ["reward", "reward_accuracy", "reward_format"],
        "Optimisation": ["loss", "kl"],
        "Other": ["mine"],
    }


# ---- the table ------------------------------------------------------------------------------------------------


def test_the_table_has_a_column_per_stage_and_the_figures_of_each():
    text = evaluation_table({"1-sft": evaluation(0.25), "4-final": evaluation(0.75)})
    cells = {line[:26].strip(): line[26:].split() for line in text.splitlines()[2:]}
    assert text.splitlines()[0].split() == ["1-sft", "4-final"]
    assert cells["accuracy, sampled"] == ["0.250", "0.750"]
    assert "0.125-0.375" in text and "0.800-1.000" in text
    assert cells["accuracy, greedy"] == ["0.938", "0.938"]
    assert cells["pass@4"] == ["0.750", "0.750"] and cells["maj@4"] == ["0.625", "0.625"]
    assert "pass@1" not in cells  # the accuracy once more
    assert cells["format rate"] == ["0.875"] * 2 and cells["reflection rate"] == ["0.250"] * 2
    assert cells["reflections per completion"] == ["1.50"] * 2
    assert cells["accuracy when reflecting"] == ["-", "-"] and cells["accuracy otherwise"] == ["0.400"] * 2
    assert cells["length in tokens"] == ["41.2"] * 2


def test_the_table_fits_whatever_the_number_of_runs():
    names = [f"{i}-a-run-with-a-name" for i in range(12)]
    text = evaluation_table({name: evaluation() for name in names})
    assert max(map(len, text.splitlines())) <= WIDTH == 100
    assert all(text.count(name) == 1 for name in [f" {n}" for n in names])


def test_a_run_without_evaluation_has_dashes():
    text = evaluation_table({"a": evaluation(math.nan), "b": {}})
    row = next(line for line in text.splitlines() if line.startswith("accuracy, sampled"))
    assert row.split()[2:] == ["-", "-"]


def test_runs_without_figures_are_compared_as_far_as_they_go(tmp_path):
    write_run(tmp_path / "a", eval__json=evaluation(math.nan))
    write_run(tmp_path / "b", eval__json=None)
    write_run(tmp_path / "c", eval__json=evaluation(0.25))
    figure = re.search(r"<svg viewBox=\"0 0 760.*?</svg>", html_of(tmp_path))[0]
    assert figure.count("<polyline") == 7  # sampled: c; greedy, otherwise and format: a and c; when reflecting: none
    assert "nan" not in figure


# ---- the page -------------------------------------------------------------------------------------------------


def test_a_parent_s_report_compares_its_runs_and_each_gets_its_own(tmp_path):
    counts = {"sampled": 200, "wrong": 150, "kept": 50}
    write_run(tmp_path / "1-sft", eval__json=evaluation(0.3125))
    write_run(tmp_path / "2-reject", rejection__json=counts, samples__jsonl=[{"id": "p/9", "response": "kept text"}])
    (tmp_path / "not-a-run").mkdir()
    text = write_reports(tmp_path)
    table, _, where = text.rpartition("\n\n")
    assert where == f"report: {tmp_path / 'report.html'}"
    assert "0.312" in table and "not-a-run" not in table
    html = (tmp_path / "report.html").read_text()
    for wanted in ("0.312", "From run to run", 'id="run2"', "0.750", "Fine-tuned on", "kept text", "two and two"):
        assert wanted in html
    for wanted in ("the/parent", "seed: 11", "parent.seed", explain("kl"), explain("reward_accuracy")):
        assert wanted in unescape(html)
    own = (tmp_path / "1-sft" / "report.html").read_text()
    assert "0.312" in own and "kept text" not in own and "From run to run" not in own
    assert (tmp_path / "2-reject" / "report.html").exists()
    assert not (tmp_path / "not-a-run" / "report.html").exists()
    row = html[html.index("<th>wrong</th>") :].split("</tr>")[0]
    assert ">150<" in row and ">0.750<" in row and REJECTION["wrong"] in row
    assert EVALUATION["pass@k"] in html and EVALUATION["maj@k"] in html
    assert not list(tmp_path.rglob("*.partial"))


def test_the_page_loads_and_runs_nothing(tmp_path):
    html = html_of(write_run(tmp_path / "run"))
    assert not re.search(r"<script|<link|<img|<iframe|@import|url\(|src=|https?:|\son\w+=", html, re.IGNORECASE)


def test_text_of_models_and_data_is_escaped_everywhere(tmp_path):
    evil = "<script>alert('x')</script>&\"'"
    row = {"step": 1, "problem": evil, "answer": evil, "completion": evil, "rewards": {evil: 1.0}}
    html = html_of(
        write_run(
            tmp_path / "<b>run",
            completions__jsonl=[row],
            samples__jsonl=[{"id": evil, "question": evil, "response": evil, "answer": evil}],
            config__yaml=evil,
            manifest__json={"stage": evil, evil: evil},
            metrics__jsonl=[{"step": 1, evil: 1.0}],
            rejection__json={"sampled": 4, evil: evil},
        )
    )
    assert "<script" not in html and "<b>run" not in html
    assert html.count("&lt;script&gt;") >= 14


def test_the_page_is_well_nested(tmp_path):
    write_run(tmp_path / "a")
    write_run(tmp_path / "b", metrics__jsonl="", completions__jsonl=None)
    open_tags: list[str] = []

    class Checker(HTMLParser):
        def handle_starttag(self, tag, attributes):
            if tag not in ("meta", "br"):
                open_tags.append(tag)

        def handle_startendtag(self, tag, attributes):
            pass

        def handle_endtag(self, tag):
            assert open_tags.pop() == tag

    Checker().feed(html_of(tmp_path))
    assert open_tags == []


def test_completions_of_the_first_and_the_last_step_are_shown_and_long_ones_cut(tmp_path):
    rows = [
        {"step": step, "problem": "p", "completion": f"<{step}.{i}>" + "y" * 9000 * (step == 3), "rewards": {"r": None}}
        for step in (1, 2, 3)
        for i in range(6)
    ]
    html = html_of(write_run(tmp_path / "run", completions__jsonl=rows))
    shown = re.findall(r"&lt;(\d\.\d)&gt;", html)
    assert shown == ["1.0", "1.1", "3.0", "3.1", "3.2", "3.3"]
    html_of_one_step = html_of(write_run(tmp_path / "one", completions__jsonl=rows[:3]))
    assert re.findall(r"&lt;(\d\.\d)&gt;", html_of_one_step) == ["1.0", "1.1", "1.2"]
    assert "(6005 more characters)" in html and "y" * 3001 not in html
    assert "does not apply" in html


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
    assert '<span>kl</span><span title="last step">0.05</span>' in html


def test_an_unfinished_run_says_how_far_it_is(tmp_path):
    html = html_of(write_run(tmp_path / "run", manifest__json={"stage": "grpo"}))
    assert "unfinished, 5 steps so far" in html
    html = html_of(write_run(tmp_path / "new", manifest__json={"stage": "grpo"}, metrics__jsonl=""))
    assert "unfinished, 0 steps so far" in html and "No step has been logged" in html


def test_values_that_are_no_numbers_leave_gaps(tmp_path):
    values = [1.0, math.nan, math.inf, None, "x", True, 10**400, 1e308, 3.0]
    rows = [{"step": i, "kl": v, "reward": math.nan} for i, v in enumerate(values)]
    rows += [{"step": 9}, {"step": None, "kl": 5.0}, {"step": math.nan, "kl": 6.0}]
    html = html_of(write_run(tmp_path / "run", metrics__jsonl=rows))
    figure = re.search(r"<svg[^>]*aria-label=\"kl\".*?</svg>", html)[0]
    assert figure.count("<polyline") == figure.count("<circle") == 2  # 1.0 and 3.0, apart
    assert "no finite value was logged" in html  # reward
    assert not re.search(r"\b(nan|inf)\b", "".join(re.findall(r"<svg.*?</svg>", html)))


@pytest.mark.parametrize("broken", [b'{"step": 6, "rew', b"[1, 2]", b"\x00\xff", b"[" * 100_000])
def test_what_a_kill_left_behind_is_named_and_skipped(tmp_path, broken):
    folder = write_run(tmp_path / "run")
    (folder / "metrics.jsonl").write_bytes(b'{"step": 1, "reward": 0.25}\n' + broken)
    (folder / "eval.json").write_bytes(broken)
    html = html_of(folder)
    assert "metrics.jsonl (1 of 2 lines), eval.json" in html
    assert "<title>reward</title>" in html


def test_half_a_surrogate_pair_is_no_obstacle(tmp_path):
    rows = [{"step": 1, "completion": "before \ud800 after"}]
    assert "before ? after" in html_of(write_run(tmp_path / "run", completions__jsonl=rows))


def test_without_jinja2_the_table_still_comes_and_the_way_to_the_page(tmp_path, monkeypatch):
    folder = write_run(tmp_path / "run")
    monkeypatch.setitem(sys.modules, "jinja2", None)
    text = write_reports(folder)
    assert "0.500" in text and text.splitlines()[-1] == "no report.html: it needs `pip install grpo[report]`"
    assert not (folder / "report.html").exists()


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


def test_the_current_folder_has_a_name(tmp_path, monkeypatch):
    monkeypatch.chdir(write_run(tmp_path / "parent" / "here"))
    assert "<h1>here</h1>" in html_of(Path("."))
    monkeypatch.chdir(tmp_path / "parent")
    assert "<h1>parent</h1>" in html_of(Path("."))


# ---- charts ---------------------------------------------------------------------------------------------------

FINITE = st.floats(-1e99, 1e99)


@given(FINITE, FINITE)
def test_ticks_are_few_rise_evenly_and_enclose(a, b):
    low, high = min(a, b), max(a, b)
    ticks = nice_ticks(low, high)
    slack = 1e-5 * (ticks[-1] - ticks[0])
    assert 2 <= len(ticks) <= 6 and ticks == sorted(set(ticks))
    assert ticks[0] <= low + slack and high <= ticks[-1] + slack


def test_ticks_are_round():
    assert nice_ticks(0.11, 0.92) == pytest.approx([0, 0.5, 1.0])
    assert nice_ticks(0, 0) == pytest.approx([0, 0.5, 1])
    assert nice_ticks(0.4, 1.0)[0] == 0 and nice_ticks(0.6, 1.0)[0] == pytest.approx(0.6)  # from 0 where it is near
    assert nice_ticks(41, 47) == [40, 42, 44, 46, 48]


def test_points_lie_where_the_values_say():
    svg = ET.fromstring(chart([Line("x", [(1, 0.0), (2, 1.0), (3, 0.5)])], width=360, height=128))
    points = svg.find(".//polyline").get("points").split()
    (x1, y1), (x2, y2), (x3, y3) = ([float(v) for v in p.split(",")] for p in points)
    assert x1 < x2 < x3 and x2 - x1 == pytest.approx(x3 - x2)
    assert y2 < y3 < y1 and y3 == pytest.approx((y1 + y2) / 2)  # SVG's y grows downwards


def test_intervals_stay_inside_the_figure():
    svg = ET.fromstring(chart([Line("x", [(0, 0.5), (1, 0.6)], ((0, 0.1, 0.9),))], ["a<b", "c"]))
    (bar,) = [e for e in svg.find("g") if e.tag == "line"]
    assert 0 <= float(bar.get("y2")) < float(bar.get("y1")) <= 132
    assert "a<b" in [t.text for t in svg.iter("text")]


def test_long_curves_are_averaged_not_sampled():
    points = [(float(i), float(i % 2)) for i in range(1000)]
    assert thin(points, 100) == [(i * 10 + 4.5, 0.5) for i in range(100)]
    assert thin(points[:50], 100) == points[:50]
    assert len(re.search('points="(.*?)"', chart([Line("x", points)]))[1].split()) == 200
    assert thin([(0.0, 1.0), (1.0, math.nan), (2.0, math.nan), (3.0, math.nan)], 2)[0] == (0.5, 1.0)


def test_numbers_as_a_person_writes_them():
    values = (0.30000000000000004, 12345.6, 1e-7, 0.0, 2e9, math.nan, -0.5, -0.0)
    assert [number(v) for v in values] == ["0.3", "12,346", "1e-07", "0", "2e+09", "-", "-0.5", "0"]
