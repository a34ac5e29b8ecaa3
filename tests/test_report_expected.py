"""The band of recorded runs behind a run's curves, and the sentence that says whether the run has left it."""

from __future__ import annotations

import json
import re
from html import unescape
from pathlib import Path

import pytest
import yaml
from helpers_report import html_of, write_run

from grpo.report import expected
from grpo.results import bands
from grpo.runs.config import flatten, to_yaml
from grpo.runs.settings import load_config

CONFIG = "seed: 11\nrun: here\noptim: {lr: 0.001}\nrewards: {accuracy: {weight: 1.0}}\nlog: {save_every: 3}\n"
SETTINGS = {"optim.lr": 0.001, "rewards.accuracy.weight": 1.0}


@pytest.fixture
def band(tmp_path, monkeypatch) -> dict:
    """A band of four seeds over six steps: accuracy about 0.5, the KL about 1e-3."""
    accuracy = [[0.5 + 0.01 * seed + 0.002 * step for step in range(6)] for seed in range(4)]
    kl = [[None if step == 0 else 1e-3 * (1 + 0.05 * seed) for step in range(6)] for seed in range(4)]
    found = {"settings": SETTINGS, "curves": {"reward_accuracy": accuracy, "kl": kl}}
    monkeypatch.setattr(expected, "FILE", tmp_path / "band.json")
    (tmp_path / "band.json").write_text(json.dumps(found), encoding="utf-8")
    return found


def page(tmp_path: Path, accuracy: list[float], config: str = CONFIG) -> str:
    rows = [{"step": i, "reward": x, "reward_accuracy": x, "kl": 1e-3 + 1e-6 * i} for i, x in enumerate(accuracy, 1)]
    return unescape(html_of(write_run(tmp_path / "run", metrics__jsonl=rows, config__yaml=config)))


def figure(html: str, label: str) -> str:
    return re.search(rf'<svg[^>]*aria-label="{label}".*?</svg>', html, re.DOTALL)[0]


def test_the_band_is_drawn_behind_the_line_and_the_sentence_stands_beside_it(tmp_path, band):
    html = page(tmp_path, [0.52, 0.53] * 3)
    learn = html[html.index('id="learn"') : html.index('id="hack"')]
    for chart in (figure(learn, "Accuracy of run"), figure(html, "reward_accuracy"), figure(html, "kl")):
        assert chart.count('<polygon class="band expected"') == 1
        assert chart.index("<polygon") < chart.index("<polyline")  # behind
    words = "Compared with recorded runs of these settings: within the band of 4 seeds at all 6 steps"
    card = re.search(r"<figure>.*?Accuracy, run.*?</figure>", learn, re.DOTALL)[0]
    assert words in card and "expected in training, 4 seeds" in card
    assert "band" not in figure(html, "reward")  # of a metric that was not recorded
    assert "data-chart" in figure(html, "kl") and "expected" not in figure(html, "kl").partition("data-chart")[2][:200]


def test_the_step_at_which_a_run_left_the_band_is_named(tmp_path, band):
    html = page(tmp_path, [0.52, 0.52, 0.1, 0.1, 0.52, 0.52])
    assert "LEFT the band of 4 seeds at step 3: reward_accuracy is 0.1, where 0." in html


def test_a_run_that_is_still_at_work_is_compared_as_far_as_it_is(tmp_path, band):
    html = page(tmp_path, [0.52, 0.52])
    assert "within the band of 4 seeds at all 2 steps" in html
    area = re.search(r'class="band expected" points="(.*?)"', figure(html, "Accuracy of run"))[1].split()
    assert len(area) == 12  # there and back over the six steps that are recorded


def test_the_band_is_cut_where_it_is_far_from_the_line(tmp_path, band):
    band["curves"]["reward_accuracy"] = [[0.5 + 9.0 * seed for _ in range(6)] for seed in range(4)]
    (tmp_path / "band.json").write_text(json.dumps(band), encoding="utf-8")
    chart = figure(page(tmp_path, [0.5, 0.6, 0.5, 0.6, 0.5, 0.6]), "reward_accuracy")
    ys = [float(pair.split(",")[1]) for pair in re.search(r'expected" points="(.*?)"', chart)[1].split()]
    line = [float(pair.split(",")[1]) for pair in re.search(r'line s0" points="(.*?)"', chart)[1].split()]
    assert 10 <= min(ys) < min(line) and max(line) < max(ys) <= 146  # within the figure
    assert max(line) - min(line) > 30  # the line still has a third of its height


def test_a_run_of_other_settings_has_no_band(tmp_path, band):
    html = page(tmp_path, [0.52] * 6, CONFIG.replace("0.001", "0.01"))
    assert "Not compared with recorded runs, whose optim.lr differ." in html and "band expected" not in html
    many = CONFIG + "grpo: {a: 1, b: 2, c: 3, d: 4}\n"
    (tmp_path / "other").mkdir()
    assert "recorded runs" not in page(tmp_path / "other", [0.52] * 6, many)


@pytest.mark.parametrize("content", [None, "{", "[]", '{"settings": {"a": 1}, "curves": {}}'])
def test_without_a_band_file_the_page_has_none(tmp_path, band, content):
    (tmp_path / "band.json").unlink()
    if content is not None:
        (tmp_path / "band.json").write_text(content, encoding="utf-8")
    html = page(tmp_path, [0.52] * 6)
    assert "recorded runs" not in html and "band expected" not in html and "</html>" in html


def test_the_demo_is_what_the_recorded_band_is_of():
    """A new setting of the trainer must be in the band file too, or the demo would never be compared."""
    recorded = expected.recorded()
    config = load_config("experiments/demo/grpo.yaml", [])
    settings = flatten(yaml.safe_load(to_yaml(config)))
    assert recorded and bands.differing(recorded, settings | {bands.PARENT: "sft"}) == []
    assert bands.differing(recorded, settings | {bands.PARENT: "base"}) == [bands.PARENT]
