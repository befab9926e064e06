"""Rows by the values of some columns: the cells of a table, and what evens them out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from datasets import Dataset


def cells(rows: Dataset, by: Sequence[str]) -> tuple[list[tuple[str, ...]], np.ndarray]:
    """The cells that hold rows, sorted, and each row's place among them, ``[N]``; -1 where a value is missing."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    table: Any = rows.select_columns(list(by)).with_format("arrow")[:]
    codes, names = [], []
    for column in by:
        values = pc.dictionary_encode(pc.cast(table.column(column), pa.string())).combine_chunks()
        codes.append(np.asarray(pc.fill_null(values.indices, -1).to_numpy(zero_copy_only=False), dtype=np.int64))
        names.append(values.dictionary.to_pylist())
    known = np.all([code >= 0 for code in codes], axis=0)
    flat = np.ravel_multi_index([code[known] for code in codes], [max(1, len(name)) for name in names])
    there, inverse = np.unique(flat, return_inverse=True)
    parts = np.unravel_index(there, [max(1, len(name)) for name in names])
    found = [tuple(name[int(p)] for name, p in zip(names, place, strict=True)) for place in zip(*parts, strict=True)]
    order = sorted(range(len(found)), key=found.__getitem__)
    rank = np.empty(len(found), dtype=np.int64)
    rank[order] = np.arange(len(found))
    places = np.full(len(rows), -1, dtype=np.int64)
    places[known] = rank[inverse]
    return [found[n] for n in order], places


def factors(counts: Sequence[int], cap: float) -> list[float]:
    """A factor for the rows of each cell: none over ``cap`` (at least 1), mean over all rows 1, all cells below it of one sum.

    Without a cap that is rows / (cells x rows of the cell). Where a cell would pass the cap it gets the cap, and the other
    cells share what is left evenly.
    """
    found = [cap] * len(counts)
    left, cells_left = float(sum(counts)), len(counts)
    for n in sorted(range(len(counts)), key=counts.__getitem__):  # the smallest cell passes the cap first
        if cells_left > 1 and left / cells_left / counts[n] > cap:
            left -= cap * counts[n]
            cells_left -= 1
        else:
            found[n] = left / cells_left / counts[n]
    return found


def wanted(counts: Sequence[int], cap: float) -> list[int]:
    """How many rows each cell should have: as many as the largest, at most ``cap`` times its own."""
    return [min(max(counts), int(cap * count)) for count in counts]
