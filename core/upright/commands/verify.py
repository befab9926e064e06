"""``upright verify``: does a run folder say the truth about itself?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from upright.commands.options import Folder, Json, RunCode, print_json


def verify(
    run: Folder,
    run_code: RunCode = False,
    env: Annotated[
        bool, typer.Option("--env", help="Look at the installed distributions instead, against RUN/lock.json.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Hash every file, derive every figure again from predictions and ledgers, judge the gates again.

    Ends with 5 and names the file where something differs. Shows integrity, not authenticity. Without its key a sealed run's
    figures are not derived again: the files are hashed, and that is said.

    With --env, RUN is a run's folder or a stack's: every installed file of every distribution in its lock.json is hashed
    again. Compiled files (.pyc) are not looked at.
    """
    if env:
        raise typer.Exit(_environment(run, as_json))
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


def _environment(folder: Path, as_json: bool) -> int:
    """Say what of the environment is not what the lock says; the exit code."""
    from upright.errors import IntegrityError
    from upright.evidence.environment import changed_files, differences
    from upright.evidence.lock import locked_beside

    locked = locked_beside(folder)["distributions"]
    files, problems = changed_files(list(locked))
    problems = differences(locked) + problems
    if as_json:
        print_json({"ok": not problems, "distributions": len(locked), "files": files, "problems": problems})
    else:
        for problem in problems:
            typer.secho(problem, fg="red", err=True)
        typer.echo(
            f"{folder}: {'not ok' if problems else 'ok'} ({len(locked)} distributions, {files} installed files hashed)"
        )
    return IntegrityError.exit_code if problems else 0
