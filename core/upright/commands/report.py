"""``upright report``: how a run ended."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import typer

from upright.commands.options import Folder, Json, print_json
from upright.errors import ConfigError

if TYPE_CHECKING:
    from upright.report.view import View

COLOURS = {"met": "green", "violated": "red", "insufficient evidence": "yellow"}


def report(run: Folder, as_json: Json = False) -> None:
    """Show a run's state, figures and gates, and where its report is."""
    from upright.evidence.status import read_status
    from upright.report.view import view

    status = read_status(run)
    if not (run / "status.json").is_file():
        raise ConfigError(f"{run}: is no run folder (it has no status.json); name one, such as runs/<name>/latest")
    finished = (run / "manifest.json").is_file() and (run / "report.html").is_file()
    if not finished:
        told = {"run": str(run), **status}
        if as_json:
            print_json(told)
        else:
            typer.echo(f"{run}: {status['state']}{': ' + status['error'] if status.get('error') else ''}")
        return
    found = view(run)
    if as_json:
        print_json({"run": str(run), **as_data(found), "report": str(run.resolve() / "report.html")})
        return
    summary(found)
    typer.echo(str(run.resolve() / "report.html"))


def as_data(found: View) -> dict[str, Any]:
    """A finished run as plain data."""
    return {
        **found.status,
        "metrics": {key: metric.to_json() for key, metric in found.metrics.items()},
        "gates": [{"gate": v.gate, "judgement": v.judgement, "sentence": v.sentence} for v in found.verdicts],
        "failed": found.failed,
    }


def summary(found: View) -> None:
    """Headline figures, epsilons, gates and failures as lines on standard output."""
    from upright.report.page import interval, number

    for split in found.splits:
        for key, metric in found.headlines(split).items():
            typer.echo(
                f"{key.replace('/', ' ')}: {number(metric.value)}  ({interval(metric)}, {number(metric.n)} rows)"
            )
    for key in found.promises:
        typer.echo(f"{key}: {number(found.metrics[key].value)}")
    for verdict in found.verdicts:
        typer.secho(f"gate {verdict.gate}: {verdict.judgement}. {verdict.sentence}", fg=COLOURS[verdict.judgement])
    for sentence in found.failed:
        typer.secho(f"failed: {sentence}", fg="red")
