"""``upright check``: is the stack one that can be run?"""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from upright.commands.options import STACK, Json, Overrides, Stack, print_json
from upright.errors import ConfigError, UprightError

if TYPE_CHECKING:
    from upright import stack


def check(stack: Stack = STACK, overrides: Overrides = None, as_json: Json = False) -> None:
    """Check a stack file: settings, steps, what goes with what, files. Takes milliseconds and loads no model."""
    from upright.stack import Stack as Loaded

    try:
        loaded = Loaded.load(stack, overrides or [])
        loaded.require()
        missing = _missing(loaded)
        if missing:
            raise ConfigError(missing)
    except UprightError as error:
        if as_json:
            print_json({"ok": False, "problems": str(error).split("\n"), "exit_code": error.exit_code})
            raise typer.Exit(error.exit_code) from error
        raise
    steps = [
        {
            "section": placed.section,
            "key": placed.key,
            "use": placed.use,
            **placed.origin,
        }
        for placed in loaded.steps
    ]
    if as_json:
        print_json({"ok": True, "name": loaded.settings.name, "steps": steps, "private": loaded.private})
        return
    typer.echo(f"{loaded.source}: ok, {len(steps)} steps{' (private)' if loaded.private else ''}")
    for placed in loaded.steps:
        typer.echo(f"  {placed}  ({placed.told_origin})")


def _missing(loaded: stack.Stack) -> list[str]:
    """Data files that are not there."""
    data = loaded.settings.data
    tests = data.test if isinstance(data.test, dict) else {"": data.test}
    named: list[tuple[tuple[str, ...], str | None]] = [(("train",), data.train), (("validation",), data.validation)]
    named += [(("test", name) if name else ("test",), file) for name, file in tests.items()]
    return [
        f"{loaded.where('data', *path)}  data.{'.'.join(path)}: there is no file {file}; correct the path"
        for path, file in named
        if file and not file.startswith("hf:") and not (loaded.root / file).expanduser().exists()
    ]
