"""evidence/groups.json: who is in the data, with which labels, what reads a group, and which criteria a run holds."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

if TYPE_CHECKING:
    from upright.objects import Predictions
    from upright.run import Run

Rates = dict[str, dict[str, dict[str, Any]]]
"""Column, or two of them as ``sex & race`` -> group -> rows and how many have each label."""


def group_evidence(run: Run, tables: dict[str, Predictions], inference: dict[str, Any]) -> dict[str, Any]:
    """The content of the file; ``inference`` is what `upright.engine.blindness` found.

    Train is left out of a private run's: how many records have which label is a figure about single ones.
    """
    rates = {split: base_rates(predictions) for split, predictions in tables.items()}
    columns = run.config.data.sensitive
    if "train" in run.data and columns and not run.private:
        rows = run.data["train"]
        labels = rows["label"][:] if "label" in rows.column_names else None
        rates = {"train": _rates({column: rows[column][:] for column in columns}, labels), **rates}
    return {
        "base_rates": rates if columns else {},
        "withheld": ["train"] if run.private else [],
        "inference": inference,
        "criteria": list(_criteria(run)),
    }


def read_groups(folder: Path) -> dict[str, Any]:
    """The evidence of a run; empty where there is none."""
    path = folder / "evidence" / "groups.json"
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return found


def base_rates(predictions: Predictions) -> Rates:
    """Rows of each group of a split, and of each label within it where a row has one label; missing values are a group."""
    names = predictions.table.column_names
    columns = [name.removeprefix("group/") for name in names if name.startswith("group/")]
    labels = None
    if predictions.task == "text-classification":
        codes = predictions.numpy("label").tolist()
        labels = [predictions.labels[code] if code >= 0 else None for code in codes]
    return _rates({column: predictions.groups(column).tolist() for column in columns}, labels)


def _rates(columns: dict[str, list[str | None]], labels: Sequence[str | None] | None) -> Rates:
    """Each column by itself and crossed with each other."""
    single = {name: [value if value is not None else "missing" for value in held] for name, held in columns.items()}
    crossed = {
        f"{one} & {other}": [f"{a} & {b}" for a, b in zip(single[one], single[other], strict=True)]
        for one, other in itertools.combinations(single, 2)
    }
    return {name: _counted(groups, labels) for name, groups in {**single, **crossed}.items()}


def _counted(groups: list[str], labels: Sequence[str | None] | None) -> dict[str, dict[str, Any]]:
    rows, both = Counter(groups), Counter(zip(groups, labels, strict=True)) if labels is not None else Counter()
    found: dict[str, dict[str, Any]] = {}
    for group in sorted(rows):
        of = {label: count for (name, label), count in both.items() if name == group and label is not None}
        found[group] = {"rows": rows[group], "labels": dict(sorted(of.items()))}
    return found


def _criteria(run: Run) -> Iterator[dict[str, Any]]:
    """What each fairness step holds or measures, and what its setting ``constraint`` offers besides."""
    for placed in run.stack.steps:
        if placed.section != "fairness":
            continue
        field = type(placed.step).model_fields.get("constraint")
        chosen = getattr(placed.step, "constraint", None) if field else None
        offered = [str(name) for name in get_args(field.annotation)] if field else []
        bounds = {name: getattr(placed.step, name, None) for name in ("max_gap", "min_ratio", "bound", "on_fail")}
        yield {
            "step": str(placed),
            "criterion": chosen or placed.use,
            "alternatives": [name for name in offered if name != chosen],
            "settings": {name: value for name, value in bounds.items() if value is not None},
        }
