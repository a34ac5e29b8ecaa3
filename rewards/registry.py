"""Rewards by name: `accuracy` and friends, or `my_module:my_reward` from anywhere importable.

A reward has TRL's signature, so that rewards move between TRL and this project unchanged:

    reward(completions: list[str] | list[list[dict]], **columns) -> list[float | None]

`columns` holds `prompts` and the columns of the data by name; `None` means "does not apply".
"""

from __future__ import annotations

import difflib
import functools
import importlib
import inspect
import os
import sys
from collections.abc import Callable, Iterable
from typing import Any

Reward = Callable[..., "list[float | None]"]

_REWARDS: dict[str, Reward] = {}

# What the trainer passes on every call; anything else in a signature is a setting.
COLUMNS = frozenset(("completions", "prompts", "completion_ids", "answer", "solution"))
TRL_COLUMNS = frozenset(("trainer_state", "log_extra", "log_metric"))


class RewardError(ValueError):
    """Something about a reward that its user can fix: a name, a setting, an import path."""


def register_reward(name: str) -> Callable[[Reward], Reward]:
    """Decorator that makes a reward available to `get_reward` under `name`."""

    def register(reward: Reward) -> Reward:
        if _REWARDS.get(name, reward) is not reward:
            raise RewardError(f"two rewards are called {name!r}: rename one of them")
        _REWARDS[name] = reward
        return reward

    return register


def reward_names() -> list[str]:
    """The registered names, sorted."""
    return sorted(_REWARDS)


def get_reward(name: str, **settings: Any) -> Reward:
    """The reward called `name`, with `settings` bound.

    Args:
        name: a registered name (`accuracy`, or `accuracy_reward`), or an import path
            `my_module:my_reward`; modules in the working directory are found.
        settings: keyword arguments of the reward. A setting must be named in its signature; `**columns`
            does not swallow a misspelt one.

    Raises:
        RewardError: for an unknown name or setting (the message names the nearest one) or an
            import that fails.
    """
    reward = _import(name) if ":" in name else _lookup(name)
    return bind_settings(reward, settings)


def bind_settings(reward: Reward, settings: dict[str, Any]) -> Reward:
    """`reward` with `settings` bound; it keeps its `__name__`, under which TRL and our logs show it."""
    if not settings:
        return reward
    known = _setting_names(reward)
    for key in settings:
        if key not in known:
            raise RewardError(f"{reward_label(reward)} has no setting {key!r}{nearest(key, known)}")
    bound = _Configured(reward, **settings)
    functools.update_wrapper(bound, reward)
    return bound


class _Configured(functools.partial):
    """A reward with settings. Unlike any `partial`'s, they win over an argument of the same name: a data column."""

    def __call__(self, /, *args: Any, **columns: Any) -> Any:
        return super().__call__(*args, **{name: c for name, c in columns.items() if name not in self.keywords})


def settings_of(reward: Reward) -> set[str]:
    """The names that are the configuration's and that no data column may take.

    They are the settings that were given, and, of a reward that is registered here, those left at their defaults
    too: its keyword-only parameters. A parameter of anybody else's reward may be a column that it reads.
    """
    given: set[str] = set()
    while isinstance(reward, functools.partial):
        given |= reward.keywords.keys()
        reward = reward.func
    if reward not in _REWARDS.values():
        return given
    parameters = inspect.signature(reward).parameters.values()
    return given | {p.name for p in parameters if p.kind is p.KEYWORD_ONLY} - COLUMNS - TRL_COLUMNS


def reward_label(reward: Reward) -> str:
    """The name that messages and logs show."""
    return getattr(reward, "__name__", type(reward).__name__)


def _lookup(name: str) -> Reward:
    short = name.removesuffix("_reward")
    if short not in _REWARDS:
        hint = nearest(short, _REWARDS)
        raise RewardError(f"no reward is called {name!r}{hint}; import paths are my_module:my_reward")
    return _REWARDS[short]


def _import(path: str) -> Reward:
    module_name, _, attribute = path.partition(":")
    if not module_name or not attribute:
        raise RewardError(f"reward {path!r}: an import path is written my_module:my_reward")
    here = os.getcwd()
    if here not in sys.path and "" not in sys.path:
        # A console script, unlike `python -m`, doesn't look in the working directory.
        sys.path.insert(0, here)
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # the user's module may fail in any way at all
        raise RewardError(f"reward {path!r}: importing {module_name!r} failed: {error!r}") from error
    found: Any = module
    for part in attribute.split("."):
        if not hasattr(found, part):
            names = [key for key in dir(found) if not key.startswith("_")]
            raise RewardError(f"reward {path!r}: {module_name!r} has no {attribute!r}{nearest(part, names)}")
        found = getattr(found, part)
    if not callable(found):
        raise RewardError(f"reward {path!r} is a {type(found).__name__}, not a function")
    return found


def _setting_names(reward: Reward) -> list[str]:
    parameters = inspect.signature(reward).parameters.values()
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return [p.name for p in parameters if p.kind in named and p.name not in COLUMNS | TRL_COLUMNS]


def nearest(name: str, known: Iterable[str]) -> str:
    """The end of an error message: the nearest of the known names, or else all of them."""
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    if close:
        return f"; did you mean {close[0]!r}?"
    return f"; there are {', '.join(known)}" if known else "; it takes none"
