"""Epsilon against dp-accounting's numeric privacy loss, noise against its law, the ledger against crashes."""

from __future__ import annotations

import itertools
import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from dp_accounting.pld import privacy_loss_distribution as pld
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from upright_privacy.accounting import combined, epsilon, noise_for
from upright_privacy.noise import Source, gaussian

BINS, REACH = 250, 9.0


def numeric(one: float, other: float, rate: float, count: int, delta: float) -> float:
    """Epsilon of ``count`` Poisson draws, each released twice with noise ``one`` and ``other``; knows no formula of ours.

    The plane of both releases is cut into cells, whose chances with and without the unit make the privacy loss
    distribution that dp-accounting composes.
    """

    def cells(shift: float) -> tuple[np.ndarray, np.ndarray]:
        edges = np.linspace(-REACH, REACH + shift, BINS + 1)
        edges[0], edges[-1] = -np.inf, np.inf
        return np.diff(stats.norm.cdf(edges)), np.diff(stats.norm.cdf(edges - shift))

    (a, a_moved), (b, b_moved) = cells(1 / one), cells(1 / other)
    without = np.outer(a, b).ravel()
    present = (1 - rate) * without + rate * np.outer(a_moved, b_moved).ravel()
    there = (without > 0) & (present > 0)
    logs = np.log(present[there]), np.log(without[there])
    found = []
    for upper, lower in (logs, logs[::-1]):
        loss = pld.from_two_probability_mass_functions(
            dict(enumerate(lower)), dict(enumerate(upper)), value_discretization_interval=1e-5 if count > 1 else 1e-4
        )
        found.append(loss.self_compose(count).get_epsilon_for_delta(delta))
    return float(max(found))


GRID = list(itertools.product([0.7, 1.0, 2.0], [1.0, 4.0], [0.01, 0.1], [1, 50, 500], [1e-5]))
FEW = [(0.7, 4.0, 0.01, 50, 1e-5), (1.0, 1.0, 0.1, 50, 1e-6), (2.0, 4.0, 0.01, 1, 1e-5), (2.0, 1.0, 0.1, 1, 1e-5)]


def both(one: float, other: float, rate: float, count: int, delta: float) -> tuple[float, float]:
    """Epsilon as the ledger's is computed, and the oracle's."""
    return epsilon([(combined(one, other), rate)] * count, delta), numeric(one, other, rate, count, delta)


@pytest.mark.parametrize("point", FEW)
def test_two_releases_of_one_draw_cost_what_the_numeric_privacy_loss_says(point: Any) -> None:
    found, expected = both(*point)
    assert found == pytest.approx(expected, rel=0.01)


@pytest.mark.slow
@pytest.mark.parametrize("point", GRID)
def test_the_whole_grid_agrees_within_a_percent(point: Any) -> None:
    found, expected = both(*point)
    assert found == pytest.approx(expected, rel=0.01)


def test_mutant_that_charges_two_releases_of_one_draw_apart_is_noticed() -> None:
    """FACTS: sigma 1 and 1 give 3.22 where 5.59 is true."""
    one, other, rate, count, delta = 1.0, 1.0, 0.1, 50, 1e-6
    apart = epsilon([(one, rate), (other, rate)] * count, delta)
    assert apart < 0.9 * numeric(one, other, rate, count, delta)


@settings(max_examples=5, deadline=None)
@given(st.floats(0.2, 10), st.floats(0.005, 0.2), st.integers(1, 300))
def test_the_noise_that_is_found_keeps_any_budget(target: float, rate: float, count: int) -> None:
    found = epsilon([(noise_for(target, 1e-5, rate, count), rate)] * count, 1e-5)
    assert target - 0.02 - 0.02 * target <= found <= target


# --- noise ----------------------------------------------------------------------------------------------------------


def test_noise_is_gaussian_of_its_scale() -> None:
    drawn = gaussian(torch.Size([1_000_000]), 3.0, torch.device("cpu")).double().numpy()
    # chi-square bounds of a variance at 1e6 draws: one in a billion is outside
    low, high = stats.chi2.ppf([5e-10, 1 - 5e-10], len(drawn)) / len(drawn)
    assert low < np.mean(drawn**2) / 9 < high
    assert stats.kstest(drawn[:100_000] / 3, "norm").pvalue > 1e-9
    assert abs(np.corrcoef(drawn[:-1], drawn[1:])[0, 1]) < 6 / math.sqrt(len(drawn))
    assert abs(stats.kurtosis(drawn)) < 6 * math.sqrt(24 / len(drawn))


def test_mutant_that_draws_half_the_noise_is_noticed() -> None:
    drawn = gaussian(torch.Size([100_000]), 1.5, torch.device("cpu")).double().numpy()
    low, _ = stats.chi2.ppf([5e-10, 1 - 5e-10], len(drawn)) / len(drawn)
    assert np.mean(drawn**2) / 9 < low


@settings(max_examples=20, deadline=None)
@given(st.floats(0.001, 0.999))
def test_units_are_drawn_at_their_rate(rate: float) -> None:
    count = 200_000
    chosen = int(Source().chosen(count, rate).sum())
    assert abs(chosen - count * rate) <= 7 * math.sqrt(count * rate * (1 - rate)) + 1


# --- crashes --------------------------------------------------------------------------------------------------------


def test_a_hundred_crash_schedules_never_leave_the_ledger_below_the_truth(tmp_path: Path) -> None:
    script = Path(__file__).with_name("crash_schedules.py")
    done = subprocess.run([sys.executable, script, tmp_path], capture_output=True, text=True, check=True, timeout=300)
    told = json.loads(done.stdout)
    assert len(told) == 100
    assert sum(one["crashes"] for one in told) > 100
    for one in told:
        assert one["charged"] >= one["released"]
        true, stated = [(1.0, 0.05)] * one["released"], [(1.0, 0.05)] * one["charged"]
        assert epsilon(stated, 1e-5, "rdp") >= epsilon(true, 1e-5, "rdp")
