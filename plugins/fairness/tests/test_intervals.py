"""Intervals against their promise, by simulation: 95 % for one pair, for all pairs at once, for the largest gap.

1,000 simulations of a true coverage of .95 have a standard deviation of .007, so .93 to .97 is three of them on each side.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from upright_fairness import auc, calibration, measures, rates
from upright_fairness.intervals import Estimate, bonferroni, means, sidak, wilson

TRIALS = 1000


def drawn_counts(chance: np.random.Generator, shares: list[float], sizes: list[int]) -> np.ndarray:
    """Counts whose true positive rates are ``shares`` among ``sizes`` positives."""
    hits = chance.binomial(sizes, shares)
    counts = np.zeros((len(shares), 2, 2), dtype=int)
    counts[:, 1, 1], counts[:, 1, 0], counts[:, 0, 0] = hits, sizes - hits, 20
    return counts


def coverage(
    shares: list[float], sizes: list[int], covers: Callable[[np.ndarray, np.ndarray, np.ndarray], bool]
) -> float:
    """How often ``covers(counts, resamples, true shares)``."""
    chance, true = np.random.default_rng(7), np.array(shares)
    hits = 0
    for trial in range(TRIALS):
        counts = drawn_counts(chance, shares, sizes)
        hits += covers(counts, rates.resample(counts, trial), true)
    return hits / TRIALS


def every_pair(counts: np.ndarray, drawn: np.ndarray, true: np.ndarray) -> bool:
    found = rates.differences(counts, "equal_opportunity", drawn)
    return all(estimate.low <= true[a] - true[b] <= estimate.high for _, a, b, estimate in found)


def the_gap(counts: np.ndarray, drawn: np.ndarray, true: np.ndarray) -> bool:
    estimate = rates.gap(counts, "equal_opportunity", drawn)
    return estimate.low <= np.ptp(true) <= estimate.high


def the_ratio(counts: np.ndarray, drawn: np.ndarray, true: np.ndarray) -> bool:
    estimate = rates.ratio(counts, "equal_opportunity", drawn)
    return estimate.low <= true.min() / true.max() <= estimate.high


CASES = [
    ([0.5, 0.6], [100, 150]),
    ([0.9, 0.8], [100, 150]),
    ([0.1, 0.1], [50, 60]),
    ([0.3, 0.4, 0.5], [80, 100, 120]),
    ([0.6, 0.6, 0.6], [120, 120, 120]),
    ([0.2] * 6, [60] * 6),
    ([0.1, 0.3, 0.5, 0.7, 0.9], [100, 60, 90, 40, 120]),
]


@pytest.mark.parametrize(("shares", "sizes"), CASES, ids=str)
def test_signed_pairwise_differences_are_covered_at_once(shares: list[float], sizes: list[int]) -> None:
    assert 0.93 <= coverage(shares, sizes, every_pair) <= 0.97


@pytest.mark.parametrize(("shares", "sizes"), CASES, ids=str)
def test_the_largest_gap_is_covered_at_least_as_often(shares: list[float], sizes: list[int]) -> None:
    assert coverage(shares, sizes, the_gap) >= 0.93


@pytest.mark.parametrize(("shares", "sizes"), CASES[1:4], ids=str)
def test_the_smallest_ratio_is_covered_at_least_as_often(shares: list[float], sizes: list[int]) -> None:
    assert coverage(shares, sizes, the_ratio) >= 0.93


def test_mutant_plain_bootstrap_of_the_largest_gap_is_noticed() -> None:
    def plain(counts: np.ndarray, drawn: np.ndarray, true: np.ndarray) -> bool:
        low, high = np.percentile(np.ptp(rates.value(drawn, "true_positive_rate"), axis=1), [2.5, 97.5])
        return bool(low <= np.ptp(true) <= high)

    assert coverage([0.6, 0.6, 0.6], [120, 120, 120], plain) < 0.5


def test_mutant_one_pair_at_a_time_is_noticed() -> None:
    def single(counts: np.ndarray, drawn: np.ndarray, true: np.ndarray) -> bool:
        found = rates.differences(counts, "equal_opportunity", drawn)
        value = rates.value(drawn, "true_positive_rate")
        ends = [(np.percentile(value[:, a] - value[:, b], [2.5, 97.5]), true[a] - true[b]) for _, a, b, _ in found]
        return all(low <= truth <= high for (low, high), truth in ends)

    assert coverage([0.6, 0.6, 0.6, 0.6], [120] * 4, single) < 0.9


def odds_covered(groups: int, resample: Callable[[np.ndarray, int], np.ndarray]) -> float:
    """How often all signed differences of both of equalized odds' rates hold at once; whole rows are drawn."""
    chance, hits = np.random.default_rng(11), 0
    tpr, fpr = np.linspace(0.6, 0.8, groups), np.linspace(0.3, 0.2, groups)
    for trial in range(TRIALS):
        group, truth = chance.integers(0, groups, 200 * groups), chance.random(200 * groups) < 0.4
        said = chance.random(len(group)) < np.where(truth, tpr[group], fpr[group])
        counts = rates.cells(truth, said, group, groups)
        found = rates.differences(counts, "equalized_odds", resample(counts, trial))
        true = {"true_positive_rate": tpr, "false_positive_rate": fpr}
        hits += all(e.low <= true[rate][a] - true[rate][b] <= e.high for rate, a, b, e in found)
    return hits / TRIALS


@pytest.mark.parametrize("groups", [2, 3, 5])
def test_both_rates_of_equalized_odds_are_covered_at_once(groups: int) -> None:
    assert 0.93 <= odds_covered(groups, rates.resample) <= 0.97


def test_mutant_that_resamples_no_row_twice_is_noticed() -> None:
    def doubled(counts: np.ndarray, seed: int) -> np.ndarray:
        return rates.resample(2 * counts, seed)  # as if there were twice the rows

    assert odds_covered(5, doubled) < 0.9


def test_mutant_plain_bootstrap_of_the_smallest_ratio_is_noticed() -> None:
    def plain(counts: np.ndarray, drawn: np.ndarray, true: np.ndarray) -> bool:
        value = rates.value(drawn, "true_positive_rate")
        low, high = np.percentile(value.min(1) / value.max(1), [2.5, 97.5])
        return bool(low <= true.min() / true.max() <= high)

    assert coverage([0.6, 0.6, 0.6], [120, 120, 120], plain) < 0.5


@pytest.mark.parametrize(("groups", "share"), [(2, 0.5), (10, 0.9)])
def test_rates_of_all_groups_are_covered_at_once(groups: int, share: float) -> None:
    hits = np.random.default_rng(3).binomial(200, share, (TRIALS, groups))
    low, high = wilson(hits, np.full(groups, 200), sidak(groups))
    assert 0.92 <= ((low <= share) & (share <= high)).all(1).mean() <= 0.98  # counts are whole numbers
    low, high = wilson(hits, np.full(groups, 200), sidak(1))
    assert ((low <= share) & (share <= high)).all(1).mean() < 0.93, "a mutant without Šidák's level is noticed"


def test_auc_is_covered() -> None:
    chance, hits = np.random.default_rng(5), 0
    for _ in range(TRIALS):
        estimate = auc.auc(chance.normal(2**0.5, 1, 60), chance.normal(0, 1, 80), bonferroni(1))
        hits += estimate.low <= NORMAL_AUC <= estimate.high
    assert 0.93 <= hits / TRIALS <= 0.98


NORMAL_AUC = 0.8413447460685429
"""Of two normals that are sqrt(2) apart."""


def auc_covered() -> np.ndarray:
    """How often the AUC of all four groups hold at once, by kind."""
    chance, hits = np.random.default_rng(9), np.zeros(3)
    for _ in range(TRIALS):
        group, truth = chance.integers(0, 4, 600), chance.random(600) < 0.4
        found = auc.by_group(chance.normal(0, 1, 600) + truth * 2**0.5, truth, group, 4)
        hits += [all(e.low <= NORMAL_AUC <= e.high for e in found[kind]) for kind in auc.KINDS]
    return hits / TRIALS


def test_auc_of_all_groups_is_covered_at_once() -> None:
    # Hanley and McNeil's variance is that of exponential scores, so normal ones may be covered more often
    assert ((auc_covered() >= 0.93) & (auc_covered() <= 0.99)).all()


def test_mutant_auc_of_one_group_at_a_time_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auc, "bonferroni", lambda count: bonferroni(1))
    assert (auc_covered() < 0.92).any()


def brier_covered(rows: int, spread: float, interval: Callable[..., list[Any]]) -> float:
    """How often four groups' Brier scores of calibrated scores hold at once; the truth is E[s(1 - s)] of a Beta law."""
    chance, hits = np.random.default_rng(10), 0
    true = spread / (2 * (2 * spread + 1))
    for _ in range(TRIALS):
        scores, group = chance.beta(spread, spread, 4 * rows), np.repeat(np.arange(4), rows)
        apart = (scores - (chance.random(4 * rows) < scores)) ** 2
        hits += all(e.low <= true <= e.high for e in interval(apart, group, 4))
    return hits / TRIALS


@pytest.mark.parametrize("spread", [0.2, 0.5, 3])
@pytest.mark.parametrize("rows", [30, 300])
def test_brier_scores_of_all_groups_are_covered_at_once(rows: int, spread: float) -> None:
    assert brier_covered(rows, spread, means) >= 0.93


def test_mutant_normal_interval_of_brier_scores_is_noticed() -> None:
    def normal(values: np.ndarray, groups: np.ndarray, count: int) -> list[Estimate]:
        parts = [values[groups == group] for group in range(count)]
        ends = [(part.mean(), sidak(count) * part.std(ddof=1) / len(part) ** 0.5) for part in parts]
        return [Estimate(middle, middle - half, middle + half, 1) for middle, half in ends]

    assert brier_covered(30, 0.5, normal) < 0.9


def test_the_interval_of_a_mean_is_never_empty() -> None:
    [estimate] = means(np.zeros(5), np.zeros(5, int), 1)
    assert estimate.low == pytest.approx(0, abs=1e-12)
    assert estimate.high > 0.1


CENTRES = (np.arange(15) + 0.5) / 15


def calibration_covered(shift: float, interval: Callable[..., list[Estimate]]) -> float:
    """How often the errors of two groups, whose shares are off by ``shift``, hold at once."""
    chance, hits, trials = np.random.default_rng(6), 0, 300
    moved = np.clip(CENTRES + shift, 0, 1)
    true = float(np.abs(moved - CENTRES).mean())
    for trial in range(trials):
        place, group = chance.integers(0, 15, 600), np.arange(600) % 2
        truth = chance.random(600) < moved[place]
        found = interval(CENTRES[place], truth, group, 2, trial)
        hits += all(e.low <= true + 1e-9 and true - 1e-9 <= e.high for e in found)
    return hits / trials


@pytest.mark.parametrize("shift", [0.0, 0.1])
def test_the_calibration_error_is_covered_where_it_is_zero_too(shift: float) -> None:
    assert calibration_covered(shift, calibration.expected_calibration_error) >= 0.93


def test_mutant_plain_bootstrap_of_the_calibration_error_is_noticed() -> None:
    def plain(scores: np.ndarray, truth: np.ndarray, groups: np.ndarray, count: int, seed: int) -> list[Estimate]:
        found = []
        for group in range(count):
            bins = (scores[groups == group] * 15).astype(int)
            apart = scores[groups == group] - truth[groups == group]
            drawn = np.random.default_rng(seed).integers(0, len(bins), (100, len(bins)))
            errors = [np.abs(np.bincount(bins[one], apart[one], 15)).sum() / len(bins) for one in drawn]
            found.append(Estimate(0.0, *np.percentile(errors, [2.5, 97.5]), len(bins)))
        return found

    assert calibration_covered(0.0, plain) < 0.1


def test_balanced_accuracy_is_covered() -> None:
    chance, hits = np.random.default_rng(8), 0
    for _ in range(TRIALS):
        said, right = chance.binomial(90, 0.2), chance.binomial(40, 0.7)
        estimate = measures.balanced_accuracy(np.array([[90 - said, said], [40 - right, right]]))
        hits += estimate.low <= 0.75 <= estimate.high
    assert 0.93 <= hits / TRIALS <= 0.97
