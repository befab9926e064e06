"""Where the rows of a split lie: in memory where they are few, in a file that is mapped where they are many."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow as pa
    from datasets import Dataset

    from upright.run import Run

SHARD = 20_000
"""Rows that are handled at a time; a split of more lies on the disk."""
BYTES = 1 << 28
"""Bytes that are handled at a time, where rows are large: pictures, long texts."""


def shard_rows(rows: Dataset) -> int:
    """Rows of a shard: `SHARD`, fewer where they are large."""
    each = rows.data.nbytes / max(len(rows), 1)
    return max(1, min(SHARD, int(BYTES / max(each, 1))))


def gathered(tables: Iterator[pa.Table], path: Callable[[], Path]) -> Dataset:
    """One `Dataset` of at least one table, mapped from the file ``path()`` where they hold more than `SHARD` rows."""
    import pyarrow as pa

    held: list[pa.Table] = []
    for table in tables:
        held.append(table)
        if sum(map(len, held)) > SHARD or sum(table.nbytes for table in held) > BYTES:
            return _mapped(held, tables, path())
    return in_memory(pa.concat_tables(held))


def _mapped(held: list[pa.Table], tables: Iterator[pa.Table], path: Path) -> Dataset:
    import datasets
    import pyarrow as pa

    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, held[0].schema) as writer:
        while held:
            writer.write_table(held.pop(0))
        for table in tables:
            writer.write_table(table)
    return datasets.Dataset.from_file(str(path))


def in_memory(table: pa.Table) -> Dataset:
    """A `Dataset` of a table, with the features that its schema's metadata names."""
    import datasets

    return datasets.Dataset(datasets.table.InMemoryTable(table.combine_chunks()))


def arrow(rows: Dataset) -> pa.Table:
    """The table of a `Dataset`, its own rows in its own order."""
    table: Any = rows.with_format("arrow")[:]
    return table


def scratch(run: Run) -> Path:
    """A private folder outside the run's, gone with the run."""
    if run.scratch is None:
        run.scratch = Path(tempfile.mkdtemp(prefix="upright-"))  # of mode 0700
        weakref.finalize(run, shutil.rmtree, run.scratch, ignore_errors=True)
    return run.scratch
