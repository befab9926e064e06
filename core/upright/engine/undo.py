"""A run's cleaning again, without some of its decisions.

Two tracks are cleaned side by side: the rows as the run had them, which must give its ledger again, and the rows without the
undone decisions. On these, row-local cleaners decide anew, so that the result is what they would have made of them. A
cleaner that looks at other rows is held to what it decided then, as far as the rows are there: an undone decision changes
nothing else by itself. What such a cleaner would not decide today is marked *stale*.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from upright.engine import store
from upright.engine.applying import apply, cleaner, kind, told
from upright.engine.cleaning import decided_on_all
from upright.engine.identities import child_id, fingerprint
from upright.engine.telling import write_json
from upright.errors import ConfigError, IntegrityError
from upright.evidence.files import sha256
from upright.evidence.ledger import read_ledger, source_of, write_ledger
from upright.evidence.manifest import check_manifest
from upright.objects import Decisions
from upright.run import Run

if TYPE_CHECKING:
    import pyarrow as pa
    from datasets import Dataset

    from upright.stack import Placed

Entry = dict[str, Any]
Key = tuple[str | None, str, int]
"""A decision of one cleaner on one split: the row (of an added row, its own id), the action, and which one of several."""


def undo(
    finished: Path | Run,
    chosen: Callable[[Entry], bool],
    only: tuple[str, ...] = (),
    listen: Callable[[Entry], None] | None = None,
) -> Run:
    """Clean the rows of a run again without the ``chosen`` lines of its ledger, in a new folder; return the new run.

    A run is loaded from its folder; one whose steps are in no distribution is given itself. ``only`` is what the evidence
    says was asked for. The old run is left as it is. Raises ConfigError where there is
    nothing to undo or a cleaner cannot decide again, IntegrityError where the run or its source is not what it was.
    """
    from upright.engine.execute import execute

    folder = finished.folder if isinstance(finished, Run) else finished
    _can_be_repeated(folder)
    old = finished if isinstance(finished, Run) else Run.load(folder, run_code=True)
    ledger = read_ledger(old.folder, old)
    lines = ledger.to_pylist()
    if not any(map(chosen, lines)):
        raise ConfigError(
            f"{folder}: none of its {len(lines)} cleaning decisions was named, so there is nothing to undo"
        )
    stack = old.stack.only_cleaning()
    _same_cleaners(stack.answering("clean"), lines, folder)
    facts = {
        "run": old.folder.name,
        "ledger_sha256": sha256(old.folder / "data" / "ledger.parquet"),
        "only": list(only),
    }
    again = partial(_again, lines=lines, source=source_of(ledger), chosen=chosen, facts=facts, folder=folder)
    return execute(stack, listen=listen, clean=again)


def named(words: tuple[str, ...], lines: list[Entry], folder: Path) -> Callable[[Entry], bool]:
    """Which lines of a ledger are meant by cleaners' keys and (beginnings of) row ids; all, where no word is given.

    Raises ConfigError for a word that names none.
    """
    keys = {line["cleaner"].partition("@")[0] for line in lines}
    rows = {row for line in lines for row in (line["row_id"], line["parent"]) if row}
    cleaners, ids = {word for word in words if word in keys}, set()
    for word in words:
        if word not in keys:
            found = [row for row in rows if row.startswith(word)]
            if len(found) != 1:
                told = "names no cleaner and no row" if not found else f"is the beginning of {len(found)} rows' ids"
                raise ConfigError(
                    f"{folder}: {word!r} {told} of its ledger; name one of {', '.join(sorted(keys))}, or a row's id "
                    "from data/ledger.parquet"
                )
            ids.add(found[0])

    def chosen(line: Entry) -> bool:
        return (
            not words
            or line["cleaner"].partition("@")[0] in cleaners
            or line["row_id"] in ids
            or (line["parent"] in ids if line["parent"] else False)
        )

    return chosen


def _can_be_repeated(folder: Path) -> None:
    if not (folder / "stack.resolved.yaml").is_file():
        raise ConfigError(f"{folder}: is no run folder; name one, such as runs/<name>/latest")
    if not (folder / "manifest.json").is_file():
        raise ConfigError(f"{folder}: this run has not ended; go on with `upright run --resume` first")
    if (folder / "evidence" / "undo.json").is_file():
        raise ConfigError(
            f"{folder}: is itself a run with decisions undone; name the run that it says in evidence/undo.json, and all "
            "that is to be undone"
        )
    problems, _ = check_manifest(folder)
    if problems:
        raise IntegrityError(problems[0])


def _same_cleaners(steps: list[Placed], lines: list[Entry], folder: Path) -> None:
    here = {placed.key: placed for placed in steps}
    for name in sorted({line["cleaner"] for line in lines}):
        placed = here.get(name.partition("@")[0])
        if placed is None:
            raise ConfigError(
                f"{folder}: the decisions of {name} belong to training and cannot be undone by themselves"
            )
        if cleaner(placed) != name:
            raise ConfigError(
                f"{folder}: {name} decided, and {cleaner(placed)} is installed; install that version to undo its decisions"
            )
        if not placed.step.scope.deterministic:
            raise ConfigError(
                f"{folder}: {placed} made choices that it cannot make again, so its run cannot be repeated without some "
                "decisions; run the stack anew"
            )


def _again(
    run: Run,
    *,
    lines: list[Entry],
    source: dict[str, str],
    chosen: Callable[[Entry], bool],
    facts: dict[str, Any],
    folder: Path,
) -> None:
    """In place of `upright.engine.cleaning.clean`."""
    given = {split: fingerprint(rows) for split, rows in run.data.items()}
    for split in source.keys() | given.keys():
        if source.get(split) != given.get(split):
            raise IntegrityError(
                f"{folder}: its rows of {split} are not those that the stack's file holds now; bring the file back as it "
                "was (lock.json has its sha256)"
            )
    then, now = dict(run.data), dict(run.data)
    parts: list[pa.Table] = []
    counts: Counter[str] = Counter({"undone": 0, "stale": 0, "not_made": 0})
    for placed in run.stack.answering("clean"):
        was, left = dict(then), dict(now)
        for split in [name for name in given if kind(name) in placed.step.scope.splits]:
            mine = [line for line in lines if line["cleaner"] == cleaner(placed) and line["split"] == split]
            before = _decisions(run, placed, split, was)
            _the_same(placed, split, before, mine, folder)
            undone = {key for key, line in zip(_keys_of(mine), mine, strict=True) if chosen(line)}
            decisions, stale, missed = _now(run, placed, split, before, was, left)
            statuses = [
                "undone" if key in undone else "stale" if key in stale else "applied"
                for key in _keys(placed, split, decisions)
            ]
            counts.update(statuses)
            counts["not_made"] += missed
            then[split], _ = _applied(run, placed, split, before, then, "applied")
            now[split], entries = _applied(run, placed, split, decisions, now, statuses)
            parts.append(entries)
            if not len(now[split]):
                raise ConfigError(f"{placed.where}  {placed} drops every row of {split}; undo its decisions too")
    run.data = now
    write_ledger(run, parts, given)
    counts.pop("applied", None)
    write_json(run.folder / "evidence" / "undo.json", {**facts, **counts})


def _decisions(run: Run, placed: Placed, split: str, data: dict[str, Dataset]) -> Decisions:
    run.data = data
    return decided_on_all(run, placed, split, data[split], data)


def _applied(
    run: Run, placed: Placed, split: str, decisions: Decisions, data: dict[str, Dataset], status: Any
) -> tuple[Dataset, pa.Table]:
    run.data = data
    table, entries = apply(store.arrow(data[split]), placed, split, decisions, run, status)
    return store.in_memory(table), entries


def _now(
    run: Run, placed: Placed, split: str, before: Decisions, then: dict[str, Dataset], now: dict[str, Dataset]
) -> tuple[Decisions, set[Key], int]:
    """What holds on the rows of ``now``, what of it is stale, and how many decisions a cleaner would make but did not."""
    scope = placed.step.scope
    seen = [name for name in then if name == split or kind(name) in scope.reads]
    if all(then[name] is now[name] or store.arrow(then[name]).equals(store.arrow(now[name])) for name in seen):
        return before, set(), 0
    fresh = _decisions(run, placed, split, now)
    if scope.row_local and not run.calls.wraps("clean"):
        return fresh, set(), 0
    there = set(now[split]["row_id"][:])
    held = Decisions()
    for row in before.rows:
        if row["row_id"] is None or row["row_id"] in there:
            held.add(row.pop("row_id"), row.pop("action"), row.pop("reason"), **row)
    would = dict(zip(_keys(placed, split, fresh), map(_content, fresh.rows), strict=True))
    did = dict(zip(_keys(placed, split, held), map(_content, held.rows), strict=True))
    return held, {key for key, content in did.items() if would.get(key) != content}, len(would.keys() - did.keys())


def _content(row: Entry) -> Entry:
    return {name: row[name] for name in ("reason", "evidence", "spans", "values")}


def _keys(placed: Placed, split: str, decisions: Decisions) -> list[Key]:
    pairs, siblings = [], Counter[str | None]()
    for row_id, action in zip(decisions.columns["row_id"], decisions.columns["action"], strict=True):
        action = told(split, action, placed.step.scope)
        if action == "add":
            row_id, parent = child_id(row_id or "", placed.key, siblings[row_id]), row_id
            siblings[parent] += 1
        pairs.append((row_id, action))
    return list(_numbered(pairs))


def _keys_of(lines: list[Entry]) -> list[Key]:
    return list(_numbered([(line["row_id"], line["action"]) for line in lines]))


def _numbered(pairs: list[tuple[str | None, str]]) -> Iterator[Key]:
    seen: Counter[tuple[str | None, str]] = Counter()
    for row_id, action in pairs:
        yield row_id, action, seen[row_id, action]
        seen[row_id, action] += 1


def _the_same(placed: Placed, split: str, decisions: Decisions, lines: list[Entry], folder: Path) -> None:
    """The cleaner must decide on the old rows what the ledger says that it decided."""
    reasons = {key: line["reason"] for key, line in zip(_keys_of(lines), lines, strict=True)}
    again = dict(zip(_keys(placed, split, decisions), decisions.columns["reason"], strict=True))
    if reasons != again:
        odd = next(iter(reasons.items() ^ again.items()))[0]
        raise IntegrityError(
            f"{folder}: {placed} decides otherwise on row {odd[0]} of {split} than its ledger says, so its decisions cannot "
            "be undone; the cleaner, or what it reads, has changed"
        )
