"""Pictures: the same ones are found however they were saved, metadata goes and its turn stays, and bad files are told."""

from __future__ import annotations

import io
import itertools
import random
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas
import pyarrow as pa
import pytest
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import write_rows
from upright import Stack
from upright.engine import media
from upright.engine.execute import execute
from upright.errors import ConfigError
from upright.evidence.ledger import read_ledger
from upright_clean import perceptual
from upright_clean.image_dup import ImageDup
from upright_clean.image_normalise import ImageNormalise

Image = pytest.importorskip("PIL.Image")


def dataset(rows: list[dict[str, Any]]) -> Dataset:
    return Dataset(media.typed(pa.Table.from_pylist(rows)))


def encoded(picture: Any, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.fixture(scope="session")
def flower() -> Any:
    """One of scikit-learn's two pictures. The settings' defaults were chosen on the other one."""
    from sklearn.datasets import load_sample_image

    return Image.fromarray(load_sample_image("flower.jpg"))


@pytest.fixture(scope="session")
def tiles(flower: Any) -> list[Any]:
    """Twenty different pictures of 128 x 106 pixels."""
    return [flower.crop((x, y, x + 128, y + 106)) for y in range(0, 424, 106) for x in range(0, 640, 128)]


def run_of(**splits: Dataset) -> Any:
    stack = Stack.load({"data": {"train": "x", "columns": {"image": "i"}}, "clean": ["image-dup", "image-normalise"]})
    return type("R", (), {"data": splits, "stack": stack})()


def rows_of(contents: list[bytes], labels: list[str] | None = None, prefix: str = "") -> Dataset:
    rows: list[dict[str, Any]] = [
        {"row_id": f"{prefix}{n:03}", "image": {"bytes": content, "path": f"{n}.png"}}
        for n, content in enumerate(contents)
    ]
    return dataset([{**row, "label": labels[n]} if labels else row for n, row in enumerate(rows)])


def decided(step: Any, contents: list[bytes], labels: list[str] | None = None) -> list[dict[str, Any]]:
    rows = rows_of(contents, labels)
    given = {"split": "train"} if isinstance(step, ImageDup) else {}
    return step.clean(rows=rows, run=run_of(train=rows), **given).rows


# --- duplicates -------------------------------------------------------------------------------------------------------


def trimmed(picture: Any, share: float) -> Any:
    width, height = picture.size
    return picture.crop(
        (round(width * share), round(height * share), round(width * (1 - share)), round(height * (1 - share)))
    )


CHANGES: dict[str, Callable[[Any], bytes]] = {
    "same bytes": lambda p: encoded(p),
    "jpeg": lambda p: encoded(p, "JPEG", quality=40),
    "webp": lambda p: encoded(p, "WEBP", quality=60),
    "half size": lambda p: encoded(p.resize((p.width // 2, p.height // 2)), "JPEG", quality=90),
    "cropped": lambda p: encoded(trimmed(p, 0.02), "JPEG", quality=90),
    "turned by EXIF": lambda p: encoded(p.transpose(Image.Transpose.ROTATE_90), "JPEG", quality=90, exif=turn(6)),
}


def turn(orientation: int) -> Any:
    exif = Image.Exif()
    exif[0x0112] = orientation
    exif[0x010F] = "camera"
    exif.get_ifd(0x8825)[1] = "N"
    return exif


def hash_is_flat(picture: Any) -> bool:
    return float(np.asarray(picture.convert("L"), dtype=float).std()) < 12


@pytest.mark.parametrize("change", CHANGES)
def test_the_same_picture_is_found_after_a_change_and_others_are_not(
    change: str, flower: Any, tiles: list[Any]
) -> None:
    pictures = [flower, *(tile for tile in tiles if not hash_is_flat(tile))]
    contents = [encoded(picture) for picture in pictures] + [CHANGES[change](picture) for picture in pictures]
    found = decided(ImageDup(), contents)
    pairs = {frozenset((int(d["row_id"]), int(d["evidence"]))) for d in found if d["action"] == "drop"}
    assert len(pictures) > 12
    assert pairs == {frozenset((n, n + len(pictures))) for n in range(len(pictures))}
    assert {d["reason"] for d in found} == {"same-picture"}


def test_the_largest_stays_whatever_the_order_and_another_label_is_told(flower: Any) -> None:
    sizes = [(320, 213), (640, 427), (160, 107), (640, 427)]
    contents = [encoded(flower.resize(size), "JPEG") for size in sizes]
    for order in itertools.permutations(range(4)):
        found = decided(ImageDup(), [contents[n] for n in order])
        assert len(found) == 3
        assert {sizes[order[int(d["evidence"])]] for d in found} == {(640, 427)}
    found = decided(ImageDup(), contents, ["a", "b", "b", "b"])
    assert {(d["row_id"], d["action"], d["reason"]) for d in found} == {
        ("000", "flag", "same-picture-other-label"),
        ("002", "drop", "same-picture"),
        ("003", "drop", "same-picture"),
    }
    assert {d["action"] for d in decided(ImageDup(other_label="drop"), contents, ["a", "b", "b", "b"])} == {"drop"}


def test_pictures_without_detail_repeat_only_their_like() -> None:
    shades = [encoded(Image.new("RGB", (64, 64), colour)) for colour in ("white", "black", "white", "#fefefe")]
    assert [(d["row_id"], d["evidence"]) for d in decided(ImageDup(), shades)] == [("002", "000")]


def test_colour_tells_pictures_apart_that_are_grey_alike(flower: Any) -> None:
    red, green, blue = flower.split()
    odd = Image.merge("RGB", (blue, green, red))
    assert decided(ImageDup(max_distance=16), [encoded(flower), encoded(odd)]) == []


def test_train_pictures_of_the_examination_go(flower: Any, tiles: list[Any]) -> None:
    train = rows_of([encoded(flower, "JPEG"), encoded(tiles[7]), encoded(tiles[8])])
    test = rows_of([encoded(flower.resize((320, 213))), b"none"], prefix="t")
    run = run_of(train=train, test=test)
    found = ImageDup().clean(train, "train", run).rows
    assert [(d["row_id"], d["action"], d["reason"], d["evidence"]) for d in found] == [
        ("000", "drop", "also-in-test", "t000")
    ]
    assert [(d["row_id"], d["reason"]) for d in ImageDup().clean(test, "test", run).rows] == [("t001", "not-an-image")]


def test_a_chain_is_not_merged(monkeypatch: pytest.MonkeyPatch, tiles: list[Any]) -> None:
    hashes = np.array([0, 0b111, 0b111111], dtype=np.uint64)
    monkeypatch.setattr(perceptual, "phash", lambda pictures: hashes)
    monkeypatch.setattr(perceptual, "correlations", lambda pictures, one, other: np.ones(len(one)))
    sharp = [tile for tile in tiles if not hash_is_flat(tile)][:3]
    found = decided(ImageDup(max_distance=3), [encoded(tile) for tile in sharp])
    assert [(d["row_id"], d["action"], d["reason"], d["evidence"]) for d in found] == [
        ("001", "drop", "same-picture", "000"),
        ("002", "flag", "near-a-dropped-picture", "001"),
    ]


HASHES = st.lists(
    st.one_of(
        st.integers(0, 2**64 - 1), st.sets(st.integers(0, 63), max_size=9).map(lambda bits: sum(1 << b for b in bits))
    ),
    max_size=24,
)


def every_pair_is_found(hashes: list[int], distance: int) -> None:
    one, other = perceptual.close_pairs(np.array(hashes, dtype=np.uint64), distance)
    pairs = itertools.combinations(range(len(hashes)), 2)
    assert list(zip(one.tolist(), other.tolist(), strict=True)) == [
        (i, j) for i, j in pairs if (hashes[i] ^ hashes[j]).bit_count() <= distance
    ]


@settings(max_examples=150, deadline=None)
@given(HASHES, st.integers(0, 16), st.sampled_from([1, 7, 4_000_000]))
def test_blocking_finds_what_all_pairs_find(hashes: list[int], distance: int, part: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(perceptual, "PAIRS", part)
        every_pair_is_found(hashes, distance)


def test_mutant_a_radius_too_small_misses_a_pair(monkeypatch: pytest.MonkeyPatch) -> None:
    masks = perceptual._masks
    monkeypatch.setattr(perceptual, "_masks", lambda radius: masks(radius - 1))
    rng = random.Random(0)
    found = 0
    for _ in range(50):
        one = rng.getrandbits(64)
        other = one ^ sum(1 << bit for bit in rng.sample(range(64), 8))
        try:
            every_pair_is_found([one, other], 8)
        except AssertionError:
            found += 1
    assert found > 0


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(0.2, 3.0))
def test_the_hash_is_that_of_the_textbook(seed: int, smooth: float) -> None:
    from scipy.fft import dctn
    from scipy.ndimage import gaussian_filter

    picture = gaussian_filter(np.random.default_rng(seed).uniform(0, 255, (32, 32, 3)), (smooth, smooth, 0)).astype(
        np.uint8
    )
    luma = 0.299 * picture[..., 0] + 0.587 * picture[..., 1] + 0.114 * picture[..., 2]
    low = dctn(luma, type=2)[:8, :8]
    # scipy's coefficients are scaled by powers of two, which changes no comparison with their median
    bits = "".join("1" if value > np.median(low) else "0" for value in low.ravel())
    assert int(perceptual.phash(picture[None])[0]) == int(bits, 2)


# --- normalising ------------------------------------------------------------------------------------------------------


def seen(content: bytes) -> Any:
    return Image.open(io.BytesIO(content))


def edited(step: ImageNormalise, content: bytes) -> tuple[Any, dict[str, Any]]:
    [decision] = decided(step, [content])
    assert decision["action"] == "edit"
    return seen(decision["values"]["image"]["bytes"]), decision


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_metadata_goes_and_the_picture_stands_as_it_was_meant(orientation: int, kind: str, flower: Any) -> None:
    stored = flower.crop((100, 100, 340, 260))
    options = {"quality": 92} if kind == "JPEG" else {"lossless": True} if kind == "WEBP" else {}
    content = encoded(stored, kind, exif=turn(orientation), **options)
    found, decision = edited(ImageNormalise(), content)
    # Pillow turns a TIFF as it reads it
    assert ("turned" in decision["reason"]) == (orientation != 1 and kind != "TIFF")
    assert not found.getexif()
    raw = decision["values"]["image"]["bytes"]
    assert b"Exif" not in raw
    assert b"camera" not in raw
    # what EXIF's orientations mean, by their definition in CIPA DC-008 (row 0 and column 0 of what is stored)
    array = np.asarray(seen(content) if kind == "JPEG" else stored, dtype=float)
    meant = {
        1: array,
        2: array[:, ::-1],
        3: array[::-1, ::-1],
        4: array[::-1],
        5: array.transpose(1, 0, 2),
        6: array[::-1].transpose(1, 0, 2),
        7: array[::-1, ::-1].transpose(1, 0, 2),
        8: array[:, ::-1].transpose(1, 0, 2),
    }[orientation]
    off = np.abs(np.asarray(found, dtype=float) - meant).mean()
    assert off < (1.5 if kind == "JPEG" else 1e-9)  # a JPEG is encoded again: less than 1 % of 255


def test_mutant_stripping_before_turning_is_noticed(monkeypatch: pytest.MonkeyPatch, flower: Any) -> None:
    from upright_clean import picture

    monkeypatch.setattr(picture, "upright", lambda given: given)
    with pytest.raises(AssertionError):
        test_metadata_goes_and_the_picture_stands_as_it_was_meant(6, "PNG", flower)


def test_mutant_metadata_that_stays_is_noticed(monkeypatch: pytest.MonkeyPatch, flower: Any) -> None:
    from upright_clean import image_normalise

    monkeypatch.setattr(
        image_normalise, "_encoded", lambda found, jpeg, untouched: (encoded(found, "JPEG", exif=turn(1)), ".jpg")
    )
    with pytest.raises(AssertionError):
        test_metadata_goes_and_the_picture_stands_as_it_was_meant(1, "JPEG", flower)


def timed(content: bytes) -> bytes:
    """A PNG that says when it was changed."""
    chunk = b"tIME" + bytes([7, 233, 1, 2, 3, 4, 5])
    whole = len(chunk[4:]).to_bytes(4) + chunk + zlib.crc32(chunk).to_bytes(4)
    return content[:33] + whole + content[33:]


def test_comments_texts_and_previews_go_too(flower: Any) -> None:
    from PIL.PngImagePlugin import PngInfo

    texts = PngInfo()
    texts.add_text("Author", "Jane Roe")
    texts.add_itxt("XML:com.adobe.xmp", "<x>Jane Roe</x>")
    contents = [
        encoded(flower, "PNG", pnginfo=texts),
        encoded(flower, "JPEG", comment=b"Jane Roe"),
        encoded(flower, "JPEG", xmp=b"<x>Jane Roe</x>"),
        encoded(flower, "JPEG") + b"a film that a telephone hides here, by Jane Roe",
        encoded(flower) + b"Jane Roe",
        timed(encoded(flower)),
        encoded(flower, "MPO", save_all=True, append_images=[flower.resize((64, 43))], exif=turn(1)),
    ]
    for content in contents:
        found, decision = edited(ImageNormalise(), content)
        assert decision["reason"].startswith("metadata")
        assert b"Jane Roe" not in decision["values"]["image"]["bytes"]
        assert b"tIME" not in decision["values"]["image"]["bytes"]
        assert found.size == flower.size
        assert found.format in ("PNG", "JPEG")
        assert getattr(found, "n_frames", 1) == 1
        assert decided(ImageNormalise(), [decision["values"]["image"]["bytes"]]) == []


def test_mode_and_size_follow_the_rule(flower: Any) -> None:
    clear = flower.convert("RGBA")
    clear.putalpha(0)
    assert edited(ImageNormalise(), encoded(clear))[0].getpixel((5, 5)) == (255, 255, 255)
    assert edited(ImageNormalise(mode="L"), encoded(flower))[0].mode == "L"
    assert decided(ImageNormalise(mode="keep"), [encoded(clear), encoded(flower.convert("P"))]) == []
    small, decision = edited(ImageNormalise(max_side=100), encoded(flower, "JPEG"))
    assert small.size == (100, 67)
    assert decision["reason"] == "size"
    assert decision["values"]["image"]["path"] == "0.jpg"
    cmyk, decision = edited(ImageNormalise(), encoded(flower.convert("CMYK"), "JPEG"))
    assert cmyk.mode == "RGB"
    assert decided(ImageNormalise(max_side=700), [encoded(flower, "JPEG"), encoded(flower)]) == []


def test_another_profile_becomes_srgb(flower: Any) -> None:
    from PIL import ImageCms

    # sRGB with the primaries of red and blue exchanged, under another name: its red channel is sRGB's blue
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for old, new in (("rXYZ", "tmp!"), ("bXYZ", "rXYZ"), ("tmp!", "bXYZ")):
        profile = profile.replace(old.encode(), new.encode())
    profile = profile.replace("sRGB".encode("utf-16-be"), "xRGB".encode("utf-16-be"))
    red, green, blue = flower.split()
    strange = Image.merge("RGB", (blue, green, red))
    found, decision = edited(ImageNormalise(), encoded(strange, icc_profile=profile))
    assert decision["reason"] == "srgb+metadata"
    assert "icc_profile" not in found.info
    # littleCMS computes with 8 bits in and out: within one level on average
    assert np.abs(np.asarray(found, dtype=float) - np.asarray(flower, dtype=float)).mean() < 1


def test_frames_and_depth_are_not_lost(flower: Any) -> None:
    moving = encoded(flower, "GIF", save_all=True, append_images=[flower.transpose(Image.Transpose.ROTATE_180)])
    deep = encoded(Image.fromarray(np.arange(4096, dtype=np.uint16).reshape(64, 64)))
    found = decided(ImageNormalise(), [moving, deep])
    assert [(d["action"], d["reason"]) for d in found] == [("flag", "several-frames"), ("flag", "more-than-8-bits")]


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(["RGB", "RGBA", "L", "LA", "P", "1", "CMYK"]),
    st.sampled_from(["PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF"]),
    st.tuples(st.integers(1, 40), st.integers(1, 40)),
    st.integers(0, 8),
    st.sampled_from(["RGB", "L", "keep"]),
    st.none() | st.integers(8, 30),
)
def test_normalising_ends_in_the_rule_and_is_done_after_one_pass(
    mode: str, kind: str, size: tuple[int, int], orientation: int, wanted: Any, side: int | None
) -> None:
    values = np.random.default_rng(0).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    try:
        content = encoded(
            Image.fromarray(values).convert(mode), kind, **({"exif": turn(orientation)} if orientation else {})
        )
    except (OSError, ValueError):  # that format does not hold that mode
        return
    step = ImageNormalise(mode=wanted, max_side=side)
    decisions = decided(step, [content])
    result = decisions[0]["values"]["image"]["bytes"] if decisions else content
    assert all(decision["action"] == "edit" for decision in decisions)
    assert seen(result).format in ("PNG", "JPEG")
    assert wanted in ("keep", seen(result).mode)
    assert side is None or max(seen(result).size) <= side
    assert not seen(result).getexif()
    assert decided(step, [result]) == []


# --- what is no picture -----------------------------------------------------------------------------------------------


def broken(flower: Any) -> dict[str, bytes]:
    whole = encoded(flower)
    return {
        "empty-file": b"",
        "not-an-image": b"%PDF-1.7 no picture",
        "corrupt-image": whole[: len(whole) // 2],
    }


def test_what_is_no_picture_is_flagged_with_its_reason_and_nothing_is_lost(flower: Any, tmp_path: Path) -> None:
    bad = broken(flower)
    for name, content in bad.items():
        (tmp_path / f"{name}.png").write_bytes(content)
    (tmp_path / "bomb.ppm").write_bytes(b"P6 60000 60000 255\n")
    (tmp_path / "page.eps").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n")
    flower.save(tmp_path / "fine.jpg", exif=turn(6))
    names = [f"{name}.png" for name in bad] + ["bomb.ppm", "page.eps", None, "fine.jpg"]
    write_rows(tmp_path / "rows.jsonl", [{"file_name": name, "sex": "f"} for name in names])
    stack = {
        "data": {"train": str(tmp_path / "rows.jsonl"), "columns": {"image": "file_name"}},
        "clean": ["image-normalise", "image-dup"],
        "output": str(tmp_path / "runs"),
    }
    run = execute(Stack.load(stack))
    told = {(d["row_id"], d["action"], d["reason"]) for d in read_ledger(run.folder).to_pylist()}
    reasons = [*bad, "too-many-pixels", "not-an-image", "no-file"]
    rows = dict(zip(run.data["train"]["row_id"], names, strict=True))
    assert {(rows[row], reason) for row, action, reason in told if action == "flag"} == set(
        zip(names, reasons, strict=False)
    )
    assert [reason for row, action, reason in told if action == "edit"] == ["turned+metadata"]
    kept = Dataset.from_parquet(str(run.folder / "data" / "train.parquet"), cache_dir=str(tmp_path / "cache"))
    assert kept.features["image"] == dataset([{"image": None, "n": 0}]).features["image"]
    decoded = kept.select([6]).cast_column("image", datasets.Image())[0]["image"]
    assert decoded.size == (427, 640)
    plain = pandas.read_parquet(run.folder / "data" / "train.parquet")["image"]
    assert plain[0] == {"bytes": b"", "path": "empty-file.png"}
    assert plain[1]["bytes"] == bad["not-an-image"]
    gone = execute(Stack.load({**stack, "clean": [{"use": "image-normalise", "corrupt": "drop"}]}))
    assert len(gone.data["train"]) == 1


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_no_bytes_stop_a_run(flower: Any, data: st.DataObject) -> None:
    small = flower.resize((24, 16))
    whole = data.draw(st.sampled_from([encoded(small, kind) for kind in ("PNG", "JPEG", "GIF", "WEBP", "TIFF", "BMP")]))
    content = bytearray(whole[: data.draw(st.integers(0, len(whole)))])
    for place, value in data.draw(st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 255)), max_size=6)):
        if place < len(content):
            content[place] = value
    for step in (ImageNormalise(), ImageDup()):
        for decision in decided(step, [bytes(content)]):
            assert decision["action"] in ("flag", "edit")


def test_a_stack_without_the_column_says_so(tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "t.jsonl", [{"text": "a"}, {"text": "b"}])
    for step in ("image-dup", "image-normalise"):
        stack = {"data": {"train": rows}, "clean": step, "output": str(tmp_path / "runs")}
        with pytest.raises(
            ConfigError, match=rf"clean\.{step} cleans the column `image`, and data\.columns names none"
        ):
            execute(Stack.load(stack))


def test_steps_for_text_leave_pictures_alone_and_exact_dup_compares_bytes(flower: Any, tmp_path: Path) -> None:
    (tmp_path / "p").mkdir()
    for name, size in (("a", 64), ("b", 64), ("c", 32)):
        flower.resize((size, size)).save(tmp_path / "p" / f"{name}.png")
    stack = {
        "data": {"train": str(tmp_path / "p"), "columns": {"image": "file_name"}},
        "clean": ["unicode", "length", "exact-dup"],
        "output": str(tmp_path / "runs"),
    }
    run = execute(Stack.load(stack))
    assert [row["path"] for row in run.data["train"]["image"]] == ["a.png", "c.png"]
