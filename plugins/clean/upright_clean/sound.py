"""Sounds from bytes and back, by soundfile (libsndfile), with a reason where that cannot be done."""

from __future__ import annotations

import io

import numpy as np

from upright_clean.media import Unreadable

SAMPLES = 2**28
"""More, over all channels, are not decoded: two gigabytes in float64, nine hours at 8 kHz."""
WIDE = frozenset({"PCM_24", "PCM_32", "FLOAT", "DOUBLE"})
"""Sample formats of more than 16 bits."""


def decoded(content: bytes) -> tuple[np.ndarray, int, bool]:
    """``[samples, channels]`` float64 in -1..1, samples a second, and whether it has more than 16 bits. Raises Unreadable."""
    import soundfile

    try:
        with soundfile.SoundFile(io.BytesIO(content)) as file:
            if file.frames * file.channels > SAMPLES:
                raise Unreadable("too-long")
            samples = file.read(dtype="float64", always_2d=True)
            frames, rate, wide = file.frames, file.samplerate, file.subtype in WIDE
    except soundfile.LibsndfileError as error:
        known = content[:4] in (b"RIFF", b"RIFX", b"RF64", b"fLaC", b"OggS", b"FORM", b"caff") or content[:3] == b"ID3"
        raise Unreadable("corrupt-audio" if known else "not-audio") from error
    if not len(samples):
        raise Unreadable("no-samples")
    if len(samples) < frames or _cut_short(content):
        raise Unreadable("truncated-audio")
    if not np.isfinite(samples).all():
        raise Unreadable("not-finite")
    return samples, rate, wide


def encoded(samples: np.ndarray, rate: int, wide: bool) -> bytes:
    """A wav file of 16 bits a sample, or 24."""
    import soundfile

    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate, format="WAV", subtype="PCM_24" if wide else "PCM_16")
    return buffer.getvalue()


def _cut_short(content: bytes) -> bool:
    """Whether a wav file says that it is longer than it is, which libsndfile passes over. 0 and -1 say nothing (a pipe)."""
    said = int.from_bytes(content[4:8], "little")
    return (
        content[:4] == b"RIFF" and said not in (0, 2**32 - 1) and said + 8 > len(content) + 1
    )  # a last pad byte may lack
