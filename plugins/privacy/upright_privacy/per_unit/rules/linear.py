"""``y = x W^T + b``: a row's gradient of W is the sum over its positions of ``g x^T`` (Goodfellow, 2015, arXiv:1510.01799)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.nn import functional as F

from upright_privacy.per_unit.contributions import Contribution, Dense, Product
from upright_privacy.per_unit.rules.shapes import positions

NAME = "linear"
FUNCTIONS = (F.linear,)
ROWS = {"input"}


def rows_of(
    gradient: Tensor, rows: int, input: Tensor, weight: Tensor, bias: Tensor | None = None
) -> dict[Any, Callable[[], Contribution]]:
    """``weight [out, in]``, ``bias [out]``."""
    g = positions(gradient, rows)
    return {
        "weight": lambda: Product(g, positions(input.detach(), rows).to(g.dtype), weight.shape[0]),
        "bias": lambda: Dense(g.sum(1)),
    }
