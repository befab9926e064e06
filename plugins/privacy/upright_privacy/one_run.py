"""What guesses about fair coins prove of epsilon (Steinke, Nasr and Jagielski, 2023, arXiv:2305.08846).

Each of m canaries was in the training set or not, by a fair coin that the mechanism knows nothing of. Whoever sees what
the mechanism releases guesses some of the coins; the more guesses are right, the larger epsilon must be.
"""

from __future__ import annotations

import math

import numpy as np

SHARES = (1, 2, 4, 8, 16)
"""Guess all coins, the surest half, quarter, ...: fixed before the scores are seen, and corrected for by their number."""


def right(scores: np.ndarray, included: np.ndarray, guesses: int) -> int:
    """How many of the ``guesses`` surest guesses are right: in for the highest half of them, out for the lowest.

    ``scores [m]`` (more says in) must follow from what was released alone; ties go by the canary's number.
    """
    order = np.argsort(scores, kind="stable")
    low = guesses // 2
    high = len(scores) - (guesses - low)
    return int((~included[order[:low]]).sum() + included[order[high:]].sum())


def p_value(canaries: int, guesses: int, correct: int, epsilon: float, delta: float) -> float:
    """The chance, at the most, of so many right guesses where the mechanism is (epsilon, delta)-private.

    Theorem 5.2 and appendix D: a guess is right as often as randomized response, and beyond that the releases may give
    away F coins, with ``E[F] <= 2 canaries delta``. The largest chance that ``Binomial + F`` reaches ``correct`` puts F on
    0 and the one i for which ``P[correct - i <= Binomial < correct] / i`` is largest.
    """
    from scipy.stats import binom

    honest = 1 / (1 + math.exp(-epsilon))
    reached = float(binom.sf(correct - 1, guesses, honest))
    if delta == 0:
        return reached
    short = np.arange(1, correct + 1)
    nearly = binom.sf(correct - short - 1, guesses, honest) - reached
    return min(1.0, reached + 2 * canaries * delta * float(np.max(nearly / short, initial=0.0)))


def lower_bound(canaries: int, guesses: int, correct: int, delta: float, error: float) -> float:
    """The largest epsilon that is refuted with an error of at most ``error``; 0 for none.

    The number of guesses must not have been chosen by looking at the coins: see `best_lower_bound`.
    """

    def refuted(epsilon: float) -> bool:
        return p_value(canaries, guesses, correct, epsilon, delta) < error

    if not refuted(0.0):
        return 0.0
    low, high = 0.0, 1.0
    while refuted(high):
        low, high = high, 2 * high
    while high - low > 1e-6:
        middle = (low + high) / 2
        low, high = (middle, high) if refuted(middle) else (low, middle)
    return low


def best_lower_bound(scores: np.ndarray, included: np.ndarray, delta: float, error: float) -> float:
    """The best of the bounds for every number of guesses in `SHARES`, each at its part of ``error`` (union bound)."""
    numbers = guesses(len(scores))
    return max(
        lower_bound(len(scores), number, right(scores, included, number), delta, error / len(numbers))
        for number in numbers
    )


def largest_bound(canaries: int, delta: float, error: float) -> float:
    """What `best_lower_bound` says where every guess is right: no audit with so many canaries can show more."""
    numbers = guesses(canaries)
    return max(lower_bound(canaries, number, number, delta, error / len(numbers)) for number in numbers)


def guesses(canaries: int) -> list[int]:
    """The numbers of guesses that are tried."""
    return sorted({max(1, canaries // share) for share in SHARES}, reverse=True)
