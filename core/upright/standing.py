"""What an index of plugins says of distributions, where one is installed: entry point group ``upright.v1.index``.

The entry is a function of distribution names that returns None (no index at hand) or ``{"version": int, "key": str,
"steps": {"tune.my-method": dist}, "plugins": {dist: {"tier": str, "status": str, "maintainers": [str],
"versions": [str]}}}``; it reads what this
machine has and asks no network.
"""

from __future__ import annotations

from importlib import metadata
from typing import TYPE_CHECKING, Any

from upright import catalog
from upright.errors import PluginError, UprightError

if TYPE_CHECKING:
    from collections.abc import Sequence

TIERS = ("listed", "tested", "measured", "reviewed")
"""How much is known of a plugin; each includes the ones before."""


def offered_by(section: str, name: str) -> str | None:
    """The distribution that offers a step that is not installed, as far as an index says."""
    try:
        dist: str | None = standing([]).get("steps", {}).get(f"{section}.{name}")
        return dist
    except UprightError:
        return None  # the step is missing, whatever is wrong with the index


def standing(names: Sequence[str]) -> dict[str, Any]:
    """The index's version and key, and what it says of ``names``; empty where there is no index.

    Raises PluginError where who keeps the index cannot be asked, and what it raises of ours itself (an expired index).
    """
    offered = [entry for entry in catalog.installed() if entry.section == catalog.INDEX]
    if not offered:
        return {}
    entry = offered[0]
    if len(offered) > 1:
        who = " and ".join(f"{one.dist} {one.version}" for one in offered)
        raise PluginError(f"{who} both tell what an index says of plugins; uninstall one of them")
    try:
        asked = metadata.EntryPoint(entry.name, entry.value, catalog.PREFIX + catalog.INDEX).load()
        return asked(names) or {}
    except UprightError:
        raise
    except (Exception, SystemExit) as error:  # whatever a module raises, the plugin is what is broken
        raise PluginError(
            f"the index of {entry.dist} {entry.version} cannot be asked ({type(error).__name__}: {error}); "
            f"update or uninstall {entry.dist}"
        ) from error
