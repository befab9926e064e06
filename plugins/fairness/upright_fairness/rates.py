"""Group rates, gaps and ratios from counts (names and values as in fairlearn), with intervals that hold at once.

A row is one of four cells of its group (true class x decision), so a bootstrap over rows is a multinomial draw of cells and
costs the same for a thousand rows and for a million. A group's own rate has a Wilson interval at Šidák's level; differences
between groups have a max-t band over all pairs (`intervals`).
"""

from __future__ import annotations

import numpy as np

from upright_fairness.intervals import Estimate, band, largest, sidak, wilson

RESAMPLES = 1000
RATES = (
    "selection_rate",
    "true_positive_rate",
    "false_positive_rate",
    "false_negative_rate",
    "precision",
    "accuracy",
)
GAPS = {
    "demographic_parity": ("selection_rate",),
    "equal_opportunity": ("true_positive_rate",),
    "false_positive_rate_parity": ("false_positive_rate",),
    "equalized_odds": ("true_positive_rate", "false_positive_rate"),
    "predictive_parity": ("precision",),
    "accuracy_parity": ("accuracy",),
}


def cells(truth: np.ndarray, decision: np.ndarray, groups: np.ndarray, count: int) -> np.ndarray:
    """Counts ``[G, 2, 2]`` by group, true class and decision, from ``bool[n]``, ``bool[n]`` and ``int[n]``.

    Rows of group -1 (missing) are in no cell: the caller counts them.
    """
    place = groups.astype(np.int64) * 4 + truth * 2 + decision
    return np.bincount(place[groups >= 0], minlength=4 * count).reshape(count, 2, 2)


def parts(counts: np.ndarray, rate: str) -> tuple[np.ndarray, np.ndarray]:
    """A rate's hits and the rows that it rests on, ``[..., G]`` each, from counts ``[..., G, 2, 2]``."""
    if rate == "selection_rate":
        return counts[..., 0, 1] + counts[..., 1, 1], counts.sum((-2, -1))
    if rate == "true_positive_rate":
        return counts[..., 1, 1], counts[..., 1, 0] + counts[..., 1, 1]
    if rate == "false_negative_rate":
        return counts[..., 1, 0], counts[..., 1, 0] + counts[..., 1, 1]
    if rate == "false_positive_rate":
        return counts[..., 0, 1], counts[..., 0, 0] + counts[..., 0, 1]
    if rate == "precision":
        return counts[..., 1, 1], counts[..., 0, 1] + counts[..., 1, 1]
    return counts[..., 0, 0] + counts[..., 1, 1], counts.sum((-2, -1))


def value(counts: np.ndarray, rate: str) -> np.ndarray:
    """A rate by group, ``[..., G]`` float64; NaN where there is no row to say."""
    hits, rows = parts(counts, rate)
    with np.errstate(invalid="ignore", divide="ignore"):
        found: np.ndarray = hits / rows.astype(np.float64)
    return found


def resample(counts: np.ndarray, seed: int, resamples: int = RESAMPLES) -> np.ndarray:
    """Bootstrap counts ``[B, ...]`` of counts of any shape: rows drawn with replacement."""
    total = int(counts.sum())
    drawn = np.random.default_rng(seed).multinomial(total, counts.ravel() / max(total, 1), size=resamples)
    return drawn.reshape(resamples, *counts.shape)


def group_rates(counts: np.ndarray) -> dict[str, list[Estimate]]:
    """Every rate of every group; the intervals of one rate hold for all groups at once."""
    found: dict[str, list[Estimate]] = {}
    for rate in RATES:
        hits, rows = parts(counts, rate)
        low, high = wilson(hits, rows, sidak(len(rows)))
        told = zip(value(counts, rate), low, high, rows, strict=True)
        found[rate] = [Estimate(float(v), float(a), float(b), int(n)) for v, a, b, n in told]
    return found


def worst(estimates: list[Estimate]) -> Estimate:
    """The smallest of the groups' rates, with the interval that their simultaneous ones give."""
    if not estimates or any(np.isnan(one.value) for one in estimates):
        return Estimate(float("nan"), float("nan"), float("nan"), 0)
    smallest = min(estimates, key=lambda one: one.value)
    low, high = min(one.low for one in estimates), min(one.high for one in estimates)
    return Estimate(smallest.value, low, high, smallest.rows)


def differences(counts: np.ndarray, kind: str, drawn: np.ndarray) -> list[tuple[str, int, int, Estimate]]:
    """(rate, group, other group, first less second) for all pairs in the rates of ``kind``; intervals hold for all at once."""
    values, half, rows = _pairs(counts, kind, drawn, logarithm=False)
    one, other = np.triu_indices(len(counts), 1)
    found = []
    for place, (number, width) in enumerate(zip(values, half, strict=True)):
        pair = place % len(one)
        low, high = max(number - width, -1.0), min(number + width, 1.0)
        estimate = Estimate(float(number), float(low), float(high), int(rows[place]))
        found.append((GAPS[kind][place // len(one)], int(one[pair]), int(other[pair]), estimate))
    return found


def gap(counts: np.ndarray, kind: str, drawn: np.ndarray) -> Estimate:
    """The largest difference between two groups in the rates of ``kind`` (fairlearn's ``<kind>_difference``)."""
    values, half, rows = _pairs(counts, kind, drawn, logarithm=False)
    size, low, high = largest(values, half)
    return Estimate(size, low, min(high, 1.0), int(rows.min()) if len(rows) else 0)


def ratio(counts: np.ndarray, kind: str, drawn: np.ndarray) -> Estimate:
    """The smallest ratio between two groups in the rates of ``kind`` (fairlearn's ``<kind>_ratio``); NaN where all are 0.

    Under 0.8 is the four-fifths rule of the US Uniform Guidelines (29 CFR 1607.4 D). The band is over differences of
    log rates, with half a row added to each cell so that a rate of 0 has one (Walter, 1975).
    """
    found = [value(counts, rate) for rate in GAPS[kind]]
    if len(counts) < 2 or any(not np.isfinite(one).all() or not one.max() for one in found):
        return Estimate(float("nan"), float("nan"), float("nan"), 0)
    smallest = min(float(one.min() / one.max()) for one in found)
    values, half, rows = _pairs(counts, kind, drawn, logarithm=True)
    _, low, high = largest(values, half)
    return Estimate(smallest, min(float(np.exp(-high)), smallest), max(float(np.exp(-low)), smallest), int(rows.min()))


def _pairs(
    counts: np.ndarray, kind: str, drawn: np.ndarray, logarithm: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Differences of all pairs in all rates of ``kind``, their half-widths, and the rows of the smaller cell; ``[D]`` each."""
    one, other = np.triu_indices(len(counts), 1)
    values, sampled, spread, support = [], [], [], []
    for rate in GAPS[kind]:
        (hits, rows), (drawn_hits, drawn_rows) = parts(counts, rate), parts(drawn, rate)
        if logarithm:
            point, draws = _logarithm(hits, rows), _logarithm(drawn_hits, drawn_rows)
            squared = 1 / (hits + 0.5) - 1 / (rows + 0.5)
        else:
            point, draws = value(counts, rate), value(drawn, rate)
            squared = _variance(hits, rows)
        values.append(point[one] - point[other])
        sampled.append(draws[:, one] - draws[:, other])
        spread.append(np.sqrt(squared[one] + squared[other]))
        support.append(np.minimum(rows[one], rows[other]))
    found = np.concatenate(values)
    half = band(found, np.concatenate(sampled, axis=1), np.concatenate(spread))
    return found, half, np.concatenate(support)


def _logarithm(hits: np.ndarray, rows: np.ndarray) -> np.ndarray:
    found: np.ndarray = np.log((hits + 0.5) / (rows + 0.5))
    return found


def _variance(hits: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Of a proportion, with one hit and one miss added (Agresti and Caffo, 2000): a rate of 0 of 10 is not certain."""
    share = (hits + 1) / (rows + 2)
    found: np.ndarray = share * (1 - share) / (rows + 2)
    return found
