"""``y = x W`` and ``y = b + x W`` (GPT-2's Conv1D): a row's gradient of W is the sum over its positions of ``x g^T``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from upright_privacy.per_unit.contributions import Contribution, Product
from upright_privacy.per_unit.rules.shapes import positions, reduced
from upright_privacy.per_unit.tape import Unserved

NAME = "matrix product"
FUNCTIONS = (torch.matmul, torch.mm, Tensor.matmul, Tensor.mm, Tensor.__matmul__, torch.addmm, Tensor.addmm)
ROWS = None


def rows_of(
    gradient: Tensor, rows: int, *factors: Tensor, beta: float = 1, alpha: float = 1
) -> dict[Any, Callable[[], Contribution]]:
    """``weight [in, out]`` at the right of the rows, and addmm's ``bias [out]``."""
    *bias, left, right = factors
    if right.dim() != 2 or beta != 1 or alpha != 1:
        raise Unserved("a product with a trainable weight that is no matrix at the right")
    g = positions(gradient, rows)
    return {
        ("factors", len(bias) + 1): lambda: Product(positions(left.detach(), rows).to(g.dtype), g, right.shape[0]),
        ("factors", 0): lambda: reduced(gradient, bias[0].shape, rows),
    }
