"""Signs that a run learns something else than it should, from the rows of metrics.jsonl.

    accuracy_falls  the total reward rises while accuracy is below its best: the usual sign of reward hacking
    one_reward      one reward other than correctness makes more than half of the gain
    at_maximum      a reward has risen to the highest value that it has given, and has no share of the spread any more
    hardly_paid     a reward that has a weight has been next to nothing so far
    format          the format was learned, and is lost again
    truncated       completions are cut off, with the likely cause
    kl              the policy is far from its reference
    repeated        the same text for many different problems
    flat_groups     most groups have one reward for all of their completions, and teach nothing
    shaping_only    most groups that are learned from are equally right throughout: other rewards alone decide

Each looks at means over a window of WINDOW steps, since one step of 32 problems is noise of several points. What the
limits were chosen on, and on which other runs they were checked, is in docs/report.md.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from grpo.runs.history import WINDOW, History, Row, trailing
from grpo.runs.setup import Setup

FALL = 0.05  # accuracy below its best window: 5 points
SURE = 1.5  # the fall must also exceed that many standard errors; they are estimated too large, so it is about two
GAIN = 0.15  # a gain of the total below this share of what the rewards can give is no gain
HALF = 0.5
MOST = 0.75  # of the gain that one reward may make where accuracy rises as well
RISEN = 0.1  # of its highest value: a reward that was at its maximum from the start never taught anything
RARE = 0.01  # of its highest value
TRUNCATED = 0.2
KL = 0.5  # nats a token
FLAT = 0.75
REPEATED = 0.25


@dataclass(frozen=True)
class Sign:
    """What is seen at a step, in words."""

    kind: str
    text: str
    step: int
    since: int
    """The first step of those in a row at which it is seen."""
    value: float | None = None
    limit: float | None = None
    serious: bool = True
    """False: worth knowing, and also seen in a healthy run."""


def all_signs(rows: Sequence[Row], setup: Setup) -> list[Sign]:
    """The signs that are seen at the last row, the serious ones first."""
    if not rows:
        return []
    history = History(rows)
    found = [sign for finder in FINDERS for sign in finder(history, setup)]
    return sorted(found, key=lambda sign: not sign.serious)


def _sign(
    history: History,
    kind: str,
    seen: np.ndarray,
    value: np.ndarray,
    limit: float,
    text: str,
    serious: bool = True,
) -> list[Sign]:
    """The sign, if it is seen at the last row. seen: bool [n]; value: [n]."""
    if not seen[-1]:
        return []
    first = len(seen) - int(np.argmin(seen[::-1])) if not seen.all() else 0
    return [Sign(kind, text, history.steps[-1], history.steps[first], _short(value[-1]), _short(limit), serious)]


def _short(value: float) -> float | None:
    return float(f"{value:.4g}") if math.isfinite(value) else None


def gains(history: History, setup: Setup) -> dict[str, np.ndarray]:
    """What each reward added to the total since the run began: weight x (mean of the window - of the first), [n]."""
    found = {}
    for name, weight in setup.weights.items():
        mean = history.mean(f"reward_{name}")
        found[name] = weight * (mean - mean[min(WINDOW, len(mean)) - 1])
    return found


def gain_shares(rows: Sequence[Row], setup: Setup) -> dict[str, float]:
    """Each reward's share of the gain so far; empty while the total has not gained."""
    if len(rows) <= WINDOW:
        return {}
    found = {name: float(np.nan_to_num(gain[-1])) for name, gain in gains(History(rows), setup).items()}
    total = sum(found.values())
    return {name: gain / total for name, gain in found.items()} if total > _least_gain(setup) else {}


def _least_gain(setup: Setup) -> float:
    return GAIN * sum(map(abs, setup.weights.values()))


def _error_of_accuracy(history: History, setup: Setup) -> np.ndarray:
    """[n]: standard error of the accuracy over a window, with the problems as the sample.

    The variance of a problem's share of right completions is at most p (1 - p).
    """
    p = history.mean(f"reward_{setup.right}")
    groups = np.nan_to_num(history.column("groups")) + np.nan_to_num(history.column("dropped"))
    return np.sqrt(np.clip(p * (1 - p), 0.0, 0.25) / np.maximum(trailing(groups), 1))


def accuracy_falls(history: History, setup: Setup) -> list[Sign]:
    """Total reward up, accuracy 5 points below its best."""
    accuracy, reward = history.mean(f"reward_{setup.right}"), history.mean("reward")
    n = len(accuracy)
    if n <= WINDOW or setup.right not in setup.weights or np.isnan(accuracy).all():
        return []
    full = np.arange(n) >= WINDOW - 1
    known = np.nan_to_num(np.where(full, accuracy, -np.inf), nan=-np.inf)
    best = np.maximum.accumulate(known)
    where = np.maximum.accumulate(np.where(known == best, np.arange(n), 0))  # [n]: the step of the best window so far
    error = _error_of_accuracy(history, setup)
    fall = best - accuracy
    enough = np.maximum(FALL, SURE * np.sqrt(error**2 + error[where] ** 2))
    risen = reward - reward[where] > 0
    since = where[-1]  # what each other reward added to the total since accuracy was best
    added = {name: np.nan_to_num(gain[-1] - gain[since]) for name, gain in gains(history, setup).items()}
    payer = max(added.keys() - {setup.right}, key=lambda name: (added[name], name), default="")
    way_out = f". The largest part of the rise is paid by {payer!r}: lower its weight, or pay it for right answers only"
    text = (
        f"the total reward rises while accuracy is {100 * fall[-1]:.0f} points below its best "
        f"({accuracy[-1]:.2f} now, {best[-1]:.2f} around step {history.steps[where[-1]]}): the policy is learning what "
        "is paid, not what is right"
        f"{way_out if payer else ''}"
    )
    return _sign(history, "accuracy_falls", full & risen & (fall > enough), fall, float(enough[-1]), text)


def one_reward(history: History, setup: Setup) -> list[Sign]:
    """One reward other than correctness makes more than half of the gain."""
    if len(history.steps) <= WINDOW or len(setup.weights) < 2:
        return []
    found, every = [], gains(history, setup)
    error = _error_of_accuracy(history, setup)[-1]
    learns = setup.right in every and np.nan_to_num(every[setup.right][-1]) > setup.weights[setup.right] * error * SURE
    total = sum(np.nan_to_num(gain) for gain in every.values())
    up = (total > _least_gain(setup)) & (np.arange(len(total)) >= 2 * WINDOW - 1)
    for name, gain in every.items():
        share = np.where(up, np.nan_to_num(gain) / np.where(up, total, 1.0), 0.0)
        if name != setup.right:
            text = (
                f"{share[-1]:.0%} of the gain in reward is paid by {name!r} ({gain[-1]:+.2f} of {total[-1]:+.2f}): "
                "is that what the run is for? If not, lower its weight"
            )
            # where right answers rise as well, it is worth knowing and no more
            limit = MOST if learns else HALF
            found += _sign(history, f"one_reward {name}", up & (share > limit), share, limit, text, not learns)
    return found


def at_maximum(history: History, setup: Setup) -> list[Sign]:
    """A reward whose mean rose to its highest value so far, and which no longer sets completions apart."""
    found = []
    for name in setup.weights:
        mean = history.mean(f"reward_{name}")
        share = np.abs(np.nan_to_num(history.mean(f"spread_share_{name}"), nan=1.0))
        highest = np.fmax.accumulate(np.nan_to_num(history.column(f"reward_max_{name}"), nan=-np.inf))
        risen = mean - mean[min(WINDOW, len(mean)) - 1] >= RISEN * highest
        seen = (mean >= 0.99 * highest) & (highest > 0) & (share < 0.02) & risen
        text = f"{name!r} is at its maximum ({mean[-1]:.2f} of {highest[-1]:g}): it teaches nothing more"
        found += _sign(history, f"at_maximum {name}", seen, mean, float(0.99 * highest[-1]), text, serious=False)
    return found


def hardly_paid(history: History, setup: Setup) -> list[Sign]:
    """A reward that is next to nothing: its pattern may not fit what the model writes. A penalty may well be 0."""
    found = []
    for name, weight in setup.weights.items():
        means, highest = history.column(f"reward_{name}"), history.column(f"reward_max_{name}")
        mean = np.cumsum(means) / np.arange(1, len(means) + 1)  # [n], of all steps so far
        limit = RARE * np.maximum.accumulate(highest)
        seen = (mean >= 0) & (mean <= limit) & (np.arange(len(mean)) >= 2 * WINDOW - 1) & (weight != 0)
        text = (
            f"{name!r} is hardly ever earned (mean {mean[-1]:.2g} so far), so it teaches next to nothing: look whether "
            "it reads what this model writes (a penalty may well be 0)"
        )
        found += _sign(history, f"hardly_paid {name}", seen, mean, float(limit[-1]), text, serious=False)
    return found


def format_collapsed(history: History, setup: Setup) -> list[Sign]:
    """The format reward is below half of its best."""
    mean = history.mean("reward_format")
    best = np.fmax.accumulate(np.nan_to_num(mean, nan=-np.inf))
    text = (
        f"the format has collapsed: {mean[-1]:.2f} now, {best[-1]:.2f} at its best. Lower optim.lr, raise loss.beta, "
        "or give format more weight"
    )
    seen = (best > 0.5) & (np.nan_to_num(mean, nan=1.0) < HALF * best)
    return _sign(history, "format", seen, mean, float(HALF * best[-1]), text)


def truncated(history: History, setup: Setup) -> list[Sign]:
    """Completions are cut off; and why, as far as the texts show it."""
    mean = history.mean("truncated")
    looping, answered, gain = (history.mean(f"truncated_{name}")[-1] for name in ("looping", "answered", "gain"))
    start = f"{mean[-1]:.0%} of the completions are cut off at sampling.max_new_tokens={setup.max_new_tokens}"
    if gain > 0:
        cause = (
            f"; they earn {gain:.2g} more than the others, so a reward pays for length: a higher limit would feed it"
        )
    elif looping > HALF:
        cause = f"; {looping:.0%} of these end in a loop: lower optim.lr or sampling.temperature, or raise loss.beta"
    elif answered > HALF:
        cause = f"; {answered:.0%} of these had already answered: end them there with sampling.stop=['</answer>']"
    else:
        cause = "; they do not loop, and have not answered yet: raise it"
    return _sign(history, "truncated", np.nan_to_num(mean) > TRUNCATED, mean, TRUNCATED, start + cause)


def far_from_reference(history: History, setup: Setup) -> list[Sign]:
    """The KL to the reference is large."""
    mean = history.mean("kl")
    text = (
        f"the policy is {mean[-1]:.2g} nats a token from its reference: it writes in another way than the model "
        "that it began from. Raise loss.beta or lower optim.lr, if accuracy does not rise with it"
    )
    return _sign(history, "kl", np.nan_to_num(mean) > KL, mean, KL, text)


def repeated(history: History, setup: Setup) -> list[Sign]:
    """One text occurs in the groups of many problems."""
    mean = history.mean("most_frequent")
    groups = np.nan_to_num(history.column("groups")) + np.nan_to_num(history.column("dropped"))
    text = f"the same text is written for {mean[-1]:.0%} of the problems: the policy no longer reads them"
    seen = (np.nan_to_num(mean) > REPEATED) & (groups >= 4)  # of two problems, a share of one half is nothing
    return _sign(history, "repeated", seen, mean, REPEATED, text)


def flat_groups(history: History, setup: Setup) -> list[Sign]:
    """Most groups have the same reward throughout, in total or in what drop_by names."""
    kept, dropped = (np.nan_to_num(history.column(name)) for name in ("groups", "dropped"))
    sampled = trailing(kept + dropped)
    share = np.where(sampled > 0, trailing(dropped) / np.maximum(sampled, 1), 0.0)
    share = np.fmax(share, np.nan_to_num(history.mean("zero_spread")))
    right = history.mean(f"reward_{setup.right}")[-1]
    if right > 0.8:
        cause = "most are right throughout: the problems have become too easy; use harder ones"
    elif right < 0.2:
        cause = "most are wrong throughout: the problems are too hard; use easier ones, or a finer reward"
    else:
        size = setup.group_size
        cause = f"raise grpo.group_size={size}, use problems that the model solves sometimes, or a finer reward"
    where = "every group" if share[-1] == 1 else f"{share[-1]:.0%} of the groups"
    text = f"in {where} all completions earned the same, so there is nothing to learn from: {cause}"
    return _sign(history, "flat_groups", share > FLAT, share, FLAT, text)


def shaping_only(history: History, setup: Setup) -> list[Sign]:
    """Most groups that are learned from are all right or all wrong."""
    mean = history.mean("shaping_only")
    text = (
        f"in {mean[-1]:.0%} of the groups learned from, all completions are equally right: other rewards alone decide "
        f"what is learned there; grpo.drop_by=[{setup.right}] drops such groups"
    )
    return _sign(history, "shaping_only", np.nan_to_num(mean) > HALF, mean, HALF, text)


FINDERS = (
    accuracy_falls,
    one_reward,
    format_collapsed,
    truncated,
    far_from_reference,
    repeated,
    flat_groups,
    shaping_only,
    at_maximum,
    hardly_paid,
)
