"""Which columns of a row are input, whatever the task."""

from __future__ import annotations

from typing import Any

COLUMNS = ("text", "text_pair", "prompt", "completion", "tokens")


def inputs(row: dict[str, Any]) -> dict[str, Any]:
    """The row's input columns that hold something: texts, and for token tasks the list of words."""
    return {name: row[name] for name in COLUMNS if row.get(name) is not None}
