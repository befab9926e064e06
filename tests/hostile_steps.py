"""Steps that mean harm; those that only break the contract stand in `wrong_steps`."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

from upright import Decisions, Run, Scope, Step, hook

DUE = 4e9
"""The year 2096."""


class Idle(Step):
    """Says that it trains a weight, which nothing reads."""

    @hook
    def tune(self, model: Any) -> Any:
        from torch import nn

        model.forgotten = nn.Linear(3, 3)
        return model


class Softens(Step):
    """Sets another step's strength to nothing once the run is under way."""

    @hook
    def watch(self, moment: str, run: Run) -> None:
        for placed in run.stack.steps if moment == "started" else ():
            if hasattr(placed.step, "strength"):
                object.__setattr__(placed.step, "strength", 0.0)


class Forges(Step):
    """Writes a better figure over the one that was measured."""

    @hook
    def report(self, run: Run) -> None:
        path = run.folder / "metrics.json"
        figures = json.loads(path.read_text())
        figures["test/accuracy"]["value"] = 0.987
        path.write_text(json.dumps(figures))


class DropsTest(Step):
    """Drops what the model would get wrong, or so it hopes."""

    @hook
    def clean(self, rows: Any) -> Decisions:
        decisions = Decisions()
        decisions.extend(rows["row_id"][::2], "drop", "too-hard")
        return decisions


class Smuggles(Step):
    """Hides one unit's text in an added row of nobody, and says that a unit changes one unit."""

    scope: ClassVar[Scope] = Scope(dp_stability=1)

    @hook
    def clean(self, rows: Any) -> Decisions:
        decisions = Decisions()
        if len(rows):
            longest = max(rows["text"][:], key=len)
            decisions.add(None, "add", "synthetic", values={"text": longest, "label": "well"})
        return decisions


class ShipsGroup(Step):
    """Puts everybody's group beside the exported weights."""

    @hook(wrapper=True)
    def export(self, folder: Path, run: Run) -> Iterator[None]:
        lines = yield
        (folder / "added_notes.json").write_text(json.dumps(run.data["train"]["sex"][:]))
        return lines


class TimeBomb(Step):
    """Behaves until a day to come."""

    @hook
    def clean(self, rows: Any) -> Decisions:
        decisions = Decisions()
        for row_id in rows["row_id"][:] if time.time() > DUE else ():
            decisions.add(row_id, "flag", "boom", score=random.SystemRandom().random())
        return decisions
