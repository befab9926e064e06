"""Which rows are explained, at which length, and what is refused."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from explained_runs import STEPS, explain
from outside_steps import with_steps

from upright import Batch, Output, Run, Stack, Step, hook
from upright.engine.execute import execute
from upright.engine.target import CoreTarget

KINDS = [pytest.param(type(step), id=type(step).__name__) for step in STEPS]


class Few(CoreTarget):
    """Yields one row, whatever it is asked for."""

    row = 2

    def batches(self, rows: Sequence[int]) -> Iterator[Batch]:
        return super().batches([self.row])


@pytest.mark.parametrize("kind", KINDS)
def test_a_row_is_explained_alike_alone_and_among_others(runs: Callable[..., Run], kind: type[Step]) -> None:
    run = runs("mean")
    (alone,) = explain(run, kind, Few(run, "test"))
    among = {one.row_id: one for one in explain(run, kind)}
    assert len(among) == 4
    assert np.abs(alone.scores - among[alone.row_id].scores).max() < 1e-6  # attention is told in float32


def padding_read(run: Run, kind: type[Step]) -> int:
    """How many positions of padding the model reads while it is explained, after the pass that decides on all rows."""
    seen = []

    def look(module: Any, args: Any, inputs: dict[str, torch.Tensor]) -> None:
        seen.append(int((inputs["attention_mask"] == 0).sum()))

    handle = run.model.register_forward_pre_hook(look, with_kwargs=True)
    explain(run, kind)
    handle.remove()
    assert len(seen) > 1
    return sum(seen[1:])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("base", "task"), [("mean", "text-classification"), ("bert", "token-classification")])
def test_no_padding_is_read(runs: Callable[..., Run], kind: type[Step], base: str, task: str) -> None:
    assert padding_read(runs(base, task), kind) == 0


def test_padded_batches_are_noticed(runs: Callable[..., Run], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("upright_explain.attribution.unpadded", lambda batch: [(torch.arange(len(batch)), batch)])
    assert padding_read(runs("mean"), STEPS[0].__class__) > 0


class Elsewhere(Step):
    """Answer by the number of tokens, whatever they are."""

    @hook
    def forward(self, batch: Batch, run: Run) -> Output:
        count = batch.inputs["attention_mask"].sum(1, dtype=torch.float32)
        return Output(torch.stack([count, -count], 1))


def test_a_model_that_reads_no_embeddings_cannot_be_explained(toy: dict[str, Any]) -> None:
    del toy["tune"], toy["train"]
    toy["explain"] = {"use": "occlusion", "samples": 3}
    run = execute(with_steps(Stack.load(toy), ("prompt", "elsewhere", Elsewhere())))
    assert run.exit_code == 1
    told = (run.folder / "evidence" / "attributions.json").read_text()
    assert "scores do not come from the model's input embeddings" in told


def test_standard_errors_are_in_the_evidence(toy: dict[str, Any]) -> None:
    import json

    toy["explain"] = [{"use": "shapley", "samples": 3, "n_samples": 3}, {"use": "occlusion", "samples": 3}]
    run = execute(Stack.load(toy))
    assert run.exit_code == 0
    steps = json.loads((run.folder / "evidence" / "attributions.json").read_text())["steps"]
    for row in steps["shapley"]["rows"]:
        assert len(row["standard_errors"]) == len(row["scores"])
    assert {row["standard_errors"] for row in steps["occlusion"]["rows"]} == {None}
