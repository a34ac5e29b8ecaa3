"""The public data sets as they are, where a copy is at hand."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import pytest

from data import ColdStartConfig, DataConfig, load_problems, response_text
from data.download import DOWNLOADS
from data.solutions.coldstart import true_steps
from data.sources.text import ANNOTATION, last_boxed
from rewards import format_reward
from rewards.reflection import count_reflections

ROOT = Path(__file__).parents[2] / "shared" / "data"
pytestmark = pytest.mark.skipif(not (ROOT / "gsm8k_train.jsonl").exists(), reason="the data sets are not there")


def load(source: str, split: str):
    return load_problems(DataConfig(source=source, split=split, root=str(ROOT)))


@pytest.mark.parametrize(
    ("source", "split", "rows"),
    [("gsm8k", "train", 7473), ("gsm8k", "test", 1319), ("math", "test", 500), ("svamp", "all", 1000)],
)
def test_every_row_is_a_problem_that_can_be_taught(source, split, rows):
    problems = load(source, split)
    assert len(problems) == len({problem.id for problem in problems}) == rows
    texts = [response_text(problem, ColdStartConfig(reflect_share=1.0)) for problem in problems]
    assert set(format_reward(texts, prompts=[""] * rows)) == {1.0}
    assert not any("<<" in problem.solution or "####" in problem.solution for problem in problems)
    if source in ("gsm8k", "svamp"):
        assert all(re.fullmatch(r"-?\d+", problem.answer) for problem in problems)


@pytest.mark.parametrize(("split", "share"), [("train", 0.97), ("test", 0.97)])
def test_gsm8k_computations_can_be_checked_and_are_reflections(split, share):
    problems = load("gsm8k", split)
    texts = [response_text(problem, ColdStartConfig(reflect_share=1.0)) for problem in problems]
    checked = [text for text in texts if "Wait, let me check" in text]
    assert share < len(checked) / len(texts) < 1
    assert sum(count_reflections(text) >= 1 for text in checked) / len(checked) > 0.99


def test_gsm8k_annotations_are_mostly_true():
    claims = [c for p in load("gsm8k", "test") for c in ANNOTATION.findall(p.columns.get("annotated_solution", ""))]
    assert len(claims) > 4000
    assert sum(bool(true_steps(claim)) for claim in claims) / len(claims) > 0.9


def test_math_box_is_the_answer_field():
    assert all(last_boxed(problem.solution) == problem.answer for problem in load("math", "test"))


def test_svamp_rows_that_cannot_be_checked_claim_nothing():
    texts = [response_text(problem, ColdStartConfig(reflect_share=1.0)) for problem in load("svamp", "all")]
    unchecked = [text for text in texts if "=" not in text]
    assert sum("Wait" in text for text in texts) == 1000 - len(unchecked)
    assert unchecked == [
        "<think>\n8.0\n</think>\n<answer>8</answer>",
        "<think>\n( ( 4.0 - 2.0 ) + 3.0 )\n</think>\n<answer>1</answer>",  # the row contradicts itself
        "<think>\n( 60.0 * ( 55.0 / 15.0 ) )\n</think>\n<answer>220</answer>",  # by way of 11/3
    ]


def test_the_pinned_files_are_the_copies():
    for name, download in [pair for files in DOWNLOADS.values() for pair in files.items()]:
        if (ROOT / name).exists():
            content = (ROOT / name).read_bytes()
            assert (len(content), hashlib.sha256(content).hexdigest()) == (download.size, download.sha256)
