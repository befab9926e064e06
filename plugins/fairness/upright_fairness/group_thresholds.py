"""One threshold for each group, so that rates are nearly common (Hardt et al., 2016, arXiv:1610.02413), without chance."""

from __future__ import annotations

from itertools import product
from operator import itemgetter

import numpy as np

from upright_fairness import rates
from upright_fairness.threshold import Objective, choose, row_shares, value

CANDIDATES = 51
"""Thresholds that are tried in a group."""
CORNERS = 41
"""Lower ends of a common range of a rate that are tried; all of them where there are no more."""

ROUNDING = 1e-12


def choose_by_group(
    scores: np.ndarray,
    truth: np.ndarray,
    group: np.ndarray,
    max_gap: float,
    kind: str,
    objective: Objective = "accuracy",
    min_rows: int = 1,
) -> tuple[float, np.ndarray]:
    """The threshold for everybody, and those of the groups ``[G]``: of best objective less the gap over ``max_gap``.

    ``scores`` float[n], ``truth`` bool[n], ``group`` int[n] (-1: missing). A group of fewer than ``min_rows`` rows keeps the
    threshold for everybody. Never worse on these rows than that one is.

    For each lower end of a range of rates and each width, the groups are independent of one another: each takes its best
    threshold whose rates lie in the range.
    """
    common = choose(scores, truth, [group], max_gap, kind, objective)
    shares = row_shares(truth, objective)

    def worth(thresholds: np.ndarray) -> float:
        own = np.append(thresholds, common)[group]  # a row without a group is decided by the common one
        return value(scores >= own, truth, [group], max_gap, kind, shares)

    tried, gains, reached = [], [], []
    for one in range(int(group.max(initial=-1)) + 1):
        mine = group == one
        own = np.quantile(scores[mine], np.linspace(0, 1, CANDIDATES)) if mine.sum() >= min_rows else []
        thresholds = np.unique(np.append(own, common))
        decision = scores[mine] >= thresholds[:, None]
        tried.append(thresholds)
        gains.append((decision == truth[mine]) @ shares[mine])
        reached.append(_rates(decision, truth[mine], kind))
    if not reached:
        return common, np.zeros(0)
    lows = [_corners(np.concatenate([one[k] for one in reached])) for k in range(len(rates.GAPS[kind]))]
    _, chosen = max((_best_below(np.array(low), gains, reached, max_gap) for low in product(*lows)), key=itemgetter(0))
    found = np.array([thresholds[place] for thresholds, place in zip(tried, chosen, strict=True)])
    return common, max(np.full(len(found), common), found, key=worth)  # of equals the first: the simpler one


def _rates(decision: np.ndarray, truth: np.ndarray, kind: str) -> np.ndarray:
    """A group's rates of ``kind`` under each candidate, ``[K, C]``, from decisions bool[C, n]."""
    said = np.stack([(decision & ~truth).sum(1), (decision & truth).sum(1)], axis=1)
    of_class = np.array([(~truth).sum(), truth.sum()])
    cells = np.stack([of_class - said, said], axis=2)
    return np.stack([rates.value(cells, rate) for rate in rates.GAPS[kind]])


def _best_below(
    corner: np.ndarray, gains: list[np.ndarray], reached: list[np.ndarray], max_gap: float
) -> tuple[float, list[int]]:
    """What the best width of the range that begins at ``corner [K]`` is worth, and the place of each group's threshold."""
    ordered = []
    for one, gain in zip(reached, gains, strict=True):
        above = one - corner[:, None]  # how wide the range must be; a rate without rows is in every range
        width = np.where(np.isnan(above), 0.0, np.where(above < -ROUNDING, np.inf, above)).max(0)
        order = np.argsort(width, kind="stable")
        ordered.append((order, width[order], gain[order]))
    widths = np.unique(np.concatenate([width[np.isfinite(width)] for _, width, _ in ordered]))
    if not len(widths):
        return -np.inf, []
    total, ends = -np.maximum(widths - max_gap, 0), []
    for _, width, gain in ordered:
        ends.append(np.searchsorted(width, widths, "right"))
        top = np.append(-np.inf, np.maximum.accumulate(gain))
        total = total + top[ends[-1]]
    at = int(total.argmax())
    if not np.isfinite(total[at]):
        return -np.inf, []
    return float(total[at]), [
        int(order[gain[: end[at]].argmax()]) for (order, _, gain), end in zip(ordered, ends, strict=True)
    ]


def _corners(values: np.ndarray) -> np.ndarray:
    known = np.unique(values[np.isfinite(values)])
    if len(known) <= CORNERS:
        return known if len(known) else np.zeros(1)
    return known[np.linspace(0, len(known) - 1, CORNERS).round().astype(int)]
