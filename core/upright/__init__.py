"""Upright: adapt foundation models responsibly, with proof.

Everything public is imported on first use, so that ``import upright`` stays light.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from upright.objects import (
        Attribution,
        Batch,
        Decisions,
        Metric,
        Output,
        Predictions,
        Section,
        Stop,
        Verdict,
    )
    from upright.run import Run
    from upright.stack import Stack
    from upright.step import Capability, Scope, Step, hook

__version__ = "0.1.0"

_HOME = {
    "Step": "step",
    "Capability": "step",
    "Scope": "step",
    "hook": "step",
    "Stack": "stack",
    "Run": "run",
    "Attribution": "objects",
    "Batch": "objects",
    "Decisions": "objects",
    "Metric": "objects",
    "Output": "objects",
    "Predictions": "objects",
    "Section": "objects",
    "Stop": "objects",
    "Verdict": "objects",
}

__all__ = [
    "Attribution",
    "Batch",
    "Capability",
    "Decisions",
    "Metric",
    "Output",
    "Predictions",
    "Run",
    "Scope",
    "Section",
    "Stack",
    "Step",
    "Stop",
    "Verdict",
    "hook",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(f"upright.{_HOME[name]}"), name)
    raise AttributeError(f"module 'upright' has no attribute {name!r}")
