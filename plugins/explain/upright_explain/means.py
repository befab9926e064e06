"""Figures of explained rows with 95 % intervals."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from upright import Metric

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

RESAMPLES = 1000


def mean(values: Sequence[float | None]) -> Metric | None:
    """The mean of what is known, with Student's interval (rows are few); None where nothing is known.

    Student (1908), Biometrika 6:1. One row has no interval.
    """
    from scipy.stats import t

    known = np.array([value for value in values if value is not None and np.isfinite(value)], dtype=np.float64)
    if not len(known):
        return None
    middle = float(known.mean())
    if len(known) == 1:
        return Metric(middle, n=1, source="ledger")
    half = float(t.ppf(0.975, len(known) - 1) * known.std(ddof=1) / np.sqrt(len(known)))
    return Metric(middle, middle - half, middle + half, len(known), "ledger")


def of_means(columns: np.ndarray, figure: Callable[[np.ndarray], np.ndarray], seed: int) -> Metric | None:
    """A figure of column means, ``figure([B, C]) -> [B]``, with a percentile bootstrap interval over the rows ``[n, C]``.

    Efron and Tibshirani (1993).
    """
    if not len(columns):
        return None
    generator = np.random.default_rng(seed)
    drawn = generator.integers(0, len(columns), (RESAMPLES, len(columns)))
    low, high = np.percentile(figure(columns[drawn].mean(1)), [2.5, 97.5])
    return Metric(float(figure(columns.mean(0)[None])[0]), float(low), float(high), len(columns), "ledger")
