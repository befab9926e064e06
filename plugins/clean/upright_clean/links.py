"""Which rows of a graph of verified links go, which stay: no row goes but for a link to a row that stays."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Found:
    """Rows, each once, with the row that shows it and how alike the two are (``int64[F]`` twice, ``float64[F]``)."""

    rows: np.ndarray
    evidence: np.ndarray
    score: np.ndarray


@dataclass(frozen=True)
class Verdicts:
    """What follows from links.

    ``dropped`` have a link to their evidence, which stays. ``chained`` stay, and hang on a row that goes for another's
    sake. ``contradicted`` stay, and have a link to a row that stays with another label.
    """

    dropped: Found
    chained: Found
    contradicted: Found


def resolve(count: int, left: np.ndarray, right: np.ndarray, score: np.ndarray, merges: np.ndarray) -> Verdicts:
    """What becomes of ``count`` rows whose number is their rank; links ``left < right`` drop a row where ``merges``."""
    kept = first_kept(count, left[merges], right[merges])
    one, other, alike = left[merges], right[merges], score[merges]
    goes = kept[one] & ~kept[other]
    dropped = _first(other[goes], one[goes], alike[goes], one[goes])
    leader = np.full(count, -1)
    leader[dropped.rows] = dropped.evidence
    stays = np.where(kept[one], one, other)
    gone = np.where(kept[one], other, one)
    chain = (kept[one] != kept[other]) & (leader[gone] != stays)
    chained = _first(stays[chain], gone[chain], alike[chain], -alike[chain])
    against = ~merges & kept[left] & kept[right]
    contradicted = _first(right[against], left[against], score[against], -score[against])
    return Verdicts(dropped, chained, contradicted)


def first_kept(count: int, left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Which rows stay, ``bool[count]``: going by rank, each one that has no link to a row that stays already."""
    kept, open_ = np.zeros(count, bool), np.ones(count, bool)
    while open_.any():
        waiting = open_[left] & open_[right]
        left, right = left[waiting], right[waiting]
        now = open_.copy()
        now[right] = False
        kept |= now
        open_ &= ~now
        open_[right[now[left]]] = False
    return kept


def _first(rows: np.ndarray, evidence: np.ndarray, score: np.ndarray, order: np.ndarray) -> Found:
    """For each row the evidence that is lowest in ``order``, of equal ones the lowest in rank."""
    ranked = np.lexsort((evidence, order, rows))
    rows, evidence, score = rows[ranked], evidence[ranked], score[ranked]
    new = np.diff(rows, prepend=-1) != 0
    return Found(rows[new], evidence[new], score[new])
