"""``upright registry``: find, install and publish plugins by a signed index."""

from __future__ import annotations

import argparse
import json
import sys
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from upright.errors import ConfigError

if TYPE_CHECKING:
    from upright_registry.index import Index
    from upright_registry.plugin import Plugin
    from upright_registry.wheel import Wheel

EPILOG = """
The index is --index, else UPRIGHT_REGISTRY_INDEX, else ~/.config/upright/registry/index.json; a file or an https URL.
The key that you trust is --key, else UPRIGHT_REGISTRY_KEY, else ~/.config/upright/registry/key.pem.
A plugin runs with your rights: nothing here is a sandbox.

Exit codes: 0 ok, 1 not wanted, 2 config, 3 a plugin is missing or refused, 5 the index or a wheel is not what was signed.
"""


def registry(arguments: list[str]) -> int:
    """The command: arguments as after ``upright registry``; returns the exit code. Errors are those of upright.errors."""
    asked = _parser().parse_args(arguments)
    code: int = asked.call(asked)
    return code


def _parser() -> argparse.ArgumentParser:
    form: dict[str, Any] = {"formatter_class": argparse.RawDescriptionHelpFormatter, "allow_abbrev": False}
    parser = argparse.ArgumentParser(
        prog="upright registry", description="Find and install plugins from a signed index.", epilog=EPILOG, **form
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    source = argparse.ArgumentParser(add_help=False)
    source.add_argument("--index", metavar="FILE|URL", help="the signed index")
    source.add_argument("--key", type=Path, metavar="PEM", help="the public key that you trust")
    listing = argparse.ArgumentParser(add_help=False)
    listing.add_argument("--json", action="store_true", help="machine-readable output")

    def add(name: str, call: Any, told: str, *parents: argparse.ArgumentParser) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=told, description=told, parents=parents, **form)
        command.set_defaults(call=call)
        return command

    search = add("search", _search, "List the plugins in which every word occurs.", source, listing)
    search.add_argument("words", nargs="*", metavar="WORD", help="of a name, summary, kind, step or tier; none: all")
    info = add("info", _info, "Tell what the index knows of a plugin.", source, listing)
    info.add_argument("plugin", metavar="PLUGIN")
    add("outdated", _outdated, "List installed plugins with a newer release, or that are not ok.", source, listing)
    install = add("install", _install, "Install a plugin by pip, after every check.", source)
    install.add_argument("plugin", metavar="PLUGIN", help="upright-x or upright-x==1.2.0")
    install.add_argument(
        "--find-links", action="append", default=[], metavar="DIR", help="a wheelhouse, as pip takes it"
    )
    install.add_argument("--no-index", action="store_true", help="look in --find-links only: no network")
    install.add_argument("--allow-sdist", action="store_true", help="let pip build dependencies, which runs their code")
    install.add_argument("--dry-run", action="store_true", help="show what would come, install nothing")
    install.add_argument("--yes", action="store_true", help="do not ask")
    build = add("build", _build, "Write a signed index.json and a page index.html of a folder of plugins' files.")
    build.add_argument("folder", type=Path, metavar="FOLDER", help="of <dist>.toml files")
    build.add_argument("--key", type=Path, required=True, metavar="PEM", help="the private Ed25519 key")
    build.add_argument("--into", type=Path, required=True, metavar="FOLDER", help="where to write")
    build.add_argument("--days", type=int, default=30, help="until the index expires (default 30)")
    build.add_argument("--version", type=int, help="default: one more than that of the index that is there")
    return parser


def _index(asked: argparse.Namespace) -> Index:
    from upright_registry.trust import trusted

    return trusted(asked.index, asked.key)


def _search(asked: argparse.Namespace) -> int:
    from upright_registry.page import words

    sought = [word.lower() for word in asked.words]
    found = [plugin for plugin in _index(asked).plugins if all(word in words(plugin) for word in sought)]
    if not found and not asked.json:
        print("no plugin has all of these words")
    elif asked.json:
        print(json.dumps([plugin.model_dump(mode="json") for plugin in found], indent=2))
    else:
        _table([[p.dist, p.newest.version if p.newest else "-", p.tier, p.status, p.summary] for p in found])
    return 0


def _info(asked: argparse.Namespace) -> int:
    from upright.errors import PluginError

    plugin = _index(asked).find(asked.plugin)
    if plugin is None:
        raise PluginError(f"{asked.plugin}: is no plugin of the index; `upright registry search` lists all")
    if asked.json:
        print(plugin.model_dump_json(indent=2))
        return 0
    status = plugin.status if plugin.status == "ok" else f"{plugin.status}: {plugin.reason}"
    rows = [["plugin", plugin.dist], ["summary", plugin.summary], ["status", status], ["tier", plugin.tier]]
    rows += [[f"exempt from {tier}", reason] for tier, reason in plugin.exempt.items()]
    rows += [[kind, ", ".join(names)] for kind, names in plugin.steps.items()]
    rows += [["licence", plugin.licence], ["maintainers", ", ".join(plugin.maintainers)]]
    rows += [["repository", plugin.repository]] if plugin.repository else []
    for release in plugin.releases:
        conformance = release.conformance
        checks = f"{conformance.passed} checks passed, {conformance.failed} failed" if conformance else "not tested"
        rows.append(["release", f"{release.version}, contract {release.contract}, {checks}, sha256 {release.sha256}"])
    rows += [["measured", f"{one.figure} ({one.command})"] for one in plugin.measurements]
    rows += [["reviewed", f"{one.version} by {one.by} on {one.on}"] for one in plugin.reviews]
    _table(rows)
    return 0


def _outdated(asked: argparse.Namespace) -> int:
    from packaging.version import Version

    found = []
    for plugin in _index(asked).plugins:
        version = _installed(plugin)
        if version is None:
            continue
        newer = plugin.newest is not None and Version(plugin.newest.version) > Version(version)
        if newer or plugin.status != "ok":
            newest = plugin.newest.version if plugin.newest else None
            found.append({"dist": plugin.dist, "installed": version, "newest": newest, "status": plugin.status})
    if asked.json:
        print(json.dumps(found, indent=2))
    else:
        _table([[str(value or "-") for value in row.values()] for row in found])
    return 0


def _installed(plugin: Plugin) -> str | None:
    try:
        return metadata.version(plugin.dist)
    except metadata.PackageNotFoundError:
        return None


def _install(asked: argparse.Namespace) -> int:
    from upright_registry.install import install

    index = _index(asked)
    wanted, seen = True, False

    def confirm(wheels: list[Wheel]) -> bool:
        nonlocal wanted, seen
        seen = True
        listed = [[w.dist, w.version, _standing(index.find(w.dist)), f"sha256 {w.sha256}"] for w in wheels]
        _table(listed)
        if asked.dry_run or asked.yes:
            return bool(asked.yes and not asked.dry_run)
        if not sys.stdin.isatty():
            raise ConfigError("nobody can be asked whether to install this; say --yes, or --dry-run to see it only")
        wanted = input("install? [y/N] ").strip().lower() in ("y", "yes")
        return wanted

    come = install(index, asked.plugin, confirm, asked.find_links, asked.no_index, asked.allow_sdist)
    if come:
        print(f"installed {', '.join(f'{one.dist} {one.version}' for one in come)}")
    elif not seen:
        print(f"{asked.plugin} is installed already")
    return 0 if wanted else 1


def _standing(plugin: Plugin | None) -> str:
    if plugin is None:
        return "not in the index"
    return plugin.tier if plugin.status == "ok" else f"{plugin.tier}, {plugin.status}: {plugin.reason}"


def _build(asked: argparse.Namespace) -> int:
    from upright_registry.build import build

    index = build(asked.folder, asked.key, asked.into, asked.days, asked.version)
    print(
        f"{asked.into / 'index.json'}: version {index.version}, {len(index.plugins)} plugins, until {index.expires:%Y-%m-%d}"
    )
    return 0


def _table(rows: list[list[str]]) -> None:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
