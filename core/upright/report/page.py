"""report.html: one file that needs nothing from elsewhere and runs nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jinja2
import yaml

from upright.objects import Metric
from upright.report import pictures
from upright.report.tokens import coloured
from upright.report.view import View, view

HERE = Path(__file__).parent
SHOWN_ROWS = 12
"""Explained rows that are open; the others are folded."""


def render(folder: Path) -> str:
    """The page of a run folder; the same folder always gives the same page."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"number": number, "interval": interval, "percent": lambda x: f"{x:.1%}"}
    run = view(folder)
    return environment.get_template("report.html.j2").render(
        run=run,
        css=(HERE / "report.css").read_text(encoding="utf-8"),
        verdict_class={"met": "good", "violated": "bad", "insufficient evidence": "open"},
        pictures={split: pictures.intervals(run.headlines(split)) for split in run.splits},
        loss_curve=pictures.curve(run.training.get("curve", []), "train_loss", "Training loss by update"),
        score_curve=pictures.curve(run.training.get("curve", []), "score", "Validation score by update"),
        checked=pictures.checked,
        attributions=[
            _explained(key, entry) for key, entry in run.attributions.items() if entry["rows"] or entry["error"]
        ],
        dump=lambda value: yaml.safe_dump(value, sort_keys=False, allow_unicode=True).strip(),
        state=state_of(run),
    )


def number(value: Any) -> str:
    """Four significant digits; counts whole."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return "" if value is None else str(value)
    if isinstance(value, int) or (float(value).is_integer() and abs(value) < 1e15):
        return f"{int(value):,}"
    return f"{value:.4g}"


def interval(metric: Metric) -> str:
    """``low to high``, or that there is none."""
    if metric.low is None or metric.high is None:
        return "–"
    return f"{number(metric.low)} to {number(metric.high)}"


def state_of(run: View) -> tuple[str, str]:
    """What the page says of the whole, and the class that colours it."""
    if run.failed:
        return "failed: a step's evidence is missing", "bad"
    if any(v.judgement == "violated" for v in run.verdicts):
        return "a gate is violated", "bad"
    if any(v.judgement == "insufficient evidence" for v in run.verdicts):
        return "done; a gate has insufficient evidence", "open"
    return "done", "good"


def _explained(key: str, entry: dict[str, Any]) -> dict[str, Any]:
    """One explainer's rows with a colour for each token."""
    rows = [
        {**row, "tokens": coloured(row), "wrong": row["label"] is not None and row["label"] != row["decision"]}
        for row in entry["rows"]
    ]
    return {"key": key, **entry, "open": rows[:SHOWN_ROWS], "folded": rows[SHOWN_ROWS:]}
