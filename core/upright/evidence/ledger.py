"""data/ledger.parquet: every cleaning decision of a run, without text; and evidence/cleaning.json, which counts them.

The lines stand in the order of the stack's cleaners, the splits and the row ids, so that the file has the same bytes
whatever the order of the rows, the shards and the processes were.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from upright.errors import IntegrityError
from upright.evidence.files import write_atomic
from upright.evidence.sealing import new_file, opened

if TYPE_CHECKING:
    import pyarrow as pa

    from upright.run import Run

COUNTED = ("cleaner", "split", "action", "reason", "status")
PLACES = ("cleaner_place", "split_place", "decision_place")
"""Where a decision stood, while the ledger is put together."""
SOURCE = b"upright.source"
"""The key of the file's metadata under which it says of which rows it is."""


def schema() -> pa.Schema:
    """The columns. ``evidence`` and ``parent`` are row ids, ``status`` is applied, undone, or stale (see `undo`)."""
    import pyarrow as pa

    text = pa.string()
    return pa.schema(
        [
            ("row_id", text),
            ("split", text),
            ("cleaner", text),
            ("settings", text),
            ("action", text),
            ("reason", text),
            ("score", pa.float64()),
            ("threshold", pa.float64()),
            ("evidence", text),
            ("spans", pa.list_(pa.list_(pa.int32()))),
            ("parent", text),
            ("status", text),
        ]
    )


def part(columns: dict[str, Any], places: tuple[int, int]) -> pa.Table:
    """Decisions of one cleaner on (a part of) one split; ``places`` are those of the cleaner and the split."""
    import pyarrow as pa

    count = len(columns["row_id"])
    arrays = []
    for field in schema():
        given = columns[field.name]
        constant = given is None or isinstance(given, str)
        arrays.append(pa.repeat(pa.scalar(given, field.type), count) if constant else pa.array(given, field.type))
    for value in (*(pa.repeat(pa.scalar(place, pa.int32()), count) for place in places), pa.array(range(count))):
        arrays.append(value.cast(pa.int32()))
    return pa.table(arrays, names=[*schema().names, *PLACES])


def write_ledger(run: Run, parts: Sequence[pa.Table], source: dict[str, str]) -> None:
    """Write the ledger and its counts. ``source`` holds the fingerprint of each split as it was given."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.concat_tables(parts) if parts else part({name: [] for name in schema().names}, (0, 0))
    order = [(name, "ascending") for name in (*PLACES[:2], "row_id", PLACES[2])]
    table = table.sort_by(order).select(schema().names)
    table = table.replace_schema_metadata({SOURCE: json.dumps(source, sort_keys=True).encode()})
    path = run.folder / "data" / "ledger.parquet"
    path.parent.mkdir(exist_ok=True)
    with new_file(path, run) as draft:
        pq.write_table(table, draft, compression="zstd")
    path = run.folder / "evidence" / "cleaning.json"
    path.parent.mkdir(exist_ok=True)
    write_atomic(path, json.dumps({"decisions": count(table)}, indent=2, ensure_ascii=False) + "\n")


def read_ledger(folder: Path, run: Run | None = None) -> pa.Table:
    """The ledger of a run; ``run`` opens it where it is sealed. Raises IntegrityError where it cannot be read."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    with opened(folder / "data" / "ledger.parquet", run) as path:
        try:
            return pq.read_table(path)
        except (OSError, pa.ArrowException) as error:
            reason = str(error).split("\n")[0]
            raise IntegrityError(f"{path}: is missing or is no ledger ({reason}); the run cannot be traced") from error


def source_of(ledger: pa.Table) -> dict[str, str]:
    """Split -> fingerprint of the rows that the ledger's run was given."""
    found: dict[str, str] = json.loads((ledger.schema.metadata or {}).get(SOURCE, b"{}"))
    return found


def count(ledger: pa.Table) -> list[dict[str, Any]]:
    """How many rows each cleaner, split, action, reason and status has, sorted by them."""
    counts = ledger.select(COUNTED).group_by(COUNTED, use_threads=False).aggregate([([], "count_all")]).to_pylist()
    found = [{name: row[name] for name in COUNTED} | {"rows": row["count_all"]} for row in counts]
    return sorted(found, key=lambda entry: [entry[name] for name in COUNTED])


def read_counts(folder: Path) -> list[dict[str, Any]]:
    """The counted decisions of a run; none where nothing was cleaned."""
    path = folder / "evidence" / "cleaning.json"
    decisions: list[dict[str, Any]] = (
        json.loads(path.read_text(encoding="utf-8"))["decisions"] if path.is_file() else []
    )
    return decisions
