"""Synonym replacement (Zhang et al., 2015, arXiv:1509.01626; as in EDA, Wei and Zou, 2019, arXiv:1901.11196)."""

from __future__ import annotations

import hashlib
import random
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from upright import Decisions, Scope, Step, hook
from upright.errors import ConfigError
from upright_clean.lists import given, shipped
from upright_clean.words import cased, held, pattern

if TYPE_CHECKING:
    from datasets import Dataset

    from upright import Run

COLUMNS = ("text", "text_pair", "prompt", "tokens")
"""What is read, not what is to be written: a completion is left alone."""
Found = tuple[str, int, int, int, str]
"""Column, word (of a text: 0), start, end, and the word as it stands there."""


class Synonym(Step):
    """Add copies of each training row with some of its words replaced by synonyms.

    Looks at one row at a time; what is replaced follows from the seed and the row's identity, whatever the other rows are.
    The shipped lists are small, English and Chinese, and hold words that stand for one another in most sentences, form by
    form. Case, `a` and `an`, the number of words and labels of token tasks are kept; there only words labelled `O` are
    replaced.
    """

    scope: ClassVar[Scope] = Scope(row_local=True, splits=frozenset({"train"}))

    copies: int = Field(1, ge=1, le=20, description="Most rows that are added for a row; equal ones are added once.")
    share: float = Field(
        0.5, gt=0, le=1, description="Share of the words with a synonym that are replaced; at least one."
    )
    synonyms: Path | None = Field(
        None, description="Your own list in place of the shipped ones: a line holds synonyms with tabs between."
    )

    @hook
    def clean(self, rows: Dataset, run: Run) -> Decisions:
        decisions = Decisions()
        others = self._others(run)
        finds = pattern(others)
        columns = [name for name in COLUMNS if name in rows.column_names]
        labels = ["labels"] if "labels" in rows.column_names else []
        for row in held(rows, others, columns, ["row_id", *labels]):
            found = [(hit, others[hit[4].lower()]) for hit in _found(row, columns, finds)]
            made: list[dict[str, Any]] = []
            for copy in range(self.copies if found else 0):
                digest = hashlib.blake2b(f"{run.seed}/{run.key(self)}/{row['row_id']}/{copy}".encode(), digest_size=8)
                values, count = self._copy(row, found, random.Random(digest.digest()))
                if count and values not in made:
                    made.append(values)
                    decisions.add(row["row_id"], "add", "synonym", score=count, values=values)
        return decisions

    def _copy(
        self, row: Any, found: list[tuple[Found, list[str]]], chance: random.Random
    ) -> tuple[dict[str, Any], int]:
        """New values of the columns that change, and how many words do."""
        count = max(1, round(self.share * len(found)))
        values: dict[str, Any] = {}
        changed = 0
        for (column, word, start, end, old), others in sorted(chance.sample(found, count), reverse=True):
            whole = values.get(column, row[column])
            text = whole[word] if isinstance(whole, list) else whole
            before = " ".join(["", *whole[:word][-1:], ""]) if isinstance(whole, list) else " " + text[:start]
            fitting = [new for new in others if _article_fits(before, old, new)]
            if not fitting:
                continue
            changed += 1
            new = text[:start] + cased(chance.choice(fitting), old) + text[end:]
            values[column] = [*whole[:word], new, *whole[word + 1 :]] if isinstance(whole, list) else new
        return values, changed

    def _others(self, run: Run) -> dict[str, list[str]]:
        """Word -> its synonyms. Raises ConfigError where the user's list cannot be read or a line holds one word."""
        if self.synonyms is None:
            groups = [*shipped("synonyms-en"), *shipped("synonyms-zh")]
        else:
            where = f"{run.stack.placed(self).where}  clean.{run.key(self)}.synonyms"
            try:
                groups = given(run.stack.root / self.synonyms.expanduser())
            except (OSError, UnicodeDecodeError) as error:
                raise ConfigError(f"{where}: {self.synonyms} cannot be read ({error}); name a text file") from error
            for group in groups:
                if len(set(group)) < 2 or any(not word or " " in word for word in group):
                    raise ConfigError(
                        f"{where}: {self.synonyms} holds {' | '.join(group)!r}; give two or more single words with tabs "
                        "between"
                    )
        others: dict[str, list[str]] = {}
        for group in groups:
            for word in group:
                rest = others.setdefault(word.lower(), [])
                rest += [new for new in group if new.lower() != word.lower() and new not in rest]
        return others


def _found(row: Any, columns: list[str], finds: Any) -> list[Found]:
    """Where words with a synonym stand in a row; in a list of words only whole ones outside every labelled span."""
    found: list[Found] = []
    for column in columns:
        value = row[column]
        if isinstance(value, str):
            found += [(column, 0, *match.span(), match.group()) for match in finds.finditer(value)]
        elif value:
            labels = row.get("labels") or ["O"] * len(value)
            outside = [n for n, label in enumerate(labels) if label == "O" and finds.fullmatch(value[n])]
            found += [(column, n, 0, len(value[n]), value[n]) for n in outside]
    return found


def _article_fits(before: str, old: str, new: str) -> bool:
    """After `a` or `an` a word with a vowel in front is only replaced by another, and the like."""
    if not before.lower().endswith((" a ", " an ")):
        return True
    return (old[0].lower() in "aeiou") == (new[0].lower() in "aeiou")
