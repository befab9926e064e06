"""Intervals that hold for all groups, or all pairs of groups, at once."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

LEVEL = 0.95


@dataclass(frozen=True)
class Estimate:
    """A value, its 95 % interval (NaN: undefined) and the number of rows of the smallest cell it rests on."""

    value: float
    low: float
    high: float
    rows: int


def sidak(count: int) -> float:
    """The two-sided normal quantile at which ``count`` independent intervals hold at once (Šidák, 1967).

    Groups share no row, so their rates are independent and the joint level is exact.
    """
    return NormalDist().inv_cdf(0.5 + LEVEL ** (1 / max(count, 1)) / 2)


def bonferroni(count: int) -> float:
    """As `sidak` for intervals that may depend on each other (Dunn, 1961)."""
    return NormalDist().inv_cdf(1 - (1 - LEVEL) / (2 * max(count, 1)))


def wilson(hits: np.ndarray, rows: np.ndarray, quantile: float) -> tuple[np.ndarray, np.ndarray]:
    """Score interval of proportions (Wilson, 1927): never empty, also of a proportion of 0 or 1; NaN without rows."""
    hits, rows = np.asarray(hits, dtype=np.float64), np.asarray(rows, dtype=np.float64)
    square = quantile**2
    with np.errstate(invalid="ignore", divide="ignore"):
        middle = (hits + square / 2) / (rows + square)
        half = quantile / (rows + square) * np.sqrt(hits * (rows - hits) / rows + square / 4)
    return np.maximum(middle - half, 0), np.minimum(middle + half, 1)


def means(values: np.ndarray, groups: np.ndarray, count: int) -> list[Estimate]:
    """The mean of each group's values in [0, 1] (float64[n], int[n]) with normal intervals that hold for all groups."""
    quantile, found = sidak(count), []
    for group in range(count):
        mine = values[groups == group]
        if not len(mine):
            found.append(Estimate(float("nan"), float("nan"), float("nan"), 0))
            continue
        middle = float(mine.mean())
        half = quantile * float(mine.std(ddof=1)) / len(mine) ** 0.5 if len(mine) > 1 else 1.0
        found.append(Estimate(middle, max(middle - half, 0.0), min(middle + half, 1.0), len(mine)))
    return found


def band(values: np.ndarray, drawn: np.ndarray, spread: np.ndarray) -> np.ndarray:
    """Half-widths ``[D]`` that hold for all of ``values [D]`` at once: single-step max-t (Westfall and Young, 1993).

    ``drawn [B, D]`` are resampled values, NaN where a resample leaves one undefined; ``spread [D]`` the standard errors.
    The bootstrap gives the critical value of the largest studentised deviation; it knows how the values depend on each other.
    """
    known = spread > 0
    if not known.any():
        return np.zeros_like(values)
    deviation = np.abs(drawn[:, known] - values[known]) / spread[known]
    worst = np.fmax.reduce(deviation, axis=1)  # NaN only where the resample says nothing at all
    worst = worst[np.isfinite(worst)]
    if not len(worst):
        return np.full_like(values, np.nan)
    # never below one value's own quantile: where every resample is the same (rates of 0), it would be nothing
    return max(float(np.percentile(worst, 100 * LEVEL)), sidak(1)) * spread


def largest(values: np.ndarray, half: np.ndarray) -> tuple[float, float, float]:
    """The largest absolute value with its interval, from a simultaneous band.

    With 95 % chance every true value lies within its band; then the largest true one lies between the largest lower and the
    largest upper end. A percentile bootstrap of the largest value itself never covers a true zero. NaN where one is undefined:
    it could be the largest.
    """
    if not len(values) or not np.isfinite(values).all():
        return float("nan"), float("nan"), float("nan")
    size = np.abs(values)
    return float(size.max()), float(np.maximum(size - half, 0).max()), float((size + half).max())
