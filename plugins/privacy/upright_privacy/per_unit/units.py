"""From rows to units (records, or users with several rows): norms, and the sum of clipped gradients."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from upright import Batch
from upright_privacy.per_unit.contributions import squared_norms
from upright_privacy.per_unit.methods import Losses, Mode, Statistics, per_row
from upright_privacy.per_unit.tape import Contributions


@dataclass(slots=True)
class Units:
    """U units' gradients, as contributions of U rows each, and their statistics ``{step: {name: [U, K]}}``."""

    contributions: Contributions
    statistics: Statistics

    def norms(self) -> Tensor:
        """Norm of each unit's gradient over all parameters, ``[U]`` float64; NaN or infinite where the gradient is."""
        squares = [squared_norms(parts) for parts in self.contributions.values() if parts]
        return torch.stack(squares).sum(0).sqrt()

    def weighted_sum(self, factors: Tensor, like: dict[str, Tensor]) -> dict[str, Tensor]:
        """``sum_u factors[u] gradient[u]`` of every parameter; a unit with factor 0 leaves nothing, not even NaN."""
        gone = factors == 0
        some = bool(gone.any())
        sums: dict[str, Tensor] = {}
        for name, parts in self.contributions.items():
            for part in parts:
                found = (part.cleared(gone) if some else part).weighted(factors).view(like[name].shape)
                sums[name] = sums[name] + found if name in sums else found
        return sums


def units_of(
    losses: Losses, batches: Sequence[Batch], mode: Mode, served: dict[str, set[str]] | None = None
) -> Iterator[Units]:
    """The units whose rows are in ``batches`` (all rows of each), some at a time."""
    if mode == "loop":
        everything = torch.cat([batch.unit for batch in batches])
        for unit in torch.unique(everything):
            mine = [batch.take((batch.unit == unit).nonzero().flatten()) for batch in batches]
            yield _joined(losses, [batch for batch in mine if len(batch)], mode, served)
        return
    yield _joined(losses, batches, mode, served)


def _joined(losses: Losses, batches: Sequence[Batch], mode: Mode, served: dict[str, set[str]] | None) -> Units:
    together = torch.cat([batch.unit for batch in batches])
    units = torch.unique(together)
    total: Contributions = {}
    sums: Statistics = {}
    for batch in batches:
        contributions, statistics = per_row(losses, batch, mode, served)
        if len(batches) > 1 or len(units) < len(batch):
            place = torch.searchsorted(units, batch.unit)
            count = len(units)
            contributions = {n: [part.by_unit(place, count) for part in parts] for n, parts in contributions.items()}
            statistics = {
                s: {n: v.new_zeros(count, *v.shape[1:]).index_add_(0, place, v) for n, v in named.items()}
                for s, named in statistics.items()
            }
        for name, parts in contributions.items():
            total.setdefault(name, []).extend(parts)
        for step, named in statistics.items():
            kept = sums.setdefault(step, {})
            for name, value in named.items():
                kept[name] = kept[name] + value if name in kept else value
    return Units(total, sums)
