"""What pairs show: the difference of two evaluations on the same problems, and its 95 % interval.

    one pair of models    d_p = right share of A - right share of B, on problem p
                          mean(d) +- t sd(d) / sqrt(P)                     problems are the sample; t with P - 1

    S pairs, one a seed   d_sp, seeds and problems both vary and are crossed (each seed meets each problem):
                          V = var_s(mean_p d) / S + var_p(mean_s d) / P - var(residual) / (S P)
                          mean(d) +- t sqrt(V)                             t with Satterthwaite's degrees of freedom

The first two terms of V hold the residual's share twice, so it is taken out once: these are the mean squares of a
two-way layout with both factors random (Searle, Casella and McCulloch 1992, chapter 4; Satterthwaite 1946).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

P_UPPER = 0.975  # of a 95 % interval
MOST_SEEDS = 1000  # a difference that as many seeds do not settle, seeds do not settle


@dataclass(frozen=True)
class Difference:
    """A mean difference with its 95 % interval."""

    mean: float
    low: float
    high: float
    problems: int
    seeds: int = 1  # the interval of one seed is over problems alone
    more_seeds: int | None = 0
    """About how many more seeds would take 0 out of the interval, if mean and spread stay; None: no number would."""

    @property
    def shown(self) -> bool:
        """Whether the interval leaves out 0. One without a width shows nothing."""
        return self.low > 0 or self.high < 0


def paired(a: np.ndarray, b: np.ndarray) -> Difference:
    """a - b, of two evaluations on the same problems. a, b: [P], the share of right completions of each problem."""
    d = np.asarray(a, float) - np.asarray(b, float)
    if len(d) < 2:
        return Difference(float(d.mean()), -math.inf, math.inf, len(d))
    half = float(t_quantile(len(d) - 1) * d.std(ddof=1) / math.sqrt(len(d)))
    return Difference(float(d.mean()), float(d.mean()) - half, float(d.mean()) + half, len(d))


def crossed(a: np.ndarray, b: np.ndarray) -> Difference:
    """a - b over seeds and problems. a, b: [S, P], S at least 2; a row of each has the same seed, a column a problem.

    Raises ValueError for fewer than two seeds or problems.
    """
    d = np.asarray(a, float) - np.asarray(b, float)
    if d.ndim != 2 or min(d.shape) < 2:
        raise ValueError(f"at least two seeds and two problems are needed, there are {d.shape}")
    (seeds, problems), mean = d.shape, float(d.mean())
    terms = components(d)
    half = float(half_width(*terms, seeds, problems))
    return Difference(mean, mean - half, mean + half, problems, seeds, more_seeds(mean, *terms, seeds, problems))


def components(d: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean squares of seeds, problems and residual. d: [..., S, P]; returns [...] each."""
    seeds, problems = d.shape[-2:]
    mean = d.mean(axis=(-2, -1), keepdims=True)
    rows, columns = d.mean(axis=-1, keepdims=True), d.mean(axis=-2, keepdims=True)
    residual = d - rows - columns + mean
    return (
        problems * rows.squeeze(-1).var(axis=-1, ddof=1),
        seeds * columns.squeeze(-2).var(axis=-1, ddof=1),
        (residual**2).sum(axis=(-2, -1)) / ((seeds - 1) * (problems - 1)),
    )


def half_width(
    of_seeds: np.ndarray, of_problems: np.ndarray, residual: np.ndarray, seeds: int, problems: int
) -> np.ndarray:
    """Half of the 95 % interval, from the mean squares of `components`: [...].

    The variance is at least that of the problems alone, and that of the seeds alone: by chance the difference of mean
    squares may fall below both, and even below 0. With two seeds Satterthwaite's intervals are too narrow (they cover
    .89 where seeds differ much); there t is the mean of both factors' t, weighted by their variances, which is too
    wide rather than too narrow (Cochran and Cox 1957, section 4.14).
    """
    size, free = seeds * problems, (seeds - 1, problems - 1, (seeds - 1) * (problems - 1))
    s, p, e = (np.asarray(x, float) / size for x in (of_seeds, of_problems, residual))
    alone = np.maximum(s, p)
    if seeds == 2:
        rest = np.maximum(p - e, 0.0)
        t = (t_quantile(free[0]) * s + t_quantile(free[1]) * rest) / np.maximum(s + rest, 1e-300)
        return t * np.sqrt(np.maximum(s + p - e, alone))
    df = (s + p - e) ** 2 / np.maximum(s**2 / free[0] + p**2 / free[1] + e**2 / free[2], 1e-300)
    df = np.where(s + p - e < alone, np.where(s > p, free[0], free[1]), df)
    return t_quantile(np.maximum(df, 1.0)) * np.sqrt(np.maximum(s + p - e, alone))


def more_seeds(
    mean: float, of_seeds: float, of_problems: float, residual: float, seeds: int, problems: int
) -> int | None:
    """How many more seeds would take 0 out of the interval, if the mean and the variances stay as they are."""
    by_seed, by_problem = (max(0.0, x - residual) for x in (of_seeds, of_problems))  # P var(seed), S var(problem)

    def settled(n: int) -> bool:
        return abs(mean) > half_width(by_seed + residual, by_problem * n / seeds + residual, residual, n, problems)

    if abs(mean) > half_width(of_seeds, of_problems, residual, seeds, problems):
        return 0
    if not mean or not settled(MOST_SEEDS):
        return None
    few, many = seeds, MOST_SEEDS  # not settled, settled
    while many - few > 1:
        middle = (few + many) // 2
        few, many = (few, middle) if settled(middle) else (middle, many)
    return many - seeds


def t_quantile(df: float | np.ndarray, p: float = P_UPPER) -> np.ndarray:
    """Quantiles of Student's t for p > 1/2 and any degrees of freedom from 1 up, whole or not; exact to 1e-9.

    With t = sqrt(df) tan(x), P(T < t) = 1/2 + integral from 0 to x of cos(u)^(df - 1) du / B(1/2, df/2). The integrand
    is smooth, so Gauss's 40 points do; it falls, so Newton's steps from a start below the root stay below it.
    """
    df = np.asarray(df, float)
    nodes, weights = np.polynomial.legendre.leggauss(40)
    log_beta = math.lgamma(0.5) + np.vectorize(lambda d: math.lgamma(d / 2) - math.lgamma((d + 1) / 2))(df)
    beta = np.exp(log_beta)
    x = np.arctan(0.5 / np.sqrt(df))
    for _ in range(60):
        inside = np.cos(x[..., None] * (nodes + 1) / 2) ** (df[..., None] - 1)  # [..., 40]
        area = (inside @ weights) * x / 2 / beta
        step = (p - 0.5 - area) * beta / np.cos(x) ** (df - 1)
        x = x + step
        if np.all(np.abs(step) < 1e-13):
            break
    return np.sqrt(df) * np.tan(x)
