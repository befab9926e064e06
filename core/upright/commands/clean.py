"""``upright clean``: only the cleaning of a stack; or a run's cleaning again, without some decisions."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from upright.commands.options import STACK, Json, Overrides, RunCode, print_json, shown, table

if TYPE_CHECKING:
    from upright.run import Run
    from upright.stack import Stack


def clean(
    target: Annotated[
        Path, typer.Argument(metavar="STACK|RUN", help="The stack file or its folder; with --undo, a run folder.")
    ] = STACK,
    overrides: Overrides = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show counts and examples of what would be done; leave nothing behind.")
    ] = False,
    examples: Annotated[
        int, typer.Option(min=0, help="Examples of each kind of decision that --dry-run shows, with their text.")
    ] = 2,
    undo: Annotated[
        bool, typer.Option("--undo", help="Rebuild the run's data in a new folder without its cleaning decisions.")
    ] = False,
    only: Annotated[
        list[str] | None,
        typer.Option(
            metavar="CLEANER|ROW", help="With --undo: only these cleaners' decisions, or those on these rows."
        ),
    ] = None,
    resume: Annotated[
        Path | None, typer.Option(metavar="RUN", help="Go on in this folder of an interrupted `upright clean`.")
    ] = None,
    run_code: RunCode = False,
    as_json: Json = False,
) -> None:
    """Clean a stack's rows and stop before the model; print what was decided and where the rows are.

    The rows are data/<split>.parquet of a new run folder, every decision is in data/ledger.parquet. With --undo, the run's
    rows are read and cleaned again without the named decisions; the old run is left as it is. Decisions of cleaners that
    look at other rows are kept, and marked stale where they would now be others.
    """
    import tempfile

    from upright.engine.execute import execute
    from upright.errors import ConfigError
    from upright.progress import Progress, quiet_libraries
    from upright.stack import Stack

    if only and not undo:
        raise ConfigError("--only goes with --undo: it names the decisions that are undone")
    if undo and (dry_run or resume or overrides):
        raise ConfigError("--undo repeats a run as it was; leave --dry-run, --resume and --set out")
    quiet_libraries()
    if undo:
        _told(_undone(target, tuple(only or ()), run_code), as_json)
        return
    if resume is not None and target == STACK:
        target = resume / "stack.resolved.yaml"
    stack = Stack.load(target, overrides or []).only_cleaning()
    if not stack.answering("clean"):
        raise ConfigError(f"{stack.source}: no step cleans; name one in a `clean:` section")
    if not dry_run:
        with Progress() as progress:
            run = execute(stack, resume=resume.resolve() if resume else None, listen=progress)
        _told(run, as_json)
        return
    with tempfile.TemporaryDirectory(prefix="upright-") as folder, Progress() as progress:
        run = execute(_elsewhere(stack, folder), listen=progress)
        _told(run, as_json, _examples(run, examples), there=False)


def _elsewhere(stack: Stack, folder: str) -> Stack:
    from dataclasses import replace

    return replace(stack, settings=stack.settings.model_copy(update={"output": folder}))


def _undone(folder: Path, only: tuple[str, ...], run_code: bool) -> Run:
    from upright.engine.undo import can_be_repeated, named, undo
    from upright.evidence.ledger import read_ledger
    from upright.progress import Progress
    from upright.run import Run

    can_be_repeated(folder)
    run = Run.load(folder, run_code=run_code)
    lines = read_ledger(run.folder, run).to_pylist()
    with Progress() as progress:
        return undo(run, named(only, lines, folder), only, progress)


def _told(run: Run, as_json: bool, examples: list[dict[str, Any]] | None = None, there: bool = True) -> None:
    import json

    from upright.evidence.ledger import read_counts

    counts = read_counts(run.folder)
    rows = {split: len(data) for split, data in run.data.items()}
    undone = run.folder / "evidence" / "undo.json"
    facts = json.loads(undone.read_text(encoding="utf-8")) if undone.is_file() else None
    if as_json:
        told = {"folder": str(run.folder) if there else None, "rows": rows, "decisions": counts}
        print_json(told | ({"examples": examples} if examples else {}) | ({"undo": facts} if facts else {}))
        raise typer.Exit(run.exit_code)
    header = ["cleaner", "split", "action", "reason", "status", "rows"]
    if counts:
        table(header, [[str(entry[name]) for name in header] for entry in counts])
    else:
        typer.echo("nothing was decided")
    for example in examples or []:
        typer.secho(f"{example['cleaner']} {example['action']} {example['reason']} {example['row_id']}", bold=True)
        typer.echo(f"  before: {example['before']}")
        if example["after"] is not None and example["after"] != example["before"]:
            typer.echo(f"  after:  {example['after']}")
    if facts:
        typer.echo(
            f"undone: {facts['undone']} decisions of {facts['run']}; stale: {facts['stale']}; decisions that would now be "
            f"made and were not: {facts['not_made']}"
        )
    typer.echo("rows: " + ", ".join(f"{split} {count}" for split, count in rows.items()))
    if there:
        typer.echo(str(run.folder / "data"))
    raise typer.Exit(run.exit_code)


def _examples(run: Run, count: int) -> list[dict[str, Any]]:
    """A few decisions of each kind with the row before and after all cleaning, for the terminal alone."""
    from collections import Counter

    from upright.engine.history import given_rows
    from upright.evidence.ledger import read_ledger

    chosen, seen = [], Counter[tuple[str, ...]]()
    for line in read_ledger(run.folder, run).to_pylist() if count else []:
        kind = (line["cleaner"], line["split"], line["action"], line["reason"])
        seen[kind] += 1
        if seen[kind] <= count:
            chosen.append(line)
    ids = {line["parent"] or line["row_id"] for line in chosen}
    before = {row["row_id"]: row for row in given_rows(run, ids)}
    wanted = ids | {line["row_id"] for line in chosen}
    after = {row["row_id"]: row for data in run.data.values() for row in data if row["row_id"] in wanted}
    return [
        line
        | {
            "before": shown(before.get(line["parent"] or line["row_id"])),
            "after": shown(after.get(line["row_id"])),
        }
        for line in chosen
    ]
