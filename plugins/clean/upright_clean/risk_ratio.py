"""The ratio of two removal rates with a score interval (Koopman, 1984, doi:10.2307/2531405; Gart and Nam, 1988)."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

CEILING = 1e9
"""A bound beyond this says nothing; it is given as infinity, and its inverse as zero."""


def risk_ratio(
    removed: np.ndarray, rows: np.ndarray, other_removed: np.ndarray, other_rows: np.ndarray, level: float = 0.95
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """``removed / rows`` over ``other_removed / other_rows``, elementwise, and the ends of its two-sided interval.

    The interval holds every ratio that a score test at ``1 - level`` does not reject, so it keeps its coverage where
    counts are small and none are removed, as the logarithm's normal interval (Katz et al., 1978) does not. Where the
    others lose nothing the value is the estimate with half a row added to each count (Walter, 1975), and the upper end
    infinite; where nobody loses anything the value is 1 and the interval everything. All four are ``[C]``, float64.
    """
    import numpy as np

    x1, n1, x2, n2 = (np.asarray(given, dtype=np.float64) for given in (removed, rows, other_removed, other_rows))
    with np.errstate(divide="ignore", invalid="ignore"):
        value = np.where(x2 > 0, (x1 / n1) / (x2 / n2), (x1 + 0.5) / (n1 + 0.5) / ((x2 + 0.5) / (n2 + 0.5)))
    value = np.where(x1 + x2 > 0, value, 1.0)
    critical = _normal_quantile(1 - (1 - level) / 2) ** 2
    middle = np.log(np.clip(value, 1 / CEILING, CEILING))
    span = np.log(CEILING)
    low = np.where(x1 > 0, _crossing(x1, n1, x2, n2, critical, middle, np.full_like(middle, -span)), 0.0)
    high = np.where(x2 > 0, _crossing(x1, n1, x2, n2, critical, middle, np.full_like(middle, span)), np.inf)
    return value, low, high


def _crossing(
    x1: np.ndarray,
    n1: np.ndarray,
    x2: np.ndarray,
    n2: np.ndarray,
    critical: float,
    inside: np.ndarray,
    outside: np.ndarray,
) -> np.ndarray:
    """The ratio between ``inside`` (not rejected) and ``outside`` (both logarithms) at which the test begins to reject."""
    import numpy as np

    for _ in range(80):  # halves the distance of 41 until it is below a float64's resolution
        middle = (inside + outside) / 2
        rejected = _statistic(x1, n1, x2, n2, np.exp(middle)) > critical
        inside, outside = np.where(rejected, inside, middle), np.where(rejected, middle, outside)
    return np.exp(inside)


def _statistic(x1: np.ndarray, n1: np.ndarray, x2: np.ndarray, n2: np.ndarray, ratio: np.ndarray) -> np.ndarray:
    """Chi-square of ``p1 = ratio * p2`` with the rates that are likeliest under it (Gart and Nam, 1988, section 3)."""
    import numpy as np

    a = (n1 + n2) * ratio
    b = n1 * ratio + x1 + n2 + x2 * ratio
    c = x1 + x2
    p2 = 2 * c / (b + np.sqrt(np.maximum(b * b - 4 * a * c, 0)))
    p1 = np.minimum(ratio * p2, 1)
    variance = p1 * (1 - p1) / n1 + ratio**2 * p2 * (1 - p2) / n2
    with np.errstate(divide="ignore", invalid="ignore"):
        statistic = (x1 / n1 - ratio * x2 / n2) ** 2 / variance
    return np.where(np.isnan(statistic), 0.0, statistic)


def _normal_quantile(probability: float) -> float:
    from statistics import NormalDist

    return NormalDist().inv_cdf(probability)
