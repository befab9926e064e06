"""Cleaners decide, core applies and remembers: data/ledger.parquet tells what became of every row, without its text.

Row-local cleaners that follow each other see a split shard by shard, in several processes where the stack wants it; what a
killed run has done of them is kept in data/.shards until the run ends.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from upright.engine import shards, store
from upright.engine.applying import apply, kind
from upright.engine.identities import fingerprint
from upright.errors import ConfigError
from upright.evidence.ledger import write_ledger
from upright.objects import Decisions

if TYPE_CHECKING:
    import pyarrow as pa
    from datasets import Dataset

    from upright.run import Run
    from upright.stack import Placed
    from upright.step import Scope

    Splits = dict[str, Dataset]


def clean(run: Run) -> None:
    """Ask every cleaner about every split, apply what it decides, write the ledger.

    Raises UprightError where a decision is not one that can be applied, ConfigError where a split ends up empty.
    """
    source = {split: fingerprint(rows) for split, rows in run.data.items()}
    parts: list[pa.Table] = []
    for group in groups(run):
        before = dict(run.data)
        for split in before:
            steps = [placed for placed in group if kind(split) in placed.step.scope.splits]
            if steps:
                rows, entries = _cleaned(run, split, steps, before)
                run.data[split] = rows
                parts.append(entries)
                _tell(run, split, steps, entries)
                if not len(rows):
                    last = steps[-1]
                    raise ConfigError(f"{last.where}  {last} drops every row of {split}; loosen its settings")
    write_ledger(run, parts, source)


def groups(run: Run) -> list[list[Placed]]:
    """The cleaners in order; row-local ones that follow each other are asked together, unless a wrapper looks on."""
    wrapped = run.calls.wraps("clean")
    steps = run.stack.answering("clean")
    if wrapped:
        return [[placed] for placed in steps]
    return [
        group
        for local, members in itertools.groupby(steps, lambda placed: placed.step.scope.row_local)
        for group in ([list(members)] if local else [[placed] for placed in members])
    ]


def decided(run: Run, placed: Placed, split: str, rows: Dataset, before: Splits) -> Decisions:
    """What a cleaner decides on rows, the wrappers left out.

    Of the splits that it declares to read it sees what they held ``before`` it was asked about the first one.
    """
    with _seen(run, split, placed.step.scope, before):
        return run.calls.clean(placed.step, rows, split, run) or Decisions()


def decided_on_all(run: Run, placed: Placed, split: str, rows: Dataset, before: Splits) -> Decisions:
    """What a cleaner and the wrappers around it decide on a whole split."""

    def inner() -> Decisions:
        if not placed.step.scope.row_local:
            return decided(run, placed, split, rows, before)
        found = Decisions()
        size = store.shard_rows(rows)
        for start in range(0, len(rows), size):
            shard = rows.select(range(start, min(start + size, len(rows))))
            for name, values in decided(run, placed, split, shard, before).columns.items():
                found.columns[name] += values
        return found

    if not run.calls.wraps("clean"):
        return inner()
    given = {"rows": rows, "split": split, "step": placed.step, "run": run}
    with _seen(run, split, placed.step.scope, before):
        decisions: Decisions = run.calls.around("clean", given, inner)
    return decisions


def clean_shard(run: Run, split: str, steps: list[Placed], rows: Dataset) -> tuple[pa.Table, pa.Table]:
    """A part of a split after row-local cleaners, and their decisions."""
    import pyarrow as pa

    parts = []
    for placed in steps:
        table, entries = apply(store.arrow(rows), placed, split, decided(run, placed, split, rows, {}), run)
        rows = store.in_memory(table)
        parts.append(entries)
    return store.arrow(rows), pa.concat_tables(parts)


def _cleaned(run: Run, split: str, steps: list[Placed], before: Splits) -> tuple[Dataset, pa.Table]:
    rows = run.data[split]
    alone = len(steps) == 1 and (not steps[0].step.scope.row_local or run.calls.wraps("clean"))
    if alone:
        decisions = decided_on_all(run, steps[0], split, rows, before)
        if not len(decisions):
            from upright.evidence.ledger import part, schema

            return rows, part({name: [] for name in schema().names}, (0, 0))
        table, entries = apply(store.arrow(rows), steps[0], split, decisions, run)
        return _kept(run, split, table), entries
    if len(rows) <= store.shard_rows(rows):
        table, entries = clean_shard(run, split, steps, rows)
        return store.in_memory(table), entries
    return shards.cleaned(run, split, steps)


def _kept(run: Run, split: str, table: pa.Table) -> Dataset:
    """The table in memory, or in a file of the scratch folder where it is large."""
    place = store.scratch(run)
    numbers = itertools.count(sum(1 for _ in place.iterdir()))
    pieces = (table.slice(start, store.SHARD) for start in range(0, max(len(table), 1), store.SHARD))
    return store.gathered(pieces, lambda: place / f"{split}-{next(numbers)}.arrow")


def _tell(run: Run, split: str, steps: list[Placed], entries: pa.Table) -> None:
    places = entries["cleaner_place"].to_pylist()
    for placed in steps:
        number = run.stack.steps.index(placed)
        actions = [a for a, place in zip(entries["action"].to_pylist(), places, strict=True) if place == number]
        if actions:
            run.emit("cleaned", step=placed.key, split=split, counts=dict(Counter(actions)))


@contextmanager
def _seen(run: Run, split: str, scope: Scope, before: Splits) -> Iterator[None]:
    """Only the splits that the cleaner declares to read are in ``run.data``, and its own."""
    everything = run.data
    run.data = {
        name: rows if name == split else before.get(name, rows)
        for name, rows in everything.items()
        if name == split or kind(name) in scope.reads
    }
    try:
        yield
    finally:
        run.data = everything
