"""docs/step.md is what the code computes: words equal, numbers up to rounding, and the terms add up to the loss."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from experiments.step import loss_terms, page, take_step

REPO = Path(__file__).parents[1]
NUMBER = re.compile(r"[-+]?\d+\.\d+")


@pytest.fixture(scope="module")
def step():
    return take_step()


def test_the_page_is_current(step):
    written, made = (REPO / "docs" / "step.md").read_text(encoding="utf-8"), page(step)
    assert NUMBER.sub("#", made) == NUMBER.sub("#", written), "write it again: make docs"
    pairs = list(zip(NUMBER.findall(written), NUMBER.findall(made), strict=True))
    assert len(pairs) > 150
    assert [(a, b) for a, b in pairs if float(a) != pytest.approx(float(b), abs=0.01, rel=0.02)] == []


def test_the_terms_add_up_to_the_loss_that_the_trainer_logs(step):
    for number in range(2):
        terms = loss_terms(step, number)
        assert sum(kl - objective for objective, kl in terms) / 4 == pytest.approx(step.losses[number], abs=2e-6)
    assert abs(step.losses[0]) < 1e-6 < abs(step.losses[1])


def test_the_step_is_one_worth_reading(step):
    """A right and a wrong completion, one that reflects, and the update goes the right way."""
    advantages = step.advantages
    assert advantages.max() > 0 > advantages.min() and float(step.batch.rewards[:, 2].max()) > 0
    moved = (step.logps[2] - step.logps[0]).sum(dim=1)  # [4]
    assert moved[advantages.argmin()] < 0 and (moved * advantages).sum() > 0
