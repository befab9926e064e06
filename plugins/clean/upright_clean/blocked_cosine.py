"""Which rows repeat one that stays, by the cosine of their embeddings, a block of rows at a time."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

BLOCK = 1024
"""Rows on each side of a product."""


@dataclass(frozen=True)
class Alike:
    """Rows that are alike to one that stays, each once: row and evidence ``int64[F]``, cosine ``float64[F]``."""

    rows: np.ndarray
    evidence: np.ndarray
    score: np.ndarray
    same_label: np.ndarray


def alike(embeddings: np.ndarray, labels: np.ndarray, threshold: float, device: torch.device) -> Alike:
    """Go by rank through ``embeddings`` (``[N, D]``, unit norm): a row stays unless one of its label does already.

    The evidence is the first such row; for a row that stays beside rows of other labels, the first of those.
    """
    vectors = torch.from_numpy(np.ascontiguousarray(embeddings, np.float32)).to(device)
    codes = torch.from_numpy(labels).to(device)
    none = len(vectors)
    first = torch.full((2, none), none, device=device)  # of the same label, of another one
    score = torch.zeros((2, none), device=device)
    stays = torch.zeros(none, dtype=torch.bool, device=device)

    def look(begin: int, end: int, kept: torch.Tensor) -> None:
        """Compare the rows from ``begin`` with rows ``kept`` before them."""
        cosine = vectors[begin:end] @ vectors[kept].T
        near = (cosine >= threshold) & (kept < torch.arange(begin, end, device=device)[:, None])
        same = codes[begin:end, None] == codes[kept]
        for which, hits in enumerate((near & same, near & ~same)):
            if hits.any():
                place = hits.int().argmax(1)
                new = hits.any(1) & (first[which, begin:end] == none)
                first[which, begin:end][new] = kept[place[new]]
                score[which, begin:end][new] = cosine[new, place[new]]

    for begin in range(0, none, BLOCK):
        end = min(begin + BLOCK, none)
        for kept in stays[:begin].nonzero()[:, 0].split(BLOCK):
            look(begin, end, kept)
        # inside the block, a row at a time where it could matter
        block = torch.arange(begin, end, device=device)
        near = (vectors[begin:end] @ vectors[begin:end].T >= threshold) & (codes[begin:end, None] == codes[begin:end])
        near = near.tril(-1).cpu().numpy()
        open_ = (first[0, begin:end] == none).cpu().numpy()
        for row in np.flatnonzero(near.any(1) & open_):
            open_[row] = not (near[row] & open_).any()
        stays[begin:end] = torch.from_numpy(open_).to(device)
        look(begin, end, block[stays[begin:end]])
    rows = (first.amin(0) < none).nonzero()[:, 0]
    which = (first[0, rows] == none).long()
    return Alike(
        rows.cpu().numpy(),
        first[which, rows].cpu().numpy(),
        score[which, rows].double().cpu().numpy().clip(-1, 1),
        (which == 0).cpu().numpy(),
    )
