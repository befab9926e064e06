"""Which of the headings of a few frameworks a run holds evidence for; everything else needs a person.

The headings are data (headings.toml). Here is only what each name of evidence in them means, and where the page shows it.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from upright.report.view import View

HEADINGS = Path(__file__).parent / "headings.toml"

FAITHFULNESS = ("comprehensiveness", "sufficiency", "infidelity")

Held = Callable[[View, Sequence[str]], bool]


def read_headings() -> dict[str, Any]:
    """The version and the frameworks, each with rows ``ref``, ``asks``, ``evidence`` and perhaps ``columns``."""
    return tomllib.loads(HEADINGS.read_text(encoding="utf-8"))


def coverage(run: View) -> list[dict[str, Any]]:
    """Each framework with its rows; a row gets ``links`` (place in the page, its name) and what is ``missing``."""
    return [
        {**framework, "rows": [_row(run, row) for row in framework["rows"]]}
        for framework in read_headings()["frameworks"]
    ]


def _row(run: View, row: dict[str, Any]) -> dict[str, Any]:
    columns = row.get("columns", [])
    missing = [name for name in row["evidence"] if not held(name, run, columns)]
    links = {place(name): WHERE[place(name)] for name in row["evidence"]}
    return {**row, "covered": bool(row["evidence"]) and not missing, "links": links, "missing": missing}


def held(name: str, run: View, columns: Sequence[str] = ()) -> bool:
    """Whether the run holds this evidence; ``columns``: about one of these sensitive columns."""
    if name.startswith("about."):
        return bool(run.about.get(name.removeprefix("about."), "").strip())
    return EVIDENCE[name][1](run, columns)


def place(name: str) -> str:
    """The id of the part of the page that shows it."""
    if name.startswith("about."):
        return {"about.criterion": "criterion", "about.groups": "groups"}.get(name, "about")
    return EVIDENCE[name][0]


def _on_test(run: View, *measures: str) -> list[str]:
    """The ways of grouping for which the steps have group figures on a test split, those of ``measures`` if given."""
    found = []
    for key in run.metrics:
        split, *rest = key.split("/")
        if split in ("run", "validation") or len(rest) < 4:
            continue
        columns = run.groups.get("base_rates", {}).get(split, {})
        if all(column in columns for column in rest[3].split(" & ")) and (not measures or rest[2] in measures):
            found.append(rest[3])
    return found


def _tested(run: View) -> bool:
    """Whether a step measured if explanations follow the model: ``.../explain/<step>/comprehensiveness...``."""
    parts = [key.split("/") for key in run.metrics]
    return any(len(part) > 3 and part[1] == "explain" and part[3] in FAITHFULNESS for part in parts)


def _about(grouping: str, columns: Sequence[str]) -> bool:
    """Whether a way of grouping is by one of the columns alone, whatever their case; without columns any is."""
    return not columns or grouping.lower() in columns


def _crossed(run: View, columns: Sequence[str]) -> bool:
    ways = [{name.lower() for name in way.split(" & ")} for way in _on_test(run, "selection_rate")]
    ratios = [{name.lower() for name in way.split(" & ")} for way in _gap_ways(run, "demographic_parity_ratio")]
    return any(len(way) > 1 and (not columns or way <= set(columns)) for way in ways if way in ratios)


def _gap_ways(run: View, measure: str) -> list[str]:
    """As `_on_test`, of a figure of all groups together."""
    parts = [key.split("/") for key in run.metrics if not key.startswith(("run/", "validation/"))]
    return [part[4] for part in parts if len(part) > 4 and part[3] == measure]


EVIDENCE: dict[str, tuple[str, Held]] = {
    "steps": ("stack", lambda run, _: bool(run.lock.get("steps"))),
    "settings": ("stack", lambda run, _: bool(run.settings)),
    "base": ("lineage", lambda run, _: any(run.lock.get("model", {}).get(name) for name in ("weights", "commit"))),
    "data": ("data", lambda run, _: bool(run.lock["data"]) and all(f["sha256"] for f in run.lock["data"].values())),
    "cleaning": ("cleaning", lambda run, _: bool(run.ledger)),
    "splits": ("rows", lambda run, _: bool(run.rows.get("common")) and run.apart is True),
    "training": ("training", lambda run, _: bool(run.training.get("seconds"))),
    "figures": ("figures", lambda run, _: any(m.low is not None for s in run.tests for m in run.headlines(s).values())),
    "base-rates": ("groups", lambda run, _: any(run.groups.get("base_rates", {}).get(s) for s in run.tests)),
    "base-rates.train": ("groups", lambda run, _: bool(run.groups.get("base_rates", {}).get("train"))),
    "criteria": ("criterion", lambda run, _: bool(run.groups.get("criteria"))),
    "group-figures": ("figures", lambda run, _: bool(_on_test(run))),
    "selection-rates": ("figures", lambda run, c: any(_about(way, c) for way in _on_test(run, "selection_rate"))),
    "impact-ratio": ("figures", lambda run, c: any(_about(w, c) for w in _gap_ways(run, "demographic_parity_ratio"))),
    "intersections": ("figures", _crossed),
    "gates": ("gates", lambda run, _: bool(run.verdicts)),
    "privacy": ("section-privacy", lambda run, _: any(key.endswith("/epsilon") for key in run.promises)),
    "explanations": (
        "explanations",
        lambda run, _: any(e["status"] == "ok" and e["rows"] for e in run.attributions.values()),
    ),
    "faithfulness": ("figures", lambda run, _: _tested(run)),
    "versions": ("versions", lambda run, _: bool(run.lock.get("distributions"))),
    "command": ("reproduce", lambda run, _: bool(run.settings)),
}
"""Name of the evidence -> where the page shows it, and whether the run holds it."""

WHERE = {
    "about": "Purpose",
    "stack": "Stack",
    "lineage": "Lineage",
    "data": "Data",
    "cleaning": "Cleaning",
    "rows": "Rows apart",
    "training": "Training",
    "figures": "Figures",
    "groups": "Groups",
    "criterion": "Criterion",
    "gates": "Gates",
    "section-privacy": "Privacy",
    "explanations": "Explanations",
    "versions": "Versions",
    "reproduce": "Reproduce",
}
"""Id of a part of the page -> how links call it."""
