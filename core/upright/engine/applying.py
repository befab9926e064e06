"""What a cleaner decided, done to a table of rows: the one place where cleaning changes anything."""

from __future__ import annotations

import hashlib
import itertools
import re
from collections import Counter, defaultdict
from typing import TYPE_CHECKING, Any

import numpy as np

from upright.engine.identities import child_id
from upright.errors import UprightError
from upright.evidence import ledger

if TYPE_CHECKING:
    import pyarrow as pa

    from upright.objects import Decisions
    from upright.run import Run
    from upright.stack import Placed
    from upright.step import Scope

ACTIONS = ("drop", "edit", "add", "flag", "relabel")
CODE = re.compile(r"[\w:+./@-]{1,80}")
"""What a reason looks like: a code, so that no text gets into the ledger."""


def kind(split: str) -> str:
    """``train``, ``validation`` or ``test``: what no choice may be made on."""
    return split if split in ("train", "validation") else "test"


def told(split: str, action: str, scope: Scope) -> str:
    """What becomes of a decision: on a test split, remarks and row-local edits, so that it reads like what is served."""
    return "flag" if kind(split) == "test" and not (action == "edit" and scope.row_local) else action


def cleaner(placed: Placed) -> str:
    """How the ledger names a cleaner: its key and its version."""
    return f"{placed.key}@{placed.entry.version if placed.entry else 'local'}"


def settings_of(placed: Placed) -> str:
    """The first digits of the SHA-256 of a cleaner's settings."""
    return hashlib.sha256(placed.step.model_dump_json().encode()).hexdigest()[:8]


def apply(
    rows: pa.Table, placed: Placed, split: str, decisions: Decisions, run: Run, status: Any = "applied"
) -> tuple[pa.Table, pa.Table]:
    """The rows after the decisions, and the decisions as lines of the ledger.

    Rows keep their order; an added row stands behind its parent, as that was given to the cleaner; one without a parent
    at the end. ``status`` is one word, or one a decision: what is *undone* is recorded and not applied. Raises
    UprightError where a decision is not one that can be applied.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    columns = decisions.columns
    ids = pa.array(columns["row_id"], pa.string())
    places = pc.index_in(ids, value_set=rows["row_id"]).to_pylist()
    rules = _Rules(rows, placed, split, run)
    actions, entry_ids, parents = [], [], []
    dropped: list[int] = []
    edits: dict[str, dict[int, Any]] = defaultdict(dict)
    added: list[tuple[int, str, dict[str, Any]]] = []
    siblings: Counter[str | None] = Counter()
    statuses = [status] * len(places) if isinstance(status, str) else status
    for row_id, action, reason, values, place, state in zip(
        columns["row_id"], columns["action"], columns["reason"], columns["values"], places, statuses, strict=True
    ):
        rules.check(row_id, action, reason, values, place)
        action = told(split, action, placed.step.scope)
        parent = None
        if action == "add":
            parent, row_id = row_id, child_id(row_id or "", placed.key, siblings[row_id])
            siblings[parent] += 1
        if state != "undone":
            if action == "drop":
                dropped.append(place)
            elif action in ("edit", "relabel"):
                for name, value in values.items():
                    edits[name][place] = value
            elif action == "add":
                added.append((len(rows) if place is None else place, row_id, values))
        actions.append(action)
        entry_ids.append(row_id)
        parents.append(parent)
    entries = ledger.part(
        {
            **{name: columns[name] for name in ("reason", "score", "threshold", "evidence", "spans")},
            "row_id": entry_ids,
            "split": split,
            "cleaner": cleaner(placed),
            "settings": settings_of(placed),
            "action": actions,
            "parent": parents,
            "status": status,
        },
        (run.stack.steps.index(placed), list(run.data).index(split)),
    )
    try:
        return _changed(rows, edits, added, dropped, run), entries
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise UprightError(
            f"{placed.where}  {placed}: a new value on {split} has not its column's type ({error}); mend the cleaner"
        ) from error


class _Rules:
    """What a decision may be."""

    def __init__(self, rows: pa.Table, placed: Placed, split: str, run: Run) -> None:
        self._placed, self._split = placed, split
        self._columns = set(rows.column_names) - {"row_id", "unit", *run.config.data.sensitive}

    def check(self, row_id: str | None, action: str, reason: str, values: dict[str, Any], place: int | None) -> None:
        problem = None
        if action not in ACTIONS:
            problem = f"{action!r} is no action ({', '.join(ACTIONS)})"
        elif not CODE.fullmatch(reason):
            problem = f"{reason!r} is no reason code (letters, digits and -_.:+/@, 80 at most)"
        elif place is None and (row_id is not None or action != "add"):
            problem = "there is no such row"
        elif values or row_id is None:
            odd = [name for name in values if name not in self._columns]
            missing = sorted(self._columns - values.keys()) if row_id is None else []
            if missing:
                problem = f"a row without a parent needs a value for {missing[0]!r}"
            elif odd:
                problem = f"{odd[0]!r} is no column that a cleaner may change"
            elif action == "edit" and {"label", "labels"} & values.keys():
                problem = "a label is changed by `relabel`, not by `edit`"
        if problem:
            raise UprightError(
                f"{self._placed.where}  {self._placed}: decision on row {row_id} of {self._split}: {problem}; "
                "mend the cleaner"
            )


def _changed(
    rows: pa.Table,
    edits: dict[str, dict[int, Any]],
    added: list[tuple[int, str, dict[str, Any]]],
    dropped: list[int],
    run: Run,
) -> pa.Table:
    import pyarrow as pa

    given = rows
    for name, new in edits.items():
        rows = _with_column(rows, name, new)
    keep = np.ones(len(rows), dtype=bool)
    keep[dropped] = False
    order = np.flatnonzero(keep).astype(float)
    if added:
        children = _children(given, added, run)
        rows = pa.concat_tables([rows, children])
        between = np.array([place for place, _, _ in added]) + 0.5
        sources = np.concatenate([order.astype(np.int64), np.arange(len(given), len(rows))])
        rows = rows.take(sources[np.argsort(np.concatenate([order, between]), kind="stable")])
    elif dropped:
        rows = rows.filter(pa.array(keep))
    return rows


def _with_column(rows: pa.Table, name: str, new: dict[int, Any]) -> pa.Table:
    import pyarrow as pa

    place = rows.column_names.index(name)
    values = rows.column(place).to_pylist()
    for row, value in new.items():
        values[row] = value
    return rows.set_column(place, rows.schema.field(place), pa.array(values, rows.schema.field(place).type))


def _children(rows: pa.Table, added: list[tuple[int, str, dict[str, Any]]], run: Run) -> pa.Table:
    """The added rows: as their parent, but for id and values; without one, of a unit that nobody else has."""
    import pyarrow as pa

    nobody: dict[str, Any] = dict.fromkeys(rows.column_names)
    places = pa.array([place for place, _, _ in added if place < len(rows)], pa.int64())
    parents = iter(rows.take(places).to_pylist())
    orphans = itertools.count(_next_unit(run) if any(place == len(rows) for place, _, _ in added) else 0)
    found = []
    for place, row_id, values in added:
        parent = next(parents) if place < len(rows) else {**nobody, "unit": next(orphans)}
        found.append({**parent, **values, "row_id": row_id})
    return pa.Table.from_pylist(found, schema=rows.schema)


def _next_unit(run: Run) -> int:
    """A unit that no row of any split belongs to, nor any after it."""
    return 1 + max(max(rows["unit"][:], default=-1) for rows in run.data.values())
