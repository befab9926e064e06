"""manifest.json: the SHA-256 of every file of a run folder. It shows changes, it does not prove who made them."""

from __future__ import annotations

import json
from pathlib import Path

from upright.errors import IntegrityError
from upright.evidence.files import sha256, write_atomic

NAME = "manifest.json"


def write_manifest(folder: Path) -> None:
    """Hash every file of the folder but the manifest itself."""
    files = {
        name: {"sha256": sha256(folder / name), "bytes": (folder / name).stat().st_size} for name in _names(folder)
    }
    write_atomic(folder / NAME, json.dumps({"files": files}, indent=2, ensure_ascii=False) + "\n")


def check_manifest(folder: Path) -> tuple[list[str], int]:
    """Problems, one sentence each that names the file, and the number of files that were hashed.

    Raises IntegrityError where there is no readable manifest.
    """
    try:
        files = json.loads((folder / NAME).read_text(encoding="utf-8"))["files"]
        expected = {name: (entry["sha256"], entry["bytes"]) for name, entry in files.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise IntegrityError(
            f"{folder / NAME}: is missing or unreadable ({error}); the run cannot be verified"
        ) from error
    problems = []
    present = set(_names(folder))
    for name, (digest, size) in expected.items():
        if name not in present:
            problems.append(f"{folder / name}: is missing")
        elif (sha256(folder / name), (folder / name).stat().st_size) != (digest, size):
            problems.append(
                f"{folder / name}: is not what the run wrote (its sha256 or size differs from manifest.json)"
            )
    problems += [f"{path}: a link was added after the run" for path in sorted(folder.rglob("*")) if path.is_symlink()]
    problems += [f"{folder / name}: was added after the run" for name in sorted(present - expected.keys())]
    return problems, len(expected)


def _names(folder: Path) -> list[str]:
    found = (path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    return sorted(name for path in found if (name := path.relative_to(folder).as_posix()) != NAME)
