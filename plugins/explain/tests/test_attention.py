"""Attention is read where the score is read, is what a loop makes of it, and says that it is no explanation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attribution_oracles as oracles
import numpy as np
import pytest
import torch
from explained_runs import encoded, explain

from upright import Attribution, Run, Stack
from upright.engine.execute import execute
from upright.engine.target import CoreTarget
from upright.errors import ConfigError, UprightError
from upright_explain.attention import Attention

READ = {
    "mean": ("text-classification", lambda count: list(range(count))),
    "bert": ("text-classification", lambda count: [0]),
    "roberta": ("text-classification", lambda count: [0]),
    "deberta-v2": ("text-classification", lambda count: [0]),
    "gpt2": ("text-classification", lambda count: [count - 1]),
    "qwen2": ("text-classification", lambda count: [count - 1]),
    "distilbert": ("token-classification", None),
}
"""Where each model's head looks: at all tokens, the first, the last, the decided words."""


def by_loops(run: Run, one: Attribution, read: Any) -> np.ndarray:
    """Rollout of what the model itself tells, from where its head looks."""
    inputs, words = encoded(run, one)
    model = getattr(run.model, "encoder", run.model)
    usual = model.config._attn_implementation
    model.set_attn_implementation("eager")
    with torch.no_grad():
        layers = model(**inputs, output_attentions=True).attentions
    model.set_attn_implementation(usual)
    return oracles.rollout([layer[0].mean(0).numpy() for layer in layers], words.tolist() if read is None else read)


def apart(run: Run, base: str) -> float:
    places = READ[base][1]
    found = explain(run, Attention)
    assert len(found) == 4
    expected = [by_loops(run, one, places(len(one.tokens)) if places else None) for one in found]
    return max(float(np.abs(one.scores - parts).max()) for one, parts in zip(found, expected, strict=True))


@pytest.mark.parametrize("base", READ)
def test_attention_is_rolled_out_from_where_the_score_is_read(runs: Callable[..., Run], base: str) -> None:
    run = runs(base, READ[base][0])
    before = CoreTarget(run, "test")
    batch = next(iter(before.batches([0, 1])))
    scores = run.forward(batch).logits
    assert apart(run, base) < 1e-6  # attentions are told in float32
    assert torch.equal(run.forward(batch).logits, scores)  # and the model is as it was


def read_anywhere(self: CoreTarget, batch: Any, target: Any) -> Any:
    layers, _ = ATTENTIONS(self, batch, target)
    return layers, batch.inputs["attention_mask"].bool()


def last_layer_alone(self: CoreTarget, batch: Any, target: Any) -> Any:
    layers, read = ATTENTIONS(self, batch, target)
    return layers[-1:], read


ATTENTIONS = CoreTarget.attentions


@pytest.mark.parametrize("mutant", [read_anywhere, last_layer_alone])
def test_mutants_are_noticed(runs: Callable[..., Run], monkeypatch: pytest.MonkeyPatch, mutant: Any) -> None:
    monkeypatch.setattr(CoreTarget, "attentions", mutant)
    assert apart(runs("bert"), "bert") > 1e-3


def test_it_says_that_it_fails_its_sanity_check(toy: dict[str, Any]) -> None:
    from upright.models import head_parameters

    toy["explain"] = {"use": "attention", "samples": 5}
    run = execute(Stack.load(toy))
    assert run.exit_code == 0
    assert "fails the model-randomisation check" in (run.folder / "report.html").read_text()
    step: Any = run.stack.steps[-1].step
    with torch.no_grad():
        for _, parameter in head_parameters(run.model):
            if parameter.dim() == 2:
                parameter.copy_(torch.randn(parameter.shape))
    again = {one.row_id: one for one in step.explain(CoreTarget(run, "test"), run.data["test"], run)}
    for one in run.attributions["attention"]:  # what it says of itself is so
        assert np.abs(one.scores - again[one.row_id].scores).max() < 1e-6


@pytest.mark.parametrize("tune", ["soft-prompt", "prefix", "p-tuning"])
def test_virtual_tokens_are_refused_before_training(toy: dict[str, Any], tune: str) -> None:
    toy |= {"tune": {"use": tune, "num_virtual_tokens": 2}, "explain": "attention"}
    with pytest.raises(ConfigError, match=f"explain.attention cannot run with tune.{tune}"):
        Stack.load(toy)


def test_attention_that_is_not_transformers_own_is_refused(
    runs: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = runs("mean")
    target = CoreTarget(run, "test")
    batch = next(iter(target.batches([0])))
    decided = target.decisions(batch)
    monkeypatch.setattr(run.model.config, "_attn_implementation_internal", "of-another-kind")
    with pytest.raises(UprightError, match=r"of-another-kind.*use an explainer that reads scores"):
        target.attentions(batch, decided)
