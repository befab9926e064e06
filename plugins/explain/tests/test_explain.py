"""Integrated gradients against a Riemann sum in float64 by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from upright import Stack
from upright.engine.execute import execute
from upright.engine.target import CoreTarget

POINTS = 2000
AT_ONCE = 200


@pytest.fixture
def tuned(toy: dict[str, Any], tiny_mean: Path) -> Any:
    toy["model"]["base"] = str(tiny_mean)
    toy["train"] |= {"max_steps": 12, "learning_rate": 0.05, "head_learning_rate": 0.05}
    toy["explain"] = {"use": "integrated-gradients", "samples": 5, "max_error": 0.01}
    return execute(Stack.load(toy))


def by_hand(run: Any, row: int, target: int) -> np.ndarray:
    """The integral of the gradient along the straight path, midpoint rule, each token's share; float64."""
    model = run.model.double()
    view = CoreTarget(run, "test")
    batch = next(iter(view.batches([row])))
    embedding = run.model.get_input_embeddings()
    special = torch.isin(batch.inputs["input_ids"], torch.tensor(run.tokenizer.all_special_ids))
    pads = torch.where(
        special, batch.inputs["input_ids"], torch.full_like(batch.inputs["input_ids"], run.tokenizer.pad_token_id)
    )
    with torch.no_grad():
        # straight from the table: what stands before position and type embeddings are added
        start, end = embedding.weight[pads], embedding.weight[batch.inputs["input_ids"]]
    total = torch.zeros_like(end)
    for first in range(0, POINTS, AT_ONCE):
        along = ((torch.arange(first, first + AT_ONCE) + 0.5) / POINTS).view(-1, 1, 1)
        here = (start + along.to(start) * (end - start)).requires_grad_(True)
        handle = embedding.register_forward_hook(lambda module, given, output, here=here: here)
        logits = model(**{name: value.expand(AT_ONCE, *value.shape[1:]) for name, value in batch.inputs.items()}).logits
        handle.remove()
        total += torch.autograd.grad(logits[:, target].sum(), here)[0].sum(0, keepdim=True)
    model.float()
    return ((end - start) * total / POINTS).sum(-1)[0].numpy()


def worst(run: Any) -> float:
    rows = {row_id: n for n, row_id in enumerate(run.data["test"]["row_id"][:])}
    apart = []
    for one in run.attributions["integrated-gradients"][:3]:
        expected = by_hand(run, rows[one.row_id], run.labels.index(one.target))
        apart.append(np.abs(one.scores - expected).max() / np.abs(expected).max())
    return max(apart)


def test_scores_are_the_integral(tuned: Any) -> None:
    # float32 gradients at 20 points or more, against float64 at 2000: the asked-for completeness error bounds it
    assert worst(tuned) < 0.03
    assert all(one.completeness_error < 0.01 for one in tuned.attributions["integrated-gradients"])


def test_mutant_without_a_baseline_is_noticed(tuned: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from captum.attr import IntegratedGradients as Captum

    honest = Captum.attribute

    def without(self: Any, inputs: Any, baselines: Any = None, **options: Any) -> Any:
        return honest(self, inputs, baselines=None, **options)

    monkeypatch.setattr(Captum, "attribute", without)
    step = tuned.stack.steps[-1].step
    tuned.attributions["integrated-gradients"] = step.explain(CoreTarget(tuned, "test"), tuned.data["test"], tuned)
    assert worst(tuned) > 0.03


def test_steps_follow_the_error(tuned: Any) -> None:
    """Few points are not enough where much is asked: the error that is reported is the one that was asked for."""
    from upright_explain.integrated_gradients import IntegratedGradients

    view = CoreTarget(tuned, "test")
    stack = tuned.stack
    for asked in (0.5, 0.002):
        step = IntegratedGradients(samples=4, n_steps=2, max_error=asked)
        object.__setattr__(stack.steps[-1], "step", step)
        found = step.explain(view, tuned.data["test"], tuned)
        assert all(one.completeness_error <= asked for one in found)


def test_tokens_have_their_places_and_padding_none(tuned: Any) -> None:
    texts = dict(zip(tuned.data["test"]["row_id"][:], tuned.data["test"]["text"][:], strict=True))
    for one in tuned.attributions["integrated-gradients"]:
        assert len(one.tokens) == len(one.offsets) == len(one.scores)
        assert "[PAD]" not in one.tokens
        for token, (start, end) in zip(one.tokens, one.offsets, strict=True):
            if end > start:
                assert texts[one.row_id][start:end].lower() == token.removeprefix("##")


def test_words_are_explained_too(tiny_bert: Path, tmp_path: Path) -> None:
    from conftest import write_rows

    rows = [
        {"tokens": ["patient", "has", "feverfever", "today"], "labels": ["O", "O", "B-d", "O"]},
        {"tokens": ["rest"], "labels": ["O"]},
    ] * 10
    stack = {
        "data": {"train": write_rows(tmp_path / "w.jsonl", rows), "test": write_rows(tmp_path / "e.jsonl", rows)},
        "model": {"base": str(tiny_bert), "task": "token-classification"},
        "tune": "full",
        "train": {"max_steps": 30, "batch_size": 10, "learning_rate": 5e-3, "head_learning_rate": 1e-2},
        "explain": {"use": "integrated-gradients", "samples": 6, "baseline": "zero"},
        "output": str(tmp_path / "runs"),
    }
    run = execute(Stack.load(stack))
    found = run.attributions["integrated-gradients"]
    assert len(found) == 6
    assert {one.target for one in found} <= {"O", "B-d"}
    assert run.exit_code == 0
