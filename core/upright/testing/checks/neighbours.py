"""Beside other people's steps: either the two run together, or one sentence says why not."""

from __future__ import annotations

import hashlib
import json
import tempfile
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from upright import catalog
from upright.errors import UprightError
from upright.stack import Placed
from upright.testing.outcome import Failed, Skipped
from upright.testing.subject import Subject, merged

if TYPE_CHECKING:
    from upright.catalog import Entry
    from upright.step import Step


def beside_others(subject: Subject) -> str:
    """With an installed step of each section, drawn by the step's name: it runs, or is refused with a reason.

    Only steps that need no settings are drawn. One that does not run on the kit's models by itself is left out.
    """
    subject.finished()
    together, refused = [], []
    for neighbour in _drawn(subject):
        assert neighbour.entry is not None
        given = merged(subject.given, {"model": {"task": subject.task}})
        if not _runs_alone(neighbour.entry, json.dumps(given)):
            continue
        try:
            stack = subject.stack(neighbour)
        except UprightError:
            refused.append(str(neighbour))
            continue
        tiny = subject.execute(stack)
        if tiny.run is not None:
            together.append(str(neighbour))
        elif tiny.error is not None and _unforeseen(tiny.error):
            raise Failed(f"beside {neighbour} the run breaks instead of being refused: {tiny.error}")
        else:
            refused.append(str(neighbour))
    if not together and not refused:
        raise Skipped("no step is installed that could stand beside it")
    return f"runs with {', '.join(together) or 'none'}; refused with {', '.join(refused) or 'none'}"


@cache
def _runs_alone(entry: Entry, given: str) -> bool:
    """Whether an installed step runs on the kit's models by itself; looked at once a process."""
    with tempfile.TemporaryDirectory(prefix="upright-conform-") as name:
        other = Subject(catalog.load(entry)(), Path(name), entry.section, entry.name, json.loads(given), entry)
        return other.execute().run is not None


def _drawn(subject: Subject) -> list[Placed]:
    """One installed step of each section that can be made without settings."""
    found: dict[str, tuple[str, Placed]] = {}
    for entry in catalog.steps():
        try:
            kind: type[Step] = catalog.load(entry)
            step = kind()
        except Exception:  # it needs settings, or is broken: not this step's fault
            continue
        rank = hashlib.sha256(f"{subject.name}/{entry.name}".encode()).hexdigest()
        served = step.tasks is None or subject.task in step.tasks
        if served and kind is not type(subject.step) and (entry.section not in found or rank < found[entry.section][0]):
            key = entry.name if entry.name != subject.name else f"{entry.name}-2"
            found[entry.section] = (rank, Placed(entry.section, entry.name, key, step, entry.name, entry))
    return [placed for _, placed in found.values()]


def _unforeseen(error: UprightError) -> bool:
    """Whether a step fell over, rather than being told apart by a sentence of its own."""
    return error.__cause__ is not None and not isinstance(error.__cause__, UprightError)
