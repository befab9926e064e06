"""``upright registry install``: pip resolves, fetches and installs; between, everything that would come is looked at."""

from __future__ import annotations

import json
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from importlib import metadata
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from upright import catalog
from upright.errors import ConfigError, IntegrityError, PluginError
from upright_registry.index import Index
from upright_registry.plugin import CONTRACT, Plugin, Release
from upright_registry.wheel import Wheel, hold_to, wheel


def install(
    index: Index,
    wanted: str,
    confirm: Callable[[list[Wheel]], bool],
    find_links: Sequence[str] = (),
    no_index: bool = False,
    allow_sdist: bool = False,
) -> list[Wheel]:
    """Install a plugin (``upright-x`` or ``upright-x==1.2.0``) and what it needs into this environment.

    ``confirm`` is shown the wheels after every check, before anything is installed. What is installed is the very files
    that were looked at; an empty list says that all is there already, or was not wanted. Raises ConfigError, PluginError,
    IntegrityError; nothing is installed then.
    """
    plugin, release, extras = chosen(index, wanted)
    sources = [part for link in find_links for part in ("--find-links", link)] + (["--no-index"] if no_index else [])
    binary = ",".join(one.dist for one in index.plugins) if allow_sdist else ":all:"
    pip = partial(_pip, wanted, [*sources, "--only-binary", binary])
    with tempfile.TemporaryDirectory(prefix="upright-registry-") as folder:
        first, others, report = Path(folder) / "plugin", Path(folder) / "others", Path(folder) / "report.json"
        pip("wheel", "--no-deps", "--wheel-dir", str(first), f"{plugin.dist}=={release.version}")
        (path,) = first.iterdir()
        hold_to(release, plugin, wheel(path))  # before pip follows what the wheel says that it needs
        extra = f"[{','.join(sorted(extras))}]" if extras else ""
        pip("install", "--dry-run", "--report", str(report), f"{path}{extra}")
        coming = _coming(report)
        rest = [f"{dist}=={version}" for dist, version in coming.items() if dist != plugin.dist]
        if rest:
            pip("wheel", "--no-deps", "--wheel-dir", str(others), *rest)
        files = ([path] if plugin.dist in coming else []) + (sorted(others.iterdir()) if rest else [])
        wheels = [wheel(file) for file in files]
        if not wheels:
            return []
        _look(index, wheels)
        if not confirm(wheels):
            return []
        pip("install", "--no-deps", *(str(file) for file in files))
    return wheels


def chosen(index: Index, wanted: str) -> tuple[Plugin, Release, set[str]]:
    """The plugin, its newest fitting release of this contract, and the extras. Raises ConfigError, PluginError."""
    try:
        asked = Requirement(wanted)
        if asked.url or asked.marker:
            raise InvalidRequirement("an address or a marker")
    except InvalidRequirement as error:
        raise ConfigError(f"{wanted}: is no name of a plugin; write upright-x or upright-x==1.2.0") from error
    plugin = index.find(asked.name)
    if plugin is None:
        offer = [p.dist for p in index.plugins for names in p.steps.values() if asked.name in names]
        hint = f"{offer[0]} offers a step of that name" if offer else "`upright registry search` lists all"
        raise PluginError(f"{asked.name}: is no plugin of the index ({hint}); name a distribution that is in it")
    _refuse_quarantined(plugin)
    fitting = [release for release in plugin.releases if Version(release.version) in asked.specifier]
    if not fitting:
        known = ", ".join(release.version for release in plugin.releases) or "none"
        raise PluginError(f"{wanted}: the index has no such release (it has {known}); name another")
    kept = [release for release in fitting if release.contract == CONTRACT]
    if not kept:
        raise PluginError(
            f"{wanted}: its releases are of contract {fitting[-1].contract}, this Upright keeps {CONTRACT}; "
            f"take another version of one of them"
        )
    return plugin, max(kept, key=lambda release: Version(release.version)), asked.extras


def _refuse_quarantined(plugin: Plugin) -> None:
    if plugin.status == "quarantined":
        raise PluginError(f"{plugin.dist}: is quarantined ({plugin.reason}); do not install it")


def _look(index: Index, wheels: list[Wheel]) -> None:
    """Every check of what would come, beside what is installed. Raises PluginError, IntegrityError."""
    coming: set[str] = {found.dist for found in wheels}
    owners = {
        point.name: canonicalize_name(point.dist.name)
        for group in ("console_scripts", "gui_scripts")
        for point in metadata.entry_points(group=group)
        if point.dist is not None
    }
    steps = {(entry.section, entry.name): canonicalize_name(entry.dist) for entry in catalog.installed()}
    programs = Path(sysconfig.get_path("scripts"))
    taken: dict[object, str] = {}
    for found in wheels:
        plugin = index.find(found.dist)
        if plugin is not None:
            _refuse_quarantined(plugin)
            release = next((one for one in plugin.releases if one.version == found.version), None)
            if release is None:
                raise IntegrityError(f"{found.path.name}: is no release of the index; do not install it")
            hold_to(release, plugin, found)
        elif found.ours:
            raise PluginError(f"{found.path.name}: offers steps to Upright but is not in the index; do not install it")
        for script in sorted(found.scripts):
            before = owners.get(script, "this environment" if (programs / script).exists() else None)
            _refuse_taken(found, f"command {script!r}", taken.setdefault(script, found.dist), before, coming)
        for _, kind, name in found.ours:
            before = steps.get((kind, name))
            _refuse_taken(found, f"{kind}.{name}", taken.setdefault((kind, name), found.dist), before, coming)


def _refuse_taken(found: Wheel, what: str, now: str, before: str | None, coming: set[str]) -> None:
    """``now`` is who brings it first of what comes, ``before`` who has it in the environment."""
    other = now if now != found.dist else before
    if other is not None and (other == now != found.dist or other not in coming):
        raise PluginError(f"{found.path.name}: its {what} is one of {other} already; take one of them only")


def _coming(report: Path) -> dict[str, str]:
    """Distribution -> version that pip would install."""
    items = [item["metadata"] for item in json.loads(report.read_bytes())["install"]]
    return {canonicalize_name(item["name"]): item["version"] for item in items}


def _pip(told: str, options: list[str], command: str, *arguments: str) -> None:
    """pip of this environment, with the user's own configuration. Raises PluginError with what it said last."""
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pip",
            "--quiet",
            "--disable-pip-version-check",
            "--no-input",
            command,
            *options,
            *arguments,
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or done.stderr.splitlines()
        raise PluginError(
            f"{told}: pip {command} failed ({' '.join(said).strip()}); sources are what pip is set up for, and --find-links; "
            f"sdists count with --allow-sdist only"
        )
