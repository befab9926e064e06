"""How strongly terms go with labels, and rates with their intervals; numpy and standard library alone."""

from __future__ import annotations

import math
from collections.abc import Sequence

Z = 1.959963984540054
"""Two-sided 95 %."""


def wilson(hits: int, rows: int) -> tuple[float, float, float]:
    """A rate and its 95 % interval (Wilson, 1927, doi:10.1080/01621459.1927.10502953); ``rows`` at least 1."""
    rate = hits / rows
    middle = (rate + Z * Z / (2 * rows)) / (1 + Z * Z / rows)
    half = Z / (1 + Z * Z / rows) * math.sqrt(rate * (1 - rate) / rows + Z * Z / (4 * rows * rows))
    return rate, max(0.0, min(rate, middle - half)), min(1.0, max(rate, middle + half))


def npmi(share: float, term: float, label: float) -> float:
    """Normalised pointwise mutual information (Bouma, 2009) of a term and a label.

    ``share`` is the label's share among the texts with the term, ``term`` and ``label`` the shares of texts with the term
    and of the label's rows, both over 0. -1: never together, 0: independent, 1: only together. Grows with ``share``.
    """
    together = share * term
    if together <= 0:
        return -1.0
    if together >= 1:
        return 0.0  # every text has both, so neither says anything of the other
    return max(-1.0, min(1.0, math.log(share / label) / -math.log(together)))


def withheld(counts: Sequence[int], floor: int) -> list[bool]:
    """Which counts of one total to withhold: those below ``floor`` (not 0), and so many more, the smallest first, that the
    total gives none of them away: two at least, ``floor`` rows at least."""
    hidden = [0 < count < floor for count in counts]
    for n in sorted(range(len(counts)), key=lambda n: (counts[n] == 0, counts[n])):
        among = [count for count, gone in zip(counts, hidden, strict=True) if gone]
        if not among or (len(among) > 1 and sum(among) >= floor):
            break
        hidden[n] = True
    return hidden
