"""Sounds: as loud as asked by an independent meter, at one rate, without silence at the ends; noise goes down."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pyarrow as pa
import pytest
from datasets import Audio, Dataset
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import write_rows
from upright import Stack
from upright.engine import media
from upright.engine.execute import execute
from upright.errors import ConfigError, PluginError
from upright.evidence.ledger import read_ledger
from upright_clean import audio_normalise, loudness
from upright_clean.audio_normalise import AudioNormalise
from upright_clean.denoise import Denoise

signal = pytest.importorskip("scipy.signal")
soundfile = pytest.importorskip("soundfile")
pytest.importorskip("pyloudnorm")


def dataset(rows: list[dict[str, Any]]) -> Dataset:
    return Dataset(media.typed(pa.Table.from_pylist(rows)))


def encoded(samples: np.ndarray, rate: int, **options: Any) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate, **{"format": "WAV", "subtype": "PCM_16", **options})
    return buffer.getvalue()


def heard(content: bytes) -> tuple[np.ndarray, int]:
    samples, rate = soundfile.read(io.BytesIO(content), always_2d=True)
    return samples, rate


def decided(step: Any, contents: list[bytes]) -> list[dict[str, Any]]:
    rows = dataset([{"row_id": str(n), "audio": {"bytes": c, "path": f"{n}.flac"}} for n, c in enumerate(contents)])
    stack = Stack.load({"data": {"train": "x", "columns": {"audio": "a"}}, "clean": "audio-normalise"})
    return step.clean(rows=rows, run=type("R", (), {"stack": stack})()).rows


def edited(step: Any, samples: np.ndarray, rate: int, **options: Any) -> tuple[np.ndarray, int, str]:
    [decision] = decided(step, [encoded(samples, rate, **options)])
    assert decision["action"] == "edit"
    assert decision["values"]["audio"]["path"] == "0.wav"
    return *heard(decision["values"]["audio"]["bytes"]), decision["reason"]


@pytest.fixture(scope="session")
def spoken(shared_data: Path) -> dict[str, list[bytes]]:
    """Speaker -> the wav files of fsdd. The defaults of `denoise` were chosen on george."""
    with tarfile.open(shared_data / "fsdd" / "wav.tar") as archive:
        found = {Path(m.name).name: archive.extractfile(m).read() for m in archive if m.isfile()}  # type: ignore[union-attr]
    meta = [json.loads(line) for line in (shared_data / "fsdd" / "meta.jsonl").read_text().splitlines()]
    return {
        who: [found[m["file"]] for m in meta if m["speaker"] == who] for who in sorted({m["speaker"] for m in meta})
    }


# --- loudness ---------------------------------------------------------------------------------------------------------


def lufs(samples: np.ndarray, rate: int) -> float:
    """ITU-R BS.1770-4 from its tables 1 and 2, which are for 48 kHz, with both gates, in float64; mono or stereo."""
    at48 = signal.resample_poly(samples, 48000 // np.gcd(rate, 48000), rate // np.gcd(rate, 48000), axis=0)
    shelf = [1.53512485958697, -2.69169618940638, 1.19839281085285], [1.0, -1.69065929318241, 0.73248077421585]
    high = [1.0, -2.0, 1.0], [1.0, -1.99004745483398, 0.99007225036621]
    weighted = signal.lfilter(*high, signal.lfilter(*shelf, at48, axis=0), axis=0)
    blocks = [weighted[start : start + 19200] for start in range(0, len(weighted) - 19200 + 1, 4800)]
    power = np.array([(block**2).mean(axis=0).sum() for block in blocks])
    level = -0.691 + 10 * np.log10(power + 1e-30)
    power, level = power[level > -70], level[level > -70]
    relative = -0.691 + 10 * np.log10(power.mean()) - 10
    return float(-0.691 + 10 * np.log10(power[level > relative].mean()))


def as_loud_as_asked(step: AudioNormalise, samples: np.ndarray, rate: int) -> str:
    """The reason; what is long enough is within 0.5 LU of the target, the rest within 0.2 dB of RMS, or at the highest peak."""
    [decision] = decided(step, [encoded(samples, rate)])
    found, new_rate = heard(decision["values"]["audio"]["bytes"])
    assert new_rate == step.sample_rate
    assert np.abs(found).max() <= 10 ** (-1 / 20) + 1e-4
    reasons = decision["reason"].split("+")
    if "peak-limited" in reasons:
        assert np.abs(found).max() > 10 ** (-1 / 20) - 1e-3
    elif len(found) >= 0.4 * new_rate:
        assert "rms-loudness" not in reasons
        assert abs(lufs(found, new_rate) - step.loudness) < 0.5
    else:
        assert "loudness" not in reasons
        assert abs(10 * np.log10((found**2).mean(axis=0).sum()) - step.loudness) < 0.2
    return str(decision["reason"])


def test_the_oracle_reads_what_the_recommendation_says() -> None:
    """A sine of 997 Hz at full scale in one channel reads -3.01 LKFS (ITU-R BS.1770-4, note 1 of annex 1)."""
    tone = np.sin(2 * np.pi * 997 * np.arange(96000) / 48000)[:, None]
    assert abs(lufs(tone, 48000) + 3.01) < 0.05
    assert abs(loudness.loudness(tone, 48000)[0] + 3.01) < 0.05
    assert abs(loudness.loudness(tone[:4800], 48000)[0] + 3.01) < 0.05  # RMS: on the same scale


def test_speech_is_as_loud_as_asked_by_an_independent_meter(spoken: dict[str, list[bytes]]) -> None:
    told = [as_loud_as_asked(AudioNormalise(), *heard(content)) for clips in spoken.values() for content in clips[::3]]
    assert len(told) == 120
    assert sum("rms-loudness" in reason for reason in told) > 20  # many digits are shorter than 400 ms
    assert sum(reason.split("+")[-1] == "loudness" for reason in told) > 20


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from([8000, 11025, 16000, 22050, 44100, 48000]),
    st.floats(0.45, 2.0),
    st.floats(-50, -3),
    st.integers(1, 2),
    st.sampled_from([-23.0, -16.0, -30.0]),
)
def test_any_sound_is_as_loud_as_asked(
    seed: int, rate: int, seconds: float, level: float, channels: int, target: float
) -> None:
    rng = np.random.default_rng(seed)
    noise = signal.lfilter([1], [1, -0.9], rng.standard_normal((round(seconds * rate), channels)), axis=0)
    step = AudioNormalise(loudness=target, sample_rate=16000, mono=False, trim_silence=None)
    samples = noise / np.abs(noise).max() * 10 ** (level / 20)
    if decided(step, [encoded(samples, rate)]):
        as_loud_as_asked(step, samples, rate)
    else:
        assert rate == 16000
        assert abs(lufs(samples, rate) - target) < 0.5


def test_mutant_a_meter_without_the_relative_gate_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    tone = np.sin(2 * np.pi * 997 * np.arange(32000) / 16000)[:, None] * 0.1
    pauses = np.concatenate([tone, np.zeros((96000, 1)) + 1e-3 * tone[:1], tone])
    step = AudioNormalise(trim_silence=None)
    as_loud_as_asked(step, pauses, 16000)
    monkeypatch.setattr(loudness, "loudness", lambda s, rate: (10 * float(np.log10((s**2).mean())), True))
    with pytest.raises(AssertionError):
        as_loud_as_asked(step, pauses, 16000)


def test_a_peak_that_leaves_no_room_is_told() -> None:
    click = np.random.default_rng(0).standard_normal(16000) * 1e-3
    click[8000] = 0.9
    assert as_loud_as_asked(AudioNormalise(), click[:, None], 16000) == "loudness+peak-limited"


def test_normalising_once_is_enough(spoken: dict[str, list[bytes]]) -> None:
    for content in spoken["theo"]:
        [decision] = decided(AudioNormalise(), [content])
        assert decided(AudioNormalise(), [decision["values"]["audio"]["bytes"]]) == []


# --- rate, channels, silence ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rate", [8000, 22050, 44100, 48000, 96000])
def test_a_tone_keeps_its_pitch_and_what_would_alias_is_gone(rate: int) -> None:
    time = np.arange(rate) / rate
    samples = 0.3 * np.sin(2 * np.pi * 1000 * time) + (0.3 * np.sin(2 * np.pi * 9500 * time) if rate > 20000 else 0)
    step = AudioNormalise(loudness=None, trim_silence=None)
    found, new_rate, reason = edited(step, samples, rate)
    assert (new_rate, len(found), reason) == (16000, 16000, "resampled")
    spectrum = np.abs(np.fft.rfft(found[1000:-1000, 0] * np.hanning(len(found) - 2000)))
    loudest = spectrum.argmax()
    assert abs(loudest * 16000 / (len(found) - 2000) - 1000) < 2
    spectrum[loudest - 5 : loudest + 6] = 0
    assert spectrum.max() < 0.01 * np.abs(np.fft.rfft(found[:, 0])).max()  # 9.5 kHz folded would stand at 6.5 kHz


def test_mutant_taking_every_nth_sample_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audio_normalise, "resampled", lambda samples, rate, target: samples[:: rate // target])
    with pytest.raises(AssertionError):
        test_a_tone_keeps_its_pitch_and_what_would_alias_is_gone(48000)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 12000), st.integers(2000, 9000), st.integers(0, 12000), st.sampled_from([8000, 16000, 44100]))
def test_silence_goes_at_the_ends_and_nothing_that_is_heard(before: int, length: int, after: int, rate: int) -> None:
    tone = 0.3 * np.sin(2 * np.pi * 440 * np.arange(length) / rate + 1)
    hiss = np.random.default_rng(0).standard_normal(before + length + after) * 1e-4
    samples = hiss + np.concatenate([np.zeros(before), tone, np.zeros(after)])
    start, stop = audio_normalise.audible(samples[:, None], rate, -40.0)
    most = 0.07 * rate  # 50 ms stay, and a frame of 10 ms may have begun or ended outside
    assert before - most <= start <= before
    assert before + length <= stop <= min(len(samples), before + length + most)


def test_silence_inside_stays_and_the_whole_clip_is_shorter(spoken: dict[str, list[bytes]]) -> None:
    samples, rate = heard(spoken["jackson"][0])
    pause = np.zeros((rate // 2, 1))
    whole = np.concatenate([pause, samples, pause, samples, pause])
    found, _, reason = edited(AudioNormalise(sample_rate=None, loudness=None), whole, rate)
    assert reason == "trimmed"
    assert len(pause) + len(samples) < len(found) <= len(whole) - 2 * len(pause) + 0.12 * rate
    place = np.abs(signal.correlate(whole[:, 0], found[:, 0], "valid")).argmax()
    np.testing.assert_allclose(found, whole[place : place + len(found)], atol=2**-15)  # 16 bits


def test_channels_become_one_and_wide_samples_stay_wide() -> None:
    rng = np.random.default_rng(1)
    stereo = rng.uniform(-0.2, 0.2, (16000, 2))
    found, _, reason = edited(AudioNormalise(loudness=None, trim_silence=None), stereo, 16000, subtype="FLOAT")
    assert reason == "mono"
    np.testing.assert_allclose(found[:, 0], stereo.mean(axis=1), atol=2**-22)  # 24 bits, of float32
    assert decided(AudioNormalise(mono=False, loudness=None, trim_silence=None), [encoded(stereo, 16000)]) == []
    six = encoded(rng.uniform(-0.2, 0.2, (16000, 6)), 16000)
    assert decided(AudioNormalise(mono=False), [six])[0]["reason"] == "more-than-five-channels"


# --- noise ------------------------------------------------------------------------------------------------------------


def snr(clean: np.ndarray, found: np.ndarray) -> float:
    return float(10 * np.log10((clean**2).sum() / ((found - clean) ** 2).sum()))


def gains(clips: list[bytes], level: float, colour: list[float]) -> list[float]:
    """By how many dB denoising brings each clip, with noise at ``level`` dB, nearer to the clip without noise."""
    found = []
    for seed, content in enumerate(clips):
        clean, rate = heard(content)
        noise = signal.lfilter([1.0], colour, np.random.default_rng(seed).standard_normal(clean.shape), axis=0)
        noise *= np.sqrt((clean**2).sum() / (noise**2).sum()) * 10 ** (-level / 20)
        if len(clean) > 0.2 * rate:
            peak = np.abs(clean + noise).max() * 1.01
            cleaned, _, _ = edited(Denoise(), (clean + noise) / peak, rate)
            assert cleaned.shape == clean.shape
            found.append(snr(clean / peak, cleaned) - snr(clean, clean + noise))
    return found


@pytest.mark.parametrize(("colour", "least"), [([1.0], 3.0), ([1.0, -0.7], 1.0)])
@pytest.mark.parametrize("level", [0, 5])
def test_a_noisy_voice_comes_nearer_to_the_clean_one(
    level: int, colour: list[float], least: float, spoken: dict[str, list[bytes]]
) -> None:
    found = gains([clip for who in ("jackson", "nicolas", "theo") for clip in spoken[who][::6]], level, colour)
    assert len(found) > 35
    assert min(found) > 0
    assert np.median(found) > least


def test_mutant_a_gate_that_closes_on_the_voice_is_noticed(
    monkeypatch: pytest.MonkeyPatch, spoken: dict[str, list[bytes]]
) -> None:
    from upright_clean import denoise

    monkeypatch.setattr(denoise, "QUIET", 0.98)
    with pytest.raises(AssertionError):
        test_a_noisy_voice_comes_nearer_to_the_clean_one(5, [1.0], 3.0, spoken)


def test_silence_has_no_noise_and_what_is_too_short_is_told() -> None:
    assert decided(Denoise(), [encoded(np.zeros(16000), 16000)]) == []
    assert decided(Denoise(), [encoded(np.ones(500) * 0.1, 16000)])[0]["reason"] == "too-short"


# --- what is no sound -------------------------------------------------------------------------------------------------


def test_what_is_no_sound_is_flagged_with_its_reason_and_nothing_is_lost(tmp_path: Path) -> None:
    tone = 0.1 * np.sin(np.arange(16000) / 5)
    whole = encoded(tone, 16000)
    flac = encoded(tone, 16000, format="FLAC")
    bad = {
        "empty-file": b"",
        "not-audio": b"\x89PNG\r\n\x1a\n no sound",
        "corrupt-audio": b"RIFF\x10\x00\x00\x00WAVEjunk",
        "no-samples": encoded(np.zeros(0), 16000),
        "truncated-audio": whole[: len(whole) // 2],
        "not-finite": encoded(np.full(16000, np.nan), 16000, subtype="FLOAT"),
        "silent": encoded(np.zeros(16000), 16000),
        "too-quiet": encoded(tone * 1e-3, 16000, subtype="FLOAT"),
    }
    for name, content in bad.items():
        (tmp_path / f"{name}.wav").write_bytes(content)
    (tmp_path / "cut.flac").write_bytes(flac[: len(flac) // 2])
    (tmp_path / "fine.wav").write_bytes(whole)
    names = [*(f"{name}.wav" for name in bad), "cut.flac", None, "fine.wav"]
    rows = write_rows(tmp_path / "rows.jsonl", [{"clip": name} for name in names])
    step = {"use": "audio-normalise", "trim_silence": -60}
    stack = {"data": {"train": rows, "columns": {"audio": "clip"}}, "clean": [step], "output": str(tmp_path / "runs")}
    run = execute(Stack.load(stack))
    told = {d["row_id"]: (d["action"], d["reason"]) for d in read_ledger(run.folder).to_pylist()}
    of = dict(zip(run.data["train"]["row_id"], names, strict=True))
    found = {of[row]: decision for row, decision in told.items()}
    assert found.pop("fine.wav") == ("edit", "loudness")
    assert found.pop("cut.flac") in (("flag", "truncated-audio"), ("flag", "corrupt-audio"))
    assert found == {**{f"{name}.wav": ("flag", name) for name in bad}, None: ("flag", "no-file")}
    saved = run.folder / "data" / "train.parquet"
    kept = Dataset.from_parquet(str(saved), cache_dir=str(tmp_path / "cache"))
    assert kept.features["audio"] == Audio(decode=False)
    plain = pandas.read_parquet(saved)["audio"]
    assert [row["bytes"] for row in plain[: len(bad)]] == list(bad.values())
    assert abs(lufs(*heard(plain[len(names) - 1]["bytes"])) + 23) < 0.5
    step["corrupt"] = "drop"
    assert len(execute(Stack.load(stack)).data["train"]) == 3  # silent, too quiet, fine


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_no_bytes_stop_a_run(data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from(["WAV", "FLAC", "OGG", "AIFF"]))
    subtype = {"OGG": "VORBIS"}.get(kind, "PCM_16")
    whole = encoded(0.1 * np.sin(np.arange(4000) / 5), 8000, format=kind, subtype=subtype)
    content = bytearray(whole[: data.draw(st.integers(0, len(whole)))])
    for place, value in data.draw(st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 255)), max_size=6)):
        if place < len(content):
            content[place] = value
    for step in (AudioNormalise(), Denoise()):
        for decision in decided(step, [bytes(content)]):
            assert decision["action"] in ("flag", "edit")


def test_a_stack_without_the_column_or_the_libraries_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = write_rows(tmp_path / "t.jsonl", [{"text": "a"}])
    for step in ("audio-normalise", "denoise"):
        stack = {"data": {"train": rows}, "clean": step, "output": str(tmp_path / "runs")}
        with pytest.raises(
            ConfigError, match=rf"clean\.{step} cleans the column `audio`, and data\.columns names none"
        ):
            execute(Stack.load(stack))
    monkeypatch.setitem(__import__("sys").modules, "soundfile", None)
    with pytest.raises(PluginError, match=r"needs soundfile .*pip install 'upright-clean\[media\]'"):
        execute(Stack.load(stack))
