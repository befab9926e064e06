"""The audit's part of the report: rates of each group as a table and as points with intervals."""

from __future__ import annotations

from html import escape
from typing import Any

from upright import Run, Section
from upright.objects import Svg, Table, Text

SHOWN = ("true_positive_rate", "false_positive_rate", "selection_rate")
WIDTH, LEFT, ROW = 640, 230, 26


def section(step: Any, run: Run, column: str) -> Section:
    """Tables of gaps and group rates, and a picture, for one sensitive column."""
    home = run.home(step)
    splits = sorted({key.split("/")[0] for key in run.metrics} - {"train", "validation", "run"}) or ["validation"]
    blocks: list[Any] = []
    for split in splits:
        prefix = f"{split}/{home}/"
        found = {key.removeprefix(prefix): m for key, m in run.metrics.items() if key.startswith(prefix)}
        gaps = [
            (key, metric.value, _interval(metric), metric.n)
            for key, metric in found.items()
            if key.split("/")[0].endswith(("_difference", "_ratio")) and key.split("/")[1] == column
        ]
        groups = [
            (key, metric.value, _interval(metric), metric.n)
            for key, metric in found.items()
            if key.split("/")[0] in (*SHOWN, "accuracy") and key.split("/")[1] == column
        ]
        missing = found.get(f"missing/{column}")
        blocks += [
            Text(
                f"Split {split}. Intervals are 95 %; those of gaps hold for all pairs of groups at once. "
                f"Rows without a value of {column}: {int(missing.value) if missing else 0} of {missing.n if missing else 0}."
            ),
            Table(["gap or ratio", "value", "95 % interval", "rows in the smallest cell"], gaps),
            Table(["rate", "value", "95 % interval", "rows"], groups),
            Svg(_points(found, column), f"Rates by {column} on {split}, with 95 % intervals"),
        ]
    return Section(f"Group fairness by {column}", blocks)


def _interval(metric: Any) -> str:
    return "undefined" if metric.low is None or metric.high is None else f"{metric.low:.3f} to {metric.high:.3f}"


def _points(found: dict[str, Any], column: str) -> str:
    rows = [
        (key, metric)
        for rate in SHOWN
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
