"""No gradient is computed below the lowest tensor that a method trains: read from autograd's own graph."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_stacks import prepared

from upright import Run
from upright.engine.batches import collate

TOP = {"use": "top-layers", "layers": 1}
LOWEST = {
    ("full", "bert"): "bert.embeddings.word_embeddings",
    ("head", "bert"): "classifier",
    ("head", "mean"): "classifier",
    ("head", "gpt2"): "score",
    ("top-layers", "bert"): "bert.encoder.layer.1.attention.self.query",
    ("top-layers", "mean"): "encoder.encoder.layer.1.attention.self.query",
    ("top-layers", "gpt2"): "transformer.h.1.ln_1",
    ("bitfit", "bert"): "bert.embeddings.LayerNorm",
    ("bitfit", "mean"): "encoder.embeddings.LayerNorm",
    ("bitfit", "gpt2"): "transformer.h.0.ln_1",
    ("adapter", "bert"): "bert.encoder.layer.0.attention.output.dense.adapter.down",
    ("adapter", "mean"): "encoder.encoder.layer.0.attention.output.dense.adapter.down",
    ("adapter", "gpt2"): "transformer.h.0.attn.c_proj.adapter.down",
}
"""The first module of the forward pass whose output a gradient has to reach."""


@pytest.mark.parametrize(("method", "architecture"), LOWEST)
def test_the_graph_begins_at_the_lowest_trained_tensor(
    method: str, architecture: str, toy: dict[str, Any], tiny: Callable[[str], Path], tiny_mean: Path, tmp_path: Path
) -> None:
    base = tiny_mean if architecture == "mean" else tiny(architecture)
    stack = {**toy, "tune": TOP if method == "top-layers" else method, "model": {**toy["model"], "base": str(base)}}
    run = prepared(stack, tmp_path / "run")
    run.model.train()
    reached: list[tuple[str, bool]] = []

    def noted(name: str) -> Callable[..., None]:
        return lambda module, given, output: reached.append((name, output.requires_grad))

    for name, module in run.model.named_modules():
        if not list(module.children()):
            module.register_forward_hook(noted(name))
    losses, _ = run.losses(collate(run, range(4), "train"))
    assert next(name for name, in_graph in reached if in_graph) == LOWEST[method, architecture]
    assert leaves(losses) == {id(p) for p in run.model.parameters() if p.requires_grad} - unused(run, losses)


def leaves(losses: torch.Tensor) -> set[int]:
    """The tensors that a backward pass from ``losses`` would add a gradient to."""
    found: set[int] = set()
    seen, todo = set(), [losses.grad_fn]
    while todo:
        node = todo.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            found.add(id(node.variable))
        todo += [following for following, _ in node.next_functions]
    return found


def unused(run: Run, losses: torch.Tensor) -> set[int]:
    """What a method trains and the forward pass does not go through: the pooler under a head of mean pooling."""
    return {id(p) for name, p in run.model.named_parameters() if name.startswith("encoder.pooler.") and p.requires_grad}
