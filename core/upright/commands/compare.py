"""``upright compare``: what differs between two runs?"""

from __future__ import annotations

import typer

from upright.commands.options import Folder, Json, print_json, table
from upright.errors import ConfigError


def compare(one: Folder, other: Folder, as_json: Json = False) -> None:
    """Show settings and figures that differ between two runs, and whether their intervals meet."""
    from upright.report.changes import beyond_chance, figure_changes, setting_changes
    from upright.report.page import interval, number
    from upright.report.view import view

    for run in (one, other):
        if not (run / "metrics.json").is_file():
            raise ConfigError(
                f"{run}: is no finished run (it has no metrics.json); name one, such as runs/<name>/latest"
            )
    first, second = view(one), view(other)
    settings = setting_changes(first.settings, second.settings)
    figures = list(figure_changes(first.metrics, second.metrics))
    if as_json:
        print_json(
            {
                "settings": settings,
                "figures": {
                    key: {"one": a.to_json() if a else None, "other": b.to_json() if b else None}
                    for key, a, b in figures
                },
            }
        )
        return
    for line in settings:
        typer.echo(line.replace("`", ""))
    rows = [
        [
            key,
            number(a.value) if a else "–",
            interval(a) if a else "–",
            number(b.value) if b else "–",
            interval(b) if b else "–",
            "yes" if a and b and beyond_chance(a, b) else "",
        ]
        for key, a, b in figures
    ]
    if rows:
        table(["figure", "one", "95 %", "other", "95 %", "apart"], rows)
    if not rows and not settings:
        typer.echo("the runs have the same settings and figures")
