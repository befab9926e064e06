"""Texts as sets of hashed word n-grams (shingles; Broder 1997, doi:10.1109/SEQUEN.1997.666900), a column at a time."""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import pyarrow as pa

BLOCK = 1 << 20
"""Bytes of text that are hashed at once, so that what is in hand stays in the cache."""
LONG = 64
"""A word of more bytes is hashed alone, by BLAKE2b."""
BETWEEN = " \u241f "
"""Stands between two columns of a row; a word of its own, so that shingles tell where a column ends."""
UNSPACED = ("CJK", "HIRAGANA", "KATAKANA", "BOPOMOFO", "THAI", "LAO", "KHMER", "MYANMAR", "TIBETAN")
"""Scripts that put no blanks between words (first words of a character's Unicode name)."""
SEPARATOR, WORD, ALONE = 0, 1, 2
FACTOR = np.uint64(0x9E3779B97F4A7C15)


def shingles(column: pa.Array, ngram: int) -> tuple[np.ndarray, np.ndarray]:
    """Hashes of every ``ngram`` words in a row, ``int64[S]`` with repeats, and where each text's begin, ``int64[N + 1]``.

    A word is a run of letters, marks, digits and ``_`` in lower case; each character of a script without blanks, and
    each pictograph, is a word of its own (so Chinese gets character shingles). A text of fewer words is one shingle,
    a text without words has none. Two shingles of different words get the same hash with a chance of 2**-64.
    """
    values, counts = [np.zeros(0, np.uint64)], [np.zeros(1, np.int64)]
    for block in _blocks(column):
        words, starts = _words(block)
        found, count = _ngrams(words, starts, ngram)
        values.append(found)
        counts.append(count)
    return np.concatenate(values).view(np.int64), np.cumsum(np.concatenate(counts))


def _blocks(column: pa.Array) -> Iterator[pa.Array]:
    offsets = np.frombuffer(column.buffers()[1], np.int64)[column.offset :][: len(column) + 1]
    start = 0
    while start < len(column):
        end = max(start + 1, int(np.searchsorted(offsets, offsets[start] + BLOCK)) - 1)
        yield column.slice(start, min(end, len(column)) - start)
        start = end


def _words(block: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """A hash for each word, ``uint64[W]``, and the place of each text's first, ``int64[N + 1]``."""
    import pyarrow as pa
    import pyarrow.compute as pc

    end = pa.scalar("\n", pa.large_string())
    lower = pc.binary_join_element_wise(pc.utf8_lower(block), pa.scalar("", pa.large_string()), end)
    offsets = np.frombuffer(lower.buffers()[1], np.int64)[: len(lower) + 1]
    data = np.frombuffer(lower.buffers()[2], np.uint8)[: offsets[-1]]
    inside = ASCII[data]
    begins = _beyond_ascii(data, np.flatnonzero(data >= 0x80), inside)
    first = inside.copy()
    first[1:] &= ~inside[:-1]  # every text ends in a line feed, so no word goes on into the next text
    first[begins] = inside[begins]
    last = inside.copy()
    last[:-1] &= ~inside[1:] | first[1:]
    starts, ends = np.flatnonzero(first), np.flatnonzero(last) + 1
    return _hash(data, starts, ends - starts), np.searchsorted(starts, offsets)


def _beyond_ascii(data: np.ndarray, many: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """Mark in ``inside`` which of the bytes ``many`` are inside words; where a word begins whatever stands before."""
    lead = many[data[many] >= 0xC0]
    width = 2 + (data[lead] >= 0xE0).astype(np.int64) + (data[lead] >= 0xF0)
    point = data[lead] & (0x7F >> width)
    for place in range(1, 4):
        more = np.minimum(lead + place, len(data) - 1)
        point = np.where(width > place, point << 6 | (data[more] & 0x3F), point)
    seen = np.zeros(0x110000, np.uint8)
    seen[point] = 1
    occurring = np.flatnonzero(seen)
    seen[occurring] = [_kind(chr(number)) for number in occurring.tolist()]
    kinds = seen[point]
    inside[many] = np.repeat(kinds, width) != SEPARATOR
    alone = kinds == ALONE
    return np.concatenate([lead[alone], lead[alone] + width[alone]])


def _kind(character: str) -> int:
    category = unicodedata.category(character)
    if category == "So":
        return ALONE
    if category[0] in "LMN":
        return ALONE if unicodedata.name(character, "").startswith(UNSPACED) else WORD
    return SEPARATOR


ASCII = np.array([chr(byte).isalnum() or chr(byte) == "_" for byte in range(128)] + [False] * 128)


def _hash(data: np.ndarray, starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Eight bytes at a time, as a number of 64 bits that is mixed into what the bytes before gave."""
    padded = np.concatenate([data, np.zeros(8, np.uint8)])
    eight = np.ndarray((len(data),), "<u8", buffer=padded.data, strides=(1,))
    mask = np.array([(1 << 8 * n) - 1 for n in range(9)], np.uint64)
    hashes = _mix(eight[starts] & mask[np.minimum(lengths, 8)])
    rest = np.flatnonzero((lengths > 8) & (lengths <= LONG))
    for offset in range(8, LONG, 8):
        rest = rest[lengths[rest] > offset]
        piece = eight[starts[rest] + offset] & mask[np.minimum(lengths[rest] - offset, 8)]
        hashes[rest] = _mix(hashes[rest] * FACTOR + piece)
    for word in np.flatnonzero(lengths > LONG).tolist():
        digest = hashlib.blake2b(data[starts[word] : starts[word] + lengths[word]].tobytes(), digest_size=8).digest()
        hashes[word] = int.from_bytes(digest, "little")
    return hashes


def _mix(values: np.ndarray) -> np.ndarray:
    """The finaliser of SplitMix64 (Steele et al. 2014, doi:10.1145/2660193.2660195): a bijection of uint64, in place."""
    values ^= values >> np.uint64(30)
    values *= np.uint64(0xBF58476D1CE4E5B9)
    values ^= values >> np.uint64(27)
    values *= np.uint64(0x94D049BB133111EB)
    values ^= values >> np.uint64(31)
    return values


def _ngrams(words: np.ndarray, starts: np.ndarray, ngram: int) -> tuple[np.ndarray, np.ndarray]:
    """Shingle hashes of the texts, one text after the other, and how many each has."""
    lengths, whole = np.diff(starts), max(0, len(words) - ngram + 1)
    values = words.copy()
    for place in range(1, ngram):
        values[:whole] = values[:whole] * FACTOR + words[place : place + whole]
    short = np.flatnonzero((lengths > 0) & (lengths < ngram))
    values[starts[short]] = words[starts[short]]
    for place in range(1, ngram):
        more = short[lengths[short] > place]
        values[starts[more]] = values[starts[more]] * FACTOR + words[starts[more] + place]
    keep = np.ones(len(words), bool)
    for place in range(1, ngram):  # the last words of a text begin no shingle, unless it has no other
        keep[starts[1:][lengths > place] - place] = False
    return values[keep], np.where(lengths >= ngram, lengths - ngram + 1, np.minimum(lengths, 1))
