"""``upright plugins``: what is installed, and does it load?"""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from upright.commands.options import Json, print_json, table
from upright.errors import PluginError

if TYPE_CHECKING:
    from upright.catalog import Entry

LIMIT = 60
"""Seconds that one import may take."""

LOOK = """
import sys
from upright import catalog
section, name, dist = sys.argv[1:]
entry = next(e for e in catalog.installed() if (e.section, e.name, e.dist) == (section, name, dist))
try:
    catalog.load(entry)
except catalog.PluginError as error:
    sys.exit(str(error))
"""


def plugins(
    check: Annotated[bool, typer.Option("--check", help="Import each step in a process of its own.")] = False,
    as_json: Json = False,
) -> None:
    """List the installed steps by section, from metadata alone; nothing is imported without --check.

    With --check it ends with 3 where a step cannot be imported.
    """
    from upright import catalog

    found = catalog.steps()
    problems = _checked(found) if check else {}
    if as_json:
        states = {} if not check else {entry: problems.get(entry) for entry in found}
        print_json(
            [
                {"section": e.section, "name": e.name, "dist": e.dist, "version": e.version, "value": e.value}
                | ({"ok": states[e] is None, "problem": states[e]} if check else {})
                for e in found
            ]
        )
    elif not found:
        typer.echo("no steps are installed")
    else:
        header = ["section", "step", "distribution", "version"] + (["state"] if check else [])
        rows = [
            [e.section, e.name, e.dist, e.version]
            + ([f"broken: {problems[e]}" if e in problems else "ok"] if check else [])
            for e in found
        ]
        table(header, rows)
    if problems:
        raise typer.Exit(PluginError.exit_code)


def _checked(entries: list[Entry]) -> dict[Entry, str]:
    """Entry -> why it cannot be loaded."""
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        return {entry: why for entry, why in zip(entries, pool.map(_problem, entries), strict=True) if why}


def _problem(entry: Entry) -> str | None:
    try:
        done = subprocess.run(
            [sys.executable, "-c", LOOK, entry.section, entry.name, entry.dist],
            capture_output=True,
            text=True,
            timeout=LIMIT,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"its import took over {LIMIT} s"
    if done.returncode == 0:
        return None
    last = done.stderr.strip().split("\n")[-1]
    return last or f"the process ended with {done.returncode}"
