"""Membership inference on losses: the plain attack, and one calibrated for how hard each row is.

Yeom et al. (2018, arXiv:1709.01604) and the offline likelihood-ratio attack of Carlini et al. (2022, arXiv:2112.03570),
whose distribution of a row's confidence without it in training comes from rows that were held out instead of from
shadow models.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

RESAMPLES = 1000
RIDGE = 1.0


@dataclass(frozen=True)
class Estimate:
    """A figure with its 95 % bootstrap interval over rows."""

    value: float
    low: float
    high: float


def confidence(losses: np.ndarray) -> np.ndarray:
    """log p - log(1 - p) of p = exp(-loss): near to Gaussian over models (Carlini et al., section 4)."""
    p = np.exp(-np.clip(losses, 1e-6, 50.0))
    found: np.ndarray = np.log(p) - np.log1p(-p)
    return found


def calibrated(
    members: np.ndarray, others: np.ndarray, member_features: np.ndarray, other_features: np.ndarray, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """How much more confident the model is of each row than of held-out rows like it; scores of members and others.

    Confidences ``[n]`` and features ``[n, D]``. The expectation is a ridge regression on half of the held-out rows; the
    other half is scored by it, and the reverse; members get the mean of both.
    """
    half = np.random.default_rng(seed).permutation(len(others)) % 2 == 0
    scores = np.zeros(len(others))
    of_members = np.zeros(len(members))
    for fitted in (half, ~half):
        expect = _regression(other_features[fitted], others[fitted])
        scores[~fitted] = others[~fitted] - expect(other_features[~fitted])
        of_members += (members - expect(member_features)) / 2
    return of_members, scores


def auc(members: np.ndarray, others: np.ndarray) -> float:
    """The chance that a member scores above another row, ties half."""
    from scipy.stats import rankdata

    ranks = rankdata(np.concatenate([members, others]))[: len(members)]
    return float((ranks.sum() - len(members) * (len(members) + 1) / 2) / (len(members) * len(others)))


def true_positive_rate(members: np.ndarray, others: np.ndarray, at: float) -> float:
    """The share of members above the score that at most a share ``at`` of the others reaches."""
    allowed = int(at * len(others))
    threshold = np.sort(others)[::-1][allowed] if allowed < len(others) else -np.inf
    return float((members > threshold).mean())


def estimate(figure: str, members: np.ndarray, others: np.ndarray, seed: int, at: float = 0.01) -> Estimate:
    """``auc`` or ``tpr`` with its interval."""

    def of(one: np.ndarray, other: np.ndarray) -> float:
        return auc(one, other) if figure == "auc" else true_positive_rate(one, other, at)

    chance = np.random.default_rng(seed)
    found = [of(chance.choice(members, len(members)), chance.choice(others, len(others))) for _ in range(RESAMPLES)]
    low, high = np.quantile(found, [0.025, 0.975])
    return Estimate(of(members, others), float(low), float(high))


def _regression(features: np.ndarray, targets: np.ndarray):  # type: ignore[no-untyped-def]
    """x -> the mean of ``targets`` plus what the centred features explain."""
    centre, spread = features.mean(0), features.std(0) + 1e-12
    x = (features - centre) / spread
    mean = targets.mean()
    weights = np.linalg.solve(x.T @ x + RIDGE * np.eye(x.shape[1]), x.T @ (targets - mean))
    return lambda given: mean + ((given - centre) / spread) @ weights
