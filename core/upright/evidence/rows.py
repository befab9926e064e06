"""evidence/rows.json: which rows each choice was made on, and what any two splits have in common."""

from __future__ import annotations

import hashlib
import itertools
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from upright.run import Run


def row_evidence(run: Run) -> dict[str, Any]:
    """The content of the file. Figures about single training records of a private run are withheld (None)."""
    return {
        "choices": list(_choices(run)),
        "common": [_common(run, *pair) for pair in itertools.combinations(run.data, 2)],
    }


def read_rows(folder: Path) -> dict[str, Any]:
    """The evidence of a run; empty where there is none (a run that only cleans makes no choice on a split)."""
    path = folder / "evidence" / "rows.json"
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return found


def _choices(run: Run) -> Iterator[dict[str, str]]:
    """What is chosen, on which split, by whom, in the order of a run. Core hands the hooks no other rows for it."""
    tests = ", ".join(split for split in run.data if split not in ("train", "validation"))
    validates = "validation" in run.data

    def choice(what: str, split: str, hook: str, otherwise: str = "") -> dict[str, str]:
        by = ", ".join(str(placed) for placed in run.stack.answering(hook)) or otherwise
        return {"what": what, "split": split, "by": by}

    if run.stack.trains:
        yield choice("weights", "train", "tune")
        if validates and run.config.train.load_best_model_at_end:
            yield choice("the iterate that is kept", "validation", "select", "the task's main figure")
    if validates and run.stack.answering("calibrate"):
        yield choice("thresholds", "validation", "calibrate")
    if tests:
        yield choice("nothing: figures, verdicts, explanations", tests, "judge", "no gate")


def _common(run: Run, one: str, other: str) -> dict[str, Any]:
    """Owners and inputs that two splits share. A row's id names its split, so ids say nothing here."""
    owned = run.config.data.unit is not None
    withheld = run.private and "train" in (one, other)
    return {
        "splits": [one, other],
        "units": _shared(run.data[one]["unit"][:], run.data[other]["unit"][:]) if owned and not withheld else None,
        "inputs": None if withheld else _shared(_inputs(run, one), _inputs(run, other)),
    }


def _shared(one: Sequence[Any], other: Sequence[Any]) -> int:
    """Entries of ``other`` that occur in ``one``."""
    known = set(one)
    return sum(entry in known for entry in other)


def _inputs(run: Run, split: str) -> list[bytes]:
    """A digest of what the model reads of each row: its tokens, after prompts and truncation."""
    return [
        hashlib.blake2b(json.dumps(tokens, sort_keys=True).encode(), digest_size=16).digest()
        for tokens in run.encoded[split].features
    ]
