"""What cleaners add: never to validation or test, and always of the unit, label and group of a row that was there."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from conftest import write_rows
from upright import Decisions, Stack, hook
from upright.engine.execute import execute
from upright.evidence.ledger import read_ledger
from upright_clean.synonym import Synonym

ROW = st.fixed_dictionaries(
    {
        "text": st.lists(
            st.sampled_from(["he", "her", "big", "quick", "fever", "note", "他"]), min_size=1, max_size=5
        ).map(" ".join),
        "label": st.sampled_from("ab"),
        "sex": st.sampled_from(["f", "m", None]),
        "who": st.sampled_from("pqrs"),
    }
)
ROWS = st.lists(ROW, min_size=1, max_size=6)
ADDING: dict[str, dict[str, Any]] = {
    "balance": {"by": ["label", "sex"], "how": "add"},
    "back-translate": {"max_new_tokens": 4, "num_beams": 1},
    "counterfactual-augment": {},
    "synonym": {"copies": 2},
}


def wrong(given_rows: dict[str, list[dict[str, Any]]], steps: list[dict[str, Any]], seed: int) -> list[str]:
    """What does not hold after these cleaners; units are compared with the column that they were made of."""
    both = [{"text": "note", "label": "a", "sex": sex, "who": "p"} for sex in "fm"]  # a column of one value is refused
    given_rows = {**given_rows, "train": [*both, *given_rows["train"]]}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = {split: write_rows(folder / f"{split}.jsonl", rows) for split, rows in given_rows.items()}
        section = {**data, "unit": "who", "sensitive": ["sex"]}
        run = execute(Stack.load({"data": section, "clean": steps, "seed": seed, "output": str(folder / "runs")}))
        found = []
        for split in ("validation", "test"):
            if sorted(run.data[split]["text"]) != sorted(row["text"] for row in given_rows[split]):
                found.append(f"{split} has other rows")
        adds = [entry for entry in read_ledger(run.folder).to_pylist() if entry["action"] == "add"]
        train = {row["row_id"]: row for row in run.data["train"].to_list()}
        if len(train) != len(given_rows["train"]) + len(adds):
            found.append("train has not as many rows as were given and added")
        for entry in adds:
            parent, new = train.get(entry["parent"]), train[entry["row_id"]]
            if entry["split"] != "train":
                found.append("a row was added outside train")
            if parent is None:
                found.append("an added row has no parent")
            elif any(parent[column] != new[column] for column in ("unit", "label", "sex")):
                found.append("an added row is not of its parent's unit, label and group")
        if len({row["unit"] for row in train.values()}) != len({row["who"] for row in given_rows["train"]}):
            found.append("there are not as many units as were given")
        return found


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    ROWS, ROWS, ROWS, st.lists(st.sampled_from(sorted(ADDING)), min_size=1, max_size=3, unique=True), st.integers(0, 9)
)
def test_added_rows_are_in_train_alone_and_of_their_parents_unit(
    tiny: Any,
    train: list[dict[str, Any]],
    validation: list[dict[str, Any]],
    test: list[dict[str, Any]],
    names: list[str],
    seed: int,
) -> None:
    models = {"forward_model": str(tiny("t5")), "backward_model": str(tiny("t5"))}
    steps = [{"use": name, **ADDING[name], **(models if name == "back-translate" else {})} for name in names]
    assert wrong({"train": train, "validation": validation, "test": test}, steps, seed) == []


def test_mutant_whose_copies_come_from_no_row_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each copy a unit of its own: one person's record could then be counted more often than epsilon allows."""

    def clean(self: Synonym, rows: Any) -> Decisions:
        decisions = Decisions()
        decisions.add(None, "add", "synonym", values={"text": "made up", "label": "a"})
        return decisions

    row = {"text": "a big car", "label": "a", "sex": "f", "who": "p"}
    given_rows = {split: [row, {**row, "text": f"{split} b"}] for split in ("train", "validation", "test")}
    assert wrong(given_rows, [{"use": "synonym"}], 0) == []
    monkeypatch.setattr(Synonym, "clean", hook(clean))
    assert "an added row has no parent" in wrong(given_rows, [{"use": "synonym"}], 0)
    assert "there are not as many units as were given" in wrong(given_rows, [{"use": "synonym"}], 0)
