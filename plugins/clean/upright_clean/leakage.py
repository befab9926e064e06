"""Rows that repeat a row of a split that examines what was learnt from them."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from upright import Decisions, Scope, Step, hook

if TYPE_CHECKING:
    import numpy as np
    from datasets import Dataset

    from upright import Run

    Found = tuple[np.ndarray, np.ndarray, np.ndarray]
    """Of each row the place of its match, -1 for none, and its similarity; the ids that the places count in."""

ALSO, NEARLY = "also-in-", "nearly-in-"
BLOCK = 50_000
"""Rows that are compared at once."""


class Leakage(Step):
    """Drop train rows that repeat a validation or test row, and validation rows that repeat a test row; exactly or nearly.

    A model must not have seen its examination, nor must a choice be made on it. The rows of the examination stay: those
    that an earlier split still holds are flagged. Exactly means the same words, white space aside; nearly means that the
    Jaccard similarity of their sets of word n-grams reaches `threshold`, computed for every pair that could reach it, so
    none is missed. Case and punctuation do not count there, and each Chinese, Japanese or Thai character is a word.
    Labels do not count. Repeats inside one split are the business of `exact-dup` and `near-dup`.
    """

    scope: ClassVar[Scope] = Scope(reads=frozenset({"train", "validation", "test"}))

    action: Literal["drop", "flag"] = Field("drop", description="What becomes of a row that a later split repeats.")
    near: bool = Field(True, description="Look for rows that are nearly the same, too.")
    threshold: float = Field(0.8, gt=0, le=1, description="Jaccard similarity from which on rows are nearly the same.")
    ngram: int = Field(3, ge=1, le=100, description="Words in a shingle; a shorter text is one shingle as a whole.")

    @hook
    def clean(self, rows: Dataset, split: str, run: Run) -> Decisions:
        import numpy as np

        from upright_clean.inputs import COLUMNS, column

        decisions, here = Decisions(), _moment(split)
        names = sorted(
            (name for name in run.data if _moment(name) != here), key=lambda name: -abs(_moment(name) - here)
        )
        names = [name for name in names if set(COLUMNS) & set(rows.column_names) & set(run.data[name].column_names)]
        ids = np.array(column(rows, "row_id").to_pylist(), dtype=object)
        told = np.zeros(len(ids), bool)
        for earlier in (False, True):  # what goes before what is flagged
            for reason, find in ((ALSO, self._same), (NEARLY, self._alike))[: 2 if self.near else 1]:
                for name in names:
                    if (_moment(name) < here) != earlier:
                        continue
                    left = np.flatnonzero(~told)
                    place, score, evidence = find(rows.select(left), run.data[name])
                    found = np.flatnonzero(place >= 0)
                    told[left[found]] = True
                    decisions.extend(
                        ids[left[found]].tolist(),
                        "flag" if earlier else self.action,
                        reason + name,
                        score=score[found].tolist(),
                        threshold=1.0 if reason == ALSO else self.threshold,
                        evidence=evidence[place[found]].tolist(),
                    )
        return decisions

    def _same(self, rows: Dataset, others: Dataset) -> Found:
        """Rows of the same words, and of the others the one with the lowest row id."""
        import numpy as np
        import pyarrow.compute as pc

        ids, others = _by_id(others)
        from upright_clean.inputs import one_line

        words = one_line(rows)
        place = pc.fill_null(pc.index_in(words, value_set=one_line(others)), -1).to_numpy().astype(np.int64)
        place[pc.equal(words, "").to_numpy(zero_copy_only=False)] = -1  # what says nothing is no secret
        return place, np.ones(len(place)), ids

    def _alike(self, rows: Dataset, others: Dataset) -> Found:
        """Rows of nearly the same words, and of the others the most similar, of equals the one with the lowest row id."""
        import numpy as np
        import pyarrow.compute as pc

        from upright_clean.inputs import one_line
        from upright_clean.shingles import shingles
        from upright_clean.similarity_join import closest

        ids, others = _by_id(others)
        best, score = np.full(len(rows), -1), np.zeros(len(rows))
        for at in range(0, len(rows), BLOCK):
            left = pc.dictionary_encode(one_line(rows.select(range(at, min(at + BLOCK, len(rows))))))
            sets, which = shingles(left.dictionary, self.ngram), left.indices.to_numpy()
            for start in range(0, len(others), BLOCK):
                right = pc.dictionary_encode(one_line(others.select(range(start, min(start + BLOCK, len(others))))))
                _, first = np.unique(right.indices.to_numpy(), return_index=True)
                place, found = closest(sets, shingles(right.dictionary, self.ngram), self.threshold)
                place, found = place[which], found[which]
                better = np.flatnonzero(found > score[at : at + BLOCK])
                best[at + better] = start + first[place[better]]
                score[at + better] = found[better]
        return best, score, ids


def _moment(split: str) -> int:
    """Train comes before validation, validation before every test split."""
    return {"train": 0, "validation": 1}.get(split, 2)


def _by_id(rows: Dataset) -> tuple[np.ndarray, Dataset]:
    """The rows' ids in order, and the rows in that order: what is found must not depend on theirs."""
    import numpy as np

    from upright_clean.inputs import column

    ids = np.array(column(rows, "row_id").to_pylist(), dtype=object)
    order = np.argsort(ids)
    return ids[order], rows.select(order)
