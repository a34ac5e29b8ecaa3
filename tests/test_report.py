"""The report: complete, readable, safe to open, and there whatever state the runs are in."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from html import unescape
from html.parser import HTMLParser
from pathlib import Path

import pytest
from helpers_report import evaluation, html_of, write_run

from grpo.cli import main
from grpo.evaluate import Judged
from grpo.rejection import filter_samples
from grpo.report.glossary import EVALUATION, METRICS, REJECTION, explain, in_order
from grpo.report.page import write_reports
from grpo.report.tables import WIDTH, evaluation_rows, evaluation_table, table
from grpo.runs.config import Config, RejectConfig

EXPERIMENTS = Path(__file__).parent.parent / "experiments" / "demo"


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
        "grpo.drop_by=[]",
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
    known = METRICS.keys() - {"reward_<name>", "clip_fraction_delta", "weight"}  # where loss.delta, loss.weight are set
    assert known <= logged, "explained, but not logged by any stage"
    assert all(name.startswith("reward_") for name in logged - known)


def test_a_real_run_has_a_chart_of_each_metric(real_runs):
    html = unescape(html_of(real_runs))
    assert "<title>step</title>" not in html
    for stage in ("sft", "grpo"):
        line = json.loads((real_runs / stage / "metrics.jsonl").read_text().splitlines()[-1])
        for name in line.keys() - {"step"}:  # null: nothing was learned from, so no share of that
            assert (f"<title>{name}</title>" in html) == (line[name] is not None) and explain(name) in html
    assert "Not evaluated yet" in html and "tiny-init" in html


def test_every_evaluated_figure_is_explained():
    rows = evaluation_rows([evaluation()])
    shown = {"reward accuracy": "reward *", "  Level 5": "  *"}
    labels = [re.sub(r"@\d+$", "@k", shown.get(label, label)) for label, *_ in rows]
    assert labels == [label for label, *_ in EVALUATION]
    assert all(text for *_, text in rows)


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


def test_a_table_lines_up():
    assert table(["", "b"], [["long label", "1"], ["x", "1234"]]).splitlines() == [
        "               b",
        "----------  ----",
        "long label     1",
        "x           1234",
    ]


# ---- the page -------------------------------------------------------------------------------------------------


def test_a_parent_s_report_shows_its_runs_side_by_side_and_each_gets_its_own(tmp_path):
    counts = {"sampled": 200, "wrong": 150, "kept": 50}
    write_run(tmp_path / "1-sft", eval__json=evaluation(0.3125))
    write_run(tmp_path / "2-reject", rejection__json=counts, samples__jsonl=[{"id": "p/9", "response": "kept text"}])
    (tmp_path / "not-a-run").mkdir()
    text = write_reports(tmp_path)
    table, _, where = text.rpartition("\n\n")
    assert where == f"report: {tmp_path / 'report.html'}"
    assert "0.312" in table and "not-a-run" not in table
    html = (tmp_path / "report.html").read_text()
    for wanted in ("0.312", ">1-sft</b>", ">2-reject</b>", "0.750", "Fine-tuned on", "kept text", "two and two"):
        assert wanted in html
    for wanted in ("the/parent", "seed: 11", "parent.seed", explain("kl"), explain("reward_accuracy")):
        assert wanted in unescape(html)
    own = (tmp_path / "1-sft" / "report.html").read_text()
    assert "0.312" in own and "kept text" not in own and "2-reject" not in own
    assert (tmp_path / "2-reject" / "report.html").exists()
    assert not (tmp_path / "not-a-run" / "report.html").exists()
    row = html[html.index("<th>wrong</th>") :].split("</tr>")[0]
    assert ">150<" in row and ">0.750<" in row and REJECTION["wrong"] in row
    assert all(text in unescape(html) for *_, text in EVALUATION)
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
