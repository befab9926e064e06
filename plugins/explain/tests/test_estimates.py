"""Intervals against scipy's and against simulated truths."""

from __future__ import annotations

from statistics import NormalDist
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy.stats import binomtest, ttest_1samp

from upright import Metric
from upright_explain.estimates import mean, share

CELLS, SIMULATIONS = 20, 400
LEAST = 0.93
"""Coverage of 0.95 in 400 simulations has a standard error of 0.011; two of them below it."""


@given(st.lists(st.floats(-100, 100), min_size=2, max_size=40), st.integers(1, 50))
def test_the_interval_of_a_mean_is_students(values: list[float], among: int) -> None:
    assume(np.std(values) > 1e-6)
    found = mean(values, among)
    low, high = ttest_1samp(values, 0).confidence_interval(1 - 0.05 / among)
    assert (found.value, found.low, found.high) == pytest.approx((np.mean(values), low, high), rel=1e-6, abs=1e-9)


@given(st.integers(1, 500), st.data(), st.integers(1, 50))
def test_the_interval_of_a_share_is_wilsons(rows: int, data: st.DataObject, among: int) -> None:
    hits = data.draw(st.integers(0, rows))
    found = share(hits, rows, among)
    ci = binomtest(hits, rows).proportion_ci(1 - 0.05 / among, method="wilson")
    assert (found.value, found.low, found.high) == pytest.approx((hits / rows, ci.low, ci.high), abs=1e-9)


def coverage(of: Any) -> float:
    """How often the intervals of 20 means of 5 to 12 rows hold all the true means, which are 0."""
    drawn = np.random.default_rng(0)
    held = 0
    for _ in range(SIMULATIONS):
        found = [of(drawn.normal(0, 1 + cell, 5 + cell % 8).tolist(), CELLS) for cell in range(CELLS)]
        held += all(metric.low <= 0 <= metric.high for metric in found)
    return held / SIMULATIONS


def test_intervals_of_many_means_hold_at_once() -> None:
    assert coverage(mean) >= LEAST


def each_by_itself(values: list[float], among: int) -> Metric:
    return mean(values)


def normal(values: list[float], among: int) -> Metric:
    half = NormalDist().inv_cdf(1 - 0.05 / (2 * among)) * np.std(values, ddof=1) / len(values) ** 0.5
    return Metric(float(np.mean(values)), float(np.mean(values) - half), float(np.mean(values) + half))


@pytest.mark.parametrize("mutant", [each_by_itself, normal])
def test_a_mutant_covers_too_little(mutant: Any) -> None:
    assert coverage(mutant) < LEAST


def test_one_value_has_no_interval() -> None:
    assert mean([0.5]) == Metric(0.5, n=1, source="ledger")
