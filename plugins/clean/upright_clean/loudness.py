"""How loud a sound is (ITU-R BS.1770-4, by pyloudnorm), and how far it may be raised."""

from __future__ import annotations

import numpy as np

BLOCK = 0.4
"""Seconds of one gating block: what is shorter has no loudness by BS.1770."""
PEAK = -1.0
"""Highest sample after normalising, in dBFS (EBU R 128 allows -1 dB of true peak)."""


def loudness(samples: np.ndarray, rate: int) -> tuple[float, bool]:
    """Of ``[samples, channels]``: the integrated loudness in LUFS, and whether it is that.

    What is shorter than 400 ms has no loudness: then the RMS of all samples in dBFS, summed over channels as BS.1770
    does; of a sine of 1 kHz both are the same. -inf where there is silence (all blocks below -70 LUFS).
    """
    from pyloudnorm import Meter

    if len(samples) < BLOCK * rate:
        power = float(np.mean(samples**2, axis=0).sum())
        return 10 * float(np.log10(power)) if power else -np.inf, False
    hop = BLOCK / 4  # pyloudnorm also counts a last block that is not full, which BS.1770 does not
    whole = BLOCK + hop * int((len(samples) / rate - BLOCK) / hop + 1e-9)
    return float(Meter(rate, block_size=BLOCK).integrated_loudness(samples[: round(whole * rate)])), True


def raised(samples: np.ndarray, gain: float) -> tuple[np.ndarray, bool]:
    """The samples with ``gain`` dB, or with the most that keeps them under `PEAK`; whether it was less than asked for."""
    peak = float(np.abs(samples).max())
    room = PEAK - 20 * float(np.log10(peak)) if peak else gain
    limited = gain > room
    return samples * 10 ** (min(gain, room) / 20), limited
