"""Tuning methods that fold their adapter into the weights leave nothing to turn off and nothing to take gradients of."""

from __future__ import annotations

from typing import TYPE_CHECKING

from upright.errors import ConfigError

if TYPE_CHECKING:
    from upright import Run, Step


def refuse_merging(step: Step, run: Run) -> None:
    """Raise ConfigError, before training, where a step that answers ``finalize`` is set to ``merge``."""
    for placed in run.stack.answering("finalize"):
        if getattr(placed.step, "merge", False):
            me = run.stack.placed(step)
            raise ConfigError(
                f"{me.where}  {me} needs the adapter beside the weights, and {placed} ({placed.where}) merges it into them; "
                "set merge: false there or remove one of them"
            )
