"""How a run tells what it does while it does it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from upright.evidence.files import write_atomic
from upright.evidence.status import write_status

if TYPE_CHECKING:
    from upright.run import Run


def stage(run: Run, name: str) -> None:
    """Say in status.json and events.jsonl what is being done."""
    write_status(run.folder, "running", stage=name)
    run.emit("stage", stage=name)


def write_json(path: Path, content: Any) -> None:
    """Write one JSON file of the run folder, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")
