"""A product with a weight that is broadcast over positions: a norm's scale, IA3, VeRA's vectors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from upright_privacy.per_unit.contributions import Contribution
from upright_privacy.per_unit.rules.shapes import reduced

NAME = "product"
FUNCTIONS = (torch.mul, torch.multiply, Tensor.mul, Tensor.multiply, Tensor.__mul__, Tensor.__rmul__)
ROWS = None


def rows_of(gradient: Tensor, rows: int, input: Any, other: Any) -> dict[Any, Callable[[], Contribution]]:
    """A row's gradient of one factor is ``g`` times the other, summed over where the factor was broadcast."""
    return {
        "input": lambda: reduced(gradient * other.detach(), input.shape, rows),
        "other": lambda: reduced(gradient * input.detach(), other.shape, rows),
    }
