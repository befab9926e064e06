"""One threshold for all groups, chosen on validation."""

from __future__ import annotations

import numpy as np

from upright_fairness import rates

CANDIDATES = 101


def choose(
    scores: np.ndarray, truth: np.ndarray, columns: list[np.ndarray], max_gap: float, kind: str = "equalized_odds"
) -> float:
    """The threshold of best accuracy less the part of the ``kind`` difference that is over ``max_gap``.

    ``scores`` float[n] of the positive class, ``truth`` bool[n], ``columns`` the groups int[n] (-1: missing) of each spec.
    A bound instead of the subtraction would be met best by refusing everybody.
    """
    best, chosen = -np.inf, 0.5
    for threshold in np.unique(np.append(np.quantile(scores, np.linspace(0, 1, CANDIDATES)), 0.5)):
        decision = scores >= threshold
        excess = max((_gap(truth, decision, groups, kind) - max_gap for groups in columns), default=0.0)
        value = float((decision == truth).mean()) - max(excess, 0.0)
        if value > best:
            best, chosen = value, float(threshold)
    return chosen


def _gap(truth: np.ndarray, decision: np.ndarray, groups: np.ndarray, kind: str) -> float:
    counts = rates.cells(truth, decision, groups, int(groups.max(initial=-1)) + 1)
    gaps = [np.ptp(rates.value(counts, rate)) if len(counts) else 0.0 for rate in rates.GAPS[kind]]
    return float(np.nan_to_num(max(gaps), nan=0.0))
