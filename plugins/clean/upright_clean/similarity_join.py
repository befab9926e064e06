"""For each text of one collection the most similar of another, none missed (prefix filtering; Chaudhuri et al., 2006,
doi:10.1109/ICDE.2006.9; Bayardo et al., 2007, doi:10.1145/1242572.1242591).

Two sets whose Jaccard similarity is at least t share an element among the n - ceil(t n) + 1 rarest of each, n being the
number of elements of the one or the other, so only pairs that share such a one are compared, exactly.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from upright_clean.jaccard import jaccard

PAIRS = 1 << 20
"""Candidates that are held at once, unless one text alone has more."""
EXACT = 1e-9
"""Allowance for the rounding of t n: a whole product must not be rounded up."""


def closest(
    left: tuple[np.ndarray, np.ndarray], right: tuple[np.ndarray, np.ndarray], threshold: float
) -> tuple[np.ndarray, np.ndarray]:
    """Of each left text the place of the most similar right one, ``int64[L]``, the first of equals, -1 where none
    reaches ``threshold``; and that similarity, ``float64[L]``, 0 where there is none.

    Either side is (shingles ``int64[S]``, where each text's begin ``int64[N + 1]``), repeats allowed.
    """
    known, counts = np.unique(_distinct(*right)[0], return_counts=True)
    other, others, size = _prefixes(*right, known, counts, threshold)
    order = np.argsort(other, kind="stable")
    other, others = other[order], others[order]
    element, text, sizes = _prefixes(*left, known, counts, threshold)
    begin, end = np.searchsorted(other, element), np.searchsorted(other, element, "right")

    values = np.concatenate([left[0], right[0]])
    starts = np.concatenate([left[1][:-1], right[1][:-1] + len(left[0])])
    lengths = np.concatenate([np.diff(left[1]), np.diff(right[1])])
    best, score = np.full(len(sizes), -1), np.zeros(len(sizes))
    for part in _parts(text, end - begin):
        many = (end - begin)[part]
        place = np.repeat(begin[part] - np.cumsum(many) + many, many) + np.arange(many.sum())
        pairs = np.unique(np.repeat(text[part], many) * len(size) + others[place])
        one, two = pairs // len(size), pairs % len(size)
        near = np.minimum(sizes[one], size[two]) >= threshold * np.maximum(sizes[one], size[two]) - EXACT
        one, two = one[near], two[near]
        found = jaccard(values, starts, lengths, one, two + len(sizes))
        enough = found >= threshold - EXACT
        one, two, found = one[enough], two[enough], found[enough]
        ranked = np.lexsort((two, -found, one))
        first = ranked[np.flatnonzero(np.diff(one[ranked], prepend=-1))]
        best[one[first]], score[one[first]] = two[first], found[first]
    return best, score


def _distinct(values: np.ndarray, starts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Each text's different shingles, and whose each is."""
    text = np.repeat(np.arange(len(starts) - 1), np.diff(starts))
    order = np.lexsort((values, text))
    values, text = values[order], text[order]
    new = np.ones(len(values), bool)
    new[1:] = (values[1:] != values[:-1]) | (text[1:] != text[:-1])
    return values[new], text[new]


def _prefixes(
    values: np.ndarray, starts: np.ndarray, known: np.ndarray, counts: np.ndarray, threshold: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The rarest shingles of each text as places in ``known`` (others match nothing), whose each is, ascending, and how
    many different shingles each text has."""
    values, text = _distinct(values, starts)
    size = np.bincount(text, minlength=len(starts) - 1)
    place = np.minimum(np.searchsorted(known, values), max(len(known) - 1, 0))
    there = known[place] == values if len(known) else np.zeros(len(values), bool)
    rank = np.where(there, counts[place] if len(known) else 0, 0)
    order = np.lexsort((values, rank, text))
    within = np.arange(len(text)) - np.repeat(np.cumsum(size) - size, size)
    keep = order[within < (size - np.ceil(threshold * size - EXACT) + 1)[text]]
    keep = keep[there[keep]]
    return place[keep], text[keep], size


def _parts(text: np.ndarray, many: np.ndarray) -> Iterator[slice]:
    """Stretches of whole texts with about `PAIRS` candidates each."""
    total = np.concatenate([[0], np.cumsum(many)])
    start = 0
    while start < len(text):
        end = max(int(np.searchsorted(total, total[start] + PAIRS, "right")) - 1, start + 1)
        if end < len(text):  # back to where this text begins, or on to its end where it is the only one
            first = int(np.searchsorted(text, text[end]))
            end = first if first > start else int(np.searchsorted(text, text[end], "right"))
        yield slice(start, end)
        start = end
