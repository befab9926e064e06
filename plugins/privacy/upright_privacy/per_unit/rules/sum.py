"""A sum with a weight that is broadcast over positions: a bias, position embeddings."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from upright_privacy.per_unit.contributions import Contribution
from upright_privacy.per_unit.rules.shapes import reduced
from upright_privacy.per_unit.tape import Unserved

NAME = "sum"
FUNCTIONS = (torch.add, Tensor.add, Tensor.__add__, Tensor.__radd__)
ROWS = None


def rows_of(
    gradient: Tensor, rows: int, input: Any, other: Any, alpha: float = 1
) -> dict[Any, Callable[[], Contribution]]:
    """A row's gradient of a summand is ``g``, summed over where the summand was broadcast."""
    if alpha != 1:
        raise Unserved("a sum with alpha")
    return {
        "input": lambda: reduced(gradient, input.shape, rows),
        "other": lambda: reduced(gradient, other.shape, rows),
    }
