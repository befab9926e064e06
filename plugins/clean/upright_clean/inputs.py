"""Which columns of a row are input, whatever the task; which rows have the same label."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from datasets import Dataset

COLUMNS = ("text", "text_pair", "prompt", "completion", "tokens")


def inputs(row: dict[str, Any]) -> dict[str, Any]:
    """The row's input columns that hold something: texts, and for token tasks the list of words."""
    return {name: row[name] for name in COLUMNS if row.get(name) is not None}


def column(rows: Dataset, name: str) -> pa.Array:
    """One column as an Arrow array, in the rows' order."""
    return rows.select_columns([name]).with_format("arrow")[:][name].combine_chunks()


def joined(rows: Dataset, between: str) -> pa.Array:
    """Each row's input columns as one text with ``between`` between them; words of token tasks are joined by blanks."""
    import pyarrow as pa
    import pyarrow.compute as pc

    text = pa.large_string()
    columns = [_text(column(rows, name)) for name in COLUMNS if name in rows.column_names]
    if not columns:  # images or sounds alone
        return pa.array([""] * len(rows), text)
    return columns[0] if len(columns) == 1 else pc.binary_join_element_wise(*columns, pa.scalar(between, text))


def one_line(rows: Dataset) -> pa.Array:
    """Each row's input with one blank between words."""
    import pyarrow.compute as pc

    from upright_clean.shingles import BETWEEN

    return pc.utf8_trim_whitespace(pc.replace_substring_regex(joined(rows, BETWEEN), r"[\s\p{Z}]+", " "))


def label_codes(rows: Dataset) -> np.ndarray:
    """A number for each row, ``int64[N]``, equal where the labels are; all 0 where there are none."""
    import numpy as np
    import pyarrow.compute as pc

    name = next((name for name in ("label", "labels") if name in rows.column_names), None)
    if name is None:
        return np.zeros(len(rows), np.int64)
    codes = pc.dictionary_encode(_text(column(rows, name)), null_encoding="encode").indices
    return codes.to_numpy(zero_copy_only=False).astype(np.int64)


def _text(values: pa.Array) -> pa.Array:
    import pyarrow as pa
    import pyarrow.compute as pc

    text = pa.large_string()
    if pa.types.is_list(values.type) or pa.types.is_large_list(values.type):
        values = pc.binary_join(values.cast(pa.large_list(text)), pa.scalar(" ", text))
    return pc.fill_null(values.cast(text), pa.scalar("", text))
