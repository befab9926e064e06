"""Every update holds every group in equal shares, every row has its turn, and any update can be asked for first."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import write_rows
from upright import Stack
from upright.engine.execute import execute, prepare_run
from upright.errors import ConfigError
from upright_fairness.balanced_batches import MISSING, BalancedBatches, Pools

STEP = {"use": "balanced-batches", "groups": ["sex"]}


def drawing(sizes: list[int], missing: int, batch_size: int) -> tuple[BalancedBatches, Any, list[str]]:
    """The step over cells of these sizes, and what it asks of a run; the cell of each row."""
    of_row = [str(n) for n, size in enumerate(sizes) for _ in range(size)] + [MISSING] * missing
    cells: dict[str, list[int]] = {}
    for row, name in enumerate(of_row):
        cells.setdefault(name, []).append(row)
    pools = Pools(cells, 7)
    run = SimpleNamespace(
        keep=lambda *_: pools,
        data={"train": of_row},
        config=SimpleNamespace(train=SimpleNamespace(batch_size=batch_size)),
    )
    return BalancedBatches(groups=["sex"]), run, of_row


def complaints(step: Any, run: Any, of_row: list[str], updates: int) -> list[str]:
    """What is wrong with the first updates; by counting."""
    size, total = run.config.train.batch_size, len(of_row)
    names = sorted(set(of_row) - {MISSING})
    found, seen, draws = [], Counter(), Counter()
    for update in range(updates):
        rows = step.sample(update, run)
        held = Counter(of_row[row] for row in rows)
        shares = [held[name] for name in names]
        if len(rows) != size:
            found.append("size")
        if max(shares) - min(shares) > 1:
            found.append("unequal")
        if abs(held[MISSING] - size * of_row.count(MISSING) / total) >= 1:
            found.append("missing rows")
        seen.update(rows)
        draws.update(held)
    for name in {*names, MISSING} & set(of_row):
        counts = [seen[row] for row in range(total) if of_row[row] == name]
        if max(counts) - min(counts) > 1:
            found.append("a row twice before another once")
    return found


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 40), min_size=2, max_size=5), st.integers(0, 20), st.integers(0, 9), st.integers(1, 12))
def test_groups_are_equal_and_rows_take_turns(sizes: list[int], missing: int, more: int, updates: int) -> None:
    batch_size = 8 * len(sizes) + more
    step, run, of_row = drawing(sizes, missing, batch_size)
    assert complaints(step, run, of_row, updates) == []


@pytest.mark.parametrize("update", [0, 3, 17])
def test_any_update_may_be_asked_for_first(update: int) -> None:
    step, run, _ = drawing([3, 11], 2, 6)
    in_order = [step.sample(n, run) for n in range(update + 1)]
    step, run, _ = drawing([3, 11], 2, 6)
    assert step.sample(update, run) == in_order[-1]


class InProportion(BalancedBatches):
    """A mutant: the data's own shares."""

    def sample(self, update: int, run: Any) -> list[int]:
        rows, size = len(run.data["train"]), run.config.train.batch_size
        return [row % rows for row in range(update * size, (update + 1) * size)]


class FirstOnes(BalancedBatches):
    """A mutant: equal shares, always of the same rows."""

    def sample(self, update: int, run: Any) -> list[int]:
        return list(super().sample(0, run))


class Dropping(BalancedBatches):
    """A mutant: rows without a group are never drawn."""

    def sample(self, update: int, run: Any) -> list[int]:
        rows = super().sample(update, run)
        return [row for row in rows if run.data["train"][row] != MISSING]


@pytest.mark.parametrize("mutant", [InProportion, FirstOnes, Dropping])
def test_mutant_samplers_are_noticed(mutant: type[BalancedBatches]) -> None:
    _, run, of_row = drawing([5, 30], 6, 8)
    assert complaints(mutant(groups=["sex"]), run, of_row, 5)


@pytest.fixture
def lopsided(toy: dict[str, Any], tmp_path: Path) -> dict[str, Any]:
    rows = [
        {
            "text": f"note {n}",
            "label": ["sick", "well"][n % 5 == 0],
            "sex": "m" if n % 7 == 0 else "f" if n % 11 else None,
        }
        for n in range(70)
    ]
    toy["data"] |= {"train": write_rows(tmp_path / "lopsided.jsonl", rows)}
    return toy


def test_groups_and_labels_are_balanced_in_a_run_and_after_a_resume(lopsided: dict[str, Any], tmp_path: Path) -> None:
    held = []
    for number in range(2):
        (tmp_path / str(number) / "evidence").mkdir(parents=True)
        run = prepare_run(Stack.load({**lopsided, "fairness": {**STEP, "given_label": True}}), tmp_path / str(number))
        run.update = 9 * number  # what is kept is made late, as in a resumed run
        step = run.stack.steps[-1].step
        if number:
            run.restored = {"balanced-batches/pools": held[0][1]}
        drawn = [step.sample(update, run) for update in (9, 10)]
        held.append((drawn, run.keep(step, "pools", dict).state_dict()))
        train = run.data["train"]
        cells = Counter((train[row]["sex"], train[row]["label"]) for row in drawn[0] if train[row]["sex"])
        assert len(cells) == 4
        assert max(cells.values()) - min(cells.values()) <= 1
    assert held[0][0] == held[1][0]


def test_a_run_ends_well_and_the_report_counts(lopsided: dict[str, Any]) -> None:
    run = execute(Stack.load({**lopsided, "fairness": STEP}))
    assert run.exit_code == 0
    section = run.stack.steps[-1].step.report(run)
    assert dict(section.blocks[1].rows)["m"] == 10


def test_what_cannot_be_balanced_is_refused(lopsided: dict[str, Any]) -> None:
    private = {**lopsided, "privacy": {"use": "dp-sgd", "noise_multiplier": 1.0, "delta": 1e-3}, "fairness": STEP}
    with pytest.raises(
        ConfigError, match=r"dp-sgd and fairness\.balanced-batches .* both answer `sample`, .* remove one"
    ):
        Stack.load(private)
    small = {**lopsided, "train": {**lopsided["train"], "batch_size": 2}, "fairness": STEP}
    with pytest.raises(ConfigError, match=r"1 rows of an update cannot hold 2 groups; raise train\.batch_size"):
        execute(Stack.load(small))
