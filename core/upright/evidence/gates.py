"""evidence/gates.json: what each gate said of the run."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from upright.evidence.files import write_atomic
from upright.objects import Verdict


def write_gates(folder: Path, verdicts: list[Verdict]) -> int:
    """Write the verdicts; return the exit code: 4 where a violated one blocks, else 0."""
    path = folder / "evidence" / "gates.json"
    path.parent.mkdir(exist_ok=True)
    write_atomic(path, json.dumps({"verdicts": [asdict(v) for v in verdicts]}, indent=2, ensure_ascii=False) + "\n")
    return 4 if any(v.judgement == "violated" and v.on_fail == "block" for v in verdicts) else 0


def read_gates(folder: Path) -> list[Verdict]:
    """The verdicts of a run."""
    path = folder / "evidence" / "gates.json"
    if not path.is_file():
        return []
    return [Verdict(**fields) for fields in json.loads(path.read_text(encoding="utf-8"))["verdicts"]]
