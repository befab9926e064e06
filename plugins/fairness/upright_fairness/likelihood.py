"""How likely a language model finds a sentence: all of its tokens, or those that a pair shares, each masked in turn.

The second is CrowS-Pairs' pseudo-log-likelihood of the unmodified tokens (Nangia et al., 2020, arXiv:2010.00133; Salazar
et al., 2020, arXiv:1910.14659).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from difflib import SequenceMatcher

import numpy as np
import torch
from torch import Tensor

Logits = Callable[[Tensor, Tensor], Tensor]
"""Token ids and attention mask, each ``[R, T]``, to logits ``[R, T, V]``."""
APART = 1e-5
"""Relative. Logits of the same tokens in the same place differ by less, whatever comes later."""


def causal(logits: Logits, texts: Sequence[list[int]], size: int, device: torch.device) -> np.ndarray:
    """Log-likelihood of every token after the first, summed over each text, ``float64 [n]``; ``size`` texts at a time."""
    found = np.zeros(len(texts))
    for places, ids, mask in _batches(texts, size, device):
        following = ids[:, 1:]
        each = _log_softmax(logits(ids, mask)[:, :-1]).gather(2, following.unsqueeze(2)).squeeze(2)
        found[places] = (each.double() * mask[:, 1:]).sum(1).cpu().numpy()
    return found


def masked(
    logits: Logits,
    texts: Sequence[list[int]],
    scored: Sequence[list[int]],
    mask_token: int,
    size: int,
    device: torch.device,
) -> np.ndarray:
    """Log-likelihood of the tokens at the places ``scored``, each alone behind the mask, summed, ``float64 [n]``."""
    asked = [(number, place) for number, places in enumerate(scored) for place in places]
    hidden = [[*texts[n][:place], mask_token, *texts[n][place + 1 :]] for n, place in asked]
    found = np.zeros(len(texts))
    for places, ids, mask in _batches(hidden, size, device):
        numbers = [asked[place][0] for place in places]
        at = torch.tensor([asked[place][1] for place in places], device=device)
        truth = torch.tensor([texts[asked[place][0]][asked[place][1]] for place in places], device=device)
        told = logits(ids, mask)[torch.arange(len(places), device=device), at]
        each = _log_softmax(told).gather(1, truth.unsqueeze(1)).squeeze(1)
        np.add.at(found, numbers, each.double().cpu().numpy())
    return found


def shared(one: Sequence[int], other: Sequence[int], special: set[int]) -> tuple[list[int], list[int]]:
    """Places of the tokens that both texts have in common, without special ones; as many in both."""
    blocks = SequenceMatcher(None, one, other, autojunk=False).get_matching_blocks()
    pairs = [(block.a + n, block.b + n) for block in blocks for n in range(block.size)]
    kept = [(a, b) for a, b in pairs if one[a] not in special]
    return [a for a, _ in kept], [b for _, b in kept]


def reads_ahead(logits: Logits, text: Sequence[int], device: torch.device) -> bool:
    """Whether another last token changes what is said of those before it: then nothing here is a likelihood."""
    ids = torch.tensor([text], device=device)
    changed = ids.clone()
    changed[0, -1] = int(ids[0, -1] == 0)
    one, other = (logits(each, torch.ones_like(each))[:, :-1].double() for each in (ids, changed))
    return bool((one - other).abs().max() > APART * one.abs().max())


def _log_softmax(logits: Tensor) -> Tensor:
    """In float32 at least; a float64 model keeps its own."""
    return torch.log_softmax(logits.to(torch.promote_types(logits.dtype, torch.float32)), -1)


def _batches(texts: Sequence[list[int]], size: int, device: torch.device) -> Iterator[tuple[list[int], Tensor, Tensor]]:
    """Numbers of the texts, their ids padded on the right by their own first token, and the mask; alike in length."""
    order = sorted(range(len(texts)), key=lambda number: len(texts[number]))
    for start in range(0, len(order), size):
        places = order[start : start + size]
        width = len(texts[places[-1]])
        ids = [[*texts[n], *[texts[n][0]] * (width - len(texts[n]))] for n in places]
        mask = [[1] * len(texts[n]) + [0] * (width - len(texts[n])) for n in places]
        yield places, torch.tensor(ids, device=device), torch.tensor(mask, device=device)
