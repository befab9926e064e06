"""Spectral gating: what does not rise over a steady noise is turned down (Boll, 1979, doi:10.1109/TASSP.1979.1163209; with
gates and smoothing as in Sainburg et al., 2020, doi:10.1371/journal.pcbi.1008228)."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from upright import Decisions, Scope, Step, hook
from upright_clean.media import Unreadable, data, files, needs, renamed

if TYPE_CHECKING:
    import numpy as np
    from datasets import Dataset

    from upright import Run

WINDOW = 0.032
"""Seconds of one window; the next one begins after a quarter of it."""
QUIET = 0.2
"""Share of each frequency's windows that are taken to hold nothing but noise."""
FRAMES = 12
"""Fewer windows say nothing of a noise."""


class Denoise(Step):
    """Turn down a steady noise (hiss, hum, a fan) by spectral gating; the result is a wav file of the same length.

    The noise is learned from each sound itself: at each frequency, from its quietest fifth. It takes something from
    clean sounds too, so use it where there is noise. Sounds too short to tell (less than 120 ms) and files that cannot
    be read are flagged with the reason. Looks at one row at a time, so it is applied to the test split as well.
    """

    scope: ClassVar[Scope] = Scope(row_local=True)

    reduction: float = Field(12.0, gt=0, le=60, description="dB by which noise is turned down.")
    over_noise: float = Field(
        4.0, ge=0, le=30, description="dB over the noise that a frequency must reach to be left alone."
    )

    @hook
    def clean(self, rows: Dataset, run: Run) -> Decisions:
        needs(self, run, "soundfile", "scipy.signal")
        from upright_clean.sound import decoded, encoded

        decisions = Decisions()
        for row_id, value in files(rows, "audio", self, run):
            try:
                samples, rate, wide = decoded(data(value))
                changed = self.gated(samples, rate)
            except Unreadable as error:
                decisions.add(row_id, "flag", error.reason)
                continue
            if changed is not None and value is not None:
                audio = {"bytes": encoded(changed, rate, wide), "path": renamed(value, ".wav")}
                decisions.add(row_id, "edit", "denoised", threshold=self.reduction, values={"audio": audio})
        return decisions

    def gated(self, samples: np.ndarray, rate: int) -> np.ndarray | None:
        """``[samples, channels]`` with its noise turned down; None where there is none. Raises Unreadable."""
        import numpy as np
        from scipy.ndimage import uniform_filter
        from scipy.signal import ShortTimeFFT
        from scipy.signal.windows import hann

        width = max(8, 4 * round(WINDOW * rate / 4))
        transform = ShortTimeFFT(hann(width, sym=False), hop=width // 4, fs=rate)
        if len(samples) < FRAMES * transform.hop:
            raise Unreadable("too-short")
        spectrum = transform.stft(samples.T)  # [channels, frequencies, windows]
        power = np.abs(spectrum) ** 2
        # of the power of white noise, which is exponentially distributed, the fifth is 0.22 of the mean
        noise = np.quantile(power, QUIET, axis=-1, keepdims=True) / -np.log1p(-QUIET)
        if not noise.any():
            return None
        smooth = uniform_filter(power, size=(1, 3, 3), mode="nearest")
        gate = smooth > noise * 10 ** (self.over_noise / 10)
        share = uniform_filter(gate.astype(np.float64), size=(1, 3, 3), mode="nearest")
        floor = 10 ** (-self.reduction / 20)
        found: np.ndarray = transform.istft(spectrum * (floor + (1 - floor) * share), k1=len(samples)).T
        return found
