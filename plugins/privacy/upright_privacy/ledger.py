"""accountant.jsonl: one line for every sample draw, on the disk before the draw is used; epsilon follows from it alone."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from upright.errors import IntegrityError

START = "0" * 64


class Ledger:
    """The ledger of one run. Each line holds the SHA-256 of the one before, so that none can be taken out of the middle.

    Opened after a crash, it loses the beginning of a line that was being written: nothing is drawn before its line is whole.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if path.is_file():
            _cut_torn_line(path)
        self.entries = read_ledger(path) if path.is_file() else []
        self._last = _digest(self.entries[-1]) if self.entries else START

    def charge(self, **fields: Any) -> None:
        """Append one draw and flush it to the disk, before anything is released from it."""
        entry = {"entry": len(self.entries) + 1, **fields, "previous": self._last}
        with self.path.open("a", encoding="utf-8") as out:
            out.write(json.dumps(entry) + "\n")
            out.flush()
            os.fsync(out.fileno())
        self.entries.append(entry)
        self._last = _digest(entry)

    def state_dict(self) -> dict[str, int]:
        """For a checkpoint: how many draws had been charged."""
        return {"entries": len(self.entries)}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Nothing is put back: what was charged stays charged. Raises IntegrityError where entries are gone."""
        if len(self.entries) < state["entries"]:
            raise IntegrityError(
                f"{self.path}: holds {len(self.entries)} draws where the checkpoint had been charged for "
                f"{state['entries']}; a run without its whole ledger cannot go on"
            )


def _cut_torn_line(path: Path) -> None:
    with path.open("r+b") as file:
        content = file.read()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            file.truncate(whole)
            os.fsync(file.fileno())


def read_ledger(path: Path) -> list[dict[str, Any]]:
    """The entries, whose chain is checked. Raises IntegrityError naming the line that does not fit."""
    entries: list[dict[str, Any]] = []
    previous = START
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            entry = json.loads(line)
        except ValueError as error:
            raise IntegrityError(f"{path}:{number}: is not a whole entry ({error}); the ledger was damaged") from error
        if entry.get("previous") != previous or entry.get("entry") != number:
            raise IntegrityError(f"{path}:{number}: does not follow from the line before; the ledger was changed")
        entries.append(entry)
        previous = _digest(entry)
    return entries


def draws(entries: list[dict[str, Any]]) -> list[tuple[float, float]]:
    """``(noise multiplier, sampling rate)`` of every entry."""
    return [(float(entry["noise_multiplier"]), float(entry["sample_rate"])) for entry in entries]


def _digest(entry: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(entry).encode()).hexdigest()
