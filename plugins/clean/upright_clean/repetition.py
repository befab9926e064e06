"""How much of a text is word n-grams that it repeats (Rae et al., 2021, arXiv:2112.11446, table A1), many texts at once."""

from __future__ import annotations

import numpy as np

FACTOR = np.uint64(0x9E3779B97F4A7C15)


def repetition(words: np.ndarray, starts: np.ndarray, ngram: int) -> tuple[np.ndarray, np.ndarray]:
    """Of each text: the share of words inside n-grams that stood before, and that of its most frequent n-gram.

    ``words`` are hashes, ``[W]``, text after text; text t has ``words[starts[t] : starts[t + 1]]``. Both answers are
    ``float64[T]`` in 0..1. A word counts once however many repeated n-grams it is in; the most frequent n-gram counts
    as often as it occurs, if that is more than once.
    """
    lengths = np.diff(starts)
    keys = words.view(np.uint64).copy()
    for place in range(1, ngram):
        more = words.view(np.uint64)[place:]
        keys[: len(more)] = keys[: len(more)] * FACTOR + more
    text = np.repeat(np.arange(len(lengths)), lengths)
    whole = np.flatnonzero(np.arange(len(words)) + ngram <= starts[1:][text])
    keys = (keys[whole] ^ keys[whole] >> np.uint64(29)) * FACTOR + text[whole].astype(np.uint64) * ~FACTOR
    order = np.argsort(keys, kind="stable")
    again = np.flatnonzero(keys[order[1:]] == keys[order[:-1]]) + 1  # places, in sorted order, of all but the first
    repeats = whole[order[again]]

    edges = np.zeros(len(words) + 1, np.int64)
    edges[repeats] += 1
    edges[repeats + ngram] -= 1
    covered = np.concatenate([[0], np.cumsum(np.cumsum(edges)[:-1] > 0)])
    share = (covered[starts[1:]] - covered[starts[:-1]]) / np.maximum(lengths, 1)

    top = np.zeros(len(lengths))
    breaks = np.flatnonzero(np.diff(again, prepend=-2) != 1)
    occurrences = np.diff(breaks, append=len(again)) + 1
    owner = text[repeats[breaks]]
    np.maximum.at(top, owner, occurrences * ngram / lengths[owner])
    return share, np.minimum(top, 1.0)
