"""One threshold for each group, so that rates are nearly common (Hardt et al., 2016, arXiv:1610.02413), without chance."""

from __future__ import annotations

from itertools import product

import numpy as np

from upright_fairness import rates
from upright_fairness.threshold import Objective, choose, row_shares, value

CANDIDATES = 51
"""Thresholds that are tried in a group."""
CORNERS = 41
"""Lower ends of a common range of a rate that are tried; all of them where there are no more."""


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
    count = int(group.max(initial=-1)) + 1
    tried, gains, reached = [], [], []
    for one in range(count):
        mine = group == one
        own = np.quantile(scores[mine], np.linspace(0, 1, CANDIDATES)) if mine.sum() >= min_rows else np.zeros(0)
        thresholds = np.unique(np.append(own, common))
        decision = scores[mine] >= thresholds[:, None]
        right = decision == truth[mine]
        counts = np.stack([(decision & ~truth[mine]).sum(1), (decision & truth[mine]).sum(1)], axis=1)
        of_class = np.array([(~truth[mine]).sum(), truth[mine].sum()])
        table = np.stack([of_class - counts, counts], axis=2)
        tried.append(thresholds)
        gains.append(right @ shares[mine])
        reached.append(np.stack([rates.value(table, rate) for rate in rates.GAPS[kind]]))
    chosen = _within(gains, reached, max_gap)
    found = np.array([thresholds[place] for thresholds, place in zip(tried, chosen, strict=True)])
    everybody = np.full(count, common)
    if _value(everybody, common, scores, truth, group, max_gap, kind, shares) >= _value(
        found, common, scores, truth, group, max_gap, kind, shares
    ):
        found = everybody
    return common, found


def _value(
    thresholds: np.ndarray,
    common: float,
    scores: np.ndarray,
    truth: np.ndarray,
    group: np.ndarray,
    max_gap: float,
    kind: str,
    shares: np.ndarray,
) -> float:
    own = np.append(thresholds, common)[group]  # a row without a group is decided by the common one
    return value(scores >= own, truth, [group], max_gap, kind, shares)


def _within(gains: list[np.ndarray], reached: list[np.ndarray], max_gap: float) -> list[int]:
    """The place of each group's threshold, from gains ``[C]`` and rates ``[K, C]`` by group."""
    best, chosen = -np.inf, [0] * len(gains)
    for corner in product(*(_corners(np.concatenate([one[k] for one in reached])) for k in range(len(reached[0])))):
        ordered, running = [], []
        for one, gain in zip(reached, gains, strict=True):
            above = one - np.array(corner)[:, None]
            above = np.where(np.isnan(above), 0.0, np.where(above < -1e-12, np.inf, above)).max(0)
            order = np.lexsort((-gain, above))
            ordered.append((order, above[order]))
            running.append(np.maximum.accumulate(gain[order]))
        widths = np.unique(np.concatenate([above for _, above in ordered]))
        widths = widths[np.isfinite(widths)]
        total = -np.maximum(widths - max_gap, 0)
        ends = []
        for (_, above), top in zip(ordered, running, strict=True):
            end = np.searchsorted(above, widths, "right") - 1
            total = total + np.where(end >= 0, top[end], -np.inf)
            ends.append(end)
        if len(widths) and total.max() > best + 1e-12:
            place = int(total.argmax())
            best = float(total[place])
            chosen = [
                int(order[int(top[: end[place] + 1].argmax())])
                for (order, _), top, end in zip(ordered, running, ends, strict=True)
            ]
    return chosen


def _corners(values: np.ndarray) -> np.ndarray:
    known = np.unique(values[np.isfinite(values)])
    if len(known) <= CORNERS:
        return known if len(known) else np.zeros(1)
    return known[np.linspace(0, len(known) - 1, CORNERS).round().astype(int)]
