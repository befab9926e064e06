"""Unicode normal forms (Unicode Standard Annex 15) and mojibake (ftfy, Speer 2019, doi:10.5281/zenodo.2591652)."""

from __future__ import annotations

import unicodedata
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from upright import Decisions, Scope, Step, hook
from upright_clean.inputs import inputs

if TYPE_CHECKING:
    from datasets import Dataset


class Unicode(Step):
    """Mend text that was decoded wrongly (`cafÃ©`) and bring every text into one normal form.

    Looks at one row at a time, so it is applied to the test split as well. Words of token tasks keep their number.
    """

    scope: ClassVar[Scope] = Scope(row_local=True)

    form: Literal["NFC", "NFKC", "NFD", "NFKD"] = Field(
        "NFC", description="Normal form; the K forms lose meaning (`x²` becomes `x2`)."
    )
    mojibake: bool = Field(True, description="Mend text that was decoded with the wrong encoding.")

    @hook
    def clean(self, rows: Dataset) -> Decisions:
        decisions = Decisions()
        for row in rows:
            values, reasons = {}, set()
            for name, value in inputs(row).items():
                mended, why = self._words(value) if isinstance(value, list) else self._mend(value)
                if why:
                    values[name] = mended
                    reasons |= why
            if values:
                decisions.add(row["row_id"], "edit", "+".join(sorted(reasons)), values=values)
        return decisions

    def _words(self, words: list[str]) -> tuple[list[str], set[str]]:
        mended = [self._mend(word) for word in words]
        return [text for text, _ in mended], {reason for _, reasons in mended for reason in reasons}

    def _mend(self, text: str) -> tuple[str, set[str]]:
        """The mended text and what was wrong with it; plain ASCII needs neither look."""
        if text.isascii():
            return text, set()
        reasons: set[str] = set()
        if self.mojibake:
            from ftfy import fix_encoding

            fixed: Any = fix_encoding(text)
            if fixed != text and fixed.strip():
                text = fixed
                reasons.add("mojibake")
        normal = unicodedata.normalize(self.form, text)
        if normal != text:
            reasons.add(self.form.lower())
        return normal, reasons
