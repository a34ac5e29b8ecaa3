"""Loss and gradient equal those of TRL's installed GRPOTrainer, or differ on purpose; parity_trl.py has the cases."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("trl")
pytest.importorskip("datasets")

from parity_trl import compare, different_cases, loss_cases, our_loss, tensors, weight_cases

EQUAL = [*loss_cases(), *weight_cases()]


def named(case):
    return f"{case.option}{', on-policy' * case.on_policy}"


@pytest.mark.parametrize("case", EQUAL, ids=named)
def test_loss_and_gradient_are_trls(case):
    _, loss, gradient = compare(case)
    assert loss < 1e-6 and gradient < 1e-6


@pytest.mark.parametrize("case", different_cases(), ids=named)
def test_where_we_differ_on_purpose(case):
    assert case.why
    assert max(compare(case)[1:]) > 1e-3


def test_every_option_changes_something():
    """Two rows of the table that ask for different losses have different ones, so that equality says something."""
    off_policy = [case for case in EQUAL if not case.on_policy and case.micro_batches == 1]
    gradients: dict[str, tuple[str, object]] = {}
    for case in off_policy:
        gradient = torch.cat(our_loss(case, tensors(case))[1:])
        same = [name for name, (ours, other) in gradients.items() if ours != str(case.ours) and other.equal(gradient)]
        assert not same, (case.option, same)
        gradients[case.option] = (str(case.ours), gradient)
