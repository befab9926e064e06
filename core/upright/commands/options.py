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


def print_json(content: Any) -> None:
    """JSON on standard output."""
    typer.echo(json.dumps(content, indent=2, ensure_ascii=False))


def table(header: list[str], rows: list[list[str]]) -> None:
    """Aligned columns on standard output, without a frame, so that they can be piped."""
    widths = [max(len(row[place]) for row in [header, *rows]) for place in range(len(header))]
    for number, row in enumerate([header, *rows]):
        line = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        typer.secho(line, bold=number == 0)
