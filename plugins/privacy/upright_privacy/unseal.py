"""``upright unseal``: plain copies of what a run sealed, for who has the key."""

from __future__ import annotations

import argparse
import shutil
import tempfile
from pathlib import Path

from upright import Run
from upright.errors import ConfigError

PARTS = ("model", "predictions", "data", "checkpoints", "steps")
EPILOG = """
The key is looked for where the run's stack says: in its key_file, else in its variable (UPRIGHT_KEY). The run is left as it
is. In Python, `with Run.load(RUN).opened("model") as folder:` gives a copy that is gone after the block.

Exit codes: 0 ok, 2 no key or nothing to open, 3 a plugin of the run is missing, 5 another key or a changed file.
"""


def unseal(arguments: list[str]) -> int:
    """The command: arguments as after ``upright unseal``; returns the exit code.

    Errors: `ConfigError` for what cannot be asked, `NoKeyError`, `IntegrityError`; nothing is written then.
    """
    asked = _parser().parse_args(arguments)
    run = _run(asked.run)
    parts = asked.parts or [part for part in PARTS if (run.folder / part).is_dir()]
    for part in parts:
        if part.split("/")[0] not in PARTS or ".." in part.split("/") or not (run.folder / part).exists():
            raise ConfigError(f"{run.folder / part}: is nothing that a run seals; name some of {', '.join(PARTS)}")
    into = _target(asked.into, run.folder)
    draft = Path(tempfile.mkdtemp(prefix=f".{into.name}.", dir=into.parent))  # of mode 0700
    try:
        for part in parts:
            with run.opened(part) as path:
                (draft / part).parent.mkdir(parents=True, exist_ok=True)
                (shutil.copytree if path.is_dir() else shutil.copyfile)(path, draft / part)
        draft.replace(into)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise
    for part in parts:
        print(into / part)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="upright unseal",
        description="Write plain copies of what a run sealed into a new folder.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="a run folder, such as runs/<name>/latest")
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"what to open; default: all of {', '.join(PARTS)}")
    parser.add_argument("--into", type=Path, required=True, metavar="FOLDER", help="a new folder outside the run's")
    return parser


def _run(folder: Path) -> Run:
    if not (folder / "stack.resolved.yaml").is_file():
        raise ConfigError(f"{folder}: is no run folder; name one, such as runs/<name>/latest")
    run = Run.load(folder)
    if not run.stack.answering("unseal"):
        raise ConfigError(f"{folder}: nothing of this run is sealed; read it as it is")
    return run


def _target(into: Path, run: Path) -> Path:
    into = into.expanduser().resolve()
    if into == run or into.is_relative_to(run):
        raise ConfigError(f"{into}: is inside the run's folder; name one outside, so that the run stays sealed")
    if into.exists() and (not into.is_dir() or any(into.iterdir())):
        raise ConfigError(f"{into}: is there already; name a new folder")
    into.parent.mkdir(parents=True, exist_ok=True)
    return into
