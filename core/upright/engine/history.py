"""A row's whole story: where it came from, what every cleaner decided of it, what became of it, what was predicted."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from upright.errors import ConfigError, UprightError
from upright.evidence.ledger import read_ledger
from upright.evidence.predictions import predicted_splits, read_predictions
from upright.run import Run

if TYPE_CHECKING:
    from datasets import Dataset


def given(run: Run) -> dict[str, Dataset]:
    """The rows of the run's stack as its files hold them now, before any cleaning. Raises ConfigError."""
    from upright.calls import Calls
    from upright.engine.data import load_data
    from upright.engine.tasks import get

    again = Run(run.stack.only_cleaning(), run.folder, Calls([]))
    again.task = get(run.stack.settings.model.task)
    load_data(again)
    run.scratch = run.scratch or again.scratch
    again.scratch, held = None, again.data
    return held


def given_rows(run: Run, ids: set[str]) -> Iterator[dict[str, Any]]:
    """The rows of these ids as they were given."""
    for data in given(run).values():
        places = [place for place, row_id in enumerate(data["row_id"][:]) if row_id in ids]
        yield from data.select(places)


def history(folder: Path, word: str) -> dict[str, Any]:
    """The story of one row of a run.

    ``word`` is a row's id, the beginning of one, or ``<split>:<number>`` (the first row of a split is 1). Raises ConfigError
    where there is no such row or the folder is no run's, IntegrityError where its ledger cannot be read.
    """
    if not (folder / "stack.resolved.yaml").is_file():
        raise ConfigError(f"{folder}: is no run folder; name one, such as runs/<name>/latest")
    run = Run.load(folder)
    lines = read_ledger(run.folder, run).to_pylist()
    source, reason = _source(run)
    row_id = _row(word, lines, source, reason, run)
    mine = [line for line in lines if row_id in (line["row_id"], line["parent"])]
    own = [line for line in mine if line["row_id"] == row_id]
    born = next((line for line in own if line["action"] == "add"), None)
    split, number = _place(source, row_id)
    split = split or (own[0]["split"] if own else None)
    return {
        "row_id": row_id,
        "split": split,
        "number": number,
        "source_missing": reason,
        "parent": born["parent"] if born else None,
        "decisions": [line for line in mine if line["action"] != "add" or line is born or line["parent"] == row_id],
        "evidence_for": [line for line in lines if line["evidence"] == row_id],
        "outcome": _outcome(own, number, born),
        "predictions": list(_predictions(run, row_id)),
        "text": _text(source, split, number),
    }


def _source(run: Run) -> tuple[dict[str, Dataset], str | None]:
    """The given rows, or why they are not at hand."""
    try:
        return given(run), None
    except UprightError as error:
        return {}, str(error)


def _row(word: str, lines: list[dict[str, Any]], source: dict[str, Dataset], reason: str | None, run: Run) -> str:
    split, colon, number = word.rpartition(":")
    if colon:
        if split in source and number.isdigit() and 1 <= int(number) <= len(source[split]):
            return str(source[split]["row_id"][int(number) - 1])
        why = reason or ", ".join(f"{name} has {len(rows)} rows" for name, rows in source.items())
        raise ConfigError(f"{run.folder}: there is no row {word} ({why}); name a row's id or <split>:<number>")
    known = {row for line in lines for row in (line["row_id"], line["parent"], line["evidence"]) if row}
    known.update(row for rows in source.values() for row in rows["row_id"][:])
    found = [row for row in known if row.startswith(word)]
    if len(found) != 1:
        what = "there is no row whose id begins with" if not found else f"{len(found)} rows' ids begin with"
        raise ConfigError(f"{run.folder}: {what} {word!r}; name one of data/ledger.parquet, or <split>:<number>")
    return str(found[0])


def _place(source: dict[str, Dataset], row_id: str) -> tuple[str | None, int | None]:
    for split, rows in source.items():
        ids = rows["row_id"][:]
        if row_id in ids:
            return split, ids.index(row_id) + 1
    return None, None


def _outcome(own: list[dict[str, Any]], number: int | None, born: dict[str, Any] | None) -> str:
    gone = next((line for line in own if line["action"] == "drop" and line["status"] != "undone"), None)
    if gone:
        return f"dropped by {gone['cleaner']} ({gone['reason']})"
    if born and born["status"] == "undone":
        return "not added: the decision was undone"
    changed = [line["cleaner"] for line in own if line["action"] in ("edit", "relabel") and line["status"] != "undone"]
    if changed:
        return f"kept, changed by {', '.join(dict.fromkeys(changed))}"
    return "kept as it was" if number is not None else "kept"


def _predictions(run: Run, row_id: str) -> Iterator[dict[str, Any]]:
    import pyarrow.compute as pc

    for split in predicted_splits(run.folder):
        predictions = read_predictions(run.folder, split, run)
        for row in predictions.table.filter(pc.field("row_id") == row_id).to_pylist():
            told = {"split": split, "label": row.get("label"), "decision": row.get("decision")}
            if predictions.task == "text-classification":
                names = predictions.labels
                told["label"] = names[row["label"]] if row["label"] >= 0 else None
                told["decision"] = names[row["decision"]]
                told["score"] = row["scores"][row["decision"]]
            yield told


def _text(source: dict[str, Dataset], split: str | None, number: int | None) -> dict[str, Any] | None:
    return dict(source[split][number - 1]) if split in source and number else None
