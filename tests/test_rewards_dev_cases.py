"""Labelled cases shared with the project, where they are at hand: what must never be paid isn't."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rewards import accuracy_reward, count_reflections, format_reward, reflection_reward

CASES = Path(__file__).resolve().parents[2] / "shared" / "grading"
pytestmark = pytest.mark.skipif(not CASES.is_dir(), reason="no labelled cases here")


def rows(name):
    return [json.loads(line) for line in (CASES / name).read_text().splitlines()]


def test_hacks_are_not_paid():
    for row in rows("hacks_dev.jsonl"):
        completions, answer = [row["completion"]], [row["gold"]]
        if row["acc"] is not None:
            assert accuracy_reward(completions, answer=answer)[0] <= row["acc"], row["id"]
        if row["fmt"] is not None:
            assert format_reward(completions)[0] == row["fmt"], row["id"]
        if row["refl"] is not None:
            honest = row["refl"] if isinstance(row["refl"], int) else 1
            assert count_reflections(completions[0]) <= honest, row["id"]


def test_honest_completions_are_paid():
    for row in (row for row in rows("hacks_dev.jsonl") if row["family"] == "honest"):
        completions, answer = [row["completion"]], [row["gold"]]
        assert accuracy_reward(completions, answer=answer) == [1.0], row["id"]
        assert format_reward(completions) == [1.0], row["id"]
        assert count_reflections(completions[0]) == row["refl"], row["id"]
        assert reflection_reward(completions, answer=answer, cap=1) == [float(row["refl"] > 0)], row["id"]
