"""The tokens that speak most for each class, over the explained rows."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any

from upright.objects import Table

if TYPE_CHECKING:
    from upright import Attribution


def strongest(found: list[Attribution], count: int = 8) -> Table:
    """For each class the ``count`` tokens of highest mean attribution, of those that occur in two rows or more."""
    scores: dict[tuple[str, str], list[float]] = defaultdict(list)
    for one in found:
        for token, (start, end), score in zip(one.tokens, one.offsets, one.scores, strict=True):
            if end > start:
                scores[one.target, token].append(float(score))
    ranked = sorted(
        ((name, token, sum(values) / len(values), len(values)) for (name, token), values in scores.items()),
        key=lambda entry: (entry[0], -entry[2]),
    )
    rows: list[list[Any]] = []
    for name in dict.fromkeys(name for name, *_ in ranked):
        of_class = [entry for entry in ranked if entry[0] == name and (entry[3] > 1 or len(found) < count)]
        rows += [list(entry) for entry in of_class[:count]]
    return Table(["class", "token", "mean attribution", "rows"], rows)
