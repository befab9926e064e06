"""The language of a text, by naive Bayes over byte n-grams (Lui and Baldwin, 2011, I11-1062; model of py3langid)."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import Field, StringConstraints

from upright import Decisions, Run, Scope, Step, hook
from upright.errors import ConfigError
from upright_clean.texts import row_ids, texts

if TYPE_CHECKING:
    from datasets import Dataset

LONGEST = 1000
"""Characters that are looked at; more change no answer and cost time."""


class Language(Step):
    """Drop rows of which an input is surely in none of the languages to keep; flag short and doubtful ones.

    Works offline. The score is the probability of all other languages together, not that of the likeliest one: a
    dialect that looks half like another language (`da ova side`) is flagged, not dropped. Look at the flags all the same.
    """

    scope: ClassVar[Scope] = Scope(row_local=True)

    keep: list[Annotated[str, StringConstraints(pattern=r"^[a-z]{2,3}$")]] = Field(
        min_length=1, description="Languages to keep, as ISO 639 codes (`[en, zh]`)."
    )
    min_confidence: float = Field(
        0.95, gt=0, le=1, description="Least probability of the other languages at which a row is dropped."
    )
    min_letters: int = Field(30, ge=0, description="A text with fewer letters is flagged rather than dropped.")

    @hook
    def clean(self, rows: Dataset, run: Run) -> Decisions:
        known = _identifier().labels
        for code in self.keep:
            if code not in known:
                raise ConfigError(
                    f"{run.stack.placed(self).where}  language.keep: the identifier knows no language {code!r}; it knows "
                    f"{', '.join(sorted(known))}"
                )
        decisions = Decisions()
        columns = [column.to_pylist() for column in texts(rows).values()]
        for row_id, *values in zip(row_ids(rows), *columns, strict=True):
            found = [other for other in map(self._other, values) if other is not None]
            if found:
                action, reason, score = min(found)  # a drop before a flag
                decisions.add(row_id, action, reason, score=score, threshold=self.min_confidence)
        return decisions

    def _other(self, text: str | None) -> tuple[Any, str, float] | None:
        """Action, reason and score of a text that looks like another language; none where it holds no letter."""
        letters = sum(map(str.isalpha, (text or "")[:LONGEST]))
        if not text or not letters:
            return None
        language, _ = _identifier().classify(text[:LONGEST])
        if language in self.keep:
            return None
        score = 1 - sum(share for code, share in _identifier().rank(text[:LONGEST]) if code in self.keep)
        sure = score >= self.min_confidence and letters >= self.min_letters and language != "zxx"
        return "drop" if sure else "flag", f"language:{'none' if language == 'zxx' else language}", score


@functools.cache
def _identifier() -> Any:
    """py3langid's own model, which its wheel carries; probabilities, not scores."""
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
