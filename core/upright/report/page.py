"""report.html: one file that needs nothing from elsewhere and runs nothing."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import jinja2
import yaml
from markupsafe import Markup, escape

from upright.objects import Metric
from upright.report import pictures
from upright.report.coverage import coverage, read_headings
from upright.report.tokens import coloured
from upright.report.view import View, view

HERE = Path(__file__).parent
ASKED = {
    "purpose": "Purpose",
    "decision": "Decision",
    "intended_use": "Intended use",
    "out_of_scope": "Out of scope, limits",
    "oversight": "Human oversight",
    "contact": "Contact",
}
"""What the page tells of ``about``, in order; the criterion and the groups' origin stand with the groups."""
NOTHING = 1e-12
"""What is smaller is the rounding of a sum."""
SHORT = 24
"""Characters of a cell that are kept in one line."""
SHOWN_ROWS = 12
"""Explained rows that are open; the others are folded."""
TILES = 3
"""Gaps that are among the figures at the top."""


def render(folder: Path) -> str:
    """The page of a run folder; the same folder always gives the same page."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {
        "number": number,
        "signed": signed,
        "interval": interval,
        "percent": lambda x: f"{x:.1%}",
        "name_of": name_of,
        "numeric": numeric,
        "breakable": breakable,
    }
    run = view(folder)
    main = _main(run)
    return environment.get_template("report.html.j2").render(
        run=run,
        css=(HERE / "report.css").read_text(encoding="utf-8"),
        verdict_class={"met": "good", "violated": "bad", "insufficient evidence": "open"},
        pictures={split: pictures.intervals(split, run.headlines(split)) for split in run.splits},
        loss_curve=pictures.curve(run.training.get("curve", []), "train_loss", "Training loss by update"),
        score_curve=pictures.curve(_validated(run, main), "value", f"{name_of(main)} by update"),
        main=main,
        tiles=_tiles(run),
        tradeoff=_tradeoff(run),
        asked=ASKED,
        short=SHORT,
        installs=_installs(run),
        frameworks=coverage(run),
        headings_version=read_headings()["version"],
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
    if abs(value) < NOTHING:
        return "0"
    if isinstance(value, int) or (float(value).is_integer() and abs(value) < 1e15):
        return f"{int(value):,}"
    return f"{value:.4g}"


def signed(value: float) -> str:
    """Four significant digits with a sign."""
    return f"{value:+.4g}" if value else "0"


def name_of(key: str) -> str:
    """A figure's key in words: ``test/fairness/<step>/accuracy_parity_difference/sex`` is *test accuracy parity
    difference sex*."""
    split, *rest = key.split("/")
    return " ".join([split, *rest[2 if len(rest) > 2 else 0 :]]).replace("_", " ")


def breakable(text: str) -> Markup:
    """Lines may break behind each ``/`` and ``_``: keys of figures are longer than a phone is wide."""
    return Markup(re.sub(r"([/_])(?=\w)", r"\1<wbr>", str(escape(text))))


def numeric(table: dict[str, Any]) -> set[int]:
    """The columns of a step's table that hold nothing but numbers."""
    columns = zip(*table["rows"], strict=False)
    return {place for place, cells in enumerate(columns) if all(isinstance(cell, (int, float)) for cell in cells)}


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


def _main(run: View) -> str:
    """The key of validation's main figure; empty without one."""
    return next(iter(run.headlines("validation")), "")


def _validated(run: View, key: str) -> list[dict[str, Any]]:
    """The main figure at each evaluation."""
    curve = [point for point in run.training.get("curve", []) if point.get("validation")]
    return [{"update": point["update"], "value": point["validation"].get(key)} for point in curve]


def _tiles(run: View) -> dict[str, Metric]:
    """The figures at the top: of the tests (without any, of validation), and what gates look at."""
    splits = run.tests or run.splits
    shown = {key: metric for split in splits[:2] for key, metric in run.headlines(split).items()}
    shown = {key: metric for key, metric in shown.items() if not key.endswith("/loss")}
    return shown | dict(list(run.gaps.items())[:TILES])


def _tradeoff(run: View) -> dict[str, str]:
    """A gap and the main test figure of this run and of each beside it that has both, as a picture with its axes."""
    gap = next(iter(run.gaps), "")
    main = next(iter(run.headlines(gap.split("/")[0])), "") if gap else ""
    points = []
    for other in run.beside if main else []:
        if gap in other["figures"] and main in other["figures"]:
            points.append((other["name"], *(Metric.from_json(other["figures"][key]) for key in (gap, main))))
    if points:
        points.append((f"{run.settings['name']} (this run)", run.metrics[gap], run.metrics[main]))
    across, up = name_of(gap), name_of(main)
    return {"across": across, "up": up, "picture": pictures.tradeoff(across, up, points)}


def _installs(run: View) -> str:
    """The distributions of the run's steps at their versions, as pip reads them."""
    steps = {step["dist"]: step["version"] for step in run.lock["steps"] if step["dist"]}
    there = run.lock["distributions"]
    return " ".join(f"{name}=={version}" for name, version in {"upright": there["upright"]["version"], **steps}.items())


def _explained(key: str, entry: dict[str, Any]) -> dict[str, Any]:
    """One explainer's rows with a colour for each token."""
    rows = [
        {**row, "tokens": coloured(row), "wrong": row["label"] is not None and row["label"] != row["decision"]}
        for row in entry["rows"]
    ]
    return {"key": key, **entry, "open": rows[:SHOWN_ROWS], "folded": rows[SHOWN_ROWS:]}
