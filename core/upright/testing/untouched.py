"""Core as it was: which attributes of `upright` are others after a step was imported or run."""

from __future__ import annotations

import importlib
import pkgutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from copy import copy
from functools import cache
from types import FunctionType, ModuleType
from typing import Any

import upright

OWN = ("__pydantic_", "__annotations", "__signature__", "__doc__")
"""Beginnings of what pydantic and Python set on a class by themselves, on first use."""
GONE = object()


@contextmanager
def untouched(changed: list[str]) -> Iterator[None]:
    """Inside, what of core's loaded modules and their classes is set to something else is noted in ``changed``.

    Attributes that were replaced are put back at the end.
    """
    before = [(owner, {name: (value, _inside(value)) for name, value in _attributes(owner)}) for owner in _owners()]
    try:
        yield
    finally:
        for owner, known in before:
            for name, (value, inside) in known.items():
                now = vars(owner).get(name, GONE)
                if now is not value:
                    setattr(owner, name, value)
                if now is not value or _inside(value) != inside:
                    changed.append(f"{_name(owner)}.{name}")
            for name, value in _attributes(owner):
                if name not in known and not isinstance(value, ModuleType):
                    delattr(owner, name)
                    changed.append(f"{_name(owner)}.{name}")


@cache
def load_core() -> None:
    """Import every module of core, so that none is met for the first time by a step."""
    for module in pkgutil.walk_packages(upright.__path__, "upright."):
        if not module.name.endswith(("__main__", "step_checks")):
            importlib.import_module(module.name)


def _owners() -> list[Any]:
    """Core's loaded modules and the classes that they define."""
    modules = [module for name, module in sys.modules.items() if name.partition(".")[0] == "upright"]
    classes = [
        value
        for module in modules
        for value in list(vars(module).values())
        if isinstance(value, type) and value.__module__ == module.__name__
    ]
    return [*modules, *classes]


def _attributes(owner: Any) -> list[tuple[str, Any]]:
    return [(name, value) for name, value in vars(owner).items() if not name.startswith(OWN)]


def _inside(value: Any) -> Any:
    """What can change in place."""
    if isinstance(value, FunctionType):
        return value.__code__, value.__defaults__
    return copy(value) if type(value) in (dict, list, set) else None


def _name(owner: Any) -> str:
    return owner.__name__ if isinstance(owner, ModuleType) else f"{owner.__module__}.{owner.__qualname__}"
