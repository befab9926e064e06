"""Scores of texts of which only some tokens are left; the others are replaced by the baseline."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor

    from upright import Batch
    from upright.objects import Target


class Coalitions(NamedTuple):
    """``N`` texts: of the row ``places[n]`` of a batch, the tokens in ``kept[n]`` are left (``Long[N]``, ``Bool[N, T]``)."""

    places: Tensor
    kept: Tensor


def coalition_scores(
    target: Target, batch: Batch, decided: Tensor, embeds: Tensor, blank: Tensor, texts: Coalitions, size: int
) -> Tensor:
    """The score of each row's class ``decided`` for every text, ``[N]`` (float64); ``size`` texts per forward pass."""
    import torch

    found = []
    for start in range(0, len(texts.places), size):
        at, kept = texts.places[start : start + size], texts.kept[start : start + size]
        mixed = torch.where(kept.unsqueeze(-1), embeds[at], blank[at])
        with torch.no_grad():
            found.append(target.scores(mixed, batch.take(at), decided[at]).double())
    return torch.cat(found) if found else torch.zeros(0, dtype=torch.float64, device=embeds.device)


def content(embeds: Tensor, blank: Tensor) -> Tensor:
    """``Bool[R, T]``: the tokens that differ from the baseline; special ones do not."""
    differs: Tensor = (embeds != blank).any(-1)
    return differs
