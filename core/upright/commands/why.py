"""``upright why``: one row's whole story."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from upright.commands.options import Folder, Json, RunCode, print_json, shown


def why(
    run: Folder,
    row: Annotated[
        str, typer.Argument(help="A row's id, the beginning of one, or <split>:<number>, such as train:17.")
    ],
    text: Annotated[bool, typer.Option("--text", help="Show the row's columns as its file holds them now.")] = False,
    run_code: RunCode = False,
    as_json: Json = False,
) -> None:
    """Tell what became of a row: where it came from, every decision on it and its reason, and what was predicted."""
    from upright.engine.history import history
    from upright.progress import quiet_libraries

    quiet_libraries()
    story = history(run, row, run_code=run_code)
    held = story.pop("text")
    if as_json:
        print_json({**story, "text": held} if text else story)
        return
    typer.secho(f"row {story['row_id']}", bold=True)
    if story["number"] is not None:
        typer.echo(f"  given as row {story['number']} of {story['split']}")
    elif story["parent"]:
        typer.echo(f"  added to {story['split']}; its parent is {story['parent']}")
    else:
        typer.echo(f"  in {story['split'] or 'no split'}; its source is not at hand: {story['source_missing']}")
    for line in story["decisions"]:
        typer.echo(f"  {_told(line, story['row_id'])}")
    if not story["decisions"]:
        typer.echo("  no cleaner decided anything")
    if story["evidence_for"]:
        typer.echo(f"  is the evidence for {len(story['evidence_for'])} decisions on other rows")
        for line in story["evidence_for"][:5]:
            typer.echo(f"    {line['cleaner']}: {line['action']} of {line['row_id']} ({line['reason']})")
    typer.echo(f"  {story['outcome']}")
    for found in story["predictions"]:
        score = f" (score {found['score']:.3f})" if "score" in found else ""
        typer.echo(f"  predicted in {found['split']}: {found['decision']}{score}; its label is {found['label']}")
    if text:
        typer.echo(f"  {shown(held)}")


def _told(line: dict[str, Any], row_id: str) -> str:
    what = line["action"] if line["row_id"] == row_id else f"add of {line['row_id']}"
    told = f"{line['cleaner']}: {what} ({line['reason']})"
    if line["score"] is not None:
        told += f", score {line['score']:.4g}"
    if line["threshold"] is not None:
        told += f" against {line['threshold']:.4g}"
    if line["evidence"]:
        told += f", shown by row {line['evidence']}"
    if line["spans"]:
        told += f", characters {', '.join(f'{start}-{end}' for start, end in line['spans'][:5])}"
    return told if line["status"] == "applied" else f"{told}: {line['status']}"
