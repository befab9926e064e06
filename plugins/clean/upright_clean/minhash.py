"""MinHash with banding (Broder 1997; Indyk & Motwani 1998, doi:10.1145/276698.276876): which rows may be alike."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

CELLS = 1 << 15
"""Shingles that are permuted at once, so that they stay in the cache."""
WINDOW = 16
"""In a bucket each row meets so many rows before it and the first one, so that a million alike cost no square."""
MISSED = 0.1
"""The chance that banding misses a pair whose similarity is just the threshold; it falls fast above it."""


def band_rows(threshold: float, num_perm: int) -> int:
    """How many permutations make a band: as many as still find a pair at ``threshold`` with a chance of .9."""
    fits = (r for r in range(num_perm, 1, -1) if (1 - threshold**r) ** (num_perm // r) <= MISSED)
    return next(fits, 1)


def multipliers(count: int, bits: int) -> np.ndarray:
    """Odd numbers of ``bits`` bits for multiplicative hashing, always the same ones."""
    draw = np.random.RandomState(7)  # its stream is frozen, so signatures stay the same with every numpy
    return draw.randint(0, 1 << 63, count, np.uint64).astype(f"uint{bits}").view(f"int{bits}") | 1


def batches(lengths: np.ndarray, cells: int) -> Iterator[np.ndarray]:
    """Rows of similar length, longest first, together at most ``cells`` shingles (or one row)."""
    order = np.argsort(-lengths, kind="stable")
    start = 0
    while start < len(order):
        end = start + max(1, cells // max(1, int(lengths[order[start]])))
        yield order[start:end]
        start = end


def band_keys(values: np.ndarray, starts: np.ndarray, lengths: np.ndarray, num_perm: int, rows: int) -> np.ndarray:
    """One key for each band and text, ``int64[num_perm // rows, D]``: equal where the band's minima are equal.

    Text d has the shingles ``values[starts[d] : starts[d] + lengths[d]]``, at least one. A permutation multiplies the
    low 32 bits of a shingle's hash by an odd number, modulo 2**32.
    """
    bands = num_perm // rows
    factors, weights = multipliers(bands * rows, 32), multipliers(rows, 64)
    keys = np.empty((bands, len(starts)), np.int64)
    for batch in batches(lengths, CELLS):
        place = np.arange(lengths[batch[0]])[:, None]
        hashes = values[starts[batch] + np.minimum(place, lengths[batch] - 1)].astype(np.int32)
        permuted = np.empty_like(hashes)
        minima = np.empty((len(factors), len(batch)), np.int32)
        for n, factor in enumerate(factors):
            np.multiply(hashes, factor, out=permuted)
            np.minimum.reduce(permuted, axis=0, out=minima[n])
        keys[:, batch] = (minima.reshape(bands, rows, -1).astype(np.int64) * weights[:, None]).sum(1)
    return keys


def candidates(keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pairs ``left < right`` (``int64[P]`` each, sorted by right, then left) that share a key in some band."""
    count = np.int64(keys.shape[1])
    found = [np.zeros(0, np.int64)]
    for key in keys:
        order = np.argsort(key)
        same = np.diff(key[order]) == 0
        shared = np.zeros(len(order), bool)
        shared[1:] = same
        bucket = np.cumsum(~shared)
        shared[:-1] |= same
        members, bucket = order[shared], bucket[shared]
        ranked = np.lexsort((members, bucket))
        members, bucket = members[ranked], bucket[ranked]
        first = np.searchsorted(bucket, bucket)
        place = np.arange(len(members))
        later = place[place > first]
        for distance in range(1, WINDOW + 1):
            later = later[later - distance >= first[later]]
            found.append(members[later] * count + members[later - distance])
        found.append(members[later] * count + members[first[later]])
    pairs = np.unique(np.concatenate(found))
    return pairs % count, pairs // count
