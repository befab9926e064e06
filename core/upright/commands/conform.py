"""``upright conform``: does a step keep the contract?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from upright.commands.options import Json, print_json
from upright.errors import ConfigError, PluginError

if TYPE_CHECKING:
    from upright.step import Step
    from upright.testing import Outcome

COLOURS = {"passed": "green", "failed": "red", "skipped": None, "expected": "yellow"}


def conform(
    target: Annotated[
        str, typer.Argument(metavar="TARGET", help="An installed distribution or step, or file.py:Step.")
    ],
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="[STEP.]KEY=VALUE", help="A setting of the step, such as rank=2."),
    ] = None,
    expect: Annotated[
        list[str] | None,
        typer.Option("--expect", metavar="CHECK=REASON", help="A check that is expected to fail, and why."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Make every check of the conformance kit on tiny models, one line a check. Seconds to a minute for each step.

    Ends with 1 where a check fails that was not expected to, with 3 where a step is missing or broken.
    """
    from upright.progress import quiet_libraries
    from upright.testing import conform as look
    from upright.testing.kit import CHECKS

    expected = {name: reason for name, _, reason in (one.partition("=") for one in expect or [])}
    for name, reason in expected.items():
        if name not in CHECKS or not reason:
            raise ConfigError(f"--expect {name}: is not CHECK=REASON with one of the checks {', '.join(CHECKS)}")
    steps = _steps(target, settings or [])
    quiet_libraries()
    found = []
    for section, step in steps:
        if not as_json:
            typer.secho(f"{section or ''}{'.' if section else ''}{type(step).__name__} {step!s}".rstrip(), bold=True)
        found.append(look(step, section=section, expected_failures=expected, listen=None if as_json else _tell))
    if as_json:
        print_json([one.to_json() for one in found])
    else:
        failed = sum(outcome.status == "failed" for one in found for outcome in one.outcomes)
        typer.echo(f"{target}: {'ok' if not failed else f'{failed} checks failed'}")
    raise typer.Exit(0 if all(one.ok for one in found) else 1)


def _tell(outcome: Outcome) -> None:
    typer.secho(f"  {outcome.status:8} {outcome.check}: {outcome.detail}", fg=COLOURS[outcome.status])


def _steps(target: str, assignments: list[str]) -> list[tuple[str | None, Step]]:
    """(section, step) of what ``target`` names. Raises PluginError for what cannot be had, ConfigError for settings."""
    from upright import catalog, local

    if local.is_local(target):
        found, path = local.find(target, Path.cwd(), target)
        return [(None, _made(found.name, local.load(found, path, target), assignments))]
    entries = [
        entry for entry in catalog.steps() if target in (entry.dist, entry.name, f"{entry.section}.{entry.name}")
    ]
    if not entries:
        raise PluginError(f"{target}: no such distribution or step is installed; `upright plugins` lists what is")
    return [(entry.section, _made(entry.name, catalog.load(entry, target), assignments)) for entry in entries]


def _made(name: str, kind: type[Step], assignments: list[str]) -> Step:
    from pydantic import ValidationError

    from upright.document import scalar

    settings: dict[str, Any] = {}
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        step, dot, setting = key.rpartition(".")
        if not equals:
            raise ConfigError(f"--set {assignment}: is not of the form [STEP.]KEY=VALUE")
        if not dot or step == name:
            settings[setting] = scalar(text)
    try:
        return kind.model_validate(settings)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise ConfigError(f"{name}.{place}: {first['msg'].lower()}; give it with --set {name}.{place}=VALUE") from error
