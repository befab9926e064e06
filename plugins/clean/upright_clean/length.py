"""Rows that are too short or too long to learn from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field, model_validator

from upright import Decisions, Scope, Step, hook
from upright_clean.inputs import inputs

if TYPE_CHECKING:
    from datasets import Dataset


class Length(Step):
    """Drop rows outside the given numbers of words and characters; a row's columns count together.

    Looks at one row at a time. Words are what white space separates (token tasks: the given words).
    """

    scope: ClassVar[Scope] = Scope(row_local=True)

    min_words: int = Field(1, ge=0, description="Fewest words.")
    max_words: int | None = Field(None, ge=1, description="Most words.")
    min_characters: int = Field(0, ge=0, description="Fewest characters.")
    max_characters: int | None = Field(None, ge=1, description="Most characters.")

    @model_validator(mode="after")
    def _ordered(self) -> Length:
        for low, high, what in (
            (self.min_words, self.max_words, "words"),
            (self.min_characters, self.max_characters, "characters"),
        ):
            if high is not None and low > high:
                raise ValueError(f"min_{what} ({low}) is over max_{what} ({high}), so every row would be dropped")
        return self

    @hook
    def clean(self, rows: Dataset) -> Decisions:
        decisions = Decisions()
        for row in rows:
            if not inputs(row):  # an image or a sound without words
                continue
            for measured, low, high, what in self._measured(row):
                if measured < low:
                    decisions.add(row["row_id"], "drop", f"too-few-{what}", score=measured, threshold=low)
                    break
                if high is not None and measured > high:
                    decisions.add(row["row_id"], "drop", f"too-many-{what}", score=measured, threshold=high)
                    break
        return decisions

    def _measured(self, row: dict[str, Any]) -> list[tuple[int, int, int | None, str]]:
        values = inputs(row).values()
        words = sum(len(value if isinstance(value, list) else value.split()) for value in values)
        characters = sum(len(" ".join(value) if isinstance(value, list) else value) for value in values)
        return [
            (words, self.min_words, self.max_words, "words"),
            (characters, self.min_characters, self.max_characters, "characters"),
        ]
