"""Members of the grader's kinds that were written down, with their labels, before they were tried."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers_grading import graded


def cases(name: str) -> list[str]:
    lines = (Path(__file__).parent / name).read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line and not line.startswith(("# ", "## "))]


@pytest.mark.parametrize("case", cases("grader_cases.txt") + cases("grader_kinds.txt"))
def test_members_of_the_kinds_that_were_written_down_before_they_were_tried(case):
    gold, _, rest = case.partition("|")
    answer, _, same = rest.rpartition("|")
    assert graded(gold, answer) == (same == "1")
