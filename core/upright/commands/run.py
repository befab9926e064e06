"""``upright run``: one run, from the data to the report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from upright.commands.options import STACK, Overrides, Stack


def run(
    stack: Stack = STACK,
    overrides: Overrides = None,
    resume: Annotated[
        Path | None,
        typer.Option(
            metavar="RUN", help="Go on in this run folder, from its newest checkpoint; STACK may be left out."
        ),
    ] = None,
    locked: Annotated[
        bool, typer.Option("--locked", help="Refuse any difference from lock.json beside the stack (`upright lock`).")
    ] = False,
) -> None:
    """Run a stack in a new folder under its `output`; print where the report is.

    Ends with 0, with 4 where a gate that blocks is violated, and with 1 where a step failed to give its evidence.
    """
    from upright.commands.report import summary
    from upright.engine.execute import execute
    from upright.evidence.lock import hold_environment, hold_stack, locked_beside
    from upright.progress import Progress, quiet_libraries
    from upright.report.view import view
    from upright.stack import Stack as Loaded

    if resume is not None:
        resume = resume.resolve()
        if stack == STACK and not overrides:
            stack = resume / "stack.resolved.yaml"
    lock = locked_beside(stack if stack.is_dir() else stack.parent) if locked else None
    if lock is not None:
        hold_environment(lock)
    loaded = Loaded.load(stack, overrides or [])
    loaded.require()
    if lock is not None:
        hold_stack(loaded, lock)
    quiet_libraries()
    try:
        with Progress() as progress:
            done = execute(loaded, resume=resume, listen=progress, locked=lock)
    except KeyboardInterrupt as error:
        folder = resume or Path(loaded.settings.output) / loaded.settings.name / "latest"
        typer.secho(f"interrupted; go on with `upright run --resume {folder}`", fg="red", err=True)
        raise typer.Exit(130) from error
    summary(view(done.folder))
    typer.echo(str(done.folder / "report.html"))
    raise typer.Exit(done.exit_code)
