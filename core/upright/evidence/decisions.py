"""evidence/cleaning.json: the decisions of data/ledger.parquet, counted; the page shows them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from upright.evidence.files import write_atomic

BY = ("cleaner", "split", "action", "reason")


def count(entries: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """How many rows each cleaner, split, action and reason has, sorted by them."""
    counts = Counter(tuple(entry[name] for name in BY) for entry in entries)
    return [dict(zip(BY, key, strict=True)) | {"rows": rows} for key, rows in sorted(counts.items())]


def write_counts(folder: Path, entries: Iterable[dict[str, Any]]) -> None:
    """Write evidence/cleaning.json."""
    path = folder / "evidence" / "cleaning.json"
    path.parent.mkdir(exist_ok=True)
    write_atomic(path, json.dumps({"decisions": count(entries)}, indent=2, ensure_ascii=False) + "\n")


def read_counts(folder: Path) -> list[dict[str, Any]]:
    """The counted decisions of a run; none where nothing was cleaned."""
    path = folder / "evidence" / "cleaning.json"
    decisions: list[dict[str, Any]] = (
        json.loads(path.read_text(encoding="utf-8"))["decisions"] if path.is_file() else []
    )
    return decisions
