"""Untrained tiny runs in float64 with every explainer in their stacks, and what an oracle needs of their rows."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attribution_oracles as oracles
import torch
from outside_steps import with_steps
from torch import Tensor

from conftest import write_rows
from upright import Attribution, Run, Stack, Step
from upright.engine.execute import prepare_run
from upright.engine.target import CoreTarget
from upright_explain.attention import Attention
from upright_explain.gradient_shap import GradientShap
from upright_explain.input_x_gradient import InputXGradient
from upright_explain.integrated_gradients import IntegratedGradients
from upright_explain.occlusion import Occlusion
from upright_explain.shapley import Shapley

STEPS: list[Step] = [
    IntegratedGradients(max_error=0.001),
    Occlusion(internal_batch_size=3),
    Shapley(n_samples=24),
    GradientShap(n_samples=400),
    InputXGradient(),
    Attention(),
]
PAIRS = [("fever has rest", "walk"), ("cough and", "rash today"), ("pain", "smile rest very"), ("rest walk", "fever")]
WORDS = [["patient", "has", "feverfever"], ["rest"], ["cough", "today"], ["walk", "again", "mild"]]


def untrained(folder: Path, base: Path, task: str = "text-classification") -> Run:
    """A run of pairs, or of words, on that base, with wide random weights."""
    pairs = [{"text": a, "text_pair": b, "label": ("sick", "well")[n % 2]} for n, (a, b) in enumerate(PAIRS)]
    words = [{"tokens": some, "labels": ["B-d" if "f" in word else "O" for word in some]} for some in WORDS]
    rows = pairs if task == "text-classification" else words
    data = {split: write_rows(folder / f"{split}.jsonl", rows) for split in ("train", "validation", "test")}
    stack = Stack.load(
        {"data": data, "model": {"base": str(base), "task": task}, "tune": "full", "output": str(folder)}
    )
    stack = with_steps(stack, *(("explain", type(step).__name__, step) for step in STEPS))
    run = prepare_run(stack, folder)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for key, parameter in run.model.named_parameters():
            if "norm" not in key.lower():
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    run.model.double()
    return run


def explain(run: Run, kind: type[Step], target: Any = None) -> list[Attribution]:
    """What the run's step of that kind says of the test rows."""
    step: Any = next(step for step in STEPS if type(step) is kind)
    return step.explain(target or CoreTarget(run, "test"), run.data["test"], run)  # type: ignore[no-any-return]


def encoded(run: Run, one: Attribution) -> tuple[dict[str, Tensor], Tensor | None]:
    """A row's inputs ``[1, T]`` and, of words, the tokens that were decided as the attribution says; by the tokenizer."""
    row = next(row for row in run.data["test"] if row["row_id"] == one.row_id)
    given = (row["tokens"],) if "tokens" in row else (row["text"], row["text_pair"])
    made = run.tokenizer(*given, is_split_into_words="tokens" in row, return_tensors="pt")
    inputs = {"input_ids": made["input_ids"], "attention_mask": made["attention_mask"]}
    assert run.tokenizer.convert_ids_to_tokens(inputs["input_ids"][0]) == one.tokens
    if "tokens" not in row:
        return inputs, None
    owners = made.word_ids(0)
    first = torch.tensor([n for n, word in enumerate(owners) if word is not None and word not in owners[:n]])
    with torch.no_grad():
        decided = run.model(**inputs).logits[0, first].argmax(-1) == run.labels.index(one.target)
    return inputs, first[decided] if bool(decided.any()) else first


def texts(run: Run, found: list[Attribution]) -> Iterator[tuple[Attribution, oracles.Score, Tensor, Tensor]]:
    """Each attribution with its row's score, and the embeddings with and without content."""
    table, special = run.model.get_input_embeddings(), torch.tensor(run.tokenizer.all_special_ids)
    for one in found:
        inputs, words = encoded(run, one)
        ids = inputs["input_ids"]
        bare = torch.where(torch.isin(ids, special), ids, torch.full_like(ids, run.tokenizer.pad_token_id))
        with torch.no_grad():
            embeds, blank = table(ids)[0], table(bare)[0]
        yield one, oracles.score_of(run.model, inputs, run.labels.index(one.target), words), embeds, blank
