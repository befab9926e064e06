"""text-classification: one class for a text or a pair of texts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional

from upright.engine.tasks import sorted_labels, widened
from upright.objects import Batch, Output

if TYPE_CHECKING:
    from upright.run import Run

name = "text-classification"
primary = "accuracy"


def read_labels(run: Run) -> list[str]:
    """The classes of train; without train, of every split."""
    splits = [run.data["train"]] if "train" in run.data else list(run.data.values())
    return sorted_labels({label for rows in splits for label in rows.unique("label") if label is not None})


def encode(records: list[dict[str, Any]], run: Run) -> tuple[list[dict[str, list[int]]], list[int]]:
    """Text (and pair) cut at ``run.max_length`` tokens, the longer of a pair first."""
    texts = [record["text"] for record in records]
    pairs = [record["text_pair"] for record in records] if records and records[0].get("text_pair") is not None else None
    encoded = run.tokenizer(texts, pairs, truncation=True, max_length=run.max_length)
    numbers = {label: code for code, label in enumerate(run.labels)}
    features = [{key: encoded[key][n] for key in encoded} for n in range(len(texts))]
    return features, [numbers.get(record.get("label") or "", -1) for record in records]


def objective(batch: Batch, output: Output) -> Tensor:
    """Cross-entropy of each row, ``[R]``."""
    return functional.cross_entropy(widened(output.logits), batch.labels, reduction="none")


def predict(batch: Batch, output: Output, run: Run) -> dict[str, list[Any]]:
    """Probabilities before ``decide``, the decision after it."""
    scores = torch.softmax(output.logits.double(), dim=-1)
    adjusted = run.calls.decide(scores, batch, run) if run.calls.answers("decide") else scores
    return {
        "label": batch.labels.tolist(),
        "scores": scores.tolist(),
        "decision": adjusted.argmax(-1).tolist(),
    }
