"""Group rates, gaps and ratios from counts, with intervals that hold for all pairs of groups at once.

A row is one of four cells of its group (label x decision), so a bootstrap over rows is a multinomial draw of cells. A
gap is the largest of many differences and its plain bootstrap is biased upwards (a true zero gap reads .02). So the
interval comes from a max-t band over all pairwise differences (Westfall and Young, 1993): with 95 % chance every
difference lies within its band, hence the largest true one lies between the largest lower and the largest upper end.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

RESAMPLES = 1000
RATES = ("selection_rate", "true_positive_rate", "false_positive_rate", "accuracy")
GAPS = {
    "demographic_parity": ("selection_rate",),
    "equal_opportunity": ("true_positive_rate",),
    "false_positive_rate_parity": ("false_positive_rate",),
    "equalized_odds": ("true_positive_rate", "false_positive_rate"),
}


@dataclass(frozen=True)
class Estimate:
    """A value, its 95 % interval (NaN: undefined) and the number of rows of the smallest cell it rests on."""

    value: float
    low: float
    high: float
    rows: int


def cells(truth: np.ndarray, decision: np.ndarray, groups: np.ndarray, names: list[str]) -> np.ndarray:
    """Counts ``[G, 2, 2]`` by group, true class and decision; ``truth`` and ``decision`` are ``bool[n]``.

    Rows whose group is None are in no cell: the caller counts them.
    """
    counts = np.zeros((len(names), 2, 2), dtype=np.int64)
    codes = {name: code for code, name in enumerate(names)}
    for said, true, group in zip(decision, truth, groups, strict=True):
        if group is not None:
            counts[codes[group], int(true), int(said)] += 1
    return counts


def rates(counts: np.ndarray) -> dict[str, np.ndarray]:
    """Each rate by group, ``[..., G]`` from counts ``[..., G, 2, 2]``; NaN where it is undefined."""
    counts = counts.astype(np.float64)
    rows = counts.sum((-2, -1))
    true, said = counts.sum(-1), counts.sum(-2)
    with np.errstate(invalid="ignore", divide="ignore"):
        return {
            "selection_rate": said[..., 1] / rows,
            "true_positive_rate": counts[..., 1, 1] / true[..., 1],
            "false_positive_rate": counts[..., 0, 1] / true[..., 0],
            "accuracy": (counts[..., 0, 0] + counts[..., 1, 1]) / rows,
        }


def support(counts: np.ndarray, rate: str) -> np.ndarray:
    """The rows that a rate rests on, by group."""
    if rate == "true_positive_rate":
        return counts[:, 1].sum(-1)
    if rate == "false_positive_rate":
        return counts[:, 0].sum(-1)
    return counts.sum((1, 2))


def resample(counts: np.ndarray, seed: int, resamples: int = RESAMPLES) -> np.ndarray:
    """Bootstrap counts ``[B, G, 2, 2]``."""
    total = int(counts.sum())
    drawn = np.random.default_rng(seed).multinomial(total, counts.ravel() / max(total, 1), size=resamples)
    return drawn.reshape(resamples, *counts.shape)


def group_rates(counts: np.ndarray, seed: int) -> dict[str, list[Estimate]]:
    """Every rate of every group with its percentile interval."""
    drawn = rates(resample(counts, seed))
    found: dict[str, list[Estimate]] = {}
    for rate, values in rates(counts).items():
        rows = support(counts, rate)
        found[rate] = []
        for group, value in enumerate(values):
            low, high = _percentiles(drawn[rate][:, group])
            found[rate].append(Estimate(float(value), low, high, int(rows[group])))
    return found


def gap(counts: np.ndarray, kind: str, seed: int) -> Estimate:
    """The largest difference between two groups in the rates of ``kind`` (fairlearn's ``<kind>_difference``)."""
    return _banded(counts, kind, seed, logarithm=False)


def ratio(counts: np.ndarray, kind: str, seed: int) -> Estimate:
    """The smallest ratio between two groups in the rates of ``kind`` (fairlearn's ``<kind>_ratio``); NaN where a rate is 0."""
    found = _banded(counts, kind, seed, logarithm=True)
    return Estimate(*(float(np.exp(-x)) for x in (found.value, found.high, found.low)), found.rows)


def _banded(counts: np.ndarray, kind: str, seed: int, logarithm: bool) -> Estimate:
    drawn = resample(counts, seed)
    columns, draws, rows = [], [], []
    for rate in GAPS[kind]:
        value, sampled = rates(counts)[rate], rates(drawn)[rate]
        if logarithm:
            with np.errstate(divide="ignore"):
                value, sampled = np.log(value), np.log(sampled)
        one, other = np.triu_indices(len(value), 1)
        with np.errstate(invalid="ignore"):
            columns.append(value[one] - value[other])
            draws.append(sampled[:, one] - sampled[:, other])
        rows.append(support(counts, rate).min())
    value, low, high = max_t(np.concatenate(columns), np.concatenate(draws, axis=1))
    return Estimate(value, low, high, int(min(rows)))


def max_t(differences: np.ndarray, drawn: np.ndarray) -> tuple[float, float, float]:
    """Largest absolute difference and its interval from a simultaneous band; ``[D]`` and ``[B, D]``.

    A difference that is undefined in the data makes all three NaN: it could be the largest.
    """
    if not len(differences) or not np.isfinite(differences).all():
        return float("nan"), float("nan"), float("nan")
    drawn = np.where(np.isfinite(drawn), drawn, np.nan)
    spread = np.nanstd(drawn, axis=0, ddof=1)
    spread = np.where(np.isfinite(spread) & (spread > 0), spread, 0.0)
    with np.errstate(invalid="ignore", divide="ignore"):
        deviation = np.abs(drawn - differences) / np.where(spread > 0, spread, np.inf)
    worst = np.where(np.isfinite(deviation), deviation, -np.inf).max(axis=1)
    worst = worst[np.isfinite(worst)]  # a resample without a cell says nothing
    critical = float(np.percentile(worst, 95)) if len(worst) and (spread > 0).any() else 0.0
    size = np.abs(differences)
    return (
        float(size.max()),
        float(np.maximum(size - critical * spread, 0).max()),
        float((size + critical * spread).max()),
    )


def _percentiles(values: np.ndarray) -> tuple[float, float]:
    values = values[np.isfinite(values)]
    if not len(values):
        return float("nan"), float("nan")
    low, high = np.percentile(values, [2.5, 97.5])
    return float(low), float(high)
