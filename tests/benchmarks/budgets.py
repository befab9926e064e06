"""CPU seconds of the light commands, each in processes of its own; the best of several, since noise only adds.

Bounds: --help and plugins 0.2 s, check 0.4 s with 100 plugins installed.

    make bench
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

TRIES, PLUGINS = 7, 100
BOUNDS = {"--help": 0.2, "plugins": 0.2, "check": 0.4}


def cpu_seconds(arguments: list[str], folder: Path, path: str) -> float:
    """User and system time of one call."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(
        [sys.executable, "-m", "upright", *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": path},
        stdout=subprocess.DEVNULL,
        check=True,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


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
            path = str(folder) if command == "check" else ""
            best = min(cpu_seconds([command], folder, path) for _ in range(TRIES))
            late |= best > bound
            what = f" with {PLUGINS} plugins more" if command == "check" else ""
            print(f"upright {command}{what}: {best:.3f} s CPU (bound {bound} s){' MISSED' if best > bound else ''}")
    sys.exit(late)


if __name__ == "__main__":
    main()
