"""Cleaners decide, core applies and remembers: data/ledger.parquet tells what became of every row, without its text."""

from __future__ import annotations

import hashlib
import io
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from upright.engine import media
from upright.errors import ConfigError, UprightError
from upright.evidence.decisions import write_counts
from upright.evidence.sealing import new_file, opened

if TYPE_CHECKING:
    import pyarrow as pa

    from upright.objects import Decisions
    from upright.run import Run
    from upright.stack import Placed
    from upright.step import Scope

ACTIONS = ("drop", "edit", "add", "flag", "relabel")
CODE = re.compile(r"[\w:+./@-]{1,80}")
"""What a reason looks like: a code, so that no text gets into the ledger."""


def clean(run: Run) -> None:
    """Ask every cleaner about every split, apply what it decides, write the ledger.

    Raises UprightError where a decision is not one that can be applied, ConfigError where a split ends up empty.
    """
    entries: list[dict[str, Any]] = []
    for placed in run.stack.answering("clean"):
        for split in [name for name in run.data if kind(name) in placed.step.scope.splits]:
            with _seen(run, split, placed.step.scope):
                decisions = run.calls.clean(placed.step, run.data[split], split, run)
            if decisions is not None and len(decisions):
                applied = _apply(run, placed, split, decisions)
                entries += applied
                run.emit("cleaned", step=placed.key, split=split, counts=dict(Counter(e["action"] for e in applied)))
    path = run.folder / "data" / "ledger.parquet"
    path.parent.mkdir(exist_ok=True)
    with new_file(path, run) as draft:
        draft.write_bytes(_table_bytes(entries))
    write_counts(run.folder, entries)


def read_ledger(folder: Path, run: Run | None = None) -> pa.Table:
    """The ledger of a run; ``run`` opens it where it is sealed."""
    import pyarrow.parquet as pq

    with opened(folder / "data" / "ledger.parquet", run) as path:
        return pq.read_table(path)


def kind(split: str) -> str:
    """``train``, ``validation`` or ``test``: what no choice may be made on."""
    return split if split in ("train", "validation") else "test"


@contextmanager
def _seen(run: Run, split: str, scope: Scope) -> Iterator[None]:
    """Only the splits that the cleaner declares to read are in ``run.data``."""
    everything = run.data
    run.data = {name: rows for name, rows in everything.items() if name == split or kind(name) in scope.reads}
    try:
        yield
    finally:
        run.data = everything


def _told(split: str, action: str, scope: Scope) -> str:
    """What becomes of a decision: on a test split, remarks and row-local edits, so that it reads like what is served."""
    return "flag" if kind(split) == "test" and not (action == "edit" and scope.row_local) else action


def _apply(run: Run, placed: Placed, split: str, decisions: Decisions) -> list[dict[str, Any]]:
    rows = {row["row_id"]: row for row in run.data[split].to_list()}
    added: dict[str | None, list[dict[str, Any]]] = {}
    dropped: set[str] = set()
    nobody: dict[str, Any] = {**dict.fromkeys(run.data[split].column_names), "unit": _next_unit(run)}
    entries = []
    for decision in decisions.rows:
        _check(run, placed, split, decision, rows)
        action, row_id = decision["action"], decision["row_id"]
        told = _told(split, action, placed.step.scope)
        entry = _entry(placed, split, decision, told)
        if told == "drop":
            dropped.add(row_id)
        elif told in ("edit", "relabel"):
            rows[row_id].update(decision["values"])
        elif told == "add":
            siblings = added.setdefault(row_id, [])
            new = rows[row_id] if row_id is not None else {**nobody, "unit": nobody["unit"] + len(siblings)}
            new = {**new, **decision["values"], "row_id": _child(row_id or "", placed.key, len(siblings))}
            siblings.append(new)
            entry |= {"row_id": new["row_id"], "parent": row_id}
        entries.append(entry)
    if dropped or added or any(entry["action"] in ("edit", "relabel") for entry in entries):
        kept = [row for row_id, row in rows.items() if row_id not in dropped]
        kept += [row for siblings in added.values() for row in siblings]
        if not kept:
            raise ConfigError(f"{placed.where}  {placed} drops every row of {split}; loosen its settings")
        run.data[split] = media.dataset(kept, features=run.data[split].features)
    return entries


def _next_unit(run: Run) -> int:
    """A unit that no row of any split belongs to, nor any after it."""
    return 1 + max(max(rows["unit"][:], default=-1) for rows in run.data.values())


def _check(run: Run, placed: Placed, split: str, decision: dict[str, Any], rows: dict[str, Any]) -> None:
    row_id, values = decision["row_id"], decision["values"]
    problem = None
    if decision["action"] not in ACTIONS:
        problem = f"{decision['action']!r} is no action ({', '.join(ACTIONS)})"
    elif not CODE.fullmatch(decision["reason"]):
        problem = f"{decision['reason']!r} is no reason code (letters, digits and -_.:+/@, 80 at most)"
    elif row_id not in rows and (row_id is not None or decision["action"] != "add"):
        problem = "there is no such row"
    else:
        fixed = {"row_id", "unit", *run.config.data.sensitive}
        columns = set(run.data[split].column_names) - fixed
        odd = [name for name in values if name not in columns]
        missing = sorted(columns - values.keys()) if row_id is None else []
        if missing:
            problem = f"a row without a parent needs a value for {missing[0]!r}"
        elif odd:
            problem = f"{odd[0]!r} is no column that a cleaner may change"
        elif decision["action"] == "edit" and {"label", "labels"} & values.keys():
            problem = "a label is changed by `relabel`, not by `edit`"
    if problem:
        raise UprightError(
            f"{placed.where}  {placed}: decision on row {row_id} of {split}: {problem}; mend the cleaner"
        )


def _entry(placed: Placed, split: str, decision: dict[str, Any], action: str) -> dict[str, Any]:
    settings = hashlib.sha256(placed.step.model_dump_json().encode()).hexdigest()[:8]
    version = placed.entry.version if placed.entry else "local"
    return {
        "row_id": decision["row_id"],
        "split": split,
        "cleaner": f"{placed.key}@{version}",
        "settings": settings,
        "action": action,
        "reason": decision["reason"],
        "score": decision["score"],
        "threshold": decision["threshold"],
        "evidence": decision["evidence"],
        "spans": decision["spans"],
        "parent": None,
    }


def _child(parent: str, key: str, ordinal: int) -> str:
    words = f"{parent}/{key}/{ordinal}"
    return hashlib.blake2b(words.encode(), digest_size=8, key=b"upright-row").hexdigest()


def _table_bytes(entries: list[dict[str, Any]]) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    text = pa.string()
    schema = pa.schema(
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
        ]
    )
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(entries, schema=schema), buffer, compression="zstd")
    return buffer.getvalue()
