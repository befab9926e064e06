"""What the index that was seen last says of distributions; Upright's locks and policies ask (`upright.v1.index`)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence


def seen(names: Sequence[str]) -> dict[str, Any] | None:
    """Version, key and steps of the index, and tier, status, maintainers and releases of each named plugin; None without one.

    Raises IntegrityError where it has expired or was changed. Asks no network.
    """
    from upright_registry.trust import key_id, last_seen

    index = last_seen()
    if index is None:
        return None
    named = {name: plugin for name in names if (plugin := index.find(name)) is not None}
    return {
        "version": index.version,
        "key": key_id(),
        "steps": {
            f"{kind}.{name}": plugin.dist
            for plugin in index.plugins
            if plugin.status == "ok"
            for kind, names in plugin.steps.items()
            for name in names
        },
        "plugins": {
            name: {
                "tier": str(plugin.tier),
                "status": plugin.status,
                "maintainers": list(plugin.maintainers),
                "versions": [release.version for release in plugin.releases],
            }
            for name, plugin in named.items()
        },
    }
