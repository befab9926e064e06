"""Rows whose input repeats another row's, found by hashing (BLAKE2b-128 of the canonical input)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from upright import Decisions, Scope, Step, hook
from upright_clean.inputs import inputs

if TYPE_CHECKING:
    from datasets import Dataset


class ExactDup(Step):
    """Drop rows whose input is the same as an earlier row's of their split. Runs of white space count as one blank.

    Repeats of validation and test rows in train are the business of `leakage`.
    """

    scope: ClassVar[Scope] = Scope()

    ignore_case: bool = Field(False, description="Treat `A` and `a` as equal.")
    other_label: Literal["flag", "drop"] = Field(
        "flag", description="What becomes of a repeated input whose label differs from the first one's."
    )

    @hook
    def clean(self, rows: Dataset) -> Decisions:
        decisions = Decisions()
        first: dict[bytes, tuple[str, Any]] = {}
        for row in rows:
            digest, label = self._digest(row), row.get("label", row.get("labels"))
            if digest not in first:
                first[digest] = (row["row_id"], label)
            elif first[digest][1] == label:
                decisions.add(row["row_id"], "drop", "exact-duplicate", evidence=first[digest][0])
            else:
                decisions.add(row["row_id"], self.other_label, "same-input-other-label", evidence=first[digest][0])
        return decisions

    def _digest(self, row: dict[str, Any]) -> bytes:
        canonical = json.dumps(list(self._canonical(row)), ensure_ascii=False)
        return hashlib.blake2b(canonical.encode(), digest_size=16).digest()

    def _canonical(self, row: dict[str, Any]) -> Iterator[tuple[str, list[str]]]:
        for name, value in inputs(row).items():
            words = value if isinstance(value, list) else value.split()
            yield name, [word.casefold() for word in words] if self.ignore_case else words
        for name in ("image", "audio"):
            if row.get(name):
                yield name, [hashlib.blake2b(row[name]["bytes"], digest_size=16).hexdigest()]
