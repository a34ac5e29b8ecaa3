"""Functions by name: ours, those that a program registers, and yours by their import path, `my_module:my_function`."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from typing import Any


def register(functions: dict[str, Callable], name: str) -> Callable[[Callable], Callable]:
    """Decorator that makes a function available under `name` to a program that imports it; the latest one counts."""
    return lambda function: functions.update({name: function}) or function


def named(kind: str, name: str, functions: dict[str, Callable], args: dict[str, Any]) -> Callable:
    """The function of that name or import path, with further arguments bound. Raises ValueError where there is none."""
    module, _, function = name.partition(":")
    try:
        found = functions[name] if name in functions else getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError, ValueError) as error:
        choices = ", ".join(functions)
        raise ValueError(f"unknown {kind} {name!r} ({error}); choose {choices} or `module:function`") from None
    return functools.partial(found, **args)
