"""A look-up in a table: a row's gradient of the table is the sum of ``g`` over the positions that read each line."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.nn import functional as F

from upright_privacy.per_unit.contributions import Contribution, Product
from upright_privacy.per_unit.rules.shapes import positions
from upright_privacy.per_unit.tape import Unserved

NAME = "embedding"
FUNCTIONS = (F.embedding,)
ROWS = {"input"}


def rows_of(
    gradient: Tensor,
    rows: int,
    input: Tensor,
    weight: Tensor,
    padding_idx: int | None = None,
    max_norm: float | None = None,
    norm_type: float = 2.0,
    scale_grad_by_freq: bool = False,
    sparse: bool = False,
) -> dict[Any, Callable[[], Contribution]]:
    """``weight [V, D]``; the line of ``padding_idx`` gets no gradient, as in torch."""
    if max_norm is not None or scale_grad_by_freq:
        raise Unserved("an embedding with max_norm or scale_grad_by_freq mixes the rows")
    read = input.reshape(rows, -1)
    g = positions(gradient, rows)
    if padding_idx is not None:
        g = g.masked_fill((read == padding_idx % weight.shape[0]).unsqueeze(2), 0)
    return {"weight": lambda: Product(read, g, weight.shape[0])}
