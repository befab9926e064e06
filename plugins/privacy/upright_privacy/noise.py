"""Randomness that nobody can foresee or repeat: AES-CTR of a key that the operating system drew and nobody keeps."""

from __future__ import annotations

import os

import numpy as np
import torch
from torch import Tensor

BLOCK = 2**20
"""Numbers made at a time."""
SUMMED = 4
"""Gaussians that make one, so that the gaps between floating-point numbers tell nothing of what the noise was added to
(Holohan and Braghin, 2021, arXiv:2107.10138; as in opacus's secure mode)."""


class Source:
    """A stream of uniform bits by AES-256 in counter mode; key and counter live in this object only."""

    def __init__(self) -> None:
        from cryptography.hazmat.primitives.ciphers import Cipher
        from cryptography.hazmat.primitives.ciphers.algorithms import AES
        from cryptography.hazmat.primitives.ciphers.modes import CTR

        self._stream = Cipher(AES(os.urandom(32)), CTR(os.urandom(16))).encryptor()

    def words(self, count: int) -> np.ndarray:
        """``count`` numbers of 32 bits."""
        return np.frombuffer(bytearray(self._stream.update(bytes(4 * count))), dtype=np.uint32)

    def chosen(self, count: int, rate: float) -> np.ndarray:
        """Which of ``count`` are drawn, each on its own with chance ``rate`` (to 2^-53), ``Bool[count]``."""
        words = np.frombuffer(self._stream.update(bytes(8 * count)), dtype=np.uint64)
        drawn: np.ndarray = (words >> np.uint64(11)) * 2.0**-53 < rate
        return drawn

    def gaussians(self, count: int, device: torch.device | str = "cpu") -> Tensor:
        """``count`` standard Gaussians, float32, on ``device`` (Box and Muller, 1958); the bits come from the CPU."""
        found = torch.empty(count, device=device)
        for start in range(0, count, BLOCK):
            part = found[start : start + BLOCK]
            half = (len(part) + 1) // 2
            total = torch.zeros(2, half, device=device)
            for _ in range(SUMMED):
                words = torch.from_numpy(self.words(2 * half).view(np.int32)).to(device).view(2, half)
                uniform = words[0].bitwise_and_(2**31 - 1).float().add_(1.0).mul_(2.0**-31)  # in (0, 1]
                radius = uniform.log_().mul_(-2.0).sqrt_()
                angle = words[1].float().mul_(torch.pi * 2.0**-31)
                total[0].addcmul_(radius, torch.cos(angle))
                total[1].addcmul_(radius, angle.sin_())
            part.copy_(total.flatten()[: len(part)])
        return found.div_(SUMMED**0.5)


def gaussian(shape: torch.Size, scale: float, device: torch.device) -> Tensor:
    """Noise of standard deviation ``scale``, float32; no two calls share anything."""
    return Source().gaussians(shape.numel(), device).view(shape).mul_(scale)
