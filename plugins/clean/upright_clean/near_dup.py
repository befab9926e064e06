"""Rows whose texts share most word n-grams: found by MinHash (Broder 1997, doi:10.1109/SEQUEN.1997.666900), verified."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from upright import Decisions, Step, hook

if TYPE_CHECKING:
    from datasets import Dataset

    from upright import Run


class NearDup(Step):
    """Drop rows that are nearly the same as a row that stays: Jaccard similarity of their sets of word n-grams.

    Only pairs whose similarity is computed and reaches `threshold` count. MinHash merely finds them: it misses a pair just
    at the threshold with a chance of up to .1, one well above it hardly ever. Of rows alike, the one with the lowest row id
    stays, whatever the order of the rows. A row that is alike only to a row that goes is flagged
    (`near-duplicate-chain`). Case and punctuation do not count; each Chinese, Japanese or Thai character is a word
    of its own. Looks at one split at a time. Works on a GPU where there is one. Memory: about 16 bytes for each word
    of the split and 4 for each permutation and row; `plan` tells the sum.
    """

    threshold: float = Field(0.7, gt=0, le=1, description="Jaccard similarity from which on two rows are one.")
    num_perm: int = Field(128, ge=1, le=4096, description="MinHash permutations: more find more, more slowly.")
    ngram: int = Field(3, ge=1, le=100, description="Words in a shingle; a shorter text is one shingle as a whole.")
    other_label: Literal["flag", "drop"] = Field(
        "flag", description="What becomes of a row that is nearly the same as one with another label."
    )

    @hook
    def clean(self, rows: Dataset, split: str, run: Run) -> Decisions:
        import numpy as np
        import pyarrow.compute as pc

        from upright_clean.inputs import column, joined, label_codes
        from upright_clean.links import resolve
        from upright_clean.near_pairs import memory, near_pairs
        from upright_clean.shingles import BETWEEN, shingles

        ids = column(rows, "row_id")
        ranked = pc.sort_indices(ids).to_numpy()
        values, offsets = shingles(joined(rows, BETWEEN), self.ngram)
        lengths = np.diff(offsets)
        ranked = ranked[lengths[ranked] > 0]
        labels = label_codes(rows)[ranked] if self.other_label == "flag" else np.zeros(len(ranked), np.int64)
        left, right, score = near_pairs(
            values,
            offsets[ranked],
            lengths[ranked],
            labels,
            self.threshold,
            self.num_perm,
            run.device if run.device.type == "cuda" else None,
        )
        run.emit(
            "memory",
            step=run.key(self),
            split=split,
            bytes=memory(len(values), len(ranked), self.threshold, self.num_perm),
        )
        told = resolve(len(ranked), left, right, score, labels[left] == labels[right])
        names = np.array(ids.take(ranked).to_pylist(), dtype=object)
        decisions = Decisions()
        for action, reason, found in (
            ("drop", "near-duplicate", told.dropped),
            ("flag", "near-duplicate-chain", told.chained),
            ("flag", "near-duplicate-other-label", told.contradicted),
        ):
            decisions.extend(
                names[found.rows].tolist(),
                action,
                reason,
                score=found.score.tolist(),
                threshold=self.threshold,
                evidence=names[found.evidence].tolist(),
            )
        return decisions
