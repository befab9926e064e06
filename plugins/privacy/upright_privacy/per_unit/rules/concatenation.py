"""A weight beside the rows' own values (virtual tokens, prefixes): its gradient is its part of ``g``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from upright_privacy.per_unit.contributions import Contribution
from upright_privacy.per_unit.rules.shapes import reduced
from upright_privacy.per_unit.tape import Unserved

NAME = "concatenation"
FUNCTIONS = (torch.cat, torch.concat, torch.concatenate)
ROWS = None


def rows_of(
    gradient: Tensor, rows: int, tensors: Sequence[Tensor], dim: int = 0
) -> dict[Any, Callable[[], Contribution]]:
    """``tensors`` are alike but for ``dim``; a weight among them has one slice for each row, expanded before."""
    place = dim % gradient.dim()
    if place == 0:
        raise Unserved("a weight is put before or after the rows in the first dimension")
    sizes = [tensor.shape[place] for tensor in tensors]

    def part(number: int) -> Contribution:
        return reduced(gradient.split(sizes, place)[number], tensors[number].shape, rows)

    return {("tensors", number): lambda number=number: part(number) for number in range(len(tensors))}
