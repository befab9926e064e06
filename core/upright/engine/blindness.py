"""Which steps read a group when a decision is made: each is asked twice, with the groups and without."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from upright.engine.batches import batches

if TYPE_CHECKING:
    from upright.calls import Answer
    from upright.objects import Batch
    from upright.run import Run

ROWS = 16
"""Rows of each group that are asked about."""


def blindness(run: Run, split: str) -> dict[str, Any]:
    """``reads``: the steps whose ``forward`` or ``decide`` answers otherwise once every group is missing.

    Prompts cannot read one: records have no sensitive columns.
    """
    if not run.config.data.sensitive:
        return {}
    rows = _rows(run, split)
    reads: set[str] = set()
    with torch.no_grad():
        for batch in batches(run, rows, split):
            reads |= _readers(run, batch)
    return {"split": split, "rows": len(rows), "reads": sorted(reads)}


def _rows(run: Run, split: str) -> list[int]:
    """The first rows of each value of each sensitive column, so that no group is left out."""
    chosen: set[int] = set()
    for column in run.config.data.sensitive:
        places: dict[str | None, list[int]] = {}
        for row, value in enumerate(run.data[split][column][:]):
            places.setdefault(value, []).append(row)
        chosen.update(row for held in places.values() for row in held[:ROWS])
    return sorted(chosen)


def _readers(run: Run, batch: Batch) -> set[str]:
    """The steps that read a group of the batch's rows."""
    hidden, found = _hidden(batch), set()

    def reads(seen: Tensor, ask: Callable[[Batch], Tensor]) -> bool:
        """Whether the answer is another without groups; who fails without them reads them too."""
        with _withheld(run, batch.split):
            try:
                return not _same(seen, ask(hidden))
            except Exception:
                return True

    logits = run.forward(batch).logits
    if reads(logits, lambda given: run.forward(given).logits):
        found.add(_name(run, "forward"))
    if run.config.model.task != "text-classification":
        return found
    first = scores = torch.softmax(logits.double(), dim=-1)
    for answer in run.calls.answers("decide"):
        ask = partial(_decided, answer, scores, run)
        seen = ask(batch)
        if reads(seen, ask):
            found.add(str(run.stack.placed(answer.step)))
        scores = seen
    if not found and run.calls.wraps("decide"):
        around = partial(_wrapped, first, run)
        found |= {"a wrapper of decide"} if reads(around(batch), around) else set()
    return found


def _decided(answer: Answer, scores: Tensor, run: Run, batch: Batch) -> Tensor:
    adjusted: Tensor = answer({"scores": scores.clone(), "batch": batch, "run": run})
    return adjusted


def _wrapped(scores: Tensor, run: Run, batch: Batch) -> Tensor:
    return run.calls.decide(scores.clone(), batch, run)


def _hidden(batch: Batch) -> Batch:
    """The batch with every group missing."""
    return dataclasses.replace(batch, groups={name: torch.full_like(codes, -1) for name, codes in batch.groups.items()})


@contextmanager
def _withheld(run: Run, split: str) -> Iterator[None]:
    """``run.data[split]`` with nothing in its sensitive columns."""
    rows = run.data[split]
    blank = rows
    for column in run.config.data.sensitive:
        blank = blank.remove_columns(column).add_column(column, [None] * len(rows))
    run.data[split] = blank
    try:
        yield
    finally:
        run.data[split] = rows


def _same(one: Tensor, other: Tensor) -> bool:
    """Sums on an accelerator may end in another last bit."""
    return torch.allclose(one.double(), other.double(), rtol=1e-5, atol=1e-7)


def _name(run: Run, hook: str) -> str:
    placed = run.stack.find(run.calls.answers(hook)[0].step)
    return str(placed) if placed else f"a wrapper of {hook}"
