"""The conformance kit: one line for the author of a step, every check for whoever relies on it.

```python
from upright.testing import StepChecks

class TestMine(StepChecks):
    step = MyMethod(rank=2)
```

`StepChecks` is for pytest, `conform` for everything else (``upright conform`` prints what it finds). The kit makes its own
models and rows (`upright.testing.toys`) and needs no network.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from upright.testing.kit import conform
    from upright.testing.outcome import Conformance, Outcome
    from upright.testing.step_checks import StepChecks

_HOME = {"StepChecks": "step_checks", "conform": "kit", "Conformance": "outcome", "Outcome": "outcome"}

__all__ = ["Conformance", "Outcome", "StepChecks", "conform"]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(f"upright.testing.{_HOME[name]}"), name)
    raise AttributeError(f"module 'upright.testing' has no attribute {name!r}")
