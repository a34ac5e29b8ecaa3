"""From files to a Config: frozen dataclasses <- YAML (with `include`) <- `key.sub=value` on the command line.

Strict: an unknown key, a value of the wrong type or outside its range is an error that names the place and the
nearest valid key. All errors are reported at once.
"""

from __future__ import annotations

import dataclasses
import difflib
import reprlib
import types
import typing
from pathlib import Path
from typing import Any

import yaml

from grpo.loss import PRESETS, LossConfig
from grpo.runs.config import Config, RewardConfig
from grpo.runs.validate import check


class ConfigError(ValueError):
    """One line (or one line per mistake): where, what, and the nearest valid name."""


# ---- reading ------------------------------------------------------------------------------------------------

Settings = dict[tuple[str, ...], tuple[Any, str]]  # path of keys -> (value, where it was written)
MAX_DEPTH, MAX_KEYS = 20, 1000
LONGEST_LINE = 500


def load_config(file: str | None, overrides: list[str] | None = None) -> Config:
    """Read a YAML file and `key.sub=value` overrides. Raises ConfigError, a line per mistake."""
    settings: Settings = {}
    errors: list[str] = []
    if file is not None:
        _read_yaml(Path(file), settings, errors, seen=())
    for override in overrides or []:
        key, equals, text = override.partition("=")
        if not equals or not key:
            errors.append(f"command line: {override!r} is not of the form key.sub=value")
            continue
        own: Settings = {}
        _flatten(_compose(text, f"command line: {key}", errors), _split(key), "command line", own, errors)
        _merge(settings, own)
    places = {".".join(path): where for path, (_, where) in settings.items()}
    config = _build(Config(), (), settings, errors)
    for path, (_, where) in settings.items():
        errors.append(f"{where}: unknown key {'.'.join(path)!r}{_nearest(path)}")
    errors += [_placed(key, what, places) for key, what in check(config)]
    if errors:
        raise ConfigError("\n".join(map(_readable, errors)))
    return config


def _readable(line: str) -> str:
    """An error on one line, whatever of the file it quotes."""
    line = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line)
    return line if len(line) <= LONGEST_LINE else f"{line[: LONGEST_LINE - 100]} ... {line[-95:]}"


def _split(key: str) -> tuple[str, ...]:
    """`a.b.c` -> (a, b, c); in `rewards.pkg.module:function.weight` the import path is one name."""
    group, _, rest = key.partition(".")
    module, colon, rest = rest.partition(":")
    if not colon:
        return tuple(key.split("."))
    function, dot, rest = rest.partition(".")
    return (group, f"{module}:{function}", *(rest.split(".") if dot else ()))


def _placed(key: str, what: str, places: dict[str, str]) -> str:
    """A mistake with the file and line of its key, or of the first key below it."""
    where = places.get(key) or next((w for k, w in places.items() if k.startswith(key + ".")), "")
    return f"{where}: {key} {what}" if where else f"{key} {what}"


def _compose(text: str, where: str, errors: list[str]) -> yaml.Node | None:
    try:
        return yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        line = f":{error.problem_mark.line + 1}" if getattr(error, "problem_mark", None) else ""
        problem = " ".join(str(getattr(error, "problem", None) or error).split())
        errors.append(f"{where}{line}: not valid YAML: {problem}")
    except RecursionError:
        errors.append(f"{where}: not valid YAML: nested too deeply")
    return None


def _read_yaml(path: Path, settings: Settings, errors: list[str], seen: tuple[Path, ...]) -> None:
    """Flatten a file into settings, the files that it includes first."""
    if path.resolve() in seen:
        errors.append(f"{path}: includes itself")
        return
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        errors.append(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}")
        return
    node = _compose(text, str(path), errors)
    own: Settings = {}
    _flatten(node, (), str(path), own, errors)
    include, where = own.pop(("include",), (None, ""))
    if isinstance(include, str):
        _read_yaml(path.parent / include, settings, errors, (*seen, path.resolve()))
    elif include is not None:
        errors.append(f"{where}: include must be a file name, relative to this file")
    _merge(settings, own)


def _merge(settings: Settings, own: Settings) -> None:
    """A setting replaces what was said before at its key, below it, or, as one value, above it (`rewards: {}`)."""
    for old in [k for k in settings if any(k[: len(new)] == new or new[: len(k)] == k for new in own)]:
        del settings[old]
    settings.update(own)


def _flatten(node: yaml.Node | None, path: tuple[str, ...], file: str, out: Settings, errors: list[str]) -> None:
    """Nested mappings -> one entry per leaf, with the line that it stands on."""
    if node is None:
        if path:
            out[path] = (None, file)
        return
    if len(path) > MAX_DEPTH or len(out) > MAX_KEYS:  # aliases can make a file of ten lines endless
        raise ConfigError(f"{file}: {_readable('.'.join(path[:3]))}: too many or too deeply nested settings")
    where = file if file == "command line" else f"{file}:{node.start_mark.line + 1}"
    if isinstance(node, yaml.MappingNode) and (node.value or not path):
        keys = [(*path, key.value if isinstance(key, yaml.ScalarNode) else "?") for key, _ in node.value]
        for key in {k for k in keys if keys.count(k) > 1}:
            errors.append(f"{where}: {'.'.join(key)!r} is given twice")
        for key, (_, value) in zip(keys, node.value, strict=True):
            _flatten(value, key, file, out, errors)
    elif not path:
        errors.append(f"{where}: expected `key: value` lines")
    else:
        try:
            out[path] = (yaml.SafeLoader("").construct_object(node, deep=True), where)
        except (yaml.YAMLError, ValueError, RecursionError) as error:  # a date or number that cannot be is a ValueError
            errors.append(f"{where}: {'.'.join(path)}: {getattr(error, 'problem', error)}")


# ---- building -----------------------------------------------------------------------------------------------


def _build(default: Any, path: tuple[str, ...], settings: Settings, errors: list[str]) -> Any:
    """`default` with the settings below `path` in place of its values; the settings are used up."""
    hints, values = typing.get_type_hints(type(default)), {}
    place = next((where for k, (_, where) in settings.items() if k[: len(path)] == path), "")
    if isinstance(default, LossConfig):
        default = _preset(path, settings, errors)
    for f in dataclasses.fields(default):
        key, hint, present = (*path, f.name), hints[f.name], getattr(default, f.name)
        below = [k for k in settings if k[: len(key)] == key]
        if not below:
            continue
        if dataclasses.is_dataclass(hint):
            values[f.name] = _build_group(present, key, settings, errors)
        elif typing.get_origin(hint) is dict and key not in settings:
            inner, names = typing.get_args(hint)[1], dict.fromkeys(k[len(key)] for k in below)
            values[f.name] = {
                name: _build_group(inner(), (*key, name), settings, errors)
                if dataclasses.is_dataclass(inner)
                else _nested((*key, name), settings)
                for name in names
            }
        elif key in settings:
            value, where = settings.pop(key)
            try:
                values[f.name] = _convert(value, hint)
            except (TypeError, ValueError, OverflowError):
                errors.append(f"{where}: {'.'.join(key)} must be {_type_name(hint)}, not {reprlib.repr(value)}")
    try:
        return dataclasses.replace(default, **values)
    except ValueError as error:  # from a __post_init__ that checks its own fields
        errors.append(f"{place}: {error}")
        return default


def _build_group(default: Any, key: tuple[str, ...], settings: Settings, errors: list[str]) -> Any:
    """A nested dataclass; an empty group (`accuracy:` with nothing below) keeps its defaults."""
    value, where = settings.pop(key, (None, ""))
    if value not in (None, {}):
        errors.append(f"{where}: {'.'.join(key)} is a group of settings, not {reprlib.repr(value)}")
    return _build(default, key, settings, errors)


def _preset(path: tuple[str, ...], settings: Settings, errors: list[str]) -> LossConfig:
    """`loss.preset` names the loss to start from; without it that is GRPO."""
    name, where = settings.pop((*path, "preset"), ("grpo", ""))
    if not isinstance(name, str) or name not in PRESETS:
        near = difflib.get_close_matches(str(name), PRESETS, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else f"; choose one of {', '.join(PRESETS)}"
        errors.append(f"{where}: loss.preset has no {name!r}{hint}")
        return LossConfig()
    return PRESETS[name]


def _nested(key: tuple[str, ...], settings: Settings) -> Any:
    """Rebuild a free-form value from its leaves."""
    if key in settings:
        return settings.pop(key)[0]
    names = dict.fromkeys(k[len(key)] for k in settings if k[: len(key)] == key)
    return {name: _nested((*key, name), settings) for name in names}


def _convert(value: Any, hint: Any) -> Any:
    """The value as the hinted type; TypeError where it is another. An int will do as a float, 1e-4 as text too."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return value
    if origin in (types.UnionType, typing.Union):
        for option in args:
            try:
                return _convert(value, option)
            except (TypeError, ValueError):
                continue
        raise TypeError
    if origin is tuple:
        items = args[:1] * len(value) if args[-1] is Ellipsis else args
        if not isinstance(value, (list, tuple)) or len(items) != len(value):
            raise TypeError
        return tuple(_convert(v, t) for v, t in zip(value, items, strict=True))
    if origin in (list, dict):
        if not isinstance(value, origin):
            raise TypeError
        return [_convert(v, args[0]) for v in value] if origin is list else dict(value)
    if hint is float and not isinstance(value, bool) and isinstance(value, (int, float, str)):
        return float(value)
    if type(value) is not hint:
        raise TypeError
    return value


def _type_name(hint: Any) -> str:
    return hint.__name__ if isinstance(hint, type) and not typing.get_args(hint) else str(hint).replace("typing.", "")


def known_keys(cls: type = Config, path: tuple[str, ...] = ()) -> list[str]:
    """Every dotted key of the configuration."""
    hints = typing.get_type_hints(cls)
    keys = ["loss.preset"] if cls is Config else []
    for f in dataclasses.fields(cls):
        hint = hints[f.name]
        keys += known_keys(hint, (*path, f.name)) if dataclasses.is_dataclass(hint) else [".".join((*path, f.name))]
    return keys


def _nearest(path: tuple[str, ...]) -> str:
    """ "; did you mean ...?" from the whole key, or else from its last part."""
    keys = known_keys()
    if path[0] == "rewards" and len(path) > 2:
        keys += known_keys(RewardConfig, path[:2])
    near = difflib.get_close_matches(".".join(path), keys, n=1, cutoff=0.75)
    near = near or [k for k in keys if k.rpartition(".")[2] == path[-1]][:1]
    return f"; did you mean {near[0]!r}?" if near else "; see `python -m grpo config` for all keys"
