"""Cases of a property that only `make test-all` runs: `make test` keeps the ones that are named."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest


def slow(*values: Any) -> Any:
    """One case that `make test` leaves out."""
    return pytest.param(*values, marks=pytest.mark.slow)


def quick(cases: Iterable[Any], *kept: Any) -> list[Any]:
    """All cases; `make test` runs those that are kept alone."""
    cases = list(cases)
    assert set(kept) <= set(cases), "a case that is kept must be one of them"
    return [case if case in kept else slow(case) for case in cases]
