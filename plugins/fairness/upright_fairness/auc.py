"""Subgroup, BPSN and BNSP AUC (Borkan et al., 2019, arXiv:1903.04561): is the order of scores right within and across groups?

``subgroup_auc`` ranks a group's positives against its negatives; ``bpsn_auc`` the other groups' positives against its
negatives (low: its negatives score too high), ``bnsp_auc`` its positives against the other groups' negatives.
"""

from __future__ import annotations

import numpy as np

from upright_fairness.intervals import Estimate, bonferroni

KINDS = ("subgroup_auc", "bpsn_auc", "bnsp_auc")
STEPS = 60
"""Halvings of [0, 1]: to the last bit of a float64."""


def by_group(scores: np.ndarray, truth: np.ndarray, groups: np.ndarray, count: int) -> dict[str, list[Estimate]]:
    """Each kind's estimates by group; ``scores`` float64[n], ``truth`` bool[n], ``groups`` int[n] (-1 missing, in none)."""
    found: dict[str, list[Estimate]] = {kind: [] for kind in KINDS}
    quantile = bonferroni(count)
    for group in range(count):
        mine, others = groups == group, (groups >= 0) & (groups != group)
        for kind, (positives, negatives) in zip(KINDS, ((mine, mine), (others, mine), (mine, others)), strict=True):
            found[kind].append(auc(scores[positives & truth], scores[negatives & ~truth], quantile))
    return found


def auc(positives: np.ndarray, negatives: np.ndarray, quantile: float) -> Estimate:
    """The chance that a positive scores above a negative, ties counted half (Mann and Whitney, 1947).

    Interval: the values that the estimate is not further from than ``quantile`` of their own standard errors, by Hanley and
    McNeil's variance (Newcombe, 2006, Statistics in Medicine 25:559, method 5); it holds at 0 and 1 too.
    """
    rows = min(len(positives), len(negatives))
    if not rows:
        return Estimate(float("nan"), float("nan"), float("nan"), 0)
    ordered = np.sort(negatives)
    below, upto = np.searchsorted(ordered, positives, "left"), np.searchsorted(ordered, positives, "right")
    value = float((below + upto).sum() / (2 * len(positives) * len(negatives)))
    low = _bound(value, 0.0, len(positives), len(negatives), quantile)
    high = _bound(value, 1.0, len(positives), len(negatives), quantile)
    return Estimate(value, low, high, rows)


def _bound(value: float, end: float, positives: int, negatives: int, quantile: float) -> float:
    """The farthest of the values between the estimate and ``end`` that the estimate still agrees with."""
    near, far = value, end
    for _ in range(STEPS):
        middle = (near + far) / 2
        if abs(middle - value) <= quantile * _error(middle, positives, negatives):
            near = middle
        else:
            far = middle
    return near


def _error(value: float, positives: int, negatives: int) -> float:
    typical = (positives + negatives) / 2 - 1
    more = typical * ((1 - value) / (2 - value) + value / (1 + value))
    return float((value * (1 - value) * (1 + more) / (positives * negatives)) ** 0.5)
