"""Calibration by group: Brier score (Brier, 1950) and class-wise expected calibration error.

The error is of one class's score: ``sum over bins of (rows in the bin / rows) * |mean score - share of the class|`` with 15
bins of equal width (Naeini et al., 2015; class-wise: Nixon et al., 2019, arXiv:1904.01685).
"""

from __future__ import annotations

import numpy as np

from upright_fairness.intervals import LEVEL, Estimate, means
from upright_fairness.rates import resample

BINS = 15


def brier(scores: np.ndarray, truth: np.ndarray, groups: np.ndarray, count: int) -> list[Estimate]:
    """Mean squared distance of score (float64[n]) and truth (bool[n]) in each group (int[n], -1 in none)."""
    return means((scores - truth) ** 2, groups, count)


def expected_calibration_error(
    scores: np.ndarray, truth: np.ndarray, groups: np.ndarray, count: int, seed: int
) -> list[Estimate]:
    """The error of each group; intervals hold for all groups at once.

    The error is the L1 norm of the bins' signed errors, and norms of two vectors differ by no more than the norm of their
    difference. So the bootstrap's quantile of that norm bounds the error on both sides; that of the error itself would be
    biased, since noise only adds to it. Scores within a cell of bin and class are taken as fixed: they differ by 1/15 at most.
    """
    known = groups >= 0
    scores, truth, groups = scores[known], truth[known], groups[known]
    bins = np.minimum((scores * BINS).astype(np.int64), BINS - 1)
    place = (groups * BINS + bins) * 2 + truth
    rows = np.bincount(place, minlength=count * BINS * 2).reshape(count, BINS, 2)
    sums = np.bincount(place, weights=scores - truth, minlength=count * BINS * 2).reshape(count, BINS, 2)
    apart = np.divide(sums, rows, out=np.zeros_like(sums), where=rows > 0)
    signed = _signed(rows, apart)
    drawn = _signed(resample(rows, seed), apart)
    distance = np.abs(drawn - signed).sum(-1)
    total = rows.sum((1, 2))
    with np.errstate(invalid="ignore", divide="ignore"):
        typical = np.nanmean(distance, axis=0) if count else np.zeros(0)
        critical = np.nanpercentile(np.nanmax(distance / typical, axis=1), 100 * LEVEL) if count else 0.0
    found = []
    for error, half, n in zip(np.abs(signed).sum(-1), np.nan_to_num(critical) * typical, total, strict=True):
        found.append(Estimate(float(error), max(float(error - half), 0.0), min(float(error + half), 1.0), int(n)))
    return found


def _signed(rows: np.ndarray, apart: np.ndarray) -> np.ndarray:
    """``[..., G, bins]``: what each bin adds to its group's error, with its sign."""
    with np.errstate(invalid="ignore", divide="ignore"):
        found: np.ndarray = (rows * apart).sum(-1) / rows.sum((-2, -1))[..., None]
    return found
