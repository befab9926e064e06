"""CPU seconds of the light commands, each in processes of its own; the best of several, since noise only adds.

Bounds, with 100 plugins installed: --help and plugins 0.2 s, check 0.4 s. `verify --env` of 50 distributions 2 s, but torch,
which holds more bytes than all others together: it is told by itself.

    make bench
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
from importlib import metadata
from pathlib import Path

from upright.evidence.environment import fingerprint, required
from upright.evidence.lock import write_lock

TRIES, PLUGINS, LOCKED = 7, 100, 50
WRITES_NO_BYTECODE = "PYTHONDONTWRITEBYTECODE"
"""With it every call would compile every module of ours anew, which no user's second call does."""
BOUNDS = {"--help": 0.2, "plugins": 0.2, "check": 0.4}


def cpu_seconds(arguments: list[str], folder: Path, path: str) -> float:
    """User and system time of one call."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(
        [sys.executable, "-m", "upright", *arguments],
        cwd=folder,
        env={key: value for key, value in os.environ.items() if key != WRITES_NO_BYTECODE} | {"PYTHONPATH": path},
        stdout=subprocess.DEVNULL,
        check=True,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def told(arguments: list[str], what: str, folder: Path, bound: float | None, path: str = "") -> bool:
    """Print the best of several calls; whether it missed its bound."""
    best = min(cpu_seconds(arguments, folder, path) for _ in range(TRIES))
    late = bound is not None and best > bound
    print(
        f"upright {what}: {best:.3f} s CPU{f' (bound {bound} s)' if bound else ''}{' MISSED' if late else ''}",
        flush=True,
    )
    return late


def main() -> None:
    """Print one line per command; exit 1 where a bound is missed."""
    late = False
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for number in range(PLUGINS):
            info = folder / f"upright_made_up_{number}-1.0.dist-info"
            info.mkdir()
            (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: upright-made-up-{number}\nVersion: 1.0\n")
            (info / "entry_points.txt").write_text(f"[upright.v1.clean]\nmade-up-{number} = nowhere:Step\n")
        (folder / "train.jsonl").write_text("")
        (folder / "stack.yaml").write_text("data: {train: train.jsonl}\nclean: [exact-dup]\ntune: lora\n")
        for command, bound in BOUNDS.items():
            late |= told([command], f"{command} with {PLUGINS} plugins more", folder, bound, str(folder))
        under = sorted(required({"upright", "upright-tune"}) - {"torch"})[:LOCKED]
        for names, bound in ((under, 2.0), (["torch"], None)):
            write_lock(folder, {"distributions": {name: fingerprint(name) for name in names}})
            files = [file for name in names for file in metadata.files(name) or () if file.hash]
            size = sum(Path(str(file.locate())).stat().st_size for file in files)
            what = f"verify --env of {len(names)} distributions ({len(files)} files, {size / 1e6:.0f} MB)"
            late |= told(["verify", ".", "--env"], what, folder, bound)
    sys.exit(late)


if __name__ == "__main__":
    main()
