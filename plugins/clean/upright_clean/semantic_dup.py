"""Rows that mean nearly the same: cosine similarity of embeddings (SemDeDup, Abbas et al. 2023, arXiv:2303.09540)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from upright import Decisions, Step, hook

if TYPE_CHECKING:
    from datasets import Dataset

    from upright import Run


class SemanticDup(Step):
    """Flag or drop rows whose embedding by the stack's base is nearly that of a row that stays.

    Going by row id, a row repeats one that stays already if their cosine similarity reaches `threshold`; so the order of
    the rows does not matter, and no row goes for a chain of others. A row that is alike only to rows of another label
    stays and is flagged (`semantic-duplicate-other-label`). Rows without text are left alone. Looks at one split at
    a time, in blocks of 1024 rows; time grows with the square of the rows.
    """

    threshold: float = Field(0.95, gt=0, le=1, description="Cosine similarity from which on two rows are one.")
    action: Literal["flag", "drop"] = Field("flag", description="What becomes of a row that repeats another.")

    @hook
    def clean(self, rows: Dataset, split: str, run: Run) -> Decisions:
        import numpy as np
        import pyarrow.compute as pc

        from upright_clean.blocked_cosine import alike
        from upright_clean.inputs import column, joined, label_codes

        ids, texts = column(rows, "row_id"), joined(rows, " ")
        ranked = pc.sort_indices(ids).to_numpy()
        ranked = ranked[pc.not_equal(pc.utf8_trim_whitespace(texts), "").to_numpy(zero_copy_only=False)[ranked]]
        embeddings = run.embed(texts.take(ranked).to_pylist())
        run.emit("memory", step=run.key(self), split=split, bytes=embeddings.nbytes + texts.nbytes)
        found = alike(embeddings, label_codes(rows)[ranked], self.threshold, run.device)
        names = np.array(ids.take(ranked).to_pylist(), dtype=object)
        decisions = Decisions()
        for action, reason, same in (
            (self.action, "semantic-duplicate", found.same_label),
            ("flag", "semantic-duplicate-other-label", ~found.same_label),
        ):
            decisions.extend(
                names[found.rows[same]].tolist(),
                action,
                reason,
                score=found.score[same].tolist(),
                threshold=self.threshold,
                evidence=names[found.evidence[same]].tolist(),
            )
        return decisions
