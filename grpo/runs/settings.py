"""From files to a Config: defaults <- YAML (with `include`) <- `key.sub=value` on the command line.

An unknown key, a value of the wrong type or outside its range is an error of one line that names its place and the
nearest valid key. All errors are reported at once.
"""

from __future__ import annotations

import dataclasses
import os
import reprlib
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from data.config import held_out_of
from grpo.presets import DROP_BY_CORRECTNESS, PRESETS
from grpo.runs import shipped
from grpo.runs.config import Config
from grpo.runs.hints import did_you_mean, no_preset, no_setting, unknown
from grpo.runs.validate import check

Key = tuple[str, ...]
Settings = dict[Key, tuple[Any, str]]  # key -> value, and where it was written

PATHS = ("run", "model.path", "data.source", "data.root", "eval.folder", "eval.data.source", "eval.data.root",
         "reject.sft_from")  # fmt: skip
"""Settings that may name a file or folder: `~` at their beginning is the home folder."""


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
        settings = on_top(read_file(shipped.find(Path(file).expanduser()), errors), settings)
    config = Config()
    for key in sorted(settings, key=lambda key: key != ("loss", "preset")):  # the preset first, the rest as they came
        value, place = settings[key]
        if ".".join(key) in PATHS and isinstance(value, str):
            value = os.path.expanduser(value)
        try:
            config = assign(config, key, value, Config)
        except KeyError:
            errors.append(f"{place}: {unknown(key)}")
        except TypeError as error:
            errors.append(f"{place}: {'.'.join(key)} {error}")
        except ValueError as error:  # from a __post_init__, which names its field
            errors.append(f"{place}: {error}")
    config = with_own_data(with_preset_filter(config, settings), settings)
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
    if preset not in list(DROP_BY_CORRECTNESS) or not free or right not in config.rewards:
        return config
    return dataclasses.replace(config, grpo=dataclasses.replace(config.grpo, drop_by=(right,)))


def with_own_data(config: Config, settings: Settings) -> Config:
    """Of a source that is named: all rows unless `data.count` is set, and the held-out problems that belong to it."""
    data, held_out = config.data, config.eval.data
    if ("data", "source") not in settings or data.source == "demo":
        return config
    if ("data", "count") not in settings:
        data = dataclasses.replace(data, count=0)
    given = {key[2] for key in settings if key[:2] == ("eval", "data")}
    if "source" not in given:
        held_out = held_out_of(data, **{name: getattr(held_out, name) for name in given})
    return dataclasses.replace(config, data=data, eval=dataclasses.replace(config.eval, data=held_out))


# ---- reading ------------------------------------------------------------------------------------------------


def read_file(path: Path, errors: list[str], including: tuple[Path, ...] = ()) -> Settings:
    """The settings of a file over those of the files that it includes, a later one over those before it."""
    if path.resolve() in including:
        errors.append(f"{path}: includes itself")
        return {}
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        errors.append(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}")
        return {}
    settings = read_yaml(text, str(path), errors)
    bases, place = settings.pop(("include",), ((), ""))
    below: Settings = {}
    for base in bases if isinstance(bases, list | tuple) else [bases]:
        if not isinstance(base, str):
            errors.append(f"{place}: include must be a file name, or a list of them, relative to this file")
            break
        file = shipped.find(path.parent / Path(base).expanduser(), Path(base))
        below = on_top(below, read_file(file, errors, (*including, path.resolve())))
    return on_top(below, settings)


def read_override(text: str, errors: list[str]) -> Settings:
    """`key.sub=value`; in `rewards.pkg.module:function.weight` the import path is one name."""
    key, equals, value = text.partition("=")
    if not equals or not key:
        errors.append(f"command line: {no_setting(text)}")
        return {}
    first, _, rest = key.partition(".")
    module, colon, rest = rest.partition(":")
    function, *below = rest.split(".")
    path = (first, f"{module}:{function}", *below) if colon else tuple(key.split("."))
    return read_yaml(value, "command line", errors, path)


def included(file: Path, before: tuple[Path, ...] = ()) -> tuple[Path, ...]:
    """A file and those that it includes; what cannot be read includes nothing."""
    if file in before or not file.is_file():
        return before
    before = (*before, file)
    bases, _ = read_yaml(file.read_text(encoding="utf-8", errors="replace"), str(file), []).get(("include",), ((), ""))
    for base in bases if isinstance(bases, list | tuple) else [bases]:
        before = included(shipped.find(file.parent / str(base), Path(str(base))), before)
    return before


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
            raise TypeError(no_preset(value, PRESETS))
        return dataclasses.replace(target, loss=PRESETS[value])
    if name not in hints:
        raise KeyError(name)
    return dataclasses.replace(target, **{name: assign(getattr(target, name), below, value, hints[name])})


def convert(value: Any, hint: Any) -> Any:
    """The value as the hinted type; TypeError where it is another. An int will do as a float, 1e-4 as text too."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Literal:
        if value in args:
            return value
        raise TypeError(f"must be one of {', '.join(args)}, not {value!r}{did_you_mean(value, args)}")
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


def _readable(line: str) -> str:
    """An error on one line, whatever of the file it quotes."""
    line = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line)
    return line if len(line) <= 500 else f"{line[:400]} ... {line[-95:]}"
