"""Structured personal data, found by patterns with validators and replaced before anything else reads the text."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from upright import Decisions, Run, Step, hook

Entity = Literal["email", "phone", "card", "iban", "national-id", "ip", "url"]
ENTITIES: tuple[Entity, ...] = ("email", "phone", "card", "iban", "national-id", "ip", "url")
TEXTS = ("text", "text_pair", "prompt", "completion")


class Pii(Step):
    """Replace e-mail addresses, phone, card and account numbers, national ids, IP addresses and URLs.

    Row by row, on every split alike, so that serving sees the same text. Names and addresses need a model and are not
    covered.
    """

    entities: list[Entity] = Field(list(ENTITIES), min_length=1, description="What to replace.")
    replacement: Literal["mask", "surrogate"] = Field(
        "mask", description="mask: <EMAIL>; surrogate: a made-up value of the same shape, the same for the same value."
    )

    @hook
    def clean(self, rows: Any, split: str, run: Run) -> Decisions:
        decisions = Decisions()
        columns = [name for name in (*TEXTS, "tokens") if name in rows.column_names]
        for row in rows.select_columns(["row_id", *columns]):
            values: dict[str, Any] = {}
            spans: list[tuple[int, int]] = []
            kinds: list[str] = []
            for column in columns:
                changed, found = self._replaced(row[column], run)
                if found:
                    values[column] = changed
                    spans += [(hit.start, hit.end) for hit in found]
                    kinds += [hit.kind for hit in found]
            if values:
                reason = f"pii:{'+'.join(dict.fromkeys(kinds))}"
                decisions.add(row["row_id"], "edit", reason, spans=spans, values=values)
        return decisions

    def _replaced(self, value: Any, run: Run) -> tuple[Any, list[Any]]:
        """The value without personal data, and what was found (words keep their number)."""
        from upright_privacy.patterns import find

        kinds = frozenset(self.entities)
        if isinstance(value, list):
            found = [list(find(word, kinds)) for word in value]
            words = [self._text(word, hits, run) for word, hits in zip(value, found, strict=True)]
            return words, [hit for hits in found for hit in hits]
        if not value:
            return value, []
        hits = list(find(value, kinds))
        return self._text(value, hits, run), hits

    def _text(self, text: str, hits: list[Any], run: Run) -> str:
        for hit in reversed(hits):
            text = text[: hit.start] + self._new(hit.kind, text[hit.start : hit.end], run) + text[hit.end :]
        return text

    def _new(self, kind: str, value: str, run: Run) -> str:
        if self.replacement == "mask":
            return f"<{kind.upper()}>"
        from upright_privacy.surrogates import surrogate

        return surrogate(kind, value, run.folder.name)
