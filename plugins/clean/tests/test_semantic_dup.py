"""`semantic-dup` against a loop over all pairs, whatever the block."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import write_rows
from upright import Stack
from upright.engine.execute import execute
from upright.evidence.ledger import read_ledger
from upright_clean import blocked_cosine
from upright_clean.semantic_dup import SemanticDup


def one_by_one(vectors: np.ndarray, labels: list[int], threshold: float) -> dict[int, tuple[int, bool]]:
    """Row -> (evidence, whether of its label), by a float64 loop."""
    kept: list[int] = []
    found = {}
    for row in range(len(vectors)):
        near = [other for other in kept if float(vectors[row] @ vectors[other]) >= threshold]
        same = [other for other in near if labels[other] == labels[row]]
        if near:
            found[row] = (same or near)[0], bool(same)
        if not same:
            kept.append(row)
    return found


@pytest.mark.parametrize("block", [1, 3, 1024])
@settings(max_examples=40, deadline=None)
@given(st.integers(1, 25), st.integers(0, 10**6))
def test_rows_that_repeat_one_that_stays_are_those_of_a_loop(block: int, count: int, seed: int) -> None:
    draw = np.random.default_rng(seed)
    vectors = draw.normal(size=(count, 3))
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32).astype(np.float64)
    labels = draw.integers(0, 2, count)
    cosines = np.abs(vectors @ vectors.T - 0.8)
    if cosines.min() < 1e-5:  # float32 may say otherwise there
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blocked_cosine, "BLOCK", block)
        found = blocked_cosine.alike(vectors, labels, 0.8, torch.device("cpu"))
    told = {
        row: (evidence, same)
        for row, evidence, same in zip(
            found.rows.tolist(), found.evidence.tolist(), found.same_label.tolist(), strict=True
        )
    }
    assert told == one_by_one(vectors, labels.tolist(), 0.8)


def test_the_order_of_the_rows_changes_nothing_and_rows_without_text_stay() -> None:
    texts = ["a", "b", "", " ", "c", "d"]
    angles = {"a": 0.0, "b": 0.1, "c": 0.2, "d": 2.0}
    embed = lambda asked: np.array([[np.cos(angles[t]), np.sin(angles[t])] for t in asked], np.float32)  # noqa: E731
    run: Any = SimpleNamespace(
        embed=embed, device=torch.device("cpu"), emit=lambda *_, **__: None, key=lambda step: "step"
    )
    rows = Dataset.from_dict({"row_id": [str(n) for n in range(6)], "text": texts, "label": ["x"] * 6})
    step = SemanticDup(threshold=0.99)  # a~b, b~c, a not~c: c stays
    found = step.clean(rows, "train", run).columns
    assert (found["row_id"], found["evidence"], found["action"]) == (["1"], ["0"], ["flag"])
    assert step.clean(rows.select([5, 4, 3, 2, 1, 0]), "train", run).columns == found


def test_it_works_in_a_stack_that_only_cleans(tmp_path: Path) -> None:
    texts = ["My card was stolen yesterday.", "My card was stolen yesterday!", "What is the exchange rate?"]
    data = {"train": write_rows(tmp_path / "train.jsonl", [{"text": text, "label": "x"} for text in texts])}
    step = {"use": "semantic-dup", "action": "drop", "threshold": 0.9}
    run = execute(Stack.load({"data": data, "clean": step, "output": str(tmp_path / "runs")}))
    assert len(run.data["train"]) == 2
    assert [entry["reason"] for entry in read_ledger(run.folder).to_pylist()] == ["semantic-duplicate"]


def test_mutant_that_compares_with_rows_that_go_is_noticed() -> None:
    angles = np.array([0.0, 0.1, 0.2])
    vectors = np.stack([np.cos(angles), np.sin(angles)], 1)
    found = blocked_cosine.alike(vectors, np.zeros(3, np.int64), 0.99, torch.device("cpu"))
    any_before = {row for row in range(3) if (vectors[:row] @ vectors[row] >= 0.99).any()}
    assert set(found.rows.tolist()) == set(one_by_one(vectors, [0] * 3, 0.99)) != any_before
