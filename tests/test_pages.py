"""The documented differences are what the committed results say, paired by seed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from experiments import pairs

REPO = Path(__file__).parents[1]
PAIR = re.compile(r"([-+]0\.\d{3})\s+\[([-+]0\.\d{3}), ([-+]0\.\d{3})\]")


def test_the_table_of_differences_is_current():
    page = pairs.PAGE.read_text(encoding="utf-8")
    assert pairs.replaced(page, pairs.table()) == page, "write it again: make docs"


@pytest.mark.parametrize("name", ["docs/demo.md", "README.md"])
def test_each_interval_in_the_text_is_one_of_the_table_or_of_its_own_pair(name):
    there = set(PAIR.findall(pairs.table()))
    found = pairs.read("incompetent")
    gated = pairs.by_seed(
        *(pairs.accuracy(found, (v, "grpo"), "sampled") for v in ("gated, groups dropped by total reward", "gated"))
    )
    there.add(tuple(f"{x:+.3f}" for x in (gated.mean, gated.low, gated.high)))
    text = (REPO / name).read_text(encoding="utf-8")
    assert set(PAIR.findall(text)) <= there


def test_a_difference_by_seed_is_students():
    d = pairs.by_seed([0.5, 0.6, 0.7], [0.4, 0.4, 0.4])
    assert (d.mean, d.low, d.high) == pytest.approx(
        (0.2, 0.2 - 4.303 * 0.1 / 3**0.5, 0.2 + 4.303 * 0.1 / 3**0.5), abs=1e-4
    )
    assert not d.shown and pairs.by_seed([0.5, 0.51], [0.1, 0.11]).shown
    with pytest.raises(ValueError, match="the same seeds twice"):
        pairs.by_seed([0.5], [0.4])


def test_the_figure_has_the_same_bytes_for_the_same_values(tmp_path):
    pytest.importorskip("matplotlib")
    for name in "ab":
        assert pairs.draw(tmp_path / f"{name}.svg")
    text = (tmp_path / "a.svg").read_bytes()
    assert text == (tmp_path / "b.svg").read_bytes() and b"SFT + GRPO" in text and b"dc:date" not in text


def test_a_page_without_the_marks_is_refused():
    with pytest.raises(ValueError, match="the marks"):
        pairs.replaced("no marks", "text")
