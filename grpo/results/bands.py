"""The band in which a run of settings that are recorded lies, whatever its seed: prediction intervals, step by step.

    values of S seeds at a step -> mean +- t sd sqrt(1 + 1/S),  t: Student's 99.99 % quantile with S - 1

A band file (experiments/results/expected/) holds the values, of each metric a list per seed, and the settings that they
are of; `python -m experiments.expected` makes it. The report draws the band behind a run of these settings.

Where another run of the same code would lie (Hahn and Meeker 1991, section 4.6). The standard deviation is pooled over
the step and its two neighbours. Metrics that are positive are compared by their logarithm, so that a change of sign is
outside. A run has left the band where a metric is outside at two steps in a row.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import yaml

from grpo.results.statistics import t_quantile
from grpo.runs.config import Config, flatten, to_yaml

Curves = dict[str, list[list[float | None]]]
"""Of each metric a list per seed, a value per step."""

UPPER = 0.9999  # a run is compared at about 200 values: by chance, at most one run in 20 is outside (Bonferroni)
IN_A_ROW = 2
PARENT = "parent.stage"
LEAST_SEEDS = 3
LOGARITHM = ("kl", "loss", "grad_norm", "length", "entropy")
FREE = (  # settings that do not shape a run's curves
    "run", "seed", "threads", "model.path", "model.device", "parallel", "fsdp_gather", "log.", "eval.", "sandbox.",
    "max_skipped", "accept_code", "tokens_per_micro_batch", "sampling.max_rows", "data.root", "model.recompute",
)  # fmt: skip


@dataclass(frozen=True)
class Left:
    """Where a run left the band."""

    step: int  # from 1
    metric: str
    value: float
    low: float
    high: float


def band(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Lowest and highest expected value of each step, [T] each. values: [S, T]."""
    seeds, steps = values.shape
    mean, variance = values.mean(axis=0), values.var(axis=0, ddof=1)
    pooled = np.array([variance[max(0, t - 1) : t + 2].mean() for t in range(steps)])
    half = t_quantile(seeds - 1, UPPER) * np.sqrt(pooled * (1 + 1 / seeds))
    return mean - half, mean + half


def limits(name: str, values: list[list[float | None]]) -> list[tuple[float, float] | None]:
    """(lowest, highest) expected of each step of a metric; None where a seed has no value, or no logarithm."""
    array = np.array([[math.nan if x is None else x for x in row] for row in values], float)  # [S, T]
    positive = name in LOGARITHM
    with np.errstate(invalid="ignore", divide="ignore"):
        usable = np.isfinite(np.log(array) if positive else array).all(axis=0)
    found: list[tuple[float, float] | None] = [None] * array.shape[1]
    if usable.any():
        some = array[:, usable]
        low, high = band(np.log(some)) if positive else band(some)
        low, high = (np.exp(low), np.exp(high)) if positive else (low, high)
        for t, a, b in zip(np.flatnonzero(usable), low, high, strict=True):
            found[t] = float(a), float(b)
    return found


def first_outside(expected: Curves, run: dict[str, list[float | None]]) -> Left | None:
    """Where a run first left the band; None if it is within, as far as it goes."""
    found = []
    for name, values in expected.items():
        inside = limits(name, values)
        row = 0
        for step, (value, lies) in enumerate(zip(run.get(name, []), inside, strict=False)):
            outside = value is not None and lies is not None and not lies[0] <= value <= lies[1]
            row = row + 1 if outside else 0
            if row == IN_A_ROW:
                first = step - IN_A_ROW + 1
                found.append(Left(first + 1, name, run[name][first], *inside[first]))
                break
    return min(found, key=lambda left: left.step, default=None)


def shaping(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that shape the curves, of a configuration by dotted keys."""
    return {key: value for key, value in settings.items() if not key.startswith(FREE)}


def differing(band: Mapping[str, Any], settings: Mapping[str, Any]) -> list[str]:
    """The settings, by their dotted keys, in which a run is not one of the band's. band: a band file's content.

    A setting that is newer than the band had its default there. `parent.stage`, if the band has it, is the stage that
    the run began from: GRPO straight from the base has other curves than GRPO after SFT.
    """
    there, here, defaults = band["settings"], shaping(settings), flatten(yaml.safe_load(to_yaml(Config())))
    if PARENT not in there:
        here.pop(PARENT, None)
    there = {key: defaults[key] for key in here.keys() & defaults.keys()} | there
    return [key for key in sorted(there.keys() | here.keys()) if there.get(key) != here.get(key)]


def verdict(expected: Curves, run: dict[str, list[float | None]]) -> str:
    """Whether a run of the band's settings lies within it, in words."""
    seeds = len(next(iter(expected.values())))
    if seeds < LEAST_SEEDS:
        return f"not compared, the band has {seeds} seeds and at least {LEAST_SEEDS} are needed"
    steps = max((len(values) for values in run.values()), default=0)
    if not steps:
        return "not compared, the run has no step yet"
    if left := first_outside(expected, run):
        return (
            f"LEFT the band of {seeds} seeds at step {left.step}: {left.metric} is {left.value:.3g}, where "
            f"{left.low:.3g} to {left.high:.3g} is expected"
        )
    return f"within the band of {seeds} seeds at all {steps} steps: {', '.join(expected)}"
