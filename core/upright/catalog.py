"""What is installed: entry points of the groups ``upright.v1.<section>``, read from metadata; nothing is imported."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from typing import TYPE_CHECKING

from upright.errors import PluginError

if TYPE_CHECKING:
    from upright.step import Step

PREFIX = "upright.v1."
COMMANDS = "command"
"""The group whose entries are commands, not steps."""
INDEX = "index"
"""The group whose entry tells what an index says of plugins (`upright.standing`)."""


@dataclass(frozen=True)
class Entry:
    """One installed step as its distribution's metadata describes it; ``value`` is ``module:Class``."""

    section: str
    name: str
    dist: str
    version: str
    value: str


@cache
def installed() -> tuple[Entry, ...]:
    """Every entry point of ours, sorted by section and name; commands included."""
    points = metadata.entry_points()
    found = {
        Entry(group.removeprefix(PREFIX), point.name, point.dist.name, point.dist.version, point.value)
        for group in points.groups
        if group.startswith(PREFIX)
        for point in points.select(group=group)
        if point.dist is not None
    }
    return tuple(sorted(found, key=lambda entry: (entry.section, entry.name, entry.dist)))


def steps() -> list[Entry]:
    """Every installed step."""
    return [entry for entry in installed() if entry.section not in (COMMANDS, INDEX)]


def find(section: str, name: str, where: str = "") -> Entry:
    """The entry of ``use: name`` in a section. Raises PluginError: not installed, or offered twice."""
    from upright.standing import offered_by

    told = f"{where}  {section}" if where else section
    offered = [entry for entry in steps() if entry.section == section]
    matches = [entry for entry in offered if entry.name == name]
    if len(matches) == 1:
        return matches[0]
    if matches:
        who = " and ".join(f"{entry.dist} {entry.version}" for entry in matches)
        raise PluginError(f"{told}: {who} both offer {name!r}; uninstall one of them")
    elsewhere = next((entry for entry in steps() if entry.name == name), None)
    dist = offered_by(section, name)
    if dist is not None:
        raise PluginError(f"{told}: no step {name!r} is installed; {dist} offers it: `upright registry install {dist}`")
    near = difflib.get_close_matches(name, [entry.name for entry in offered], n=1)
    if near:
        hint = f"did you mean {near[0]!r}?"
    elif elsewhere:
        hint = f"{elsewhere.dist} offers it in the section `{elsewhere.section}`"
    elif offered:
        hint = f"installed are {', '.join(entry.name for entry in offered)}"
    else:
        hint = "no step of this section is installed"
    raise PluginError(f"{told}: no step {name!r} is installed ({hint}); install its distribution or correct the name")


def load(entry: Entry, where: str = "") -> type[Step]:
    """Import one step. Raises PluginError with distribution, version and cause."""
    from upright.step import Step

    told = f"{where}  " if where else ""
    who = f"{entry.section}.{entry.name} of {entry.dist} {entry.version}"
    try:
        found = metadata.EntryPoint(entry.name, entry.value, PREFIX + entry.section).load()
    except (Exception, SystemExit) as error:  # whatever a module raises while imported, the plugin is what is broken
        cause = f"{type(error).__name__}: {error}".strip().split("\n")[0]
        raise PluginError(f"{told}{who} cannot be imported ({cause}); update or uninstall {entry.dist}") from error
    if not (isinstance(found, type) and issubclass(found, Step)):
        raise PluginError(f"{told}{who}: {entry.value} is no Step; tell the authors of {entry.dist}")
    return found
