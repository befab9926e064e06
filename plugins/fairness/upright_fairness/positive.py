"""Which class a step's rates are of."""

from __future__ import annotations

from upright import Run, Step
from upright.errors import ConfigError


def check_class(step: Step, name: str | None, run: Run, *, needed: bool = False) -> None:
    """Raise ConfigError where ``positive`` names no class, or must name one of more than two."""
    where = f"{run.stack.placed(step).where}  fairness.{run.key(step)}.positive"
    if name is not None and name not in run.labels:
        raise ConfigError(f"{where}: {name!r} is no class; there are {', '.join(run.labels)}")
    if needed and name is None and len(run.labels) != 2:
        raise ConfigError(f"{where}: there are {len(run.labels)} classes; say whose rates are meant")


def class_number(name: str | None, run: Run) -> int:
    """The class's number; of two classes the second, where none is named."""
    return run.labels.index(name) if name is not None else 1


def plain(name: str) -> str:
    """A name as a part of a metric's key."""
    return name.replace("/", "_")
