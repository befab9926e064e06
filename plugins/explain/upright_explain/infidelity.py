"""Infidelity (Yeh et al., 2019, arXiv:1901.09392), by captum: do the parts predict what a text without some tokens scores?"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from upright import Batch
    from upright.objects import Target


def infidelity(target: Target, one: Batch, decided: int, scores: np.ndarray, removed: np.ndarray) -> float:
    """Mean square (logits) of what the removed tokens' parts miss, the parts scaled as fits best.

    ``one`` is a batch of one row with ``scores [T]``; ``removed [S, T]`` says which tokens give way to the pad baseline.
    """
    import torch
    from captum.metrics import infidelity as captum

    embeds, blank = target.embed(one), target.baseline(one, "pad")
    width = len(scores)
    change = torch.from_numpy(removed).to(embeds)

    def score(kept: Tensor) -> Tensor:
        full = torch.ones((len(kept), embeds.shape[1]), dtype=embeds.dtype, device=embeds.device)
        full[:, :width] = kept
        index = torch.zeros(len(kept), dtype=torch.long, device=embeds.device)
        points = blank + full.unsqueeze(-1) * (embeds - blank)
        return target.scores(points, one.take(index), torch.full_like(index, decided))

    def perturb(kept: Tensor) -> tuple[Tensor, Tensor]:
        return change, kept - change

    whole = torch.ones((1, width), dtype=embeds.dtype, device=embeds.device)
    parts = torch.from_numpy(scores).to(embeds).unsqueeze(0)
    return float(captum(score, perturb, whole, parts, n_perturb_samples=len(removed), normalize=True))
