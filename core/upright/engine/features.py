"""What the task's head reads of each row: the representation that decisions are made from."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from upright.engine.base import head_parameters
from upright.engine.batches import batches, given
from upright.engine.evaluate import evaluating
from upright.errors import ConfigError
from upright.objects import Batch

if TYPE_CHECKING:
    from datasets import Dataset

    from upright.run import Run


def features(run: Run, rows: Dataset) -> np.ndarray:
    """The input of the head's first linear layer, ``[N, D]`` float32, in eval mode.

    A head that reads every token (GPT-2's, Llama's) is asked at the last one, whose logits transformers takes. Where
    ``forward`` asks the model several times, all that the head read stands side by side. Raises ConfigError where no head
    is asked.
    """
    added = {id(parameter) for _, parameter in head_parameters(run.model)}
    layers = [m for m in run.model.modules() if isinstance(m, torch.nn.Linear) and id(m.weight) in added]
    read: list[Tensor] = []
    hooks = [layer.register_forward_pre_hook(lambda module, given: read.append(given[0])) for layer in layers[:1]]
    order: list[int] = []
    parts = []
    try:
        with given(run, rows) as split, evaluating(run):
            for batch in batches(run, range(len(rows)), split, 2 * run.config.train.micro_batch_size):
                read.clear()
                run.forward(batch)
                if not read or any(len(states) != len(batch) for states in read):
                    raise ConfigError(
                        f"{run.stack.where('model', 'base')}  model.base: no head reads one vector of each row, so the rows "
                        "have no features; tune a model with a head"
                    )
                parts.append(torch.cat([_of_row(states, batch) for states in read], dim=1).float().cpu().numpy())
                order += batch.rows.tolist()
    finally:
        for hook in hooks:
            hook.remove()
    return np.concatenate(parts)[np.argsort(order)] if parts else np.zeros((0, 0), dtype=np.float32)


def _of_row(states: Tensor, batch: Batch) -> Tensor:
    """``[R, D]``: of states at every token the one at each row's last."""
    if states.dim() == 2:
        return states
    mask = batch.inputs["attention_mask"]
    last = mask.sum(1) - 1 + states.shape[1] - mask.shape[1]  # virtual tokens stand before the row's own
    return states[torch.arange(len(states), device=states.device), last]
