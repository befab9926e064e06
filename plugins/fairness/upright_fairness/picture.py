"""The audit's part of the report: rates of each group as a table and as points with intervals."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

from upright import Run, Section
from upright.objects import Svg, Table, Text
from upright_fairness.groups import GroupSpec
from upright_fairness.rates import RATES

DRAWN = ("true_positive_rate", "false_positive_rate", "selection_rate")
OTHERS = ("brier_score", "expected_calibration_error", "subgroup_auc", "bpsn_auc", "bnsp_auc")
WIDTH, LEFT, ROW = 640, 230, 26
SOURCES = {
    "unstated": "Where the groups come from is not stated.",
    "self-reported": "The groups are self-reported.",
    "inferred": "The groups are inferred, not what people said of themselves.",
}


def section(step: Any, run: Run, spec: GroupSpec) -> Section:
    """Tables of gaps and group figures, and a picture, for one way of telling groups apart."""
    home, column = run.home(step), spec.name
    splits = sorted({key.split("/")[0] for key in run.metrics} - {"train", "validation", "run"}) or ["validation"]
    use = f"They may be used for {', '.join(spec.use)}."
    blocks: list[Any] = [Text(f"{SOURCES[spec.provenance]} {use}")]
    for split in splits:
        prefix = f"{split}/{home}/"
        found = {key.removeprefix(prefix): m for key, m in run.metrics.items() if key.startswith(prefix)}
        mine = {key: metric for key, metric in found.items() if column in key.split("/")[1:3]}
        whole = [
            k
            for k in mine
            if k.split("/")[0].endswith(("_difference", "_ratio", "group_accuracy", "balanced_accuracy"))
        ]
        missing = found.get(f"missing/{column}")
        unlabelled = found.get("unlabelled")
        blocks += [
            Text(
                f"Split {split}. Intervals are 95 % and hold for all groups, or all pairs of groups, at once. "
                f"Rows without a value of {column}: {int(missing.value) if missing else 0} of {missing.n if missing else 0}. "
                f"Rows without a label: {int(unlabelled.value) if unlabelled else 0}."
            ),
            Table(["gap or ratio", "value", "95 % interval", "rows in the smallest cell"], _rows(mine, whole)),
            Table(
                ["difference", "value", "95 % interval", "rows in the smaller cell"],
                _rows(mine, _of(mine, ["difference"])),
            ),
            Table(["rate", "value", "95 % interval", "rows"], _rows(mine, _of(mine, RATES))),
            Table(["calibration and ranking", "value", "95 % interval", "rows"], _rows(mine, _of(mine, OTHERS))),
            Svg(_points(found, column), f"Rates by {column} on {split}, with 95 % intervals"),
        ]
    return Section(f"Group fairness by {column}", blocks)


def _of(found: dict[str, Any], measures: Sequence[str]) -> list[str]:
    return [key for key in found if key.split("/")[0] in measures]


def _rows(found: dict[str, Any], keys: list[str]) -> list[tuple[Any, ...]]:
    return [(key, found[key].value, _interval(found[key]), found[key].n) for key in keys]


def _interval(metric: Any) -> str:
    return "undefined" if metric.low is None or metric.high is None else f"{metric.low:.3f} to {metric.high:.3f}"


def _points(found: dict[str, Any], column: str) -> str:
    rows = [
        (key, metric)
        for rate in DRAWN
        for key, metric in found.items()
        if key.split("/")[0] == rate and key.split("/")[1] == column and metric.low is not None
    ]
    height = ROW * len(rows) + 30
    span = WIDTH - LEFT - 20
    parts = [f'<svg viewBox="0 0 {WIDTH} {height}" role="img" xmlns="http://www.w3.org/2000/svg">']
    for tick in range(5):
        x = LEFT + span * tick / 4
        parts.append(f'<line x1="{x}" y1="6" x2="{x}" y2="{height - 22}" stroke="currentColor" opacity=".15"/>')
        parts.append(
            f'<text x="{x}" y="{height - 6}" font-size="11" text-anchor="middle" fill="currentColor">{tick / 4}</text>'
        )
    for place, (key, metric) in enumerate(rows):
        y = 18 + place * ROW
        name = key.replace(f"/{column}", "").replace("/", " ").replace("_", " ")
        low, mid, high = (LEFT + span * value for value in (metric.low, metric.value, metric.high))
        parts.append(
            f'<text x="{LEFT - 12}" y="{y + 4}" font-size="12" text-anchor="end" fill="currentColor">{escape(name)}</text>'
        )
        parts.append(f'<line x1="{low:.1f}" y1="{y}" x2="{high:.1f}" y2="{y}" stroke="currentColor" stroke-width="2"/>')
        parts.append(f'<circle cx="{mid:.1f}" cy="{y}" r="4.5" fill="currentColor"/>')
    return "".join([*parts, "</svg>"])
