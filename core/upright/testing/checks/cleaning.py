"""Does a cleaner decide as its `Scope` declares?"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any

from upright.testing.outcome import Failed, Skipped
from upright.testing.toys import dirty_rows

if TYPE_CHECKING:
    from upright.testing.subject import Subject

Row = dict[str, Any]


def cleaner_deterministic(subject: Subject) -> str:
    """The same rows get the same decisions."""
    if not _scope(subject).deterministic:
        raise Skipped("it declares that its decisions differ from run to run")
    first, second = (_decided(subject, dirty_rows(subject.task)) for _ in range(2))
    if first != second:
        raise Failed("the same rows got other decisions the second time; draw from run.generator(self)")
    return f"{len(first)} decisions, the same twice"


def cleaner_shards(subject: Subject) -> str:
    """A row-local cleaner decides on a part of a split, in any order, as it does on the whole."""
    if not _scope(subject).row_local:
        raise Skipped("it does not declare row_local")
    subject.needs("cleaner-deterministic")
    rows = dirty_rows(subject.task)
    whole = _decided(subject, rows)
    shards = sorted((one for part in (rows[::2], rows[1::2][::-1]) for one in _decided(subject, part)), key=repr)
    if whole != shards:
        raise Failed("decisions on parts of a split are not those on the whole; leave Scope.row_local out")
    return f"{len(whole)} decisions, the same in two shards"


def cleaner_stability(subject: Subject) -> str:
    """Without one unit, no more units of the cleaned rows differ than ``dp_stability`` says."""
    bound = _scope(subject).dp_stability
    if bound is None:
        raise Skipped("it declares no bound (dp_stability is None); privacy holds it outside its epsilon")
    if not subject.step.scope.deterministic:
        raise Skipped("its decisions differ from run to run, so no two can be compared")
    subject.needs("cleaner-deterministic")
    rows = dirty_rows(subject.task)
    whole = _cleaned(subject, rows)
    worst = 0
    for left_out in rows:
        without = _cleaned(subject, [row for row in rows if row["unit"] != left_out["unit"]])
        changed = [unit for unit in whole.keys() | without.keys() if whole.get(unit) != without.get(unit)]
        worst = max(worst, len(changed))
    if worst > bound:
        raise Failed(
            f"without one unit {worst} units of the cleaned rows differ, but Scope.dp_stability says {bound}; declare "
            "what is true, or None"
        )
    return f"{worst} of at most {bound}"


def cleaner_undoable(subject: Subject) -> str:
    """What a cleaner decided can be undone: the rows are then those that were given."""
    import json

    from upright.engine.history import given
    from upright.engine.undo import undo
    from upright.evidence.ledger import read_ledger

    if not _scope(subject).deterministic:
        raise Skipped("it declares that its decisions differ from run to run, so core refuses to undo them")
    subject.needs("cleaner-deterministic")
    path = subject.folder / "dirty.jsonl"
    rows = [{name: value for name, value in row.items() if name != "row_id"} for row in dirty_rows(subject.task)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    stack = subject.stack(data={"train": str(path)}).only_cleaning()
    if all(placed.step is not subject.step for placed in stack.steps):
        raise Skipped("its decisions belong to training and are not undone by themselves")
    run = subject.execute(stack).run
    if run is None:
        raise Skipped("cleaning alone did not end; see `runs`")
    count = len(read_ledger(run.folder, run))
    if not count:
        return "it decided nothing on the kit's rows"
    undone = undo(run, lambda line: True)
    for split, rows_given in given(run).items():
        if undone.data[split].to_list() != rows_given.to_list():
            raise Failed(f"with every decision undone, the rows of {split} are not those that were given")
    return f"{count} decisions undone"


def _scope(subject: Subject) -> Any:
    if not subject.answers("clean"):
        raise Skipped("it cleans nothing")
    return subject.step.scope


def _decided(subject: Subject, rows: list[Row]) -> list[Row]:
    """The step's decisions on some rows of train, in no order."""
    import tempfile
    from pathlib import Path

    import datasets

    from upright.calls import Calls
    from upright.engine.core_answers import CoreAnswers
    from upright.engine.tasks import get
    from upright.run import Run

    with tempfile.TemporaryDirectory(dir=subject.folder) as folder:
        stack = subject.stack()
        run = Run(stack, Path(folder), Calls([placed.step for placed in stack.steps], CoreAnswers()))
        run.task = get(subject.task)
        run.data = {"train": datasets.Dataset.from_list(rows)}
        try:
            decisions = run.calls.clean(subject.step, run.data["train"], "train", run)
        except Exception as error:  # whatever a cleaner raises on rows that are odd but allowed
            raise Failed(f"it fails on a split of odd rows ({type(error).__name__}: {error})") from error
    return sorted(decisions.rows, key=repr) if decisions is not None else []


def _cleaned(subject: Subject, rows: list[Row]) -> dict[int, list[str]]:
    """Unit -> its rows after the decisions were applied, as core applies them to train."""
    left: dict[str | None, Row | None] = {row["row_id"]: dict(row) for row in rows}
    found: dict[int, list[str]] = defaultdict(list)
    for decision in _decided(subject, rows):
        row_id, action = decision["row_id"], decision["action"]
        row = left.get(row_id)
        if action == "drop":
            left[row_id] = None
        elif action in ("edit", "relabel") and row is not None:
            row.update(decision["values"])
        elif action == "add":
            found[row["unit"] if row else -1].append(repr(decision["values"]))
    for row in left.values():
        if row is not None:
            found[row["unit"]].append(repr({key: value for key, value in row.items() if key != "row_id"}))
    return {unit: sorted(contents) for unit, contents in found.items()}
