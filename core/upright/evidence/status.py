"""status.json: what a run is doing, or how it ended."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any, Literal

from upright.evidence.files import write_atomic

State = Literal["running", "done", "failed", "interrupted", "gate-failed"]


def write_status(folder: Path, state: State | str, **fields: Any) -> None:
    """Replace status.json."""
    content = {"state": state, "time": round(time.time(), 3), "pid": os.getpid(), **fields}
    write_atomic(folder / "status.json", json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def read_status(folder: Path) -> dict[str, Any]:
    """The status; a run that is said to be running while its process is gone is reported as failed."""
    path = folder / "status.json"
    if not path.is_file():
        return {"state": "unknown"}
    status: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    if status["state"] == "running" and not _alive(int(status["pid"])):
        return {**status, "state": "failed", "exit_code": 1, "error": "the process ended without a word (killed?)"}
    return status


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
