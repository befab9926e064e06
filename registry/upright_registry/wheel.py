"""What is in a wheel, read without installing it or running anything of it."""

from __future__ import annotations

import configparser
import hashlib
import re
import zipfile
from dataclasses import dataclass
from email.parser import BytesParser
from pathlib import Path, PurePosixPath

from packaging.utils import canonicalize_name, parse_wheel_filename

from upright.catalog import COMMANDS
from upright.errors import IntegrityError, PluginError
from upright_registry.plugin import CONTRACT, Plugin, Release

GROUP = re.compile(r"upright\.(v[0-9]+)\.(.+)")
AT_START = ("sitecustomize.py", "usercustomize.py")


@dataclass(frozen=True)
class Wheel:
    """A wheel file: who it is, every file in it, its entry points by group, and what it needs."""

    path: Path
    dist: str
    version: str
    sha256: str
    files: tuple[str, ...]
    entry_points: dict[str, dict[str, str]]
    requires: tuple[str, ...] = ()

    @property
    def scripts(self) -> set[str]:
        """The commands that it would put into the environment's bin folder."""
        made = {name for group in ("console_scripts", "gui_scripts") for name in self.entry_points.get(group, {})}
        return made | {Path(file).name for file in self.files if re.match(r"[^/]+\.data/scripts/", file)}

    @property
    def ours(self) -> list[tuple[str, str, str]]:
        """(contract, kind, name) of what it offers to Upright, commands included."""
        matches = [(GROUP.fullmatch(group), names) for group, names in self.entry_points.items()]
        return sorted((match[1], match[2], name) for match, names in matches if match for name in names)


def wheel(path: Path) -> Wheel:
    """Raises PluginError for what no wheel may hold (a .pth file, a path that leads out), IntegrityError for no wheel."""
    try:
        name, version, _, _ = parse_wheel_filename(path.name)
        with zipfile.ZipFile(path) as archive:
            files = tuple(info.filename for info in archive.infolist())
            info = _info_folder(files, name)
            told = BytesParser().parsebytes(archive.read(f"{info}/METADATA"))
            requires = tuple(told.get_all("Requires-Dist") or ())
            given = f"{info}/entry_points.txt"
            points = _entry_points(archive.read(given).decode() if given in files else "")
    except Exception as error:  # zipfile and zlib raise a dozen kinds for bytes that are no archive
        raise IntegrityError(
            f"{path.name}: is no wheel that can be read ({type(error).__name__}: {error}); get it again"
        ) from error
    if canonicalize_name(told["Name"] or "") != name or told["Version"] != str(version):
        raise IntegrityError(f"{path.name}: says inside that it is {told['Name']} {told['Version']}; do not install it")
    for file in files:
        parts = PurePosixPath(file).parts
        if file.startswith("/") or ".." in parts or "\\" in file or ":" in parts[0]:
            raise PluginError(f"{path.name}: its file {file!r} would lie outside the environment; do not install it")
        if _runs_at_start(parts):
            raise PluginError(f"{path.name}: its file {file!r} would run at every start of Python; do not install it")
    if len(set(files)) < len(files):
        raise PluginError(f"{path.name}: holds two files of one name; do not install it")
    return Wheel(path, name, str(version), hashlib.sha256(path.read_bytes()).hexdigest(), files, points, requires)


def hold_to(release: Release, plugin: Plugin, found: Wheel) -> None:
    """That the wheel is the release of the registry, and keeps to itself.

    Raises IntegrityError for another hash; PluginError for a need by address, for files outside the package that is named
    as the distribution is, for another contract, and for steps that the registry does not tell.
    """
    if found.sha256 != release.sha256:
        raise IntegrityError(
            f"{found.path.name}: its sha256 is {found.sha256}, the registry says {release.sha256}; do not install it"
        )
    for needed in found.requires:
        if "@" in needed.partition(";")[0]:
            raise PluginError(
                f"{found.path.name}: needs {needed!r}, which pip would build from there; do not install it"
            )
    package = plugin.dist.replace("-", "_")
    for file in found.files:
        top = file.split("/")[0]
        if top not in (package, f"{package}.py") and not _is_info(top, plugin.dist):
            raise PluginError(
                f"{found.path.name}: its file {file!r} is outside its package {package}; tell {plugin.maintainers[0]}"
            )
    for contract, kind, name in found.ours:
        if contract != CONTRACT:
            raise PluginError(
                f"{found.path.name}: {kind}.{name} is of contract {contract}, this Upright keeps {CONTRACT}; "
                f"take another version of one of them"
            )
        if kind != COMMANDS and name not in plugin.steps.get(kind, ()):
            raise PluginError(
                f"{found.path.name}: offers {kind}.{name}, which the registry does not tell; do not install it"
            )


def _runs_at_start(parts: tuple[str, ...]) -> bool:
    """Whether ``site`` would run it: at the top, or at any depth of a .data folder; weights.pth in a package is none."""
    outer = len(parts) == 1 or parts[0].endswith(".data")
    return outer and (parts[-1].lower().endswith((".pth", ".start")) or parts[-1] in AT_START)


def _info_folder(files: tuple[str, ...], dist: str) -> str:
    tops = {file.split("/")[0] for file in files}
    found = [top for top in tops if top.endswith(".dist-info")]
    if len(found) != 1 or not _is_info(found[0], dist):
        raise ValueError(f"its .dist-info folders are {sorted(found)}")
    return found[0]


def _is_info(top: str, dist: str) -> bool:
    return top.endswith(".dist-info") and canonicalize_name(top.rpartition("-")[0].rpartition("-")[0] or top) == dist


def _entry_points(text: str) -> dict[str, dict[str, str]]:
    parser = configparser.ConfigParser(delimiters=("=",), interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_string(text)
    return {section: dict(parser.items(section)) for section in parser.sections()}
