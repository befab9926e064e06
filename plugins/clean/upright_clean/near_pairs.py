"""All pairs of texts that are nearly the same, verified: MinHash proposes, Jaccard decides."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from upright_clean.jaccard import jaccard
from upright_clean.minhash import WINDOW, band_keys, band_rows, candidates, multipliers

if TYPE_CHECKING:
    import torch


def near_pairs(
    values: np.ndarray,
    starts: np.ndarray,
    lengths: np.ndarray,
    labels: np.ndarray,
    threshold: float,
    num_perm: int,
    device: torch.device | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pairs ``left < right`` (``int64[P]`` each) and their similarity, ``float64[P]``, at least ``threshold``.

    Text d has the shingles ``values[starts[d] : starts[d] + lengths[d]]``, at least one. Where more than `WINDOW` texts
    have the same set of shingles and the same label, the first stands for them in pairs with later texts. On
    ``device``, in torch, if it is given.
    """
    rows = band_rows(threshold, num_perm)
    if device is None:
        keys = band_keys(values, starts, lengths, num_perm, rows)
    else:
        from upright_clean import minhash_torch

        keys = minhash_torch.band_keys(values, starts, lengths, num_perm, rows, device)
    first = _first_copy(keys, labels)
    copies = np.flatnonzero(first != np.arange(len(first)))
    unlike = copies[jaccard(values, starts, lengths, first[copies], copies) < 1]
    first[unlike] = unlike
    copies = np.flatnonzero(first != np.arange(len(first)))
    standing = np.flatnonzero(first == np.arange(len(first)))
    left, right = (standing[place] for place in candidates(keys[:, standing]))
    score = jaccard(values, starts, lengths, left, right)
    left, right, score = (column[score >= threshold] for column in (left, right, score))
    # a copy has the links of the text that it repeats, and one with that text
    begin, end = np.searchsorted(right, first[copies]), np.searchsorted(right, first[copies], "right")
    counts = end - begin
    link = np.repeat(begin - np.cumsum(counts) + counts, counts) + np.arange(counts.sum())
    return (
        np.concatenate([left, left[link], first[copies]]),
        np.concatenate([right, np.repeat(copies, counts), copies]),
        np.concatenate([score, score[link], np.ones(len(copies))]),
    )


def memory(words: int, rows: int, threshold: float, num_perm: int) -> int:
    """About how many bytes a search needs at its peak, beside the texts and the pairs found."""
    return 16 * words + 24 * rows * (num_perm // band_rows(threshold, num_perm))


def _first_copy(keys: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """For each text the first one with the same keys and label, ``int64[D]``; itself where there are few such."""
    weights = multipliers(len(keys) + 1, 64)
    signature = labels * weights[-1]
    for key, weight in zip(keys, weights, strict=False):
        signature = signature + key * weight
    _, first, which, count = np.unique(signature, return_index=True, return_inverse=True, return_counts=True)
    return np.where(count[which] > WINDOW, first[which], np.arange(len(signature)))
