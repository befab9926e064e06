"""A list of the user's own counts from the stack file's folder, wherever the command is called."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from upright import Stack
from upright.evidence.ledger import read_ledger


@pytest.mark.parametrize(
    ("step", "setting", "line"),
    [
        ("counterfactual-augment", "pairs", "fever\tcough"),
        ("synonym", "synonyms", "fever\tcough"),
        ("bias-report", "terms", "illness\tfever"),
    ],
)
def test_a_list_is_found_beside_the_stack(
    step: str, setting: str, line: str, toy: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    house, elsewhere = tmp_path / "house", tmp_path / "elsewhere"
    house.mkdir()
    elsewhere.mkdir()
    (house / "own.tsv").write_text(line + "\n")
    clean = {"use": step, setting: "own.tsv"}
    stack = {"data": toy["data"], "clean": clean, "output": str(tmp_path / "runs")}
    (house / "stack.json").write_text(json.dumps(stack))
    monkeypatch.chdir(elsewhere)
    run = Stack.load(house / "stack.json").run()
    assert run.exit_code == 0
    if step == "bias-report":
        told = json.loads((run.folder / "steps" / "bias-report" / "train.json").read_text())
        assert told["list"] == "own.tsv"
    else:
        assert read_ledger(run.folder).num_rows > 0
