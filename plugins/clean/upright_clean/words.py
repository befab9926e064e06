"""Words in texts: where terms stand, whole and in any case, and a word in the case of another."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from datasets import Dataset

LETTER = r"A-Za-z0-9_À-ÖØ-öø-ÿ"
"""What a word of an alphabet consists of; Han characters have no boundaries between words."""

FOLDED = "(?-i:[\u0130\u0131\u017f\u212a])"
"""Letters that Python holds equal to i, s or k in another case, and Arrow does not (or not at a word's edge)."""


def pattern(terms: Iterable[str]) -> re.Pattern[str]:
    """Finds the terms, the longest first: one of letters as a whole word and no handle or tag, one of Han anywhere."""
    terms = set(terms)
    alphabetic = _any_of({term for term in terms if not is_han(term)})
    han = _any_of({term for term in terms if is_han(term)})
    whole = rf"(?<![{LETTER}@#]){alphabetic}(?![{LETTER}])"
    found = "|".join(part for part, there in ((whole, alphabetic), (han, han)) if there)
    return re.compile(found or r"(?!)", re.IGNORECASE)


def _any_of(terms: set[str]) -> str:
    """A pattern of the terms, equal beginnings merged (so that few are tried at each place), the longest first."""
    by_first: dict[str, set[str]] = {}
    for term in terms - {""}:
        by_first.setdefault(term[0], set()).add(term[1:])
    parts = [re.escape(first) + _any_of(rests) for first, rests in sorted(by_first.items())]
    if not parts:
        return ""
    return f"(?:{'|'.join(parts)}){'?' if '' in terms else ''}"


def is_han(text: str) -> bool:
    """Whether the first character is a Chinese one."""
    return "\u4e00" <= text[:1] <= "\u9fff"


def cased(word: str, like: str) -> str:
    """``word`` in the case of ``like``: lower, Capitalised, or UPPER (of a single letter: capitalised)."""
    if like.isupper() and len(like) > 1:
        return word.upper()
    return word[:1].upper() + word[1:] if like[:1].isupper() else word


def places(rows: Dataset, terms: Iterable[str], columns: Sequence[str]) -> list[int]:
    """Numbers of the rows in which a term may stand, found by Arrow: all that `pattern` finds, and some more."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    terms = sorted(set(terms))
    whole = "|".join(re.escape(term) for term in terms if term.isascii())  # Arrow's \\b knows ASCII alone
    others = "|".join(re.escape(term) for term in terms if not term.isascii())
    parts = [rf"\b(?:{whole})\b" if whole else "", others, FOLDED]
    wanted = "(?i)" + "|".join(part for part in parts if part)
    table: Any = rows.select_columns(list(columns)).with_format("arrow")[:]
    found = np.zeros(len(rows), dtype=bool)
    for column in table.columns:
        listed = pa.types.is_list(column.type) or pa.types.is_large_list(column.type)
        for texts in [pc.binary_join(column, between) for between in (" ", "")] if listed else [column]:
            hit = pc.fill_null(pc.match_substring_regex(pc.cast(texts, pa.large_string()), wanted), False)
            found |= np.asarray(hit.to_numpy(zero_copy_only=False), dtype=bool)
    return [int(place) for place in np.flatnonzero(found)]


def held(
    rows: Dataset, terms: Iterable[str], columns: Sequence[str], others: Sequence[str]
) -> Iterator[dict[str, Any]]:
    """The rows in which a term may stand in one of ``columns``, each with ``columns`` and ``others``."""
    chosen = rows.select_columns([*columns, *others]).select(places(rows, terms, columns))
    values = [chosen[name][:] for name in (*columns, *others)]
    for fields in zip(*values, strict=True):
        yield dict(zip((*columns, *others), fields, strict=True))
