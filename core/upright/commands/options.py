"""Arguments that several commands share."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

Stack = Annotated[Path, typer.Argument(help="The stack file, or the folder that holds stack.yaml.")]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a setting, such as train.epochs=1; the last one wins."),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
RunCode = Annotated[
    bool, typer.Option("--run-code", help="Run the in-house steps that the run's folder brings along; read them first.")
]
Folder = Annotated[Path, typer.Argument(help="A run folder, such as runs/<name>/latest.")]

STACK = Path("stack.yaml")
WIDTH = 100
"""Characters of a row that are shown."""


def print_json(content: Any) -> None:
    """JSON on standard output."""
    typer.echo(json.dumps(content, indent=2, ensure_ascii=False))


def table(header: list[str], rows: list[list[str]]) -> None:
    """Aligned columns on standard output, without a frame, so that they can be piped."""
    widths = [max(len(row[place]) for row in [header, *rows]) for place in range(len(header))]
    for number, row in enumerate([header, *rows]):
        line = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        typer.secho(line, bold=number == 0)


def shown(row: dict[str, Any] | None) -> str | None:
    """A row's columns in one short line."""
    if row is None:
        return None
    words = [
        f"{name}: {' '.join(value) if isinstance(value, list) else value}"
        for name, value in row.items()
        if name not in ("row_id", "unit") and value is not None and not isinstance(value, (bytes, dict))
    ]
    line = " | ".join(words).replace("\n", " ")
    return line if len(line) <= WIDTH else line[: WIDTH - 1] + "…"
