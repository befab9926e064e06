"""Perceptual hashes of pictures (pHash; Zauner, 2010, "Implementation and benchmarking of perceptual image hash functions")
and the pairs within a Hamming distance (multi-index hashing; Norouzi et al., 2012, arXiv:1307.2982)."""

from __future__ import annotations

from itertools import combinations

import numpy as np

from upright_clean.picture import loaded, opened, over, upright

SIDE = 32
"""Pixels a side of the picture that is hashed."""
BITS = 64
BLOCKS = 4
PAIRS = 4_000_000
"""Candidate pairs that are compared at once: about 100 MB."""


def small(content: bytes) -> tuple[np.ndarray, int]:
    """The picture at ``[32, 32, 3]`` uint8, turned upright, transparency over white; its pixels. Raises Unreadable.

    A JPEG is read at the eighth, quarter or half of its size that is still large enough.
    """
    from PIL import Image

    picture = opened(content)
    pixels = picture.width * picture.height
    picture.draft("RGB", (4 * SIDE, 4 * SIDE))
    picture = over(upright(loaded(picture)), "RGB")
    return np.asarray(picture.resize((SIDE, SIDE), Image.Resampling.BOX)), pixels


def luma(pictures: np.ndarray) -> np.ndarray:
    """``[..., 3]`` uint8 as ``[...]`` float64 of 255 (ITU-R BT.601)."""
    return pictures.astype(np.float64) @ np.array([0.299, 0.587, 0.114])


def phash(pictures: np.ndarray) -> np.ndarray:
    """pHash of ``[N, 32, 32, 3]`` uint8 as ``[N]`` uint64: which of the 8 x 8 lowest DCT-II coefficients of the luma
    exceed their median, row by row, the first one in the highest bit."""
    frequency, place = np.arange(8)[:, None], np.arange(SIDE)[None, :]
    cosines = np.cos(np.pi * (place + 0.5) * frequency / SIDE)
    low = (cosines @ luma(pictures) @ cosines.T).reshape(len(pictures), BITS)
    return np.packbits(low > np.median(low, axis=1, keepdims=True), axis=1).view(">u8").astype(np.uint64).ravel()


def close_pairs(hashes: np.ndarray, distance: int) -> tuple[np.ndarray, np.ndarray]:
    """Places ``(i, j)``, i < j, of every two of ``[N]`` uint64 hashes that differ in at most ``distance`` bits, sorted.

    Of four blocks of 16 bits, ``distance = 4 r + a``, one of the first a + 1 differs in at most r bits or one of the
    others in at most r - 1 (Proposition 2 of Norouzi et al.), so that looking up those misses no pair.
    """
    radius, rest = divmod(distance, BLOCKS)
    found = [np.empty((0, 2), dtype=np.int64)]
    for block in range(BLOCKS):
        keys = ((hashes >> np.uint64(16 * block)) & np.uint64(0xFFFF)).astype(np.int64)
        order = np.argsort(keys, kind="stable")
        ranked = keys[order]
        for mask in _masks(radius if block <= rest else radius - 1):
            start, stop = np.searchsorted(ranked, keys ^ mask, "left"), np.searchsorted(ranked, keys ^ mask, "right")
            found += _within(hashes, order, start, stop, distance)
    pairs = np.unique(np.concatenate(found), axis=0)
    return pairs[:, 0], pairs[:, 1]


def _masks(radius: int) -> list[int]:
    """Every 16-bit word of at most ``radius`` ones; none where the radius is negative."""
    return [sum(1 << bit for bit in bits) for ones in range(radius + 1) for bits in combinations(range(16), ones)]


def _within(
    hashes: np.ndarray, order: np.ndarray, start: np.ndarray, stop: np.ndarray, distance: int
) -> list[np.ndarray]:
    """The pairs (row, order[start[row]:stop[row]]) of one look-up that are close, part by part."""
    found = []
    counts = stop - start
    ends = np.cumsum(counts)
    first = 0
    while first < len(counts):
        done = ends[first - 1] if first else 0
        last = max(int(np.searchsorted(ends, done + PAIRS, "right")), first + 1)
        one = np.repeat(np.arange(first, last), counts[first:last])
        within = np.arange(len(one)) - np.repeat(ends[first:last] - counts[first:last] - done, counts[first:last])
        other = order[np.repeat(start[first:last], counts[first:last]) + within]
        near = (one < other) & (np.bitwise_count(hashes[one] ^ hashes[other]) <= distance)
        found.append(np.stack([one[near], other[near]], axis=1))
        first = last
    return found


def correlations(pictures: np.ndarray, one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Pearson's correlation over all values of ``pictures[one]`` and ``pictures[other]`` (``[N, ...]`` uint8), ``[pairs]``;
    0 where one of them is of a single value."""
    flat = pictures.reshape(len(pictures), -1)
    found = np.zeros(len(one))
    for start in range(0, len(one), 4096):
        part = slice(start, start + 4096)
        a, b = (flat[place[part]].astype(np.float64) for place in (one, other))
        a, b = (values - values.mean(axis=1, keepdims=True) for values in (a, b))
        norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
        found[part] = np.divide((a * b).sum(axis=1), norms, out=np.zeros(len(a)), where=norms > 0)
    return found
