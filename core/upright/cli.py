"""The command line. What other distributions add through the group ``upright.v1.command`` is loaded when it is called."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import typer

from upright.commands.check import check
from upright.commands.clean import clean
from upright.commands.compare import compare
from upright.commands.conform import conform
from upright.commands.init import init
from upright.commands.lock import lock
from upright.commands.new import new
from upright.commands.plan import plan
from upright.commands.plugins import plugins
from upright.commands.report import report
from upright.commands.run import run
from upright.commands.schema import schema
from upright.commands.verify import verify
from upright.commands.why import why
from upright.errors import PluginError, UprightError

if TYPE_CHECKING:
    from upright.catalog import Entry

COMMANDS = (init, check, plan, lock, clean, run, why, report, compare, verify, plugins, schema, new, conform)
EPILOG = (
    "Exit codes: 0 ok, 1 failed, 2 config, 3 plugin missing or broken, 4 a gate failed, 5 integrity, 130 interrupted."
)


def main() -> None:
    """Run the command line; an error that is ours is told in its own sentence and ends with its own code."""
    try:
        make_app()()
    except UprightError as error:
        typer.secho(str(error), fg="red", err=True)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        typer.secho("interrupted", fg="red", err=True)
        sys.exit(130)


def make_app() -> typer.Typer:
    """Core's commands and the installed ones."""
    from upright import catalog

    app = typer.Typer(
        name="upright",
        help="Adapt foundation models responsibly: a stack of plugins, one honest run, evidence that can be verified.",
        epilog=EPILOG,
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback(invoke_without_command=True)(_version_option)
    for command in COMMANDS:
        app.command()(command)
    own = {command.__name__ for command in COMMANDS}
    for entry in catalog.installed():
        if entry.section == catalog.COMMANDS and entry.name not in own:
            _add(app, entry)
    return app


def _version_option(
    version: bool = typer.Option(False, "--version", help="Print the version and exit.", is_eager=True),
) -> None:
    if version:
        from upright import __version__

        typer.echo(f"upright {__version__}")
        raise typer.Exit


def _add(app: typer.Typer, entry: Entry) -> None:
    """A command of another distribution: a function of the remaining arguments that returns an exit code."""
    options = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}

    @app.command(name=entry.name, help=f"From {entry.dist} {entry.version}.", context_settings=options)
    def call(context: typer.Context) -> None:
        from importlib import metadata

        try:
            function = metadata.EntryPoint(entry.name, entry.value, "upright.v1.command").load()
        except Exception as error:  # whatever a module raises while it is imported, the plugin is what is broken
            raise PluginError(
                f"the command {entry.name!r} of {entry.dist} {entry.version} cannot be imported "
                f"({type(error).__name__}: {error}); update or uninstall {entry.dist}"
            ) from error
        raise typer.Exit(function(context.args) or 0)
