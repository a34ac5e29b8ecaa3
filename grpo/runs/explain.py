"""`grpo config --explain [key]`: what each setting means, by the docstrings of `config.py` and its neighbours."""

from __future__ import annotations

import ast
import dataclasses
import functools
import inspect
import itertools
import textwrap
import typing
from collections.abc import Iterator
from typing import Any

from grpo.presets import PRESETS
from grpo.ranges import Range
from grpo.runs import hints
from grpo.runs.config import Config, RewardConfig

WIDTH = 100


@dataclasses.dataclass(frozen=True)
class Setting:
    """One key, or a group of keys."""

    key: str
    kind: str
    """Its type and range, in words; empty for a group."""
    default: Any
    text: str


def explain(key: str = "", config: Config | None = None) -> str:
    """The settings at and below a key, all of them for an empty one, with their values in `config`.

    Raises ValueError for a key that does not exist, with the nearest one.
    """
    default, chosen = list(settings(Config())), dict(values(config or Config()))
    found = [s for s in default if not key or s.key == key or s.key.startswith(f"{key}.")]
    if key.startswith("rewards.") and not found:
        _, _, below = key.partition(".")
        found = [s for s in default if s.key.startswith("rewards.NAME") and s.key.endswith(below.partition(".")[2])]
    if not found:
        raise ValueError(f"config --explain: {hints.unknown(tuple(key.split('.')))}")
    return "\n".join(_shown(setting, chosen.get(setting.key, setting.default)) for setting in found)


def settings(config: Any, prefix: str = "") -> Iterator[Setting]:
    """Every setting below a group, in the order of its class."""
    hinted, texts = typing.get_type_hints(type(config), include_extras=True), documented(type(config))
    for name, hint in hinted.items():
        key, value = prefix + name, getattr(config, name)
        if dataclasses.is_dataclass(value):
            text = texts.get(name) or inspect.cleandoc(type(value).__doc__ or "").partition("\n\n")[0]
            yield Setting(key, "", None, text)
            if key == "loss":
                names = f"one of {', '.join(PRESETS)}"
                yield Setting("loss.preset", names, None, "A published loss, which sets all keys of `loss` at once.")
            yield from settings(value, f"{key}.")
        else:
            yield Setting(key, describe(hint), value, texts.get(name, ""))
        if key == "rewards":
            yield from settings(RewardConfig(), "rewards.NAME.")


def values(config: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The value of every key."""
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            yield from values(value, f"{prefix}{field.name}.")
        else:
            yield prefix + field.name, value


@functools.cache
def documented(cls: type) -> dict[str, str]:
    """The docstring under each field of a dataclass."""
    body = ast.parse(textwrap.dedent(inspect.getsource(cls))).body[0].body
    found = {}
    for field, text in itertools.pairwise(body):
        if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant):
            found[field.target.id] = " ".join(str(text.value.value).split())
    return found


def describe(hint: Any) -> str:
    """A type in words: `number above 0`, `one of ddp, fsdp`, `list of text`."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        ranges = [extra for extra in args[1:] if isinstance(extra, Range)]
        limits = [f"above {r.least:g}" if r.open else f"of {r.least:g} or more" for r in ranges]
        return " ".join([describe(args[0]), *limits])
    if origin is typing.Literal:
        return f"one of {', '.join(str(arg) or 'nothing' for arg in args)}"
    if origin in (tuple, list):
        return f"list of {describe(args[0])}"
    if origin is dict:
        return "mapping"
    if args:  # a union
        return " or ".join("nothing" if arg is type(None) else describe(arg) for arg in args)
    names = {bool: "true or false", int: "whole number", float: "number", str: "text", Any: "anything"}
    return names.get(hint, getattr(hint, "__name__", str(hint)))


def _shown(setting: Setting, value: Any) -> str:
    body = textwrap.fill(setting.text, WIDTH, initial_indent="    ", subsequent_indent="    ", break_on_hyphens=False)
    if not setting.kind:
        return f"\n{setting.key}:\n{body}\n"
    if setting.key == "loss.preset" or setting.key == "rewards":
        head = setting.key
    else:
        head = f"{setting.key} = {_value(value)}"
        if value != setting.default:
            head += f"  (default {_value(setting.default)})"
    return f"{head}  [{setting.kind}]\n{body}"


def _value(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return str(value).lower() if value is not None else "null"
    if isinstance(value, tuple | list):
        return f"[{', '.join(map(_value, value))}]"
    return repr(value) if isinstance(value, str) else f"{value}"
