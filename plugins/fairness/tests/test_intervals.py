"""Intervals against their promise, by simulation: 95 % for one pair, for all pairs at once, for the largest gap.

1,000 simulations of a true coverage of .95 have a standard deviation of .007, so .93 to .97 is three of them on each side.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from upright_fairness import auc, calibration, measures, rates
from upright_fairness.intervals import bonferroni, sidak, wilson

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


@pytest.mark.parametrize(("groups", "share"), [(2, 0.5), (10, 0.9)])
def test_rates_of_all_groups_are_covered_at_once(groups: int, share: float) -> None:
    hits = np.random.default_rng(3).binomial(200, share, (TRIALS, groups))
    low, high = wilson(hits, np.full(groups, 200), sidak(groups))
    assert 0.92 <= ((low <= share) & (share <= high)).all(1).mean() <= 0.98  # counts are whole numbers
    low, high = wilson(hits, np.full(groups, 200), sidak(1))
    assert ((low <= share) & (share <= high)).all(1).mean() < 0.93, "a mutant without Šidák's level is noticed"


def test_auc_is_covered() -> None:
    chance, hits = np.random.default_rng(5), 0
    true = 0.8413447460685429  # two normals a distance of sqrt(2) apart
    for _ in range(TRIALS):
        estimate = auc.auc(chance.normal(2**0.5, 1, 60), chance.normal(0, 1, 80), bonferroni(1))
        hits += estimate.low <= true <= estimate.high
    assert 0.93 <= hits / TRIALS <= 0.98


@pytest.mark.parametrize("shift", [0.0, 0.1])
def test_the_calibration_error_is_covered_where_it_is_zero_too(shift: float) -> None:
    chance, hits = np.random.default_rng(6), 0
    centres = (np.arange(15) + 0.5) / 15
    moved = np.clip(centres + shift, 0, 1)
    true = float(np.abs(moved - centres).mean())
    for trial in range(200):
        place = chance.integers(0, 15, 300)
        truth = chance.random(300) < moved[place]
        [estimate] = calibration.expected_calibration_error(centres[place], truth, np.zeros(300, int), 1, trial)
        hits += estimate.low <= true + 1e-9 and true - 1e-9 <= estimate.high
    assert hits / 200 >= 0.93


def test_balanced_accuracy_is_covered() -> None:
    chance, hits = np.random.default_rng(8), 0
    for _ in range(TRIALS):
        said, right = chance.binomial(90, 0.2), chance.binomial(40, 0.7)
        estimate = measures.balanced_accuracy(np.array([[90 - said, said], [40 - right, right]]))
        hits += estimate.low <= 0.75 <= estimate.high
    assert 0.93 <= hits / TRIALS <= 0.97
