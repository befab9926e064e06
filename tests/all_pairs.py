"""The oracle for `near-dup`: exact Jaccard similarity of all pairs, over shingles of words that are kept as they are."""

from __future__ import annotations

import unicodedata
from itertools import combinations

UNSPACED = ("CJK", "HIRAGANA", "KATAKANA", "THAI")


class Letters(dict[int, str]):
    """For `str.translate`: what is no word becomes a blank, a character that is a word gets blanks around it."""

    def __missing__(self, number: int) -> str:
        character = chr(number)
        category = unicodedata.category(character)
        if category == "So" or (unicodedata.name(character, "").startswith(UNSPACED) and category[0] in "LMN"):
            told = f" {character} "
        else:
            told = character if category[0] in "LMN" or character == "_" else " "
        self[number] = told
        return told


LETTERS = Letters()


def shingle_set(text: str, ngram: int) -> frozenset[tuple[str, ...]]:
    """The sets of ``ngram`` words; of all words where there are fewer."""
    words = text.lower().translate(LETTERS).split()
    if not words:
        return frozenset()
    return frozenset(tuple(words[n : n + ngram]) for n in range(max(1, len(words) - ngram + 1)))


def similar(texts: list[str], ngram: int, threshold: float) -> dict[tuple[int, int], float]:
    """The pairs of places at ``threshold`` or above, with their similarity; texts without words are like none."""
    sets = [shingle_set(text, ngram) for text in texts]
    found = {}
    for one, other in combinations(range(len(texts)), 2):
        if sets[one] and sets[other]:
            alike = len(sets[one] & sets[other]) / len(sets[one] | sets[other])
            if alike >= threshold:
                found[one, other] = alike
    return found
