"""``upright verify``: does a run folder say the truth about itself?"""

from __future__ import annotations

from typing import Annotated

import typer

from upright.commands.options import Folder, Json, print_json


def verify(
    run: Folder,
    run_code: Annotated[
        bool,
        typer.Option("--run-code", help="Run the in-house steps whose files the run brings along; read them first."),
    ] = False,
    as_json: Json = False,
) -> None:
    """Hash every file, derive every figure again from predictions and ledgers, judge the gates again.

    Ends with 5 and names the file where something differs. Shows integrity, not authenticity. Without its key a sealed run's
    figures are not derived again: the files are hashed, and that is said.
    """
    from upright.evidence.verify import verify as look

    found = look(run, run_code=run_code)
    if as_json:
        print_json(
            {
                "ok": found.exit_code == 0,
                "files": found.files,
                "figures": found.figures,
                "verdicts": found.verdicts,
                "attested": found.attested,
                "problems": found.problems,
                "unchecked": found.unchecked,
                "sealed": found.sealed,
            }
        )
        raise typer.Exit(found.exit_code)
    for problem in found.problems:
        typer.secho(problem, fg="red", err=True)
    for sentence in found.unchecked:
        typer.secho(f"not checked: {sentence}", fg="yellow", err=True)
    if found.sealed:
        typer.secho(f"not checked: figures were not derived again: {found.sealed}", fg="yellow", err=True)
    derived = "no figure derived again (sealed)" if found.sealed else f"{found.figures} figures derived again"
    told = f"{found.files} files hashed, {derived}, {found.verdicts} verdicts judged again"
    if found.attested:
        told += f"; {len(found.attested)} figures are attested and follow from nothing in the folder"
    state = "ok" if found.exit_code == 0 else "not ok" if found.problems else "incomplete"
    typer.echo(f"{run}: {state} ({told})")
    raise typer.Exit(found.exit_code)
