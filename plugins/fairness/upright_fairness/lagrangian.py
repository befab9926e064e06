"""Dual updates of a Lagrangian over group cells (Cotter et al., 2019, arXiv:1809.04198)."""

from __future__ import annotations

from typing import Any

FLOOR = 0.01
"""Smallest share of rows that a cell is taken to have: noisy or empty cells must not blow a coefficient up."""


def follow_common(rows: Any, hits: Any, multipliers: Any, coefficients: Any, step: Any) -> None:
    """One dual update of the cells ``[G]`` that shall have a common rate; changes the last two tensors in place."""
    import torch

    total = rows.sum().clamp(min=1e-6)
    rates = hits / rows.clamp(min=FLOOR * float(total))
    excess = rates - hits.sum() / total
    excess = torch.sign(excess) * (excess.abs() - step.max_gap).clamp(min=0)
    multipliers.mul_(1 - step.damping).add_(step.dual_learning_rate * excess)
    multipliers.clamp_(-step.max_multiplier, step.max_multiplier)
    # d/d score of sum_g multiplier_g (rate_g - common rate), per row of the true class
    share = (rows / total).clamp(min=FLOOR)
    coefficients.copy_(multipliers / share - multipliers.sum())


def follow_bound(rows: Any, hits: Any, multipliers: Any, coefficients: Any, step: Any, bound: float) -> None:
    """One dual update of the cells ``[G]`` whose loss shall be at most ``bound``; multipliers are never negative."""
    total = rows.sum().clamp(min=1e-6)
    losses = hits / rows.clamp(min=FLOOR * float(total))
    multipliers.mul_(1 - step.damping).add_(step.dual_learning_rate * (losses - bound))
    multipliers.clamp_(0, step.max_multiplier)
    coefficients.copy_(multipliers / (rows / total).clamp(min=FLOOR))
