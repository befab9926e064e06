"""lock.json: the distributions, the base model and the data that a run was made of."""

from __future__ import annotations

import hashlib
import json
import platform
from pathlib import Path
from typing import TYPE_CHECKING, Any

from upright import catalog
from upright.errors import ConfigError, IntegrityError, UprightError
from upright.evidence.environment import changed_files, differences, fingerprint, required
from upright.evidence.files import write_atomic
from upright.standing import standing

if TYPE_CHECKING:
    from upright.run import Run
    from upright.stack import Stack

FREE = ("run", "index", "sha256")
"""What may differ from a lock: the folder's name, how new the registry's index is, and so the lock's own hash."""


def make_lock(run: Run) -> dict[str, Any]:
    """What would have to be the same for the run to be the same. Holds no machine's paths."""
    from upright.engine.base import base_facts
    from upright.engine.data import digests

    names = {entry.dist for entry in catalog.installed() if entry.section == catalog.INDEX}
    names |= {"upright"} | {placed.entry.dist for placed in run.stack.steps if placed.entry is not None}
    return {
        "run": run.folder.name,
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "device": run.device.type,
        "distributions": {name: fingerprint(name) for name in sorted(required(names))},
        "steps": _steps(run.stack),
        "model": {} if run.stack.cleans_only else base_facts(run),
        "data": digests(run),
        "policies": _policies(run.stack),
        "index": _index(),
        "sealed": next((f"{placed.section}/{placed.key}" for placed in run.stack.answering("seal")), None),
    }


def _steps(stack: Stack) -> list[dict[str, Any]]:
    return [{"section": p.section, "use": p.use, "key": p.key, **p.origin} for p in stack.steps]


def _policies(stack: Stack) -> list[str]:
    return sorted(policy.sha256 for policy in stack.policies)


def write_lock(folder: Path, lock: dict[str, Any]) -> None:
    """Write lock.json in its one form, with the hash of all the rest as its last key."""
    write_atomic(folder / "lock.json", _encoded({**lock, "sha256": _digest(lock)}))


def _encoded(lock: dict[str, Any]) -> str:
    return json.dumps(lock, indent=2, ensure_ascii=False) + "\n"


def _digest(lock: dict[str, Any]) -> str:
    return hashlib.sha256(_encoded(lock).encode()).hexdigest()


def _index() -> dict[str, Any]:
    """Version and key of the index that was seen last; empty where there is none that can be read."""
    try:
        known = standing([])
    except UprightError:
        return {}
    return {name: known[name] for name in ("version", "key") if name in known}


def read_lock(folder: Path) -> dict[str, Any]:
    """lock.json; empty where there is none. Raises IntegrityError where it cannot be read."""
    path = folder / "lock.json"
    try:
        lock: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except ValueError as error:
        raise IntegrityError(f"{path}: is not what a run wrote ({error})") from error
    return lock


def hold(lock: dict[str, Any], locked: dict[str, Any]) -> None:
    """Raise IntegrityError with one sentence for each difference between what is here and what was locked."""
    problems = _distributions(lock["distributions"], locked.get("distributions", {}))
    for name in sorted((lock.keys() | locked.keys()) - {*FREE, "distributions"}):
        problems += _differs(name, lock.get(name), locked.get(name))
    if problems:
        raise IntegrityError("\n".join(f"locked: {problem}" for problem in problems))


def hold_environment(locked: dict[str, Any]) -> None:
    """The same of the distributions alone, every installed file hashed again, before anything of them is imported."""
    problems = differences(locked["distributions"]) + changed_files(list(locked["distributions"]))[1]
    if problems:
        raise IntegrityError("\n".join(f"locked: {problem}" for problem in problems))


def hold_stack(stack: Stack, locked: dict[str, Any]) -> None:
    """The same of the steps and the policies, before any hook is called."""
    problems = _differs("steps", _steps(stack), locked.get("steps"))
    problems += _differs("policies", _policies(stack), locked.get("policies"))
    if problems:
        raise IntegrityError("\n".join(f"locked: {problem}" for problem in problems))


def locked_beside(folder: Path) -> dict[str, Any]:
    """lock.json of a stack's folder. Raises ConfigError where there is none, IntegrityError where it is no lock."""
    path = folder / "lock.json"
    if not path.is_file():
        raise ConfigError(f"{path}: there is no lock; write one with `upright lock`")
    raw = path.read_bytes()
    try:
        locked: dict[str, Any] = json.loads(raw)
        whole = locked["sha256"] == _digest({key: value for key, value in locked.items() if key != "sha256"})
        whole = whole and isinstance(locked["distributions"], dict) and _encoded(locked).encode() == raw
    except (ValueError, KeyError, TypeError, AttributeError):
        whole = False
    if not whole:
        raise IntegrityError(f"{path}: is not what was written; make the lock again with `upright lock`")
    return locked


def _distributions(here: dict[str, Any], locked: dict[str, Any]) -> list[str]:
    more = [
        f"{name}: {here[name]['version']} is needed, and is not in the lock" for name in sorted(here.keys() - locked)
    ]
    return more + differences(locked)


def _differs(name: str, here: Any, locked: Any) -> list[str]:
    """One sentence for each value that differs, named by its path."""
    if isinstance(here, dict) and isinstance(locked, dict):
        return [
            sentence
            for key in sorted(here.keys() | locked.keys())
            for sentence in _differs(f"{name}.{key}", here.get(key), locked.get(key))
        ]
    if isinstance(here, list) and isinstance(locked, list) and len(here) == len(locked):
        pairs = enumerate(zip(here, locked, strict=True))
        return [sentence for n, pair in pairs for sentence in _differs(f"{name}.{n}", *pair)]
    return [] if here == locked else [f"{name}: is {_told(here)}, and {_told(locked)} is locked"]


def _told(value: Any) -> str:
    return "nothing" if value is None else json.dumps(value)
