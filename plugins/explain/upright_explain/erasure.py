"""Comprehensiveness and sufficiency (DeYoung et al., 2020, ERASER, arXiv:1911.03429), over a row's strongest tokens."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from upright import Batch, Run

SHARES = (0.01, 0.05, 0.1, 0.2, 0.5)
"""Shares of a row's tokens that are erased, or kept alone; the figures are means over them."""


def erasure(run: Run, one: Batch, decided: int, orders: np.ndarray, width: int) -> tuple[np.ndarray, np.ndarray]:
    """How far the decided class's probability falls without the first tokens, and with them alone; each ``[O]``.

    ``one`` is a batch of one row; ``orders [O, n]`` are rankings of its columns, the strongest first; other columns
    (special tokens) always stay. ``width`` is the row's true length.
    """
    removed = np.stack([_removed(order, width) for order in orders])
    variants, place = np.unique(
        np.concatenate([np.zeros((1, width), dtype=bool), removed.reshape(-1, width)]), axis=0, return_inverse=True
    )
    chances = probabilities(run, one, decided, variants)[place.ravel()]
    falls = (chances[0] - chances[1:]).reshape(len(orders), 2, len(SHARES)).mean(-1)
    return falls[:, 0], falls[:, 1]


def _removed(order: np.ndarray, width: int) -> np.ndarray:
    """``Bool[2, S, width]``: without the first tokens, and with them alone, for each share."""
    removed = np.zeros((2, len(SHARES), width), dtype=bool)
    for place, share in enumerate(SHARES):
        count = math.ceil(share * len(order))
        removed[0, place, order[:count]] = True
        removed[1, place, order[count:]] = True
    return removed


def probabilities(run: Run, one: Batch, decided: int, removed: np.ndarray) -> np.ndarray:
    """The decided class's probability (float64) of a row without some of its tokens, ``Bool[V, T]`` -> ``[V]``.

    Tokens are deleted, not blanked: the later ones move up, so that the model reads a text that it could have been given.
    """
    import torch

    width, device = removed.shape[1], one.rows.device
    counts = (~removed).sum(1)
    found = np.empty(len(removed))
    by_length = np.argsort(counts, kind="stable")
    size = run.config.train.micro_batch_size
    for start in range(0, len(removed), size):
        chosen = by_length[start : start + size]
        places = np.argsort(removed[chosen], axis=1, kind="stable")[:, : counts[chosen].max()]
        moved = torch.from_numpy(places).to(device)
        there = torch.from_numpy(np.arange(places.shape[1]) < counts[chosen, None]).to(device)
        batch = one.take(torch.zeros(len(chosen), dtype=torch.long, device=device))
        inputs = {
            name: value[:, :width].gather(1, moved) if value.shape[1:] == one.inputs["input_ids"].shape[1:] else value
            for name, value in batch.inputs.items()
        }
        inputs["input_ids"] = inputs["input_ids"].masked_fill(~there, run.tokenizer.pad_token_id or 0)
        inputs["attention_mask"] = inputs["attention_mask"] * there
        with torch.no_grad():
            logits = run.forward(dataclasses.replace(batch, inputs=inputs)).logits.double()
        found[chosen] = torch.softmax(logits, -1)[:, decided].cpu().numpy()
    return found
