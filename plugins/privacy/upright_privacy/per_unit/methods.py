"""Each row's gradient of the run's loss, by one of three exact methods."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.autograd.graph import get_gradient_edge

from upright import Batch, Run
from upright_privacy.per_unit.contributions import Dense, widened
from upright_privacy.per_unit.tape import Contributions, Tape, Unserved
from upright_privacy.per_unit.watcher import Watcher, held, layers_with_own_rule

Mode = Literal["direct", "functorch", "loop"]
"""direct: a rule for every function that meets a weight; functorch: ``vmap`` of the whole model; loop: row by row."""
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


def per_row(
    losses: Losses, batch: Batch, mode: Mode, served: dict[str, set[str]] | None = None
) -> tuple[Contributions, Statistics]:
    """What each row adds to every trainable parameter's gradient, and to the statistics ``{step: {name: [R, K]}}``.

    A row that a step repeated counts once, each copy by its share, and its copies are seen together: what they add is told
    of them all, at whichever of them. ``served`` learns which rule served which parameter.
    Raises `Unserved` (direct) or RuntimeError (functorch) where the method cannot do it; `loop` always can.
    """
    if mode == "direct":
        return _direct(losses, batch, {} if served is None else served)
    return _vmapped(losses, batch) if mode == "functorch" else _looped(losses, batch)


def _shares(batch: Batch) -> Tensor:
    """One over how often each row occurs in the batch, ``[R]``."""
    _, inverse, counts = torch.unique(batch.rows, return_inverse=True, return_counts=True)
    shares: Tensor = 1.0 / counts[inverse].double()
    return shares


def _shared(statistics: Statistics, share: Tensor) -> Statistics:
    return {s: {n: v * share.to(v.dtype).unsqueeze(1) for n, v in named.items()} for s, named in statistics.items()}


def _direct(losses: Losses, batch: Batch, served: dict[str, set[str]]) -> tuple[Contributions, Statistics]:
    parameters = trainable(losses)
    tape = Tape(parameters, len(batch))
    anchor = torch.zeros((), device=batch.rows.device, requires_grad=True)
    watcher = Watcher(tape, held(losses), anchor)
    share = _shares(batch)
    for p in parameters.values():
        p.grad = None  # a gradient that is there afterwards went past the rules
    try:
        with layers_with_own_rule(watcher, losses), watcher:
            found, statistics = losses(batch)
            total = (found * share.to(found.dtype)).sum()
            # By its edge: given a tensor, `backward` is a torch function too, and would run with the watcher asleep.
            torch.autograd.backward(get_gradient_edge(total), torch.ones_like(total))
        leaked = [name for name, p in parameters.items() if p.grad is not None and id(p) not in watcher.passing]
    finally:
        for p in parameters.values():
            p.grad = None
    if leaked:
        raise Unserved(f"{leaked[0]} meets the rows where no rule can see it")
    contributions = tape.contributions()
    for name, rules in tape.served.items():
        served.setdefault(name, set()).update(rules)
    return contributions, _shared(statistics, share)


def _copies(batch: Batch) -> Iterator[Tensor]:
    """Places ``[n, c]`` of the rows that stand ``c`` times in the batch: what a step repeated is seen together."""
    _, inverse, counts = torch.unique(batch.rows, return_inverse=True, return_counts=True)
    for count in counts.unique().tolist():
        mine = (counts[inverse] == count).nonzero().flatten()
        yield (mine if count == 1 else mine[inverse[mine].argsort(stable=True)]).view(-1, count)


def _vmapped(losses: Losses, batch: Batch) -> tuple[Contributions, Statistics]:
    parameters = {name: p.detach() for name, p in trainable(losses).items()}
    share = _shares(batch)

    def one(values: dict[str, Tensor], row: dict[str, Any], share: Tensor) -> tuple[Tensor, Statistics]:
        loss, statistics = torch.func.functional_call(losses, values, (Batch(**row, split=batch.split),))
        return (loss * share.to(loss.dtype)).sum(), statistics

    found: dict[str, Tensor] = {}
    told: Statistics = {}
    with masks_without_branches():
        gradient = torch.func.grad(one, has_aux=True)
        for places in _copies(batch):
            rows = {
                "inputs": {name: value[places] for name, value in batch.inputs.items()},
                "labels": batch.labels[places],
                "rows": batch.rows[places],
                "unit": batch.unit[places],
                "groups": {name: value[places] for name, value in batch.groups.items()},
            }
            together = torch.func.vmap(gradient, in_dims=(None, 0, 0), randomness="different")
            gradients, statistics = together(parameters, rows, share[places])
            for name, value in gradients.items():
                if len(places) == len(batch):
                    found[name] = widened(value)
                    continue
                if name not in found:
                    found[name] = widened(value).new_zeros(len(batch), *value.shape[1:])
                found[name][places[:, 0]] = widened(value)
            _placed(told, statistics, places, len(batch))
    return {name: [Dense(rows)] for name, rows in found.items()}, _shared(told, share)


def _looped(losses: Losses, batch: Batch) -> tuple[Contributions, Statistics]:
    parameters = trainable(losses)
    share = _shares(batch)
    found = {name: torch.zeros_like(widened(p)).expand(len(batch), *p.shape).clone() for name, p in parameters.items()}
    told: Statistics = {}
    for places in [row for rows in _copies(batch) for row in rows]:
        loss, statistics = losses(batch.take(places))
        total = (loss * share[places].to(loss.dtype)).sum()
        gradient = torch.autograd.grad(total, list(parameters.values()), allow_unused=True)
        for name, g in zip(parameters, gradient, strict=True):
            if g is not None:
                found[name][places[0]] = widened(g)
        _placed(told, statistics, places, len(batch))
    return {name: [Dense(rows)] for name, rows in found.items()}, _shared(told, share)


def _placed(told: Statistics, found: Statistics, places: Tensor, count: int) -> None:
    """Put the statistics of the rows at ``places`` where those of the batch's ``count`` rows stand."""
    for step, named in found.items():
        for name, value in named.items():
            kept = told.setdefault(step, {})
            if name not in kept:
                kept[name] = value.new_zeros(count, value.shape[-1])
            kept[name][places] = value


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
