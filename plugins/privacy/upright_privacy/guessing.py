"""How often the mechanism that a ledger describes lets anybody guess whether a unit was there."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from upright_privacy.accounting import epsilon

EPSILON_ERROR, DELTA_ERROR = 0.01, 1e-6
"""Of the accountant: what it gives is an upper bound within these (Gopi et al., 2021, theorem 5)."""
NARROW = 0.02
"""Relative, of the noise that a share of right guesses is matched with."""
LOUD, SILENT = 2.0**10, 0.3
"""Noise beyond which a search ends: so many times the ledger's; so low a noise multiplier."""
SIMULATED = 2 * 10**7
"""Releases that are simulated for the power, at the most."""

Draws = Sequence[tuple[float, float]]


def most_right(draws: Draws, scale: float = 1.0) -> float:
    """The largest share of fair coins (there or not) that can be guessed right from all ``draws`` together.

    ``draws`` are (noise multiplier, sampling rate), the noise times ``scale``; the share is (1 + total variation) / 2, and
    total variation is delta at epsilon 0 by the PRV accountant, rounded up by its errors.
    """
    return _most_right(tuple(sorted(Counter(draws).items())), scale)


@lru_cache(maxsize=64)
def _most_right(counts: tuple[tuple[tuple[float, float], int], ...], scale: float) -> float:
    from opacus.accountants.analysis import prv

    releases = [prv.PoissonSubsampledGaussianPRV(rate, sigma * scale) for (sigma, rate), _ in counts]
    times = [count for _, count in counts]
    size = _domain(counts, 2.0 ** math.floor(math.log2(scale)))
    mesh = EPSILON_ERROR / math.sqrt(sum(times) * math.log(12 / DELTA_ERROR) / 2)
    domain = prv.Domain.create_aligned(-size, size, mesh)
    with np.errstate(all="ignore"):  # a rate of 1: log(0)
        cut = [prv.TruncatedPrivacyRandomVariable(one, domain.t_min, domain.t_max) for one in releases]
        composed = prv.compose_heterogeneous([prv.discretize(one, domain) for one in cut], times)
        variation = float(composed.compute_delta_estimate(-EPSILON_ERROR)) + DELTA_ERROR
    return min(1.0, (1 + variation) / 2)


@lru_cache(maxsize=64)
def _domain(counts: tuple[tuple[tuple[float, float], int], ...], scale: float) -> float:
    """How far the privacy loss must be followed with so much noise, hence also with more."""
    from opacus.accountants.analysis import prv

    releases = [prv.PoissonSubsampledGaussianPRV(rate, sigma * scale) for (sigma, rate), _ in counts]
    times = [count for _, count in counts]
    return float(prv.compute_safe_domain_size(releases, times, eps_error=EPSILON_ERROR, delta_error=DELTA_ERROR))


def epsilon_that_allows(share: float, draws: Draws, delta: float) -> float:
    """The least epsilon at ``delta`` of the draws, all noise scaled alike, that lets a ``share`` of guesses be right.

    Within the family of Gaussian releases that the ledger describes; 0 for a share that no release explains better than
    chance does.
    """
    if share <= 0.5:
        return 0.0

    def enough(scale: float) -> bool:
        return most_right(draws, scale) >= share

    quietest = min(sigma for sigma, _ in draws)
    low = high = 1.0  # in the end: enough(low), not enough(high)
    while enough(high):
        low, high = high, 2 * high
        if high > LOUD:
            return 0.0
    while not enough(low) and low / 2 * quietest >= SILENT:
        low, high = low / 2, low
    if not enough(low):
        high = low  # more than such noise explains: it gives a bound still
    while high / low > 1 + NARROW:
        middle = math.sqrt(low * high)
        low, high = (middle, high) if enough(middle) else (low, middle)
    least = epsilon([(sigma * high, rate) for sigma, rate in draws], delta)
    return max(0.0, least - 2 * EPSILON_ERROR)  # the accountant's is an upper bound


def evidence(values: np.ndarray, noise_multiplier: float, rate: float) -> np.ndarray:
    """Log-likelihood ratio, there against not there, of one draw: ``values`` in units of the noise, ``[...]``.

    A unit that was drawn moves its value by 1 / noise multiplier.
    """
    shift = 1 / noise_multiplier
    with np.errstate(divide="ignore"):
        found: np.ndarray = np.logaddexp(np.log1p(-rate), np.log(rate) + shift * (values - shift / 2))
    return found


def share_guessed(draws: Draws, scale: float, seed: int) -> float:
    """The share of coins that the audit's own guesses get right where the noise is ``scale`` times what ``draws`` say."""
    chance = np.random.default_rng(seed)
    count = max(500, min(20_000, SIMULATED // max(1, len(draws)))) // 2 * 2
    there = np.arange(count) % 2 == 0
    scores = np.zeros(count)
    for sigma, rate in draws:
        drawn = there & (chance.random(count) < rate)
        scores += evidence(drawn / (sigma * scale) + chance.standard_normal(count), sigma, rate)
    guessed = np.zeros(count, dtype=bool)
    guessed[np.argsort(scores, kind="stable")[count // 2 :]] = True
    return float((guessed == there).mean())


def power(canaries: int, allowed: float, share: float, error: float) -> float:
    """The chance that guesses right with chance ``share`` refute a mechanism that allows ``allowed``."""
    from scipy.stats import binom

    least = int(binom.isf(error, canaries, allowed)) + 1
    while least > 0 and binom.sf(least - 2, canaries, allowed) < error:
        least -= 1
    while binom.sf(least - 1, canaries, allowed) >= error:
        least += 1
    return float(binom.sf(least - 1, canaries, share))
