"""`minhash.band_keys` in torch, on any device; gives the same keys."""

from __future__ import annotations

import numpy as np
import torch

from upright_clean.minhash import batches, multipliers

CELLS = 1 << 22
"""Shingles that are permuted at once."""


def band_keys(
    values: np.ndarray, starts: np.ndarray, lengths: np.ndarray, num_perm: int, rows: int, device: torch.device
) -> np.ndarray:
    """One key for each band and text, ``int64[num_perm // rows, D]``, as `minhash.band_keys` gives them."""
    bands = num_perm // rows
    weights = torch.from_numpy(multipliers(rows, 64)).to(device)[:, None]
    all_values = torch.from_numpy(values.astype(np.int32)).to(device)
    all_starts, all_lengths = torch.from_numpy(starts).to(device), torch.from_numpy(lengths).to(device)
    keys = torch.empty((bands, len(starts)), dtype=torch.int64, device=device)
    for batch in batches(lengths, CELLS):
        texts = torch.from_numpy(batch).to(device)
        place = torch.arange(int(lengths[batch[0]]), device=device)[:, None]
        hashes = all_values[all_starts[texts] + torch.minimum(place, all_lengths[texts] - 1)]
        minima = [(hashes * factor).amin(0) for factor in multipliers(bands * rows, 32).tolist()]
        keys[:, texts] = (torch.stack(minima).view(bands, rows, -1).long() * weights).sum(1)
    return keys.cpu().numpy()
