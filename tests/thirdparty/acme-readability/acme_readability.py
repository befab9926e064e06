"""Flesch's reading ease (1948, doi:10.1037/h0057532): 206.835 - 1.015 words/sentences - 84.6 syllables/words."""

import re

from pydantic import Field

from upright import Decisions, Scope, Step, hook

WORD, SENTENCE, VOWELS = re.compile(r"[A-Za-z']+"), re.compile(r"[.!?]+"), re.compile(r"[aeiouy]+")


def syllables(word: str) -> int:
    """Groups of vowels, without a silent e; at least one."""
    count = len(VOWELS.findall(word.lower()))
    silent = word.lower().endswith("e") and not word.lower().endswith("le") and count > 1
    return max(count - silent, 1)


def reading_ease(text: str) -> float | None:
    """High is easy; None for a text without a word."""
    words = WORD.findall(text)
    if not words:
        return None
    sentences = max(len([part for part in SENTENCE.split(text) if WORD.search(part)]), 1)
    return 206.835 - 1.015 * len(words) / sentences - 84.6 * sum(map(syllables, words)) / len(words)


class Readability(Step):
    """Drop English texts that are harder to read than a bound."""

    scope = Scope(row_local=True)
    tasks = frozenset({"text-classification"})

    min_ease: float = Field(0.0, description="Smallest reading ease that stays; 60 is plain English.")

    @hook
    def clean(self, rows):
        decisions = Decisions()
        for row_id, text in zip(rows["row_id"], rows["text"], strict=True):
            ease = reading_ease(text)
            if ease is not None and ease < self.min_ease:
                decisions.add(row_id, "drop", "hard-to-read", score=ease, threshold=self.min_ease)
        return decisions
