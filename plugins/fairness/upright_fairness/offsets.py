"""Offsets on log scores, one a class, that make decisions accurate and groups alike, by coordinate ascent.

Scores times factors of class and group is the form that fair decisions of many classes take (Alghamdi et al., 2022,
arXiv:2206.07801); without the group it is logit adjustment (Menon et al., 2021, arXiv:2007.07314).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from upright_fairness import rates

CANDIDATES = 101
"""Values of one offset that are tried at a time; all that decide differently where there are no more."""
PASSES = 20
GAIN = 1e-9


@dataclass(frozen=True)
class Criterion:
    """What decisions are worth: ``scoring`` less what the largest gap of ``classes`` is over ``max_gap``.

    ``truth`` int[n] of ``count`` classes, ``columns`` the groups int[n] (-1: missing) of each spec.
    """

    truth: np.ndarray
    count: int
    columns: list[np.ndarray]
    kind: str
    classes: list[int]
    max_gap: float
    scoring: str

    def value(self, decision: np.ndarray) -> float:
        """Of decisions int[n]."""
        found = self._scored(self._confusion(decision, np.zeros_like(self.truth))[0])
        gaps = [self._gap(self._confusion(decision, column)) for column in self.columns]
        return found - max(max(gaps, default=0.0) - self.max_gap, 0.0)

    def _confusion(self, decision: np.ndarray, column: np.ndarray) -> np.ndarray:
        """Rows by group, true class and decision, ``[G, K, K]``."""
        groups, known = int(column.max(initial=-1)) + 1, column >= 0
        place = (column * self.count + self.truth) * self.count + decision
        shape = groups, self.count, self.count
        return np.bincount(place[known], minlength=groups * self.count**2).reshape(shape)

    def _scored(self, confusion: np.ndarray) -> float:
        right = np.diag(confusion)
        if self.scoring == "accuracy":
            return float(right.sum() / max(confusion.sum(), 1))
        there = confusion.sum(1) > 0
        return float((2 * right[there] / (confusion.sum(0) + confusion.sum(1))[there]).mean())

    def _gap(self, confusion: np.ndarray) -> float:
        """The largest difference of two groups in any class against the rest; a group without rows for a rate has none."""
        right, said = np.diagonal(confusion, axis1=1, axis2=2), confusion.sum(1)
        of_class, rows = confusion.sum(2), confusion.sum((1, 2))[:, None]
        wrong = said - right
        cells = np.stack([np.stack([rows - of_class - wrong, wrong], -1), np.stack([of_class - right, right], -1)], -2)
        cells = cells.transpose(1, 0, 2, 3)[self.classes]  # [classes, G, 2, 2]
        largest = 0.0
        for rate in rates.GAPS[self.kind]:
            found = rates.value(cells, rate)
            low, high = np.where(np.isnan(found), np.inf, found), np.where(np.isnan(found), -np.inf, found)
            largest = max(largest, float((high.max(1, initial=-np.inf) - low.min(1, initial=np.inf)).max(initial=0.0)))
        return largest


def fit(logs: np.ndarray, criterion: Criterion, group: np.ndarray | None = None) -> np.ndarray:
    """Offsets ``[1 + G, K]`` on log scores ``[n, K]``: of everybody, then of each group int[n] (-1: those of everybody).

    No change of one offset alone is better on these rows, as far as tried, and none is worse than no offsets at all.
    """
    everybody = np.zeros(len(logs), dtype=np.int64)
    common = _climb(logs, criterion, everybody, np.zeros((1, logs.shape[1])), [0])
    if group is None:
        return common
    count = int(group.max(initial=-1)) + 1
    own = np.concatenate([common, np.repeat(common, count, axis=0)])
    return _climb(logs, criterion, group + 1, own, list(range(1, count + 1)))


def _climb(
    logs: np.ndarray, criterion: Criterion, place: np.ndarray, offsets: np.ndarray, moving: list[int]
) -> np.ndarray:
    """Move one offset at a time; ``place`` int[n] is each row's line of ``offsets``, of which those ``moving`` change."""
    best = criterion.value((logs + offsets[place]).argmax(1))
    for _ in range(PASSES):
        before = best
        for line in moving:
            mine = place == line
            for number in range(logs.shape[1]):
                best = _move(logs, criterion, place, offsets, (line, number), mine, best)
        if best - before < GAIN:
            break
    found: np.ndarray = offsets - offsets.mean(1, keepdims=True)  # what all classes share decides nothing
    return found


def _move(
    logs: np.ndarray,
    criterion: Criterion,
    place: np.ndarray,
    offsets: np.ndarray,
    which: tuple[int, int],
    mine: np.ndarray,
    best: float,
) -> float:
    """Give one offset its best value, the others as they are; return what decisions are worth then."""
    number = which[1]
    moved = logs + offsets[place]
    decision = moved.argmax(1)
    others = moved[mine].copy()
    others[:, number] = -np.inf
    second = others.argmax(1)
    needed = others.max(1) - logs[mine, number]  # a row is decided for the class where its offset is over this
    chosen = offsets[which]
    for value in _between(needed):
        decision[mine] = np.where(value > needed, number, second)
        found = criterion.value(decision)
        if found > best + GAIN:
            best, chosen = found, value
    offsets[which] = chosen
    return best


def _between(values: np.ndarray) -> np.ndarray:
    """Numbers below, between and above the values, evenly by rank where there are many."""
    known = np.unique(values[np.isfinite(values)])
    if not len(known):
        return np.zeros(0)
    cuts = np.concatenate([[known[0] - 1], (known[1:] + known[:-1]) / 2, [known[-1] + 1]])
    if len(cuts) <= CANDIDATES:
        return cuts
    return cuts[np.unique(np.linspace(0, len(cuts) - 1, CANDIDATES).round().astype(int))]
