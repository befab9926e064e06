"""Heuristics of text quality in the manner of Gopher's (Rae et al., 2021, arXiv:2112.11446, appendix A.1)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from upright import Decisions, Scope, Step, hook
from upright_clean.texts import row_ids, texts

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from datasets import Dataset

    Rule = tuple[str, np.ndarray, float, float]
    """Reason, score of each text (NaN where it is not judged), least and most that is allowed."""

LETTER, SPACE = r"\p{L}\p{M}", r"\s+"
UNSPACED = r"\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}"
SYMBOLS = r"#|…+|\.{3,}|\p{So}+"
NONE, ANY = float("-inf"), float("inf")


class Quality(Step):
    """Drop rows of which an input is mostly repetition, symbols or lists; each rule has its own reason and threshold.

    Defaults are Gopher's where it has the rule; it was made for documents, so texts under `min_words` are judged by
    their characters alone. Each character of a script without blanks counts as a word, so the shares hold for Chinese
    as well; such texts have no shortest mean word. Of several rules that a row breaks the first in the order of the
    settings is told. Gopher's stop words are left out (English only), as are its repeated paragraphs (their lines are
    repeated lines).
    """

    scope: ClassVar[Scope] = Scope(row_local=True)

    action: Literal["drop", "flag"] = Field("drop", description="What becomes of a row that breaks a rule.")
    min_characters: int = Field(20, ge=1, description="Texts with fewer characters, blanks aside, are not judged.")
    min_words: int = Field(50, ge=1, description="Texts with fewer words are judged by their characters alone.")
    min_lines: int = Field(5, ge=2, description="Texts with fewer lines are not judged by their lines.")
    max_repeated_characters: float = Field(
        0.3,
        ge=0,
        le=1,
        description="`repeated-characters`: largest share in runs of five or more of the same character.",
    )
    min_letters: float = Field(0.3, ge=0, le=1, description="`few-letters`: smallest share of letters.")
    max_symbols: float = Field(0.1, ge=0, description="`symbols`: most `#`, ellipses and pictographs per word.")
    min_mean_word: float = Field(3, ge=0, description="`short-words`: least characters per word on average.")
    max_mean_word: float = Field(10, gt=0, description="`long-words`: most characters per word on average.")
    max_bullets: float = Field(
        0.9, ge=0, le=1, description="`bullets`: largest share of lines that begin with a bullet."
    )
    max_ellipses: float = Field(
        0.3, ge=0, le=1, description="`ellipses`: largest share of lines that end in an ellipsis."
    )
    max_repeated_lines: float = Field(
        0.2, ge=0, le=1, description="`repeated-lines`: largest share of characters in lines that stood before."
    )
    max_top_ngrams: dict[int, float] = Field(
        {2: 0.2, 3: 0.18, 4: 0.16},
        description="`top-ngram-N`: largest share of words that the most frequent n-gram makes up, by n.",
    )
    max_repeated_ngrams: dict[int, float] = Field(
        {5: 0.15, 6: 0.14, 7: 0.13, 8: 0.12, 9: 0.11, 10: 0.1},
        description="`repeated-ngrams-N`: largest share of words in n-grams that stood before, by n.",
    )

    @hook
    def clean(self, rows: Dataset) -> Decisions:
        import numpy as np

        decisions, ids = Decisions(), np.array(row_ids(rows), dtype=object)
        told = np.zeros(len(ids), bool)
        for column in texts(rows).values():
            for reason, scores, least, most in self._rules(column):
                bad = np.flatnonzero(((scores < least) | (scores > most)) & ~told)  # NaN is neither
                told[bad] = True
                threshold = most if least == NONE else least
                decisions.extend(
                    ids[bad].tolist(), self.action, reason, score=scores[bad].tolist(), threshold=threshold
                )
        return decisions

    def _rules(self, column: pa.Array) -> Iterator[Rule]:
        import numpy as np

        from upright_clean.lines import lines
        from upright_clean.shingles import shingles

        def only(judged: np.ndarray, scores: np.ndarray) -> np.ndarray:
            return np.where(judged, scores, np.nan)

        characters = _without(column, SPACE)
        judged = characters >= self.min_characters
        filled = np.maximum(characters, 1)
        yield "repeated-characters", only(judged, _in_runs(column) / filled), NONE, self.max_repeated_characters
        yield "few-letters", only(judged, _without(column, f"[^{LETTER}]+") / filled), self.min_letters, ANY
        words, starts = shingles(column, 1)
        counts = np.diff(starts)
        enough = judged & (counts >= self.min_words)
        symbols = _count(column, SYMBOLS) / np.maximum(counts, 1)
        yield "symbols", only(enough, symbols), NONE, self.max_symbols
        mean = characters / np.maximum(counts, 1)
        spaced = _without(column, f"[{UNSPACED}]+") > 0.7 * _without(column, "")
        yield "short-words", only(enough & spaced, mean), self.min_mean_word, ANY
        long = enough | (characters >= self.max_mean_word * self.min_words)  # few words of very many characters
        yield "long-words", only(judged & long, mean), NONE, self.max_mean_word
        bullets, ellipses, repeated = lines(column, self.min_lines)
        yield "bullets", only(judged, bullets), NONE, self.max_bullets
        yield "ellipses", only(judged, ellipses), NONE, self.max_ellipses
        yield "repeated-lines", only(judged, repeated), NONE, self.max_repeated_lines
        yield from self._ngrams(words, starts, np.flatnonzero(enough))

    def _ngrams(self, words: np.ndarray, starts: np.ndarray, which: np.ndarray) -> Iterator[Rule]:
        """The rules about n-grams for the texts ``which``; a text that repeats none of n words repeats no longer one."""
        import numpy as np

        from upright_clean.repetition import repetition

        counts = np.diff(starts)
        for ngram in sorted({*self.max_top_ngrams, *self.max_repeated_ngrams}):
            among = np.zeros(len(counts), bool)
            among[which] = True
            words, counts = words[np.repeat(among, counts)], np.where(among, counts, 0)
            shares = repetition(words, np.concatenate([[0], np.cumsum(counts)]), ngram)
            for kind, scores, most in zip(
                ("repeated-ngrams", "top-ngram"), shares, (self.max_repeated_ngrams, self.max_top_ngrams), strict=True
            ):
                if ngram in most:
                    yield f"{kind}-{ngram}", scores, NONE, most[ngram]
            which = np.flatnonzero(shares[0])


def _without(column: pa.Array, pattern: str) -> np.ndarray:
    """How many characters each text has once the pattern (RE2) is taken out."""
    import pyarrow.compute as pc

    left = pc.replace_substring_regex(column, pattern, "") if pattern else column
    return pc.utf8_length(left).to_numpy(zero_copy_only=False)


def _count(column: pa.Array, pattern: str) -> np.ndarray:
    import pyarrow.compute as pc

    return pc.count_substring_regex(column, pattern).to_numpy(zero_copy_only=False)


def _in_runs(column: pa.Array) -> np.ndarray:
    """How many characters of each text are in runs of five or more of the same one."""
    import re

    import numpy as np

    run = re.compile(r"(\S)\1{4,}+")
    return np.array([sum(len(found[0]) for found in run.finditer(text)) for text in column.to_pylist()], np.int64)
