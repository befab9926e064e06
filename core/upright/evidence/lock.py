"""lock.json: the distributions, the base model and the data that a run was made of."""

from __future__ import annotations

import hashlib
import json
import platform
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from upright.errors import IntegrityError

if TYPE_CHECKING:
    from upright.run import Run


def make_lock(run: Run) -> dict[str, Any]:
    """What would have to be the same for the run to be the same. Holds no machine's paths."""
    from upright.engine.base import base_facts
    from upright.engine.data import digests

    names = {"upright"} | {placed.entry.dist for placed in run.stack.steps if placed.entry is not None}
    return {
        "run": run.folder.name,
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "device": run.device.type,
        "distributions": {name: _distribution(name) for name in sorted(_with_requirements(names))},
        "steps": [
            {
                "section": placed.section,
                "use": placed.use,
                "key": placed.key,
                **placed.origin,
            }
            for placed in run.stack.steps
        ],
        "model": {} if run.stack.cleans_only else base_facts(run),
        "data": digests(run),
        "sealed": next((f"{placed.section}/{placed.key}" for placed in run.stack.answering("seal")), None),
    }


def read_lock(folder: Path) -> dict[str, Any]:
    """lock.json; empty where there is none. Raises IntegrityError where it cannot be read."""
    path = folder / "lock.json"
    try:
        lock: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except ValueError as error:
        raise IntegrityError(f"{path}: is not what a run wrote ({error})") from error
    return lock


def _with_requirements(names: set[str]) -> set[str]:
    """The named distributions and what they require directly, as far as it is installed."""
    import re

    found = set(names)
    for name in names:
        for requirement in _requires(name):
            if "extra ==" not in requirement:
                match = re.match(r"[A-Za-z0-9._-]+", requirement)
                if match and _installed(match.group()):
                    found.add(match.group())
    return {name for name in found if _installed(name)}


def _requires(name: str) -> list[str]:
    return metadata.distribution(name).requires or [] if _installed(name) else []


def _installed(name: str) -> bool:
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True


def _distribution(name: str) -> dict[str, str]:
    """Version, and the SHA-256 of the RECORD, which lists the hash of every installed file."""
    distribution = metadata.distribution(name)
    record = distribution.read_text("RECORD") or ""
    return {"version": distribution.version, "record_sha256": hashlib.sha256(record.encode()).hexdigest()}
