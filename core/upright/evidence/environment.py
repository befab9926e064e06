"""The installed distributions as they lie on the disk: one hash for each, and every file against it.

A wheel's RECORD lists the SHA-256 of each of its files, so the hash of that list stands for all of them. What an installer
writes itself (scripts, compiled files, who asked for it) differs between machines and is left out of the hash. An editable
distribution has no such list of its code: there the hash is of the source tree.
"""

from __future__ import annotations

import base64
import csv
import hashlib
import importlib.machinery
import importlib.util
import json
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from upright.errors import IntegrityError

BY_INSTALLER = ("RECORD", "INSTALLER", "REQUESTED", "direct_url.json", "uv_cache.json")
IMPORTED = (".py", ".so", ".pyd")
"""Endings of files that an import can find."""
BLOCK = 256
"""Files that one thread hashes in a row."""


def required(names: set[str]) -> set[str]:
    """The named distributions and all that they need, to the last one, by canonical name, as far as it is installed."""
    found: set[str] = set()
    waiting = [(canonicalize_name(name), "") for name in names]
    seen = set(waiting)
    while waiting:
        name, extra = waiting.pop()
        try:
            requires = metadata.requires(name) or []
        except metadata.PackageNotFoundError:
            continue
        found.add(name)
        for requirement in map(Requirement, requires):
            if requirement.marker and not requirement.marker.evaluate({"extra": extra}):
                continue
            needed = canonicalize_name(requirement.name)
            for pair in [(needed, ""), *((needed, asked) for asked in requirement.extras)]:
                if pair not in seen:
                    seen.add(pair)
                    waiting.append(pair)
    return found


def fingerprint(name: str) -> dict[str, Any]:
    """What a lock says of a distribution: its version and ``record_sha256`` (None without a RECORD), or ``tree_sha256``
    where it is editable.

    Raises PackageNotFoundError where it is not installed, IntegrityError where its files cannot be read.
    """
    found = metadata.distribution(name)
    try:
        if _editable(found):
            return {"version": found.version, "tree_sha256": _hash_of(_tree(found))}
        listed = [(path, digest) for path, digest in _record(found) if _in_wheel(path)]
        if not listed:  # as some packagers install it
            return {"version": found.version, "record_sha256": None}
        lines = (f"{path},{digest or _digest(_place(found, path))}" for path, digest in listed)
        return {"version": found.version, "record_sha256": _hash_of(lines)}
    except (OSError, ValueError, csv.Error) as error:
        raise IntegrityError(f"{name}: its installed files cannot be read ({error}); reinstall it") from error


def differences(locked: dict[str, dict[str, Any]]) -> list[str]:
    """One sentence for each distribution that is not the one of the lock."""
    problems = []
    for name, facts in sorted(locked.items()):
        try:
            here = fingerprint(name)
        except metadata.PackageNotFoundError:
            problems.append(f"{name}: {facts['version']} is locked, and none is installed; install it")
            continue
        except IntegrityError as error:
            problems.append(str(error))
            continue
        if here["version"] != facts["version"]:
            problems.append(f"{name}: {here['version']} is installed, and {facts['version']} is locked")
        elif here.get("record_sha256", "") is None:
            problems.append(
                f"{name}: has no RECORD of its files, so they cannot be held to a lock; install it with pip"
            )
        elif here != facts:
            problems.append(f"{name}: its files are not those of the {facts['version']} that is locked; reinstall it")
    return problems


def changed_files(names: list[str]) -> tuple[int, list[str]]:
    """How many installed files of these distributions were hashed, and one sentence for each that is not what its wheel
    brought: another content, missing, or a module that no wheel brought. What `differences` tells (a distribution that is
    not installed, or whose list of files is another) is left out.
    """
    work: list[tuple[str, str, str]] = []
    for name, found in _there(names):
        listed = [(path, digest) for path, digest in _record(found) if digest]
        places = _all_places(found, [path for path, _ in listed])
        work += [(name, place, digest) for place, (_, digest) in zip(places, listed, strict=True)]
    blocks = [work[start : start + BLOCK] for start in range(0, len(work), BLOCK)]
    with ThreadPoolExecutor() as pool:
        problems = [sentence for found in pool.map(_changed, blocks) for sentence in found]
    return len(work), problems + _strangers(names) + _shadowed(names)


def _changed(block: list[tuple[str, str, str]]) -> list[str]:
    """One sentence for each (distribution, path, ``sha256=...``) whose file is another."""
    problems = []
    for name, path, told in block:
        try:
            with Path(path).open("rb") as file:
                found = hashlib.file_digest(file, "sha256").digest()
        except OSError as error:
            problems.append(f"{name}: {path} cannot be read ({error.strerror}); reinstall {name}")
            continue
        if base64.urlsafe_b64encode(found).rstrip(b"=").decode() != told.removeprefix("sha256="):
            problems.append(f"{name}: {path} was changed after it was installed; reinstall {name}")
    return problems


def _there(names: list[str]) -> Iterator[tuple[str, metadata.Distribution]]:
    for name in names:
        try:
            found = metadata.distribution(name)
            _record(found)
            yield name, found
        except (metadata.PackageNotFoundError, ValueError, csv.Error):
            continue


def _place(found: metadata.Distribution, path: str) -> Path:
    return Path(str(found.locate_file(path)))


def _strangers(names: list[str]) -> list[str]:
    """Modules inside the packages of these distributions that no distribution brought, such as one put before another."""
    places: dict[str, str] = {}
    known: set[str] = set()
    for name, found in _there(names):
        paths = [path for path, _ in _record(found)]
        tops = [path.split("/", 1)[0] for path in paths if path.count("/") == 1 and path.endswith("/__init__.py")]
        known.update(_all_places(found, paths))
        places |= dict.fromkeys(_all_places(found, tops), name)
    strange = [
        (name, path) for folder, name in sorted(places.items()) for path in _importable(folder) if path not in known
    ]
    if strange:  # another distribution may have brought it
        others = sorted({one.name for one in metadata.distributions() if one.name})
        known = {place for _, found in _there(others) for place in _all_places(found, [p for p, _ in _record(found)])}
    return [
        f"{name}: {path} was brought by no distribution; remove it, or reinstall {name}"
        for name, path in sorted(strange)
        if path not in known
    ]


def _importable(folder: str) -> Iterator[str]:
    """Modules below a folder, and links, which may lead to some."""
    for parent, below, files in os.walk(folder):
        yield from (f"{parent}{os.sep}{file}" for file in files if file.endswith(IMPORTED))
        yield from (path for path in (f"{parent}{os.sep}{name}" for name in below) if Path(path).is_symlink())


def _shadowed(names: list[str]) -> list[str]:
    """Packages and modules of these distributions in whose place an import finds another file; nothing is imported."""
    problems = []
    for name, found in _there(names):
        for path, _ in _record(found):
            top, _, rest = path.partition("/")
            module = top.removesuffix(".py") if not rest else top if rest == "__init__.py" else ""
            if not module.isidentifier() or (not rest and not path.endswith(".py")):
                continue
            spec = importlib.machinery.PathFinder.find_spec(module)
            own = os.path.realpath(_place(found, path))
            if spec is not None and spec.origin and os.path.realpath(spec.origin) != own:
                problems.append(
                    f"{name}: {spec.origin} is imported in the place of its {path}; remove it from the path"
                )
    return problems


def _all_places(found: metadata.Distribution, paths: list[str]) -> list[str]:
    """As `_place` says, quickly: one string a file."""
    root = _place(found, "")
    return [f"{root}{os.sep}{path.replace('/', os.sep)}" for path in paths]


def _record(found: metadata.Distribution) -> list[tuple[str, str]]:
    """(path, ``sha256=...``) of each file but what Python compiles; the hash is empty where the wheel told none."""
    rows = csv.reader((found.read_text("RECORD") or "").splitlines())
    return [(row[0], row[1]) for row in rows if len(row) > 1 and not row[0].endswith((".pyc", "/RECORD"))]


def _in_wheel(path: str) -> bool:
    folder, _, name = path.rpartition("/")
    return not path.startswith("../") and not (folder.endswith(".dist-info") and name in BY_INSTALLER)


def _editable(found: metadata.Distribution) -> bool:
    origin = json.loads(found.read_text("direct_url.json") or "{}")
    return bool(origin.get("dir_info", {}).get("editable"))


def _tree(found: metadata.Distribution) -> Iterator[str]:
    """Path and SHA-256 of each file of the packages that an editable distribution offers."""
    names = (found.read_text("top_level.txt") or "").split()
    names = names or sorted({point.module.partition(".")[0] for point in found.entry_points})
    for name in names or [found.name.replace("-", "_")]:
        spec = importlib.util.find_spec(name)  # finds a top-level package without importing it
        if spec is None:
            continue
        for folder in map(Path, spec.submodule_search_locations or []):
            for path in folder.rglob("*"):
                if path.is_file() and "__pycache__" not in path.parts:
                    yield f"{name}/{path.relative_to(folder).as_posix()},{_digest(path)}"
        if not spec.submodule_search_locations and spec.origin:
            yield f"{Path(spec.origin).name},{_digest(Path(spec.origin))}"


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _hash_of(lines: Iterator[str]) -> str:
    return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()
