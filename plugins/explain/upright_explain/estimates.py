"""Means and shares with 95 % intervals; ``among``: how many of them are to hold at once (Dunn, 1961)."""

from __future__ import annotations

from math import isfinite, sqrt
from statistics import NormalDist, fmean, stdev
from typing import TYPE_CHECKING

from upright import Metric

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy as np

ERROR = 0.05
RESAMPLES = 1000


def mean(values: Sequence[float], among: int = 1) -> Metric:
    """The mean with Student's interval; of one value, without an interval."""
    from scipy.stats import t

    middle, rows = fmean(values), len(values)
    if rows < 2:
        return Metric(middle, n=rows, source="ledger")
    half = float(t.ppf(1 - ERROR / (2 * among), rows - 1)) * stdev(values) / sqrt(rows)
    return Metric(middle, middle - half, middle + half, rows, "ledger")


def mean_of_known(values: Sequence[float | None]) -> Metric | None:
    """`mean` of the values that are there and finite; None where none is."""
    known = [value for value in values if value is not None and isfinite(value)]
    return mean(known) if known else None


def of_means(columns: np.ndarray, figure: Callable[[np.ndarray], np.ndarray], seed: int) -> Metric | None:
    """A figure of column means, ``figure([B, C]) -> [B]``, with a percentile bootstrap interval over the rows ``[n, C]``.

    Efron and Tibshirani (1993).
    """
    import numpy as np

    if not len(columns):
        return None
    generator = np.random.default_rng(seed)
    drawn = generator.integers(0, len(columns), (RESAMPLES, len(columns)))
    low, high = np.percentile(figure(columns[drawn].mean(1)), [2.5, 97.5])
    return Metric(float(figure(columns.mean(0)[None])[0]), float(low), float(high), len(columns), "ledger")


def share(hits: int, rows: int, among: int = 1) -> Metric:
    """A proportion with its score interval (Wilson, 1927), which has a width also where it is 0 or 1."""
    square = NormalDist().inv_cdf(1 - ERROR / (2 * among)) ** 2
    middle = (hits + square / 2) / (rows + square)
    half = sqrt(square) / (rows + square) * sqrt(hits * (rows - hits) / rows + square / 4)
    return Metric(hits / rows, max(0.0, middle - half), min(1.0, middle + half), rows, "ledger")


def told(metric: Metric) -> str:
    """The interval in words; a dash where there is none."""
    return "–" if metric.low is None or metric.high is None else f"{metric.low:.3f} to {metric.high:.3f}"
