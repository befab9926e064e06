"""LEACE: the smallest edit after which no linear predictor can tell the concept (Belrose et al., 2023, arXiv:2306.03819)."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

NOTHING = 1e-10
"""A direction in which the concept varies less than this, over the one in which it does most, is rounding."""


class Moments:
    """Means and covariances of features ``x`` and concept ``z``, of batches, in float64."""

    def __init__(self) -> None:
        self.rows = 0
        self._origin: Tensor | None = None

    def add(self, x: Tensor, z: Tensor) -> None:
        """Features ``[n, D]`` and concept ``[n, G]`` of more rows."""
        import torch

        both = torch.cat([x.double(), z.double()], dim=1)
        if self._origin is None:  # sums of squares far from 0 would cancel
            self._origin, self._width = both.mean(0), x.shape[1]
            self._sum, self._squares = torch.zeros_like(both[0]), both.new_zeros(both.shape[1], both.shape[1])
        both = both - self._origin
        self.rows += len(both)
        self._sum += both.sum(0)
        self._squares += both.T @ both

    def eraser(self) -> tuple[Tensor, Tensor]:
        """``P [D, D]`` and the mean ``[D]``: ``x - P (x - mean)`` has no covariance with the concept.

        Of all affine maps of which that holds it has the least expected squared distance from ``x`` (theorem 4.3), in any
        norm. With S the covariances, ``P = Sxz (Szx Sxx+ Sxz)+ Szx Sxx+``, which is the paper's whitened form multiplied out.
        """
        import torch

        assert self._origin is not None
        mean = self._sum / self.rows
        covariance = self._squares / self.rows - torch.outer(mean, mean)
        xx, xz = covariance[: self._width, : self._width], covariance[: self._width, self._width :]
        unmixed = torch.linalg.pinv(xx, hermitian=True) @ xz
        explained = xz.T @ unmixed
        projection = xz @ torch.linalg.pinv((explained + explained.T) / 2, rtol=NOTHING, hermitian=True) @ unmixed.T
        return projection, (mean + self._origin)[: self._width]
