"""A split's input columns as Arrow texts, for cleaners that look at one text at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from upright_clean.inputs import COLUMNS

if TYPE_CHECKING:
    import pyarrow as pa
    from datasets import Dataset


def row_ids(rows: Dataset) -> list[str]:
    """The rows' ids, in their order."""
    return rows.select_columns(["row_id"]).with_format("arrow")[:]["row_id"].to_pylist()


def texts(rows: Dataset) -> dict[str, pa.Array]:
    """Input column -> its text of each row (large_string, no nulls); words of token tasks are joined by blanks."""
    import pyarrow as pa
    import pyarrow.compute as pc

    names = [name for name in COLUMNS if name in rows.column_names]
    if not names:
        return {}
    given = rows.select_columns(names).with_format("arrow")[:].combine_chunks()
    text = pa.large_string()

    def told(values: pa.ChunkedArray) -> pa.Array:
        if pa.types.is_list(values.type) or pa.types.is_large_list(values.type):
            values = pc.binary_join(values.cast(pa.large_list(text)), pa.scalar(" ", text))
        filled = pc.fill_null(values.cast(text), pa.scalar("", text))
        return filled.combine_chunks() if isinstance(filled, pa.ChunkedArray) else filled

    return {name: told(given[name]) for name in names}


def records(rows: Dataset, seen: pa.Array) -> list[dict[str, Any]]:
    """``row_id`` and the input columns of the rows that the mask ``seen`` picks."""
    names = [name for name in ("row_id", *COLUMNS) if name in rows.column_names]
    picked: list[dict[str, Any]] = rows.select_columns(names).with_format("arrow")[:].filter(seen).to_pylist()
    return picked
