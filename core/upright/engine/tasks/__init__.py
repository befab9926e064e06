"""The tasks: how a record becomes tokens, what its loss is, what is predicted."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Protocol

from torch import Tensor

if TYPE_CHECKING:
    from upright.objects import Batch, Output
    from upright.run import Run

MODULES = {
    "text-classification": "text_classification",
    "token-classification": "token_classification",
    "text-generation": "text_generation",
    "text2text-generation": "text2text_generation",
}


class Task(Protocol):
    """One task. Every loss is one number per record, so that records can be told apart."""

    name: str
    primary: str
    """The figure that `select` prefers iterates by."""

    def read_labels(self, run: Run) -> list[str]:
        """Class names by class number, from the data (or the base, where nothing is trained)."""

    def encode(self, records: list[dict[str, Any]], run: Run) -> tuple[list[dict[str, list[int]]], list[Any]]:
        """Model inputs (lists of token ids and the like) and labels (a number, or one per token) of each record."""

    def objective(self, batch: Batch, output: Output) -> Tensor:
        """The loss of each record, ``[R]`` float32 (of a float64 model, float64): the mean over its own scored tokens."""

    def predict(self, batch: Batch, output: Output, run: Run) -> dict[str, list[Any]]:
        """The columns of `Predictions` for the batch's rows, before row_id, unit and groups."""


def widened(logits: Tensor) -> Tensor:
    """In float32 at least, as losses are taken; a float64 model keeps its own."""
    import torch

    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def get(name: str) -> Task:
    """The rules of a task by its Hugging Face name."""
    task: Task = importlib.import_module(f"upright.engine.tasks.{MODULES[name]}")
    return task


def sorted_labels(found: set[str]) -> list[str]:
    """Whole numbers in numeric order, anything else in alphabetical order."""
    if found and all(label.lstrip("-").isdigit() for label in found):
        return sorted(found, key=int)
    return sorted(found)
