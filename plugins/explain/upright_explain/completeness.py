"""Do the parts add up to the whole: the score less the score without content (Sundararajan et al., 2017, arXiv:1703.01365)?"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from upright import Attribution, Batch
    from upright.objects import Target

SMALL = 0.05
"""Logits. A score that differs less from the baseline's has nothing to be divided among tokens."""


def whole(target: Target, batch: Batch, decided: Tensor, embeds: Tensor, blank: Tensor) -> Tensor:
    """The score of class ``decided`` with each row's content less that without it, ``[R]`` (float64, CPU)."""
    import torch

    both = torch.arange(len(batch), device=embeds.device).repeat(2)
    with torch.no_grad():
        scores = target.scores(torch.cat([embeds, blank]), batch.take(both), decided[both]).double().cpu()
    difference: Tensor = scores[: len(batch)] - scores[len(batch) :]
    return difference


def relative_errors(scores: Tensor, total: Tensor) -> Tensor:
    """How far each row's parts ``[R, T]`` are from their whole ``[R]``, as a share of it."""
    return (scores.sum(-1) - total).abs() / total.abs().clamp(min=SMALL)


def told(found: list[Attribution]) -> str:
    """The errors of all rows, as a report says them."""
    errors = sorted(one.completeness_error or 0.0 for one in found)
    return (
        f"The parts of a row's score add up to the whole within {errors[len(errors) // 2]:.2%} (median) and "
        f"{errors[-1]:.2%} (worst)"
    )
