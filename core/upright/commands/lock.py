"""``upright lock``: write down what a run of this stack would be made of."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import typer

from upright.commands.options import STACK, Overrides, Stack

PIP = (25, 1)
"""The first pip that has `pip lock`."""


def lock(stack: Stack = STACK, overrides: Overrides = None) -> None:
    """Write lock.json beside the stack: distributions with the hash of their files, base model, data, index.

    `upright run --locked` then refuses whatever differs, and `upright verify --env` hashes every installed file again. pip
    writes pylock.toml beside it, from which it installs the same distributions elsewhere. Nothing is trained.
    """
    from upright.engine.execute import prepare_run
    from upright.evidence.lock import make_lock, write_lock
    from upright.progress import quiet_libraries
    from upright.stack import Stack as Loaded

    loaded = Loaded.load(stack, overrides or [])
    loaded.require()
    quiet_libraries()
    with tempfile.TemporaryDirectory(prefix="upright-lock-") as name:
        found = make_lock(prepare_run(loaded, Path(name)))
    write_lock(loaded.root, {**found, "run": None})
    count = len(found["distributions"])
    typer.echo(f"{loaded.root / 'lock.json'}: {count} distributions, {len(found['data'])} files of data")
    problem = _pylock(loaded.root / "pylock.toml", found["distributions"])
    if problem:
        typer.secho(f"pylock.toml was not written: {problem}", fg="yellow", err=True)
    else:
        typer.echo(str(loaded.root / "pylock.toml"))


def _pylock(path: Path, distributions: dict[str, dict[str, Any]]) -> str | None:
    """Let pip write it; the sentence that says why it did not, None where it did."""
    from importlib import metadata

    try:
        have = tuple(int(part) for part in metadata.version("pip").split(".")[:2])
    except (metadata.PackageNotFoundError, ValueError):
        return "there is no pip; `python -m ensurepip --upgrade` installs it"
    if have < PIP:
        return f"pip {metadata.version('pip')} has no `lock`; update it with `pip install --upgrade pip`"
    wanted = [
        f"{name}=={facts['version']}" for name, facts in sorted(distributions.items()) if "tree_sha256" not in facts
    ]
    with tempfile.TemporaryDirectory(prefix="upright-lock-") as folder:
        draft = Path(folder) / "pylock.toml"
        command = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "--no-input", "lock"]
        done = subprocess.run(
            [*command, "--no-deps", "--output", str(draft), *wanted], capture_output=True, text=True, check=False
        )
        if done.returncode:
            said = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
            return f"`pip lock` failed ({' '.join(said) or done.stderr.strip()[-200:]})"
        path.write_text(draft.read_text(encoding="utf-8"), encoding="utf-8")
    editable = sorted(name for name, facts in distributions.items() if "tree_sha256" in facts)
    if editable:
        typer.secho(f"not in pylock.toml, since they are editable: {', '.join(editable)}", fg="yellow", err=True)
    return None
