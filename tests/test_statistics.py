"""Paired differences: their intervals cover what they say they do, and the quantiles are Student's."""

from __future__ import annotations

import math

import mpmath
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from grpo.results.statistics import components, crossed, half_width, more_seeds, paired, t_quantile


@pytest.mark.parametrize("df", [1, 1.3, 2, 3, 4.7, 9, 30, 255, 1e4])
def test_the_quantiles_are_students(df):
    t = float(t_quantile(df))
    upper = mpmath.betainc(df / 2, 0.5, 0, df / (df + t * t), regularized=True) / 2
    assert float(upper) == pytest.approx(0.025, abs=1e-10)


def test_quantiles_of_printed_tables():
    assert t_quantile(np.array([1, 2, 3, 9, 60])) == pytest.approx([12.706, 4.303, 3.182, 2.262, 2.000], abs=5e-4)


def test_a_paired_difference_by_hand():
    found = paired(np.array([1.0, 0.5, 0.75, 1.0]), np.array([0.5, 0.5, 0.25, 1.0]))
    assert (found.mean, found.problems, found.shown) == (0.25, 4, False)  # d = .5, 0, .5, 0: sd = .2887
    assert found.high - found.mean == pytest.approx(3.182 * 0.288675 / 2, abs=1e-3)
    assert paired(np.ones(3), np.zeros(3)).shown and not paired(np.ones(3), np.ones(3)).shown
    assert not paired(np.ones(1), np.zeros(1)).shown  # one problem says nothing of others


def test_one_model_twice_differs_by_nothing():
    a = np.random.default_rng(0).random((3, 20))
    found = crossed(a, a)
    assert (found.mean, found.low, found.high, found.shown, found.more_seeds) == (0, 0, 0, False, None)


@given(st.integers(2, 5), st.integers(2, 6), st.integers(0, 99))
def test_the_mean_squares_are_those_of_plain_loops(seeds, problems, seed):
    d = np.random.default_rng(seed).random((seeds, problems))
    mean = sum(map(sum, d)) / (seeds * problems)
    rows = [sum(row) / problems for row in d]
    columns = [sum(d[s][p] for s in range(seeds)) / seeds for p in range(problems)]
    of_seeds = problems * sum((x - mean) ** 2 for x in rows) / (seeds - 1)
    of_problems = seeds * sum((x - mean) ** 2 for x in columns) / (problems - 1)
    left = sum((d[s][p] - rows[s] - columns[p] + mean) ** 2 for s in range(seeds) for p in range(problems))
    expected = of_seeds, of_problems, left / ((seeds - 1) * (problems - 1))
    assert [float(x) for x in components(d)] == pytest.approx(expected)


@pytest.mark.parametrize("seeds", range(2, 11))
def test_the_interval_covers_the_difference_as_often_as_it_says(seeds):
    """Spreads from `nothing differs` to `seeds differ most`; 256 problems, 95 % wanted."""
    generator, trials, problems, true = np.random.default_rng(seeds), 600, 256, 0.03
    for by_seed, by_problem, rest in (
        (0, 0, 0.35),
        (0.01, 0.1, 0.35),
        (0.03, 0.1, 0.35),
        (0.02, 0.2, 0.3),
        (0.1, 0.1, 0.3),
    ):
        d = true + rest * generator.standard_normal((trials, seeds, problems))
        d += by_seed * generator.standard_normal((trials, seeds, 1))
        d += by_problem * generator.standard_normal((trials, 1, problems))
        covered = float((abs(d.mean(axis=(1, 2)) - true) <= half_width(*components(d), seeds, problems)).mean())
        low, high = (0.95, 1.0) if seeds == 2 else (0.915, 0.99)  # two seeds: wide on purpose
        assert low <= covered <= high, (by_seed, by_problem, rest)


def test_intervals_over_seeds_alone_or_problems_alone_would_not_cover():
    """Why both factors: with seeds that differ, problems alone cover far less; the simulation would show it."""
    generator = np.random.default_rng(0)
    d = 0.05 * generator.standard_normal((400, 4, 1)) + 0.3 * generator.standard_normal((400, 4, 256))
    alone = t_quantile(255) * np.sqrt(components(d)[1] / (4 * 256))
    assert (abs(d.mean(axis=(1, 2))) <= alone).mean() < 0.6


def test_how_many_more_seeds_would_settle_it():
    generator = np.random.default_rng(1)
    d = 0.02 + 0.03 * generator.standard_normal((3, 1)) + 0.3 * generator.standard_normal((3, 256))
    found = crossed(d, np.zeros_like(d))
    assert not found.shown and 1 <= found.more_seeds < 100
    terms, n = [float(x) for x in components(d)], 3 + found.more_seeds
    later = (max(terms[0], terms[2]), max(0.0, terms[1] - terms[2]) * n / 3 + terms[2], terms[2], n, 256)
    assert half_width(*later) < abs(found.mean)  # so many settle it, if all stays as it is
    assert more_seeds(0.5, *terms, 3, 256) == 0
    few_problems = np.tile(generator.standard_normal(5), (3, 1)) + 0.01 * generator.standard_normal((3, 5))
    assert crossed(few_problems, np.zeros_like(few_problems)).more_seeds is None  # other problems would, not seeds


def test_too_little_is_refused():
    with pytest.raises(ValueError, match="at least two seeds and two problems"):
        crossed(np.ones((1, 5)), np.ones((1, 5)))
    assert math.isinf(paired(np.ones(1), np.ones(1)).high)
