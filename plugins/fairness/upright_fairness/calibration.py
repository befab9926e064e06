"""Calibration by group: Brier score (Brier, 1950) and class-wise expected calibration error.

The error is of one class's score: ``sum over bins of (rows in the bin / rows) * |mean score - share of the class|`` with 15
bins of equal width (Naeini et al., 2015; class-wise: Nixon et al., 2019, arXiv:1904.01685).
"""

from __future__ import annotations

import numpy as np

from upright_fairness.intervals import LEVEL, Estimate, means, sidak, wilson
from upright_fairness.rates import resample

BINS = 15


def brier(scores: np.ndarray, truth: np.ndarray, groups: np.ndarray, count: int) -> list[Estimate]:
    """Mean squared distance of score (float64[n]) and truth (bool[n]) in each group (int[n], -1 in none)."""
    return means((scores - truth) ** 2, groups, count)


def bins(scores: np.ndarray, truth: np.ndarray) -> list[tuple[float, float, float, float, int]]:
    """(mean score, share of the class, its Wilson interval's ends, rows) of each bin that holds a row, for a picture."""
    place = np.minimum((scores * BINS).astype(np.int64), BINS - 1)
    rows, hits = np.bincount(place, minlength=BINS), np.bincount(place, weights=truth, minlength=BINS)
    held = rows > 0
    means_ = np.bincount(place, weights=scores, minlength=BINS)[held] / rows[held]
    low, high = wilson(hits[held], rows[held], sidak(1))
    found = zip(means_, hits[held] / rows[held], low, high, rows[held], strict=True)
    return [(float(s), float(h), float(a), float(b), int(n)) for s, h, a, b, n in found]


def expected_calibration_error(
    scores: np.ndarray, truth: np.ndarray, groups: np.ndarray, count: int, seed: int
) -> list[Estimate]:
    """The error of each group; intervals hold for all groups at once.

    The error is the L1 norm of the bins' signed errors, and norms of two vectors differ by no more than the norm of their
    difference. So the bootstrap's quantile of that norm bounds the error on both sides; that of the error itself would be
    biased, since noise only adds to it. A bin's rows are drawn with half a row added to each class (Jeffreys, 1946), for a bin
    of few rows without a hit would else vary in no resample. Scores within a cell of bin and class are taken as fixed: they
    differ by 1/15 at most.
    """
    known = groups >= 0
    scores, truth, groups = scores[known], truth[known], groups[known]
    bins = np.minimum((scores * BINS).astype(np.int64), BINS - 1)
    place = (groups * BINS + bins) * 2 + truth
    rows = np.bincount(place, minlength=count * BINS * 2).reshape(count, BINS, 2)
    sums = np.bincount(place, weights=scores - truth, minlength=count * BINS * 2).reshape(count, BINS, 2)
    total, held = rows.sum((1, 2)), rows.sum(-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        errors = np.abs(sums.sum(-1)).sum(-1) / total
        middle = (sums.sum(-1) + rows[..., 1]) / held  # the bin's mean score
        apart = np.where(rows > 0, sums / rows, middle[..., None] - [0, 1])
        padded = rows + 0.5 * (held > 0)[..., None]
        moved = np.nansum((resample(padded, seed) - padded) * apart, axis=-1) * np.sqrt(1 + 1 / held)
        distance = np.abs(np.where(held > 0, moved, 0)).sum(-1) / total
        typical = np.nanmean(distance, axis=0) if count else np.zeros(0)
        critical = np.nanpercentile(np.nanmax(distance / typical, axis=1), 100 * LEVEL) if count else 0.0
    found = []
    for error, half, n in zip(errors, np.nan_to_num(critical) * typical, total, strict=True):
        found.append(Estimate(float(error), max(float(error - half), 0.0), min(float(error + half), 1.0), int(n)))
    return found
