"""Layer norm: a row's gradient of the scale is the sum of ``g x^`` over its positions, of the shift that of ``g``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor
from torch.nn import functional as F

from upright_privacy.per_unit.contributions import Contribution
from upright_privacy.per_unit.rules.shapes import reduced

NAME = "layer norm"
FUNCTIONS = (F.layer_norm,)
ROWS = {"input"}


def rows_of(
    gradient: Tensor,
    rows: int,
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> dict[Any, Callable[[], Contribution]]:
    """``weight`` and ``bias`` of ``normalized_shape``."""

    def scale() -> Contribution:
        values = input.detach().to(gradient.dtype)
        assert weight is not None
        return reduced(gradient * F.layer_norm(values, normalized_shape, None, None, eps), weight.shape, rows)

    def shift() -> Contribution:
        assert bias is not None
        return reduced(gradient, bias.shape, rows)

    return {"weight": scale, "bias": shift}
