"""Losses of a record: of its one decision, or the mean over its scored tokens, as the task's own objective counts."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from upright import Batch, Output, Run


def per_record(batch: Batch, output: Output, run: Run, losses: Callable[[Any, Any], Any]) -> Any:
    """``[R]`` in float32 at least, from ``losses(logits [R, K, ...], labels [R, ...])``, 0 where a label is -100."""
    import torch

    logits, labels = output.logits.to(torch.promote_types(output.logits.dtype, torch.float32)), batch.labels
    if labels.dim() == 1:
        return losses(logits, labels)
    if run.task.name == "text-generation":  # each token predicts the next
        logits, labels = logits[:, :-1], labels[:, 1:]
    values = losses(logits.transpose(1, 2), labels)
    return values.sum(1) / (labels != -100).sum(1).clamp(min=1)
