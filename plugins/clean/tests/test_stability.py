"""One row less changes no more decisions than a cleaner declares: for each that declares a number, on random rows."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any, ClassVar

import pytest
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st

from upright import Decisions, Scope, Step, catalog, hook
from upright.calls import Calls

NEEDED: dict[str, dict[str, Any]] = {"language": {"keep": ["en", "zh"]}}
"""Settings without a default."""
ODD = ("back-translate",)
"""What needs a model of the user's, or rows of another kind."""

TEXTS = st.one_of(
    st.text(max_size=30),
    st.sampled_from(
        ["", "the note says no", "<b>caf\u00c3\u00a9</b>", "he told his wife", "a a a a a a", "call 030 123"]
    ),
)


def cleaners() -> list[tuple[str, Step]]:
    """Every installed cleaner for texts that declares a number, with its default settings."""
    found = []
    for entry in catalog.steps():
        if entry.section == "clean" and entry.name not in ODD:
            step = catalog.load(entry)(**NEEDED.get(entry.name, {}))
            if step.scope.dp_stability is not None and not entry.name.startswith(("image-", "audio-", "denoise")):
                found.append((entry.name, step))
    return found


class Asked:
    """As much of a run as such a cleaner may look at."""

    seed = 0
    private = False

    def __init__(self, rows: Dataset) -> None:
        self.data = {"train": rows}
        self.config = type("C", (), {"data": type("D", (), {"sensitive": []})()})()
        self.folder = tempfile.TemporaryDirectory(prefix="asked-")

    def key(self, step: Step) -> str:
        return "step"

    def step_folder(self, step: Step) -> Path:
        return Path(self.folder.name)

    def emit(self, *given: Any, **named: Any) -> None:
        return None


def decided(step: Step, rows: list[dict[str, Any]]) -> dict[str, list[Any]]:
    """Row id -> what was decided of it."""
    found: dict[str, list[Any]] = {}
    if rows:
        table = Dataset.from_list(rows)
        decisions = Calls([step]).clean(step, table, "train", Asked(table))  # type: ignore[arg-type]
        for row in decisions.rows if decisions is not None else []:
            found.setdefault(row["row_id"], []).append(repr(row))
    return found


def most_changed(step: Step, texts: list[str]) -> int:
    """The most rows, the one taken away besides, whose decisions change where one row is taken away."""
    rows = [{"row_id": f"{n:016x}", "unit": n, "text": text, "label": "ab"[n % 2]} for n, text in enumerate(texts)]
    whole, worst = decided(step, rows), 0
    for gone in rows:
        without = decided(step, [row for row in rows if row is not gone])
        others = [row["row_id"] for row in rows if row is not gone]
        worst = max(worst, sum(whole.get(row) != without.get(row) for row in others))
    return worst


@pytest.mark.parametrize(("name", "step"), cleaners(), ids=[name for name, _ in cleaners()])
@settings(max_examples=25, deadline=None)
@given(st.lists(TEXTS, min_size=1, max_size=6))
def test_one_row_less_changes_no_more_than_is_declared(name: str, step: Step, texts: list[str]) -> None:
    """The row itself is the one that may change: of the others, one less than the number declared."""
    assert step.scope.dp_stability is not None
    assert most_changed(step, texts) <= step.scope.dp_stability - 1


class Liar(Step):
    """Says that it looks at one row at a time, and drops the second of two equal ones."""

    scope: ClassVar[Scope] = Scope(row_local=True)

    @hook
    def clean(self, rows: Any) -> Decisions:
        decisions, seen = Decisions(), set[str]()
        for row in rows:
            if row["text"] in seen:
                decisions.add(row["row_id"], "drop", "seen")
            seen.add(row["text"])
        return decisions


def test_a_cleaner_that_lies_is_noticed() -> None:
    assert most_changed(Liar(), ["a", "a", "b"]) > 0
