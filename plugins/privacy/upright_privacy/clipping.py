"""How much of each unit's gradient is kept."""

from __future__ import annotations

import math

import torch
from torch import Tensor

STABILITY = 0.01
"""gamma of automatic clipping (Bu et al., 2022, section 4)."""


def factors(norms: Tensor, bound: float, clipping: str = "flat") -> Tensor:
    """What each unit's gradient is multiplied by, ``[U]``, so that no norm exceeds ``bound``; 0 for one not finite.

    flat (and adaptive, whose bound moves): min(1, bound / norm), Abadi et al. (2016, arXiv:1607.00133). automatic:
    bound / (norm + 0.01), Bu et al. (2022, arXiv:2206.07136), which needs no well-chosen bound.
    """
    if clipping == "automatic":
        scale = bound / (norms + STABILITY)
    else:
        scale = (bound / norms.clamp(min=torch.finfo(norms.dtype).tiny)).clamp(max=1.0)
    return torch.where(torch.isfinite(norms), scale, torch.zeros_like(scale))


def followed(bound: float, share: float, quantile: float, rate: float) -> float:
    """The next clipping norm from the noised ``share`` of units below this one: C exp(-eta (b - gamma)).

    Andrew et al. (2021, arXiv:1905.03871), equation 3.
    """
    return bound * math.exp(-rate * (share - quantile))
