"""Rows whose input repeats another row's."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from upright import Decisions, Step, hook

if TYPE_CHECKING:
    from datasets import Dataset

    from upright import Run


class ExactDup(Step):
    """Drop rows whose input is the same as another row's of their split. Runs of white space count as one blank.

    The row with the lowest row id stays, whatever the order of the rows. Repeats of validation and test rows in train are
    the business of `leakage`.
    """

    ignore_case: bool = Field(False, description="Treat `A` and `a` as equal.")
    other_label: Literal["flag", "drop"] = Field(
        "flag", description="What becomes of a repeated input whose label differs from that of the row that stays."
    )

    @hook
    def clean(self, rows: Dataset, split: str, run: Run) -> Decisions:
        import numpy as np
        import pyarrow.compute as pc

        from upright_clean.inputs import column, label_codes

        ids = np.array(column(rows, "row_id").to_pylist(), dtype=object)
        texts = self._inputs(rows)
        codes = pc.dictionary_encode(texts).indices.to_numpy()
        run.emit("memory", step=run.key(self), split=split, bytes=2 * texts.nbytes + 8 * len(ids))
        by_id = np.argsort(ids)
        _, first = np.unique(codes[by_id], return_index=True)
        stays = by_id[first][codes]
        repeats, labels = stays != np.arange(len(ids)), label_codes(rows)
        same = labels == labels[stays]
        decisions = Decisions()
        for chosen, action, reason in (
            (repeats & same, "drop", "exact-duplicate"),
            (repeats & ~same, self.other_label, "same-input-other-label"),
        ):
            decisions.extend(ids[chosen].tolist(), action, reason, evidence=ids[stays[chosen]].tolist())  # type: ignore[arg-type]
        return decisions

    def _inputs(self, rows: Dataset) -> Any:
        """One text a row that is the same where the inputs are."""
        import pyarrow as pa

        from upright_clean.inputs import one_line

        texts = one_line(rows)
        media = [name for name in ("image", "audio") if name in rows.column_names]
        if not self.ignore_case and not media:
            return texts
        found = [text.casefold() if self.ignore_case else text for text in texts.to_pylist()]
        for name in media:
            for place, row in enumerate(rows.select_columns([name])):
                if row[name]:
                    found[place] += f"\0{hashlib.blake2b(row[name]['bytes'], digest_size=16).hexdigest()}"
        return pa.array(found, pa.large_string())
