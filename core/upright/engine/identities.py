"""Who a row is: an identity that depends on its content, not on its place or on other rows."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

import numpy as np

from upright.engine.media import identity

if TYPE_CHECKING:
    from datasets import Dataset

KEY = b"upright-row"


class Identities:
    """Gives the rows of one split their ids, some at a time: keyed BLAKE2b-64 of split, canonical row and ordinal among
    identical rows, 16 hex digits. Keeps 8 bytes a row."""

    def __init__(self, split: str) -> None:
        self._split = split
        self._runs: list[np.ndarray] = []
        self._repeats: dict[int, int] = {}

    def of(self, rows: list[dict[str, Any]]) -> list[str]:
        """The ids of the next rows."""
        words = [json.dumps(identity(row), sort_keys=True, ensure_ascii=False, default=str) for row in rows]
        ids = [self._id(canonical, 0) for canonical in words]
        first = np.array([int(digits, 16) for digits in ids], dtype=np.uint64)
        known = np.zeros(len(rows), dtype=bool)
        for run in self._runs:
            places = np.minimum(np.searchsorted(run, first), len(run) - 1)
            known |= run[places] == first
        here: set[int] = set()
        for place, (value, seen) in enumerate(zip(first.tolist(), known.tolist(), strict=True)):
            if seen or value in here:
                ordinal = self._repeats.get(value, 1)
                self._repeats[value] = ordinal + 1
                ids[place] = self._id(words[place], ordinal)
            here.add(value)
        self._keep(np.unique(first[~known]))
        return ids

    def _id(self, canonical: str, ordinal: int) -> str:
        words = f"{self._split}\0{canonical}\0{ordinal}"
        return hashlib.blake2b(words.encode("utf-8", "surrogatepass"), digest_size=8, key=KEY).hexdigest()

    def _keep(self, run: np.ndarray) -> None:
        """Sorted runs, each at least twice as long as the next, so that a look-up visits few."""
        if not len(run):
            return
        self._runs.append(run)
        while len(self._runs) > 1 and len(self._runs[-2]) < 2 * len(self._runs[-1]):
            last = self._runs.pop()
            self._runs[-1] = np.union1d(self._runs[-1], last)


def row_ids(split: str, rows: list[dict[str, Any]]) -> list[str]:
    """The ids of a whole split's rows."""
    return Identities(split).of(rows)


def child_id(parent: str, step: str, ordinal: int) -> str:
    """The id of the ``ordinal``-th row that a step made of a parent."""
    return hashlib.blake2b(f"{parent}/{step}/{ordinal}".encode(), digest_size=8, key=KEY).hexdigest()


def fingerprint(rows: Dataset) -> str:
    """SHA-256 of the sorted ids: the same for the same rows in any order."""
    chunks = rows.with_format("arrow")["row_id"][:].chunks
    ids = np.concatenate([np.empty(0, ">u8"), *(_numbers(chunk.to_pylist()) for chunk in chunks)])
    ids.sort()
    return hashlib.sha256(ids.tobytes()).hexdigest()


def _numbers(ids: list[str]) -> np.ndarray:
    return np.frombuffer(bytes.fromhex("".join(ids)), ">u8")
