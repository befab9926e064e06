"""One threshold for all groups, chosen on validation."""

from __future__ import annotations

import numpy as np

from upright_fairness import rates

CANDIDATES = 101


def choose(scores: np.ndarray, truth: np.ndarray, columns: list[np.ndarray], max_gap: float) -> float:
    """The threshold of best accuracy among those whose equalized-odds difference is at most ``max_gap``.

    ``scores`` float[n] of the positive class, ``truth`` bool[n], ``columns`` the group names (None: missing) by column.
    Where no candidate keeps the bound, 0.5: a gap bought with any accuracy (everybody refused) is no answer.
    """
    best, chosen = -1.0, 0.5
    for threshold in np.unique(np.append(np.quantile(scores, np.linspace(0, 1, CANDIDATES)), 0.5)):
        decision = scores >= threshold
        accuracy = float((decision == truth).mean())
        if accuracy > best and all(_gap(truth, decision, groups) <= max_gap for groups in columns):
            best, chosen = accuracy, float(threshold)
    return chosen


def _gap(truth: np.ndarray, decision: np.ndarray, groups: np.ndarray) -> float:
    names = sorted({group for group in groups if group is not None})
    found = rates.rates(rates.cells(truth, decision, groups, names))
    gaps = [np.ptp(found[rate]) for rate in rates.GAPS["equalized_odds"]]
    return float(np.nan_to_num(max(gaps), nan=0.0))
