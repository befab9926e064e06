"""Clip each unit's gradient to a norm, sum, add noise (Abadi et al., 2016, arXiv:1607.00133)."""

from __future__ import annotations

import secrets
from collections.abc import Iterable

import torch
from torch import Tensor


def factors(gradients: Iterable[Tensor], bound: float) -> Tensor:
    """min(1, bound / norm) of each unit over all of its tensors ``[U, ...]``; 0 where the norm is not finite. ``[U]``"""
    squares = torch.stack([g.float().flatten(1).square().sum(1) for g in gradients]).sum(0)
    norms = squares.sqrt()
    scale = (bound / norms.clamp(min=1e-12)).clamp(max=1.0)
    return torch.where(torch.isfinite(norms), scale, torch.zeros_like(scale))


def clipped_sum(gradient: Tensor, scale: Tensor) -> Tensor:
    """Sum of the units' gradients ``[U, ...]`` times their factors; a unit with factor 0 leaves nothing, not even NaN."""
    kept = torch.where((scale > 0).view(-1, *[1] * (gradient.dim() - 1)), gradient.float(), 0.0)
    return torch.einsum("u,u...->...", scale, kept)


def gaussian(shape: torch.Size, scale: float, device: torch.device) -> Tensor:
    """Noise of standard deviation ``scale``, seeded anew by the operating system: no state of it is ever kept."""
    generator = torch.Generator(device=device).manual_seed(secrets.randbits(63))
    return torch.randn(shape, generator=generator, device=device) * scale
