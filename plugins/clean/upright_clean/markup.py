"""HTML tags, character references and page furniture in texts."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from upright import Decisions, Scope, Step, hook
from upright_clean.boilerplate import SEEN as FURNITURE
from upright_clean.boilerplate import without_boilerplate
from upright_clean.html import SEEN, without_entities, without_tags
from upright_clean.inputs import inputs
from upright_clean.texts import records, texts

if TYPE_CHECKING:
    from datasets import Dataset


class Markup(Step):
    """Take HTML tags out, decode character references (`&amp;`), and remove lines that pages repeat around their text.

    Only names of HTML elements count as tags, so `a < b`, `<3` and `List<String>` stay. References are decoded once: what
    was escaped twice still shows a tag. A row of nothing but tags is dropped; one of nothing but page furniture is flagged.
    Words of token tasks keep their number.
    """

    scope: ClassVar[Scope] = Scope(row_local=True)

    tags: bool = Field(True, description="Remove tags, comments, scripts and styles.")
    entities: bool = Field(True, description="Decode character references that end in a semicolon.")
    boilerplate: bool = Field(
        True, description="Remove navigation, forms and footers, cookie notices, menus and copyright lines."
    )

    @hook
    def clean(self, rows: Dataset) -> Decisions:
        decisions = Decisions()
        for row in self._suspects(rows):
            reasons: set[str] = set()
            mended = {name: self._mend(value, reasons) for name, value in inputs(row).items()}
            values = {name: value for name, value in mended.items() if value != row[name]}
            if "only-markup" in reasons:
                decisions.add(row["row_id"], "drop", "only-markup")
            elif values:
                decisions.add(row["row_id"], "edit", "+".join(sorted(reasons - {"only-boilerplate"})), values=values)
            elif reasons:
                decisions.add(row["row_id"], "flag", "only-boilerplate")
        return decisions

    def _suspects(self, rows: Dataset) -> list[dict[str, Any]]:
        """The rows in which a quick look (RE2, by column) sees something."""
        import pyarrow.compute as pc

        pattern = "|".join(
            [SEEN] * (self.tags or self.entities)
            + [FURNITURE] * self.boilerplate  # flags of FURNITURE hold for it alone
        )
        looks = [pc.match_substring_regex(column, pattern) for column in texts(rows).values()] if pattern else []
        if not looks:
            return []
        return records(rows, functools.reduce(pc.or_, looks))

    def _mend(self, value: str | list[str], reasons: set[str]) -> str | list[str]:
        if isinstance(value, list):
            return [self._text(word, reasons, whole=False) or word for word in value]
        return self._text(value, reasons, whole=True)

    def _text(self, text: str, reasons: set[str], *, whole: bool) -> str:
        """The text without markup; ``whole`` where it is not one word of many."""
        bare = without_tags(text, around=self.boilerplate and whole) if self.tags else text
        if not bare.strip() and text.strip():
            if whole:
                reasons.add("only-markup")
            return text
        plain = without_entities(bare) if self.entities else bare
        if not plain.strip():
            plain = bare
        mended = without_boilerplate(plain) if self.boilerplate and whole else plain
        if not mended.strip() and plain.strip():
            reasons.add("only-boilerplate")
            mended = plain
        reasons |= {why for why, before, after in (("tags", text, bare), ("entities", bare, plain)) if before != after}
        if mended != plain:
            reasons.add("boilerplate")
        return mended
