"""evidence/beside.json: this run beside others on the same test rows, as ``about.compare_with`` asks.

Differences are paired: each is of the rows that both runs decided, with a 95 % percentile bootstrap interval over them.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from upright.errors import UprightError
from upright.evidence.lock import read_lock
from upright.evidence.metrics import intervals, read_metrics
from upright.evidence.predictions import read_predictions
from upright.evidence.status import read_status

if TYPE_CHECKING:
    from upright.objects import Predictions
    from upright.run import Run

FIGURE = {"text-classification": "accuracy", "token-classification": "token_accuracy"}
"""What is compared row by row; of every other task, the loss of a token."""


def beside_evidence(run: Run, tables: dict[str, Predictions]) -> dict[str, Any]:
    """The content of the file: one entry for each run that is named, with what is wrong where it cannot be compared."""
    return {"runs": [_beside(run, name, tables) for name in run.config.about.compare_with]}


def read_beside(folder: Path) -> list[dict[str, Any]]:
    """The runs beside this one; none where the stack names none."""
    path = folder / "evidence" / "beside.json"
    found: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["runs"] if path.is_file() else []
    return found


def _beside(run: Run, name: str, tables: dict[str, Predictions]) -> dict[str, Any]:
    folder = _folder(run, name)
    told: dict[str, Any] = {"name": name, "run": folder.name, "error": None, "splits": {}, "figures": {}}
    try:
        if folder == run.folder.resolve() or read_status(folder)["state"] not in ("done", "gate-failed"):
            raise ValueError
        other = type(run).load(folder) if read_lock(folder).get("sealed") else None
        told["figures"] = {key: metric.to_json() for key, metric in read_metrics(folder).items() if key in run.metrics}
        told["run"] = read_lock(folder).get("run", folder.name)
        for split, mine in tables.items():
            if split != "validation" and (folder / "predictions" / f"{split}.parquet").is_file():
                theirs = read_predictions(folder, split, other)
                lines = compare(theirs, mine, run.seed) if theirs.task == mine.task else []
                told["splits"] |= {split: lines} if lines else {}
        if not told["splits"]:
            told["error"] = "it has decided no row of the same test split"
    except (OSError, UprightError, ValueError, KeyError) as error:
        told["error"] = "it cannot be read here" if isinstance(error, UprightError) else "there is no such finished run"
    return told


def _folder(run: Run, name: str) -> Path:
    """A run folder, or the latest run of that name."""
    folder = run.stack.root / Path(name).expanduser()
    named = run.folder.parent.parent / name / "latest"
    return (folder if (folder / "stack.resolved.yaml").is_file() else named).resolve()


def compare(before: Predictions, after: Predictions, seed: int) -> list[dict[str, Any]]:
    """The figure of the task before and after, on all rows that both have and on each group of them."""
    place = {row: n for n, row in enumerate(before.table.column("row_id").to_pylist())}
    mine = [n for n, row in enumerate(after.table.column("row_id").to_pylist()) if row in place]
    theirs = [place[row] for n, row in enumerate(after.table.column("row_id").to_pylist()) if row in place]
    counts = np.concatenate([_counts(before)[theirs], _counts(after)[mine]], axis=1)
    known = (counts[:, [1, 3]] > 0).all(1)
    chosen = {"": known}
    for column in (name for name in after.table.column_names if name.startswith("group/")):
        groups = after.groups(column.removeprefix("group/"))[mine]
        for group in sorted({group for group in groups if group is not None}):
            chosen[f"{column.removeprefix('group/')} {group}"] = known & (groups == group)
    return [
        {"figure": FIGURE.get(after.task, "loss"), "group": group, **_difference(counts[rows], seed)}
        for group, rows in chosen.items()
        if rows.any()
    ]


def _difference(counts: np.ndarray, seed: int) -> dict[str, Any]:
    """Of counts ``[n, 4]``: numerator and denominator before, numerator and denominator after."""

    def figures(sums: np.ndarray) -> np.ndarray:
        before, after = sums[:, 0] / sums[:, 1], sums[:, 2] / sums[:, 3]
        return np.stack([before, after, after - before], axis=1)

    values, low, high = intervals(counts, figures, seed)
    return {
        "rows": len(counts),
        "before": float(values[0]),
        "after": float(values[1]),
        "difference": float(values[2]),
        "low": float(low[2]),
        "high": float(high[2]),
    }


def _counts(predictions: Predictions) -> np.ndarray:
    """Each row's part of the figure, ``[n, 2]``: right decisions of all, or lost log-likelihood of tokens."""
    table = predictions.table
    if predictions.task == "text-classification":
        label = predictions.numpy("label")
        return np.stack([(label == predictions.numpy("decision")) & (label >= 0), label >= 0], axis=1).astype(float)
    if predictions.task == "token-classification":
        pairs = zip(table.column("label").to_pylist(), table.column("decision").to_pylist(), strict=True)
        rows = [[(a, b) for a, b in zip(label, said, strict=True) if a >= 0] for label, said in pairs]
        return np.array([[sum(a == b for a, b in row), len(row)] for row in rows], dtype=float)
    return np.stack([-predictions.numpy("log_likelihood"), predictions.numpy("tokens")], axis=1).astype(float)
