"""Rows first: how a result's positions and a broadcast weight's dimensions are laid out."""

from __future__ import annotations

import torch
from torch import Tensor

from upright_privacy.per_unit.contributions import Contribution, Dense, widened
from upright_privacy.per_unit.tape import Unserved


def positions(values: Tensor, rows: int) -> Tensor:
    """``[R, ..., n]`` or ``[R T, n]`` as ``[R, T, n]`` in float32 (float64 stays)."""
    if values.dim() == 0 or values.shape[0] % rows:
        raise Unserved(f"a tensor of shape {list(values.shape)} has no first dimension of rows")
    return widened(values).reshape(rows, -1, values.shape[-1])


def reduced(gradient: Tensor, shape: torch.Size, rows: int) -> Contribution:
    """Each row's gradient of a weight of ``shape`` that was broadcast to the gradient's shape."""
    wide = widened(gradient)
    if wide.dim() == len(shape) and shape[0] == wide.shape[0] != 1:
        # One slice of the weight for each row (a prompt that was expanded): a row's gradient is that of its own slice.
        if shape[0] != rows:
            raise Unserved(f"a weight of shape {list(shape)} lies along rows and positions at once")
        own = _summed(wide, shape, start=1)
        spread = own.new_zeros(rows, *own.shape)
        spread[torch.arange(rows), torch.arange(rows)] = own
        return Dense(spread)
    if wide.shape[0] != rows:
        if wide.shape[0] % rows or wide.dim() == len(shape):
            raise Unserved(f"a result of shape {list(wide.shape)} has no first dimension of rows")
        wide = wide.reshape(rows, -1, *wide.shape[1:])
    return Dense(
        _summed(wide, torch.Size([1, *shape[1:]]) if wide.dim() == len(shape) else shape, start=1).view(rows, *shape)
    )


def _summed(wide: Tensor, shape: torch.Size, start: int) -> Tensor:
    """Summed over the dimensions (from ``start``) along which ``shape``, aligned at the right, was broadcast."""
    extra = wide.dim() - len(shape)
    dims = [d for d in range(start, wide.dim()) if d < extra or (shape[d - extra] == 1 and wide.shape[d] != 1)]
    kept = wide.sum(dims, keepdim=True) if dims else wide
    return kept.reshape(wide.shape[0], *(kept.shape[d] for d in range(max(extra, start), kept.dim())))
