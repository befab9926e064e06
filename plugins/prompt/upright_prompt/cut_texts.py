"""Texts that did not fit the model's window: told once when it happens first, counted for the report."""

from __future__ import annotations

from typing import TYPE_CHECKING

from upright import Section
from upright.objects import Table, Text

if TYPE_CHECKING:
    from upright import Run, Step


def forget_cuts(step: Step, run: Run) -> None:
    """Begin to count: a resumed run renders its texts again."""
    run.keep(step, "cut", dict).clear()


def count_cut(step: Step, run: Run, cut: dict[str, int]) -> None:
    """Note that one record lost ``cut[field]`` characters of each field; the first time, say so."""
    if not cut:
        return
    counts = run.keep(step, "cut", dict)
    if not counts:
        field = next(iter(cut))
        run.emit(
            "warning",
            message=f"{run.stack.placed(step)}: {{{field}}} of a row was cut to fit the model's {run.max_length} tokens; how "
            "many rows were is counted in the report",
        )
    for field, characters in cut.items():
        rows, total = counts.get(field, (0, 0))
        counts[field] = (rows + 1, total + characters)


def cut_section(step: Step, run: Run) -> Section | None:
    """How many texts lost their end, by field; None where none did."""
    counts = run.keep(step, "cut", dict)
    if not counts:
        return None
    told = Text(f"These fields did not fit the model's window of {run.max_length} tokens with their prompt.")
    rows = [[field, rows, characters] for field, (rows, characters) in counts.items()]
    return Section("Cut texts", [told, Table(["field", "texts", "characters left out"], rows)])
