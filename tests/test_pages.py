"""The tables and intervals of README and docs are what the committed results say."""

from __future__ import annotations

import re

import numpy as np
import pytest

from experiments import pages
from grpo.statistics import Difference, crossed

PAIR = re.compile(r"([-+]0\.\d{3})\s+\[([-+]0\.\d{3}), ([-+]0\.\d{3})\]")


@pytest.mark.parametrize("page", pages.PAGES, ids=lambda page: page.name)
def test_the_tables_are_current(page):
    text = page.read_text(encoding="utf-8")
    assert pages.MARKS.search(text) and pages.replaced(text) == text, "write it again: make docs"


@pytest.mark.parametrize("page", pages.PAGES, ids=lambda page: page.name)
def test_each_interval_in_the_text_is_one_of_a_table(page):
    """Text may repeat an interval of a table, and state no other."""
    there = {pair for table in pages.TABLES.values() for pair in PAIR.findall(table())}
    assert set(PAIR.findall(page.read_text(encoding="utf-8"))) <= there


def test_a_difference_is_that_of_the_lab():
    found = {"right": {"a": {"sampled": [[1.0, 0.5, 0.0], [1.0, 1.0, 0.5]]}, "b": {"sampled": [[0.0] * 3] * 2}}}
    d = pages.difference(found, "a", "b", "sampled")
    assert d == crossed(np.array(found["right"]["a"]["sampled"]), np.zeros((2, 3)))
    assert pages.in_a_cell(Difference(0.1, -0.05, 0.25, 3, 2)) == "+0.100 [-0.050, +0.250] | not shown"
    assert pages.in_a_cell(Difference(0.1, 0.05, 0.15, 3, 2)).endswith("| shown")


def test_the_figure_has_the_same_bytes_for_the_same_values(tmp_path):
    pytest.importorskip("matplotlib")
    for name in "ab":
        assert pages.draw(tmp_path / f"{name}.svg")
    text = (tmp_path / "a.svg").read_bytes()
    assert text == (tmp_path / "b.svg").read_bytes() and b"SFT + GRPO" in text and b"dc:date" not in text


def test_a_table_that_nothing_writes_is_an_error():
    with pytest.raises(KeyError, match="nothing"):
        pages.replaced("<!-- python -m experiments.pages nothing -->\n<!-- end -->")
    assert pages.replaced("no marks") == "no marks"
