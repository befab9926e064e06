"""Sounds of one loudness (EBU R 128, by ITU-R BS.1770-4) and one sample rate, without silence at their ends."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from upright import Decisions, Scope, Step, hook
from upright_clean.media import Unreadable, data, files, needs, renamed

if TYPE_CHECKING:
    import numpy as np
    from datasets import Dataset

    from upright import Run

FRAME = 0.01
"""Seconds of one frame whose level is looked at."""
MARGIN = 5
"""Frames that stay before the first and after the last one that is heard."""
TOLERANCE = 0.1
"""LU off the target that need no change."""


class AudioNormalise(Step):
    """Cut silence at both ends, bring every sound to one sample rate and one loudness; the result is a wav file.

    Loudness is that of ITU-R BS.1770-4 with its gates. What is shorter than 400 ms has none; its RMS is brought to the
    same figure in dBFS, and the reason says `rms-loudness`. No sample rises over -1 dBFS: where the target would need
    that, the sound stays below it and the reason says `peak-limited`. Silence, more than five channels and files that
    cannot be read are flagged with the reason. Looks at one row at a time, so it is applied to the test split as well.
    """

    scope: ClassVar[Scope] = Scope(row_local=True)

    loudness: float | None = Field(
        -23.0, ge=-60, le=-5, description="Target in LUFS (EBU R 128: -23); null leaves the loudness as it is."
    )
    sample_rate: int | None = Field(
        16000, ge=4000, le=192000, description="Samples a second; null leaves the rate as it is."
    )
    trim_silence: float | None = Field(
        -40.0,
        ge=-90,
        lt=0,
        description="Ends this many dB below the loudest 10 ms are cut, but for 50 ms; null cuts nothing.",
    )
    mono: bool = Field(True, description="Average the channels into one.")
    corrupt: Literal["flag", "drop"] = Field("flag", description="What becomes of a file that cannot be read.")

    @hook
    def clean(self, rows: Dataset, run: Run) -> Decisions:
        needs(self, run, "soundfile", "pyloudnorm", "scipy.signal")
        from upright_clean.sound import decoded, encoded

        decisions = Decisions()
        for row_id, value in files(rows, "audio", self, run):
            try:
                samples, rate, wide = decoded(data(value))
            except Unreadable as error:
                decisions.add(row_id, self.corrupt, error.reason)
                continue
            if not samples.any():
                decisions.add(row_id, "flag", "silent")
                continue
            if samples.shape[1] > 5 and not self.mono:
                decisions.add(row_id, "flag", "more-than-five-channels")
                continue
            changed, new_rate, reasons, measured = self.normalised(samples, rate)
            if reasons == ["too-quiet"]:
                decisions.add(row_id, "flag", "too-quiet")
            elif reasons and value is not None:
                audio = {"bytes": encoded(changed, new_rate, wide), "path": renamed(value, ".wav")}
                decisions.add(
                    row_id, "edit", "+".join(reasons), score=measured, threshold=self.loudness, values={"audio": audio}
                )
        return decisions

    def normalised(self, samples: np.ndarray, rate: int) -> tuple[np.ndarray, int, list[str], float | None]:
        """``[samples, channels]`` at a rate as they should be, their rate, the reasons, and the loudness before the gain."""
        import numpy as np

        from upright_clean.loudness import loudness, raised

        reasons = []
        measured = None
        if self.mono and samples.shape[1] > 1:
            samples = samples.mean(axis=1, keepdims=True)
            reasons.append("mono")
        if self.sample_rate is not None and rate != self.sample_rate:
            samples, rate = resampled(samples, rate, self.sample_rate), self.sample_rate
            reasons.append("resampled")
        if self.trim_silence is not None:
            start, stop = audible(samples, rate, self.trim_silence)
            if stop - start < len(samples):
                samples = samples[start:stop]
                reasons.append("trimmed")
        if self.loudness is not None:
            level, by_blocks = loudness(samples, rate)
            if np.isfinite(level):
                measured = level
                gain = self.loudness - level
                changed, limited = raised(samples, gain)
                if abs(gain) > TOLERANCE and not (limited and np.allclose(changed, samples, atol=2**-14)):
                    samples = changed
                    reasons.append("loudness" if by_blocks else "rms-loudness")
                    reasons += ["peak-limited"] if limited else []
            else:
                reasons.append("too-quiet")
        return samples, rate, reasons, measured


def audible(samples: np.ndarray, rate: int, below: float) -> tuple[int, int]:
    """First and last sample of what is less than ``-below`` dB under the loudest frame, with `MARGIN` frames around it."""
    import numpy as np

    width = max(1, round(FRAME * rate))
    frames = -(-len(samples) // width)
    power = np.zeros(frames * width)
    power[: len(samples)] = (samples**2).mean(axis=1)
    levels = power.reshape(frames, width).sum(axis=1)
    heard = np.flatnonzero(levels >= levels.max() * 10 ** (below / 10))
    return max(0, heard[0] - MARGIN) * width, min(len(samples), (heard[-1] + 1 + MARGIN) * width)


def resampled(samples: np.ndarray, rate: int, target: int) -> np.ndarray:
    """``[samples, channels]`` at another rate, by a polyphase filter (scipy's, Kaiser window) that lets nothing alias."""
    from math import gcd

    from scipy.signal import resample_poly

    common = gcd(rate, target)
    found: np.ndarray = resample_poly(samples, target // common, rate // common, axis=0)
    return found
