"""The report: complete, readable, safe to open, and there whatever state the runs are in."""

from __future__ import annotations

import base64
import gzip
import json
import math
import random
import re
from collections import Counter
from html import unescape
from html.parser import HTMLParser
from pathlib import Path

import pytest
from helpers_report import evaluation, html_of, write_run

import grpo.report.page
from grpo.cli import main
from grpo.evaluation import Judged
from grpo.rejection import filter_samples
from grpo.report.glossary import EVALUATION, FAMILIES, METRICS, REJECTION, explain, family, in_order
from grpo.report.page import write_reports
from grpo.report.samples import FOLD
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
    known = METRICS.keys() - {"clip_fraction_delta", "weight"} - {*FAMILIES}  # where loss.delta, loss.weight are set
    assert known <= logged, "explained, but not logged by any stage"
    assert {family(name) for name in logged - known} == {*FAMILIES}


def test_a_real_run_has_a_chart_of_each_metric(real_runs):
    html = unescape(html_of(real_runs))
    assert 'aria-label="step"' not in html
    for stage in ("sft", "grpo"):
        line = json.loads((real_runs / stage / "metrics.jsonl").read_text().splitlines()[-1])
        for name in line.keys() - {"step"}:  # null: nothing was learned from, so no share of that
            chart, constant = f'aria-label="{name}"' in html, f">{name} <b>" in html
            assert chart != constant or (line[name] is None and f"<span>{name}</span>" in html)
            assert explain(name) in html
    assert "Not evaluated yet" in html and "tiny-init" in html


def test_every_evaluated_figure_is_explained():
    rows = evaluation_rows([evaluation()])
    shown = {"reward accuracy": "reward *", "  Level 5": "  *"}
    labels = [re.sub(r"@\d+$", "@k", shown.get(label, label)) for label, *_ in rows]
    assert labels == [label for label, *_ in EVALUATION]
    assert all(text for *_, text in rows)


def test_a_reward_with_other_settings_is_marked():
    """Stages whose rewards differ are not compared in silence; evaluations of older code do not say what they had."""
    one, other = (evaluation() | {"reward_settings": {"accuracy": {"cap": cap}}} for cap in (1, 3))
    for results, mark in (([one, other], ", settings differ"), ([one, one], ""), ([one, evaluation()], "")):
        labels = [label for label, *_ in evaluation_rows(results)]
        assert f"reward accuracy{mark}" in labels and "  Level 5" in labels


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
    for wanted in ("0.312", ">1-sft</th>", ">2-reject", "0.750", "Fine-tuned on", "kept text", "two and two"):
        assert wanted in html
    for wanted in ("the/parent", "seed: 11", "parent.seed", explain("kl"), explain("reward_accuracy")):
        assert wanted in unescape(html)
    own = (tmp_path / "1-sft" / "report.html").read_text()
    assert "0.312" in own and "kept text" not in own and "2-reject" not in own
    assert (tmp_path / "2-reject" / "report.html").exists()
    assert not (tmp_path / "not-a-run" / "report.html").exists()
    row = html[html.index('<th scope="row">wrong</th>') :].split("</tr>")[0]
    assert ">150<" in row and ">0.750<" in row and REJECTION["wrong"] in row
    assert all(text in unescape(html) for *_, text in EVALUATION)
    assert not list(tmp_path.rglob("*.partial"))


def test_the_page_loads_nothing_and_no_attribute_runs_anything(tmp_path):
    html = html_of(write_run(tmp_path / "run")).replace("http://www.w3.org/2000/svg", "")  # a name, not an address
    html = html.replace('<link rel="icon" href="data:,">', "")  # so that a browser asks for no icon
    assert not re.search(r"<link|<img|<iframe|@import|url\(|src=|https?:|fetch\(|\son\w+=", html, re.IGNORECASE)


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
    assert evil not in html and "<script>alert" not in html and "<b>run" not in html
    assert html.count("&lt;script&gt;") >= 14


def test_the_page_is_well_nested(tmp_path):
    write_run(tmp_path / "a")
    write_run(tmp_path / "b", metrics__jsonl="", completions__jsonl=None)
    open_tags: list[str] = []

    class Checker(HTMLParser):
        def handle_starttag(self, tag, attributes):
            if tag not in ("meta", "br", "link"):
                open_tags.append(tag)

        def handle_startendtag(self, tag, attributes):
            pass

        def handle_endtag(self, tag):
            assert open_tags.pop() == tag

    Checker().feed(html_of(tmp_path))
    assert open_tags == []


def completions(step: int, group: int, count: int = 2, **more) -> list[dict]:
    facts = {"problem": f"p/{group}", "question": f"question {group}?", "answer": "4", "rewards": {"accuracy": 1.0}}
    texts = [f"<think>Wait, {step}.{group}.{i}</think><answer>4</answer>" for i in range(count)]
    return [{"step": step, **facts, "completion": text, "total": 1.0, "kept": True, **more} for text in texts]


def blob(html: str, kind: str = "run") -> dict:
    """The packed data of a page."""
    packed = re.search(rf'<script type="text/plain" class="{kind}"[^>]*>(.*?)</script>', html, re.DOTALL)[1]
    return json.loads(gzip.decompress(base64.b64decode(packed)))


def test_the_newest_group_is_there_without_a_script_and_all_others_for_it(tmp_path):
    rows = [row for step in (1, 2, 3) for group in (1, 2) for row in completions(step, group)]
    rows[-1]["tokens"] = {"text": ["a"], "before": [-2.0], "after": [-1.0]}
    html = html_of(write_run(tmp_path / "run", completions__jsonl=rows))
    shown = html[html.index('id="browser"') : html.index('id="heldout"')]
    assert re.findall(r"</u>, (\d\.\d\.\d)&lt;", shown) == ["3.2.0", "3.2.1"]  # of the last step, the one with tokens
    assert "question 2?" in shown and "&#10003; right" in shown and "accuracy 1 = 1" in shown
    steps = blob(html)["steps"]
    assert [(step, len(groups), len(groups[0]["c"])) for step, groups in steps] == [(1, 2, 2), (2, 2, 2), (3, 2, 2)]
    assert steps[0][1][1] == {
        "id": "p/2", "q": "question 2?", "a": "4",
        "c": [{"t": f"<think>Wait, 1.2.{i}</think><answer>4</answer>", "r": {"accuracy": 1}, "s": 1, "v": None, "ok": 1,
               "n": None, "f": None} for i in (0, 1)],
    }  # fmt: skip


def test_long_texts_are_folded_in_the_middle_and_keep_their_end(tmp_path):
    text = "begin " + "y" * 9000 + " the answer"
    html = html_of(write_run(tmp_path / "run", completions__jsonl=completions(1, 1, completion=text)))
    shown = html[html.index('id="browser"') : html.index('id="heldout"')]
    outside = re.sub(r"<details>.*?</details>", "", shown, flags=re.DOTALL)
    assert "begin yy" in outside and "the answer</div>" in outside and len(outside) < 5000
    assert f"{len(text) - FOLD} more characters" in shown and blob(html)["steps"][0][1][0]["c"][0]["t"] == text


def test_pages_stay_small_by_leaving_out_steps_but_the_ends_and_those_with_a_warning(tmp_path, monkeypatch):
    noise = random.Random(0)
    rows = []
    for step in range(1, 41):
        for row in completions(step, 1, 4):
            rows.append(row | {"completion": "".join(noise.choices("abcdefgh 123", k=400))})
    warned = [{"step": 18, "kind": "kl", "text": "far", "serious": True}]
    folder = write_run(tmp_path / "run", completions__jsonl=rows, warnings__jsonl=warned)
    assert len(blob(html_of(folder))["steps"]) == 40
    monkeypatch.setattr(grpo.report.page, "PAGE_BYTES", 20_000)
    html = html_of(folder)
    kept = [step for step, _ in blob(html)["steps"]]
    assert {1, 18, 40} <= set(kept) and 8 <= len(kept) < 20
    assert f'data-note="{40 - len(kept)} of 40 steps are left out here for their size."' in html
    assert len(re.search(r'class="run"[^>]*>(.*?)</script>', html, re.DOTALL)[1]) <= 20_000


def test_tokens_that_the_step_moved_most_stand_in_their_context(tmp_path):
    tokens = {"text": ["so ", "6", "*7", "=", "42"], "before": [-1.0, -2.0, -1.0, None, -3.0]}
    tokens["after"] = [-1.0, -1.5, -2.25, -1.0, -1.0]
    rows = completions(2, 1) + completions(1, 2)
    rows[0]["tokens"] = rows[1]["tokens"] = tokens
    html = html_of(write_run(tmp_path / "run", completions__jsonl=rows))
    section = html[html.index('id="pushed"') : html.index('id="curves"')]
    found = re.findall(r"<code>(.*?)</code><b>\[(.*?)\]</b><code>(.*?)</code></td><td.*?>(.*?)</td>", section)
    assert found == [("so 6*7=", "42", "", "+2.000"), ("so ", "6", "*7=42", "+0.500"), ("so 6", "*7", "=42", "-1.250")]
    assert section.count('<td class="number">2</td>') == 3  # both siblings have them
    assert ">0.050<" in section and ">0.368<" in section  # exp -3, exp -1
