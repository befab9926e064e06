"""Row-local cleaning of a split that is larger than memory should hold: shard by shard, in several processes.

Each shard's rows and decisions are a file of their own in data/.shards, written whole or not at all, beside the SHA-256 of
both and a key of what they follow from: a run that goes on takes those that still hold. Where a step seals the run's
files, they lie in the scratch folder and are gone with the process.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import TYPE_CHECKING, Any

from upright.engine import store
from upright.engine.applying import cleaner
from upright.errors import UprightError
from upright.evidence.files import disk_error, replace_file, sha256, write_atomic
from upright.evidence.sealing import seals

if TYPE_CHECKING:
    import pyarrow as pa
    from datasets import Dataset

    from upright.run import Run
    from upright.stack import Placed

FOLDER = ".shards"


def cleaned(run: Run, split: str, steps: list[Placed]) -> tuple[Dataset, pa.Table]:
    """The split after the row-local ``steps``, mapped from the shards' files, and their decisions."""
    import datasets
    import pyarrow as pa

    work = _Work(run, split, steps)
    count = -(-len(work.rows) // work.size)
    paths = []
    for done, path in enumerate(_done(work, list(range(count))), 1):
        run.emit("shard", split=split, done=done, shards=count)
        paths.append(path)
    paths.sort()
    rows = datasets.concatenate_datasets([datasets.Dataset.from_file(str(path)) for path in paths])
    return rows, pa.concat_tables([_mapped(_ledger_of(path)) for path in paths])


def remove(run: Run) -> None:
    """Take the shards away: the run has ended, and what is left of its rows is where it belongs."""
    import shutil

    shutil.rmtree(run.folder / "data" / FOLDER, ignore_errors=True)


class _Work:
    """The shards of one split, and what becomes of each; in a forked process, the same object."""

    def __init__(self, run: Run, split: str, steps: list[Placed]) -> None:
        self.run, self.split, self.steps = run, split, steps
        self.rows = run.data[split]
        self.size = store.shard_rows(self.rows)
        if seals(run):
            self.folder = store.scratch(run) / FOLDER
        else:
            self.folder = run.folder / "data" / FOLDER
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        last = run.stack.steps.index(steps[-1])
        before = [placed for placed in run.stack.answering("clean") if run.stack.steps.index(placed) <= last]
        self.stage = len(before)
        self.key = json.dumps([[cleaner(placed), placed.step.model_dump_json()] for placed in before])

    def path(self, number: int) -> Path:
        return self.folder / f"{self.stage}-{self.split}-{number:06d}.arrow"

    def do(self, number: int) -> list[dict[str, Any]]:
        """Clean one shard, unless its files are there; return the events that steps wrote meanwhile."""
        from upright.engine.cleaning import clean_shard

        start = number * self.size
        rows = self.rows.select(range(start, min(start + self.size, len(self.rows))))
        key = hashlib.sha256("\0".join([self.key, *rows["row_id"][:]]).encode()).hexdigest()
        path = self.path(number)
        if _holds(path, key):
            return []
        heard = _Heard()
        run, events = self.run, self.run.events
        run.events = heard  # type: ignore[assignment]
        try:
            table, entries = clean_shard(run, self.split, self.steps, rows)
        finally:
            run.events = events
        for target, content in ((path, table), (_ledger_of(path), entries)):
            _write(target, content)
        facts = {"key": key, "sha256": sha256(path), "ledger": sha256(_ledger_of(path))}
        write_atomic(path.with_suffix(".json"), json.dumps(facts))
        return heard.events


class _Heard:
    """Keeps events, for the process that may write them."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []

    def write(self, event: str, **fields: Any) -> None:
        self.events.append({"event": event, **fields})


_work: _Work | None = None
"""What a forked process is to do."""


def _do(number: int) -> tuple[int, list[dict[str, Any]]]:
    assert _work is not None
    return number, _work.do(number)


def _done(work: _Work, numbers: list[int]) -> Iterator[Path]:
    """The shards' files, as they are finished."""
    workers = min(work.run.config.data.clean_workers, len(numbers))
    if workers == 1 or not hasattr(os, "fork"):
        for number in numbers:
            _emit(work.run, work.do(number))
            yield work.path(number)
        return
    yield from _in_processes(work, numbers, workers)


def _in_processes(work: _Work, numbers: list[int], workers: int) -> Iterator[Path]:
    import multiprocessing

    global _work
    _work = work
    pool = ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("fork"))
    try:
        left: set[Future[tuple[int, list[dict[str, Any]]]]] = {pool.submit(_do, number) for number in numbers}
        while left:
            ready, left = wait(left, return_when=FIRST_COMPLETED)
            for future in ready:
                number, events = future.result()
                _emit(work.run, events)
                yield work.path(number)
    except BrokenProcessPool as error:
        told = ", ".join(map(str, work.steps))
        raise UprightError(
            f"{work.steps[0].where}  {told}: a cleaning process was killed on {work.split}, perhaps for want of memory; "
            "lower data.clean_workers and go on with --resume"
        ) from error
    finally:
        _work = None
        pool.shutdown(wait=True, cancel_futures=True)


def _emit(run: Run, events: list[dict[str, Any]]) -> None:
    for event in events:
        run.emit(**event)


def _holds(path: Path, key: str) -> bool:
    """Whether the files of a shard are there, whole, and follow from what is asked."""
    try:
        facts = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        return bool(
            facts["key"] == key and facts["sha256"] == sha256(path) and facts["ledger"] == sha256(_ledger_of(path))
        )
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _ledger_of(path: Path) -> Path:
    return path.with_suffix(".ledger")


def _write(path: Path, table: pa.Table) -> None:
    import pyarrow as pa

    with replace_file(path) as draft:
        try:
            with pa.OSFile(str(draft), "wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
                writer.write_table(table)
        except OSError as error:
            raise disk_error(path, error) from error


def _mapped(path: Path) -> pa.Table:
    import pyarrow as pa

    with pa.memory_map(str(path)) as file:
        return pa.ipc.open_stream(file).read_all()
