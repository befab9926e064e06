"""Core's own answers to the hooks: the last in line, through the same door as every step."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import Module
from torch.optim import Optimizer

from upright.engine.base import autocast, load_model
from upright.engine.export import save_model
from upright.engine.optimizer import make_optimizer
from upright.objects import Batch, Metric, Output
from upright.step import hook

if TYPE_CHECKING:
    from upright.run import Run


class CoreAnswers:
    """What happens where no step says otherwise."""

    def __init__(self) -> None:
        self._epoch: tuple[int, list[int]] = (-1, [])

    @hook(trylast=True)
    def model(self, run: Run) -> Module:
        return load_model(run)

    @hook(trylast=True)
    def optimizer(self, run: Run) -> Optimizer:
        return make_optimizer(run)

    @hook(trylast=True)
    def sample(self, update: int, run: Run) -> Sequence[int]:
        """Seeded epochs without replacement; each epoch's permutation follows from its number alone."""
        rows, size = len(run.data["train"]), run.config.train.batch_size
        epoch, index = divmod(update, ceil(rows / size))
        if self._epoch[0] != epoch:
            digest = hashlib.blake2b(f"{run.seed}/sample/{epoch}".encode(), digest_size=8).digest()
            generator = torch.Generator().manual_seed(int.from_bytes(digest, "big") >> 1)
            self._epoch = (epoch, torch.randperm(rows, generator=generator).tolist())
        return self._epoch[1][index * size : (index + 1) * size]

    @hook(trylast=True)
    def gradients(self, rows: Sequence[int], run: Run) -> dict[str, dict[str, Tensor]]:
        """Plain accumulation: the mean over rows, where a row that ``batch`` repeated counts once, in statistics as well."""
        released: dict[str, dict[str, Tensor]] = {}
        total = torch.zeros((), device=run.device)
        repeats = bool(run.calls.answers("batch"))
        for given in run.batches(rows, augment=False):
            batch = run.calls.batch(given, run) if repeats else given
            losses, statistics = run.losses(batch)
            # What `sample` drew twice counts twice; what `batch` repeated counts once.
            drawn = (batch.rows.unsqueeze(1) == given.rows).sum(1)
            share = drawn / _repeats(batch.rows) if repeats else None
            if share is not None:
                losses = losses * share
            loss = losses.sum() / len(rows)
            torch.autograd.backward(loss)
            total += loss.detach()
            for step, named in statistics.items():
                sums = released.setdefault(step, {})
                for name, value in named.items():
                    summed = value.sum(0) if share is None else share.to(value.dtype) @ value
                    sums[name] = summed + sums[name] if name in sums else summed
        run.train_loss = total
        return released

    @hook(trylast=True)
    def forward(self, batch: Batch, run: Run) -> Output:
        with autocast(run):
            output = run.model(**batch.inputs)
        return Output(output.logits, getattr(output, "features", None))

    @hook(trylast=True)
    def objective(self, batch: Batch, output: Output, run: Run) -> Tensor:
        return run.task.objective(batch, output)

    @hook(trylast=True)
    def export(self, folder: Path, run: Run) -> str:
        return save_model(run, folder)

    @hook(trylast=True)
    def select(self, metrics: dict[str, Metric], run: Run) -> float:
        """The task's main figure on validation; a perplexity counts downwards."""
        value = metrics[f"validation/{run.task.primary}"].value
        return -value if run.task.primary == "perplexity" else value


def _repeats(rows: Tensor) -> Tensor:
    """How often each row's number occurs in the batch, ``[R]``."""
    _, inverse, counts = torch.unique(rows, return_inverse=True, return_counts=True)
    repeats: Tensor = counts[inverse]
    return repeats
