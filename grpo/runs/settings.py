"""From files to a Config: defaults <- YAML (with `include`) <- `key.sub=value` on the command line.

An unknown key, a value of the wrong type or outside its range is an error of one line that names its place and the
nearest valid key. All errors are reported at once.
"""

from __future__ import annotations

import dataclasses
import difflib
import reprlib
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from grpo.presets import DROP_BY_CORRECTNESS, PRESETS
from grpo.runs.config import Config, RewardConfig
from grpo.runs.validate import check, did_you_mean

Key = tuple[str, ...]
Settings = dict[Key, tuple[Any, str]]  # key -> value, and where it was written

REMOVED = {
    "model.cuda_graphs": "no longer exists, and nothing takes its place: leave it out",
    "log.tensorboard": "no longer exists: leave it out; metrics.jsonl has all figures, `grpo report` draws them",
    "log.completions_per_step": "no longer exists: leave it out; log.megabytes bounds what is written",
}


class ConfigError(ValueError):
    """One line (or one line per mistake): where, what, and the nearest valid name."""


def load_config(file: str | None, overrides: list[str] | None = None, checked: bool = True) -> Config:
    """Read a YAML file and `key.sub=value` overrides. Raises ConfigError, a line per mistake.

    checked: values make sense together, and what they name is there; the user's modules are imported for that.
    """
    errors: list[str] = []
    settings: Settings = {}
    for override in overrides or []:
        settings = over(settings, read_override(override, errors))
    if file is not None:
        settings = on_top(read_file(Path(file), errors), settings)
    config = Config()
    for key in sorted(settings, key=lambda key: key != ("loss", "preset")):  # the preset first, the rest as they came
        value, place = settings[key]
        try:
            config = assign(config, key, value, Config)
        except KeyError:
            errors.append(f"{place}: {unknown(key)}")
        except TypeError as error:
            errors.append(f"{place}: {'.'.join(key)} {error}")
        except ValueError as error:  # from a __post_init__, which names its field
            errors.append(f"{place}: {error}")
    config = with_preset_filter(config, settings)
    places = {".".join(key): place for key, (_, place) in settings.items()}
    for name, what in check(config) if checked else ():
        at = next((f"{place}: " for key, place in places.items() if f"{key}.".startswith(f"{name}.")), "")
        errors.append(f"{at}{name} {what}")
    if errors:
        raise ConfigError("\n".join(map(_readable, errors)))
    return config


def with_preset_filter(config: Config, settings: Settings) -> Config:
    """Some presets drop groups by correctness, unless `drop_by` is set."""
    right, preset = config.eval.reward, settings.get(("loss", "preset"), ("", ""))[0]
    free = ("grpo", "drop_by") not in settings and config.grpo.drop_zero_spread
    if preset not in DROP_BY_CORRECTNESS or not free or right not in config.rewards:
        return config
    return dataclasses.replace(config, grpo=dataclasses.replace(config.grpo, drop_by=(right,)))


# ---- reading ------------------------------------------------------------------------------------------------


def read_file(path: Path, errors: list[str], including: tuple[Path, ...] = ()) -> Settings:
    """The settings of a file over those of the file that it includes."""
    if path.resolve() in including:
        errors.append(f"{path}: includes itself")
        return {}
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        errors.append(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}")
        return {}
    settings = read_yaml(text, str(path), errors)
    base, place = settings.pop(("include",), (None, ""))
    if isinstance(base, str):
        return on_top(read_file(path.parent / base, errors, (*including, path.resolve())), settings)
    if base is not None:
        errors.append(f"{place}: include must be a file name, relative to this file")
    return settings


def read_override(text: str, errors: list[str]) -> Settings:
    """`key.sub=value`; in `rewards.pkg.module:function.weight` the import path is one name."""
    key, equals, value = text.partition("=")
    if not equals or not key:
        errors.append(f"command line: {text!r} is not of the form key.sub=value")
        return {}
    first, _, rest = key.partition(".")
    module, colon, rest = rest.partition(":")
    function, *below = rest.split(".")
    path = (first, f"{module}:{function}", *below) if colon else tuple(key.split("."))
    return read_yaml(value, "command line", errors, path)


def read_yaml(text: str, source: str, errors: list[str], key: Key = ()) -> Settings:
    """The settings of a YAML text below `key`."""
    settings: Settings = {}
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        if any(isinstance(token, yaml.AliasToken) for token in yaml.scan(text)):
            raise yaml.YAMLError("aliases (*name) are not read")  # ten lines of them can be endless
        for path, value, place in _leaves(root, key, source):
            if any(_overlap(path, other) for other in settings):
                errors.append(f"{place}: {'.'.join(path)!r} is given twice")
            settings[path] = value, place
    except (yaml.YAMLError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        problem = " ".join(str(getattr(error, "problem", None) or error).split())
        errors.append(f"{source}{f':{mark.line + 1}' if mark else ''}: not valid YAML: {problem}")
    if () in settings:
        errors.append(f"{source}:1: expected `key: value` lines")
    return {path: setting for path, setting in settings.items() if path}


def _leaves(node: yaml.Node | None, key: Key, source: str, line: str = "") -> Iterator[tuple[Key, Any, str]]:
    """What is not a mapping, or an empty one, below a node: key, value, and source with line."""
    if isinstance(node, yaml.MappingNode) and (node.value or not key):
        for name, value in node.value:
            line = "" if source == "command line" else f":{name.start_mark.line + 1}"
            yield from _leaves(value, (*key, str(name.value)), source, line)
    elif node:
        try:
            yield key, yaml.SafeLoader("").construct_object(node, deep=True), source + line
        except ValueError as error:  # such as a date that does not exist
            raise yaml.MarkedYAMLError(problem=f"{'.'.join(key)}: {error}", problem_mark=node.start_mark) from error
    elif key:
        yield key, None, source


def _overlap(a: Key, b: Key) -> bool:
    return a[: len(b)] == b or b[: len(a)] == a


def on_top(below: Settings, layer: Settings) -> Settings:
    """A layer over those below it (command line over file over included file). A preset replaces their whole loss."""
    preset = ("loss", "preset") in layer
    return over({key: setting for key, setting in below.items() if not (preset and key[0] == "loss")}, layer)


def over(old: Settings, new: Settings) -> Settings:
    """`new` replaces what was set at its keys, below them, or, as one value, above them (`rewards: {}`)."""
    kept = {key: setting for key, setting in old.items() if key in new or not any(_overlap(key, k) for k in new)}
    return {**kept, **new}


# ---- assigning ----------------------------------------------------------------------------------------------


def assign(target: Any, key: Key, value: Any, hint: Any) -> Any:
    """`target`, of type `hint`, with the value at a key below it. Raises KeyError, TypeError or ValueError."""
    if not key and dataclasses.is_dataclass(hint):
        if value not in (None, {}):
            raise TypeError(f"is a group of settings, not {reprlib.repr(value)}")
        return target  # an empty group keeps its defaults
    if not key:
        return convert(value, hint)
    name, below = key[0], key[1:]
    if isinstance(target, dict):  # reward functions by name, or their arguments
        inner = typing.get_args(hint)[1] if hint is not Any else Any
        here = target.get(name, inner() if dataclasses.is_dataclass(inner) else {})
        return {**target, name: assign(here, below, value, inner)}
    hints = typing.get_type_hints(type(target))
    if key == ("loss", "preset"):
        if value not in list(PRESETS):
            raise TypeError(f"has no {value!r}{did_you_mean(value, PRESETS)}; choose one of {', '.join(PRESETS)}")
        return dataclasses.replace(target, loss=PRESETS[value])
    if name not in hints:
        raise KeyError(name)
    return dataclasses.replace(target, **{name: assign(getattr(target, name), below, value, hints[name])})


def convert(value: Any, hint: Any) -> Any:
    """The value as the hinted type; TypeError where it is another. An int will do as a float, 1e-4 as text too."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    try:
        if hint is Any or type(value) is (origin or hint):
            return [convert(item, args[0]) for item in value] if origin is list else value
        if hint is str and value is None:
            return ""  # `key=` on the command line
        if origin in (types.UnionType, typing.Union):  # a list where it may be one, else the first type
            listed = [arg for arg in args if isinstance(value, list) and typing.get_origin(arg) is list]
            return None if value is None and type(None) in args else convert(value, (listed or args)[0])
        if origin is tuple and isinstance(value, list):
            items = args[:1] * len(value) if args[-1] is Ellipsis else args
            return tuple(convert(v, t) for v, t in zip(value, items, strict=True))
        if hint is float and type(value) in (int, str):
            return float(value)
    except (TypeError, ValueError, OverflowError):
        pass
    shown = hint.__name__ if isinstance(hint, type) and not args else str(hint).replace("typing.", "")
    raise TypeError(f"must be {shown}, not {reprlib.repr(value)}")


def known_keys(cls: type = Config, prefix: str = "") -> list[str]:
    """Every dotted key of the configuration."""
    keys = ["loss.preset"] if cls is Config else []
    for name, hint in typing.get_type_hints(cls).items():
        keys += known_keys(hint, f"{prefix}{name}.") if dataclasses.is_dataclass(hint) else [prefix + name]
    return keys


def unknown(key: Key) -> str:
    """What to say of a key that does not exist: the nearest one, or one of the same name elsewhere."""
    name = ".".join(key)
    if name in REMOVED:
        return f"{name} {REMOVED[name]}"
    keys = known_keys() + (known_keys(RewardConfig, ".".join(key[:2]) + ".") if key[0] == "rewards" else [])
    near = difflib.get_close_matches(name, keys, n=1, cutoff=0.75)
    near += [known for known in keys if known.rpartition(".")[2] == key[-1]]
    hint = f"did you mean {near[0]!r}?" if near else "see `python -m grpo config` for all keys"
    return f"unknown key {name!r}; {hint}"


def _readable(line: str) -> str:
    """An error on one line, whatever of the file it quotes."""
    line = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line)
    return line if len(line) <= 500 else f"{line[:400]} ... {line[-95:]}"
