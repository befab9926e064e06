"""Intervals and tests of pairs: equal to scipy's where pairs are independent, and right where they are not."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest

from upright_fairness import pair_figures
from upright_fairness.pair_figures import Scores, everything


def alone(log_odds: np.ndarray, untuned: np.ndarray | None = None) -> Scores:
    """Pairs that are all of one type and independent of each other."""
    n = len(log_odds)
    return Scores(np.repeat("all", n), np.arange(n).astype(str), np.zeros(n, dtype=int), log_odds, untuned)


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 400).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_a_preference_of_independent_pairs_has_wilsons_interval(pair: tuple[int, int]) -> None:
    hits, n = pair
    found = dict(everything(alone(np.where(np.arange(n) < hits, 0.3, -2.0)), 0))["preference"]
    expected = binomtest(hits, n).proportion_ci(0.95, method="wilson")
    assert found.value == pytest.approx(hits / n)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-9)


def test_a_model_that_is_indifferent_is_at_one_half() -> None:
    assert dict(everything(alone(np.zeros(50)), 0))["preference"].value == 0.5


def test_a_pair_repeated_is_no_second_pair() -> None:
    once = np.where(np.random.default_rng(0).random(40) < 0.6, 1.0, -1.0)
    n, units = 400, np.repeat(np.arange(40).astype(str), 10)
    one = dict(everything(alone(once), 0))["preference"]
    repeated = Scores(np.repeat("all", n), units, np.zeros(n, dtype=int), np.repeat(once, 10))
    ten = dict(everything(repeated, 0))["preference"]
    assert ten.value == one.value
    # 40 units say less of their own variance than a proportion's formula: Student's quantile is 3 % over the normal one
    assert 1 <= (ten.high - ten.low) / (one.high - one.low) < 1.05


def drawn(chance: np.random.Generator, units: int = 40, each: int = 20, share: float = 0.5) -> Scores:
    """Pairs of two sides whose share of hits is ``share``; those of one unit are alike."""
    sides = np.repeat(np.arange(units) % 2, each)
    own = np.repeat(chance.beta(2 * share, 2 * (1 - share), units), each)
    log_odds = np.where(chance.random(units * each) < own, 1.0, -1.0) * chance.random(units * each)
    return Scores(np.repeat("one", units * each), np.repeat(np.arange(units).astype(str), each), sides, log_odds)


def covered(share: float, **options: Any) -> float:
    found = [
        dict(everything(drawn(np.random.default_rng(seed), share=share, **options), 0))["preference"]
        for seed in range(400)
    ]
    return float(np.mean([one.low <= share <= one.high for one in found]))


@pytest.fixture
def _no_permutations(monkeypatch: pytest.MonkeyPatch) -> None:
    """The simulations below look at intervals alone."""
    monkeypatch.setattr(pair_figures, "permutation_test", lambda first, second, seed: 1.0)


@pytest.mark.usefixtures("_no_permutations")
@pytest.mark.parametrize("share", [0.5, 0.7])
def test_intervals_of_pairs_that_depend_on_each_other_cover(share: float) -> None:
    # 400 draws of .95 have a standard deviation of .011: three of them on each side
    assert 0.917 <= covered(share) <= 0.983


@pytest.mark.usefixtures("_no_permutations")
def test_mutant_that_takes_all_pairs_for_independent_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pair_figures, "design_effect", lambda values, units, sides: 1.0)
    assert covered(0.5) < 0.8


@pytest.mark.usefixtures("_no_permutations")
def test_the_interval_of_a_change_covers_a_change_that_is_none() -> None:
    held = 0
    for seed in range(400):
        before, after = (drawn(np.random.default_rng(part)) for part in (seed, seed + 10_000))
        scores = Scores(before.types, before.units, before.sides, after.log_odds, before.log_odds)
        change = dict(everything(scores, 0))["change/preference"]
        held += change.low <= 0 <= change.high
    assert 0.917 <= held / 400 <= 0.99


def test_a_model_that_always_prefers_one_group_is_at_one_half_for_certain() -> None:
    scores = drawn(np.random.default_rng(0))
    always = Scores(scores.types, scores.units, scores.sides, np.where(scores.sides == 0, 3.0, -3.0))
    found = dict(everything(always, 0))
    wide = dict(everything(scores, 0))["preference"]
    assert found["preference"].value == 0.5
    assert found["preference"].high - found["preference"].low < wide.high - wide.low
    assert found["gap/one"].value == 0
    assert found["p_value/one"].value == 1


# --- the permutation test ---------------------------------------------------------------------------------------------


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(-9, 9), min_size=4, max_size=8), st.data())
def test_p_is_the_share_of_all_deals_that_are_as_far_apart(values: list[int], data: Any) -> None:
    size = data.draw(st.integers(2, len(values) - 2))
    terms = np.array(values, dtype=np.float64)
    observed, deals = abs(terms[:size].mean() - terms[size:].mean()), []
    for chosen in combinations(range(len(terms)), size):
        inside = np.isin(np.arange(len(terms)), chosen)
        deals.append(abs(terms[inside].mean() - terms[~inside].mean()) >= observed - 1e-9)
    found = pair_figures.permutation_test(terms[:size], terms[size:], 3)
    assert found == pytest.approx(np.mean(deals), abs=0.025)  # five standard deviations of 9,999 draws


def rejected(relabelled: bool) -> float:
    """How often p is under .05: of terms whose log-odds have nothing to do with the stereotype, or with a planted gap."""
    found = []
    for seed in range(300):
        chance = np.random.default_rng(seed)
        of_terms = chance.normal(size=24) + np.where(np.arange(24) < 12, 1.5, 0.0)
        sides = np.repeat(np.arange(2), 12)
        sides = chance.permutation(sides) if relabelled else sides
        log_odds = np.repeat(of_terms, 4) + chance.normal(size=96)
        sides, units = np.repeat(sides, 4), np.repeat(np.arange(24).astype(str), 4)
        scores = Scores(np.repeat("one", 96), units, sides, np.where(sides == 0, log_odds, -log_odds))
        found.append(dict(everything(scores, seed))["p_value/one"].value <= 0.05)
    return float(np.mean(found))


@pytest.fixture
def _fewer_permutations(monkeypatch: pytest.MonkeyPatch) -> None:
    """999 deals give p in steps of .001; the test is as exact."""
    monkeypatch.setattr(pair_figures, "PERMUTATIONS", 999)


@pytest.mark.usefixtures("_fewer_permutations")
def test_terms_labelled_at_random_are_rejected_at_the_nominal_rate_and_a_planted_gap_is_found() -> None:
    # 300 draws of .05 have a standard deviation of .0126: three of them on each side
    assert 0.012 <= rejected(relabelled=True) <= 0.088
    assert rejected(relabelled=False) > 0.8


@pytest.mark.usefixtures("_fewer_permutations")
def test_mutant_that_deals_out_pairs_instead_of_terms_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    def by_pair(log_odds: np.ndarray, units: np.ndarray, sides: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        first = np.where(sides == 0, log_odds, -log_odds)
        return first[sides == 0], first[sides == 1]

    monkeypatch.setattr(pair_figures, "by_unit", by_pair)
    assert rejected(relabelled=True) > 0.15


def test_sides_of_independent_pairs_at_random_leave_one_half_inside_at_the_nominal_rate() -> None:
    """CrowS-Pairs with the two sentences of each pair swapped by a coin."""
    inside = []
    for seed in range(400):
        chance = np.random.default_rng(seed)
        found = dict(everything(alone(chance.normal(2.0, 1.0, 300) * chance.choice([-1, 1], 300)), 0))["preference"]
        inside.append(found.low <= 0.5 <= found.high)
    assert 0.917 <= np.mean(inside) <= 0.983


def test_intervals_of_types_hold_for_all_types_at_once() -> None:
    """Types as large as those of CrowS-Pairs."""
    held, sizes = [], (60, 63, 84, 87, 105, 159, 172, 262, 516)
    types, n = np.repeat([f"t{size}" for size in sizes], sizes), sum(sizes)
    for seed in range(400):
        hits = np.random.default_rng(seed).choice([-1.0, 1.0], n)
        found = dict(everything(Scores(types, np.arange(n).astype(str), np.zeros(n, dtype=int), hits), 0))
        held.append(all(one.low <= 0.5 <= one.high for key, one in found.items() if key.startswith("preference/")))
    assert 0.917 <= np.mean(held) <= 0.983
