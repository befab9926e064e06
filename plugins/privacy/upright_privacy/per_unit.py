"""Exact per-unit gradients of whatever the stack's loss is: `vmap` over single records, or a loop over them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn

from upright import Batch, Run

Mode = Literal["functorch", "loop"]
Statistics = dict[str, dict[str, Tensor]]


class Losses(nn.Module):
    """The run's loss as a module, so that `torch.func.functional_call` can put other parameters in its place."""

    def __init__(self, run: Run) -> None:
        super().__init__()
        self.model = run.model
        self.helpers = nn.ModuleDict({key.replace(".", "_"): module for key, module in run.modules.items()})
        self.run = run

    def forward(self, batch: Batch) -> tuple[Tensor, Statistics]:
        """Losses ``[R]`` and statistics ``{step: {name: [R, K]}}``."""
        return self.run.losses(batch)


def trainable(losses: Losses) -> dict[str, nn.Parameter]:
    """The parameters that are updated, by their name in ``losses``."""
    return {name: p for name, p in losses.named_parameters() if p.requires_grad}


def per_row(losses: Losses, batch: Batch, mode: Mode) -> tuple[dict[str, Tensor], Statistics]:
    """Each row's own gradient ``{parameter: [R, ...]}`` and statistics ``{step: {name: [R, K]}}``."""
    return _vmapped(losses, batch) if mode == "functorch" else _looped(losses, batch)


def per_unit(losses: Losses, batch: Batch, mode: Mode) -> tuple[Tensor, dict[str, Tensor], Statistics]:
    """As `per_row`, summed over each unit's rows; a row that a step repeated counts once.

    Returns the units ``Long[U]``, gradients ``{parameter: [U, ...]}`` and statistics.
    """
    gradients, statistics = per_row(losses, batch, mode)
    units, place = torch.unique(batch.unit, return_inverse=True)
    _, inverse, counts = torch.unique(batch.rows, return_inverse=True, return_counts=True)
    share = 1.0 / counts[inverse]

    def summed(values: Tensor) -> Tensor:
        weighted = values * share.to(values.dtype).view(-1, *[1] * (values.dim() - 1))
        return torch.zeros(len(units), *values.shape[1:], dtype=values.dtype, device=values.device).index_add_(
            0, place, weighted
        )

    return (
        units,
        {name: summed(value) for name, value in gradients.items()},
        {step: {name: summed(value) for name, value in named.items()} for step, named in statistics.items()},
    )


def _vmapped(losses: Losses, batch: Batch) -> tuple[dict[str, Tensor], Statistics]:
    parameters = {name: p.detach() for name, p in trainable(losses).items()}

    def one(values: dict[str, Tensor], row: dict[str, Any]) -> tuple[Tensor, Statistics]:
        alone = Batch(
            {name: value.unsqueeze(0) for name, value in row["inputs"].items()},
            row["labels"].unsqueeze(0),
            row["rows"].unsqueeze(0),
            row["unit"].unsqueeze(0),
            {name: value.unsqueeze(0) for name, value in row["groups"].items()},
            batch.split,
        )
        loss, statistics = torch.func.functional_call(losses, values, (alone,))
        return loss.sum(), {s: {n: v.squeeze(0) for n, v in named.items()} for s, named in statistics.items()}

    rows = {
        "inputs": batch.inputs,
        "labels": batch.labels,
        "rows": batch.rows,
        "unit": batch.unit,
        "groups": batch.groups,
    }
    with masks_without_branches():
        gradient = torch.func.grad(one, has_aux=True)
        return torch.func.vmap(gradient, in_dims=(None, 0), randomness="different")(parameters, rows)


def _looped(losses: Losses, batch: Batch) -> tuple[dict[str, Tensor], Statistics]:
    parameters = trainable(losses)
    rows: list[list[Tensor]] = []
    found: list[Statistics] = []
    for place in range(len(batch)):
        loss, statistics = losses(batch.take(torch.tensor([place], device=batch.rows.device)))
        gradient = torch.autograd.grad(loss.sum(), list(parameters.values()), allow_unused=True)
        rows.append(
            [torch.zeros_like(p) if g is None else g for g, p in zip(gradient, parameters.values(), strict=True)]
        )
        found.append(statistics)
    gradients = {name: torch.stack([row[n] for row in rows]) for n, name in enumerate(parameters)}
    joined = {
        step: {name: torch.cat([one[step][name] for one in found]) for name in named}
        for step, named in (found[0] if found else {}).items()
    }
    return gradients, joined


@contextmanager
def masks_without_branches() -> Iterator[None]:
    """Keep transformers from asking whether a padding mask is all ones: `vmap` cannot branch on a value.

    The answer only decides whether a faster kernel may be used; the mask is applied either way.
    """
    from transformers import masking_utils

    names = ("_ignore_bidirectional_mask_sdpa", "_ignore_causal_mask_sdpa")
    before = {name: getattr(masking_utils, name) for name in names if hasattr(masking_utils, name)}
    try:
        for name in before:
            setattr(masking_utils, name, lambda *args, **kwargs: False)
        yield
    finally:
        for name, function in before.items():
            setattr(masking_utils, name, function)
