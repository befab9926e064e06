"""The Jaccard similarity of pairs of shingle sets, exactly."""

from __future__ import annotations

import numpy as np

from upright_clean.minhash import CELLS, batches


def jaccard(
    values: np.ndarray, starts: np.ndarray, lengths: np.ndarray, left: np.ndarray, right: np.ndarray
) -> np.ndarray:
    """``|A & B| / |A | B|`` of each pair, ``float64[P]``.

    The hashes of both texts are sorted together, with the last bit saying whose each is: steps of 1 or more count what
    either has, each text for itself; larger steps count what the two have together. Repeats make no step.
    """
    result = np.empty(len(left))
    both = lengths[left] + lengths[right]
    for batch in batches(both, CELLS):
        one, other = left[batch, None], right[batch, None]
        place = np.arange(both[batch[0]])
        second = place >= lengths[one]
        inside = np.where(second, place - lengths[one], place)
        text = np.where(second, other, one)
        hashes = values[starts[text] + np.minimum(inside, lengths[text] - 1)]
        steps = np.diff(np.sort((hashes & -2 | second).view(np.uint64), axis=1), axis=1)
        each = 1 + np.count_nonzero(steps, axis=1)
        union = 1 + np.count_nonzero(steps > 1, axis=1)
        result[batch] = (each - union) / union
    return result
