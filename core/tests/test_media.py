"""Images and sounds get in as bytes, whatever names them, and a row is what they hold, not where they lay."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas
import pyarrow as pa
import pytest
from datasets import Audio, Dataset, Features, Image
from hypothesis import given
from hypothesis import strategies as st

from upright import Stack
from upright.calls import Calls
from upright.engine import media
from upright.engine.data import load_data
from upright.engine.identities import row_ids
from upright.engine.tasks import get
from upright.errors import ConfigError
from upright.run import Run


def loaded(tmp_path: Path, train: str | Path, columns: dict[str, str], **more: Any) -> Run:
    stack = Stack.load({"data": {"train": str(train), "columns": columns, **more}, "clean": "exact-dup"})
    run = Run(stack, tmp_path, Calls([]))
    run.task = get(stack.settings.model.task)
    load_data(run)
    return run


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    for name in ("a.png", "b.png", "cats/c.JPG", "cats/d.wav"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(name.encode())
    return folder


def test_a_folder_of_files_is_a_split_and_a_folder_in_it_a_label(photos: Path, tmp_path: Path) -> None:
    rows = loaded(tmp_path, photos, {"image": "file_name"}).data["train"]
    assert [row["path"] for row in rows["image"]] == ["a.png", "b.png", "c.JPG", "d.wav"]
    assert [row["bytes"] for row in rows["image"]] == [b"a.png", b"b.png", b"cats/c.JPG", b"cats/d.wav"]
    assert rows.features["image"] == Image(decode=False)
    (photos / "b.png").rename(photos / "cats" / "b.png")
    (photos / "a.png").rename(photos / "cats" / "a.png")
    assert set(loaded(tmp_path, photos, {"image": "file_name"}).data["train"]["label"]) == {"cats"}


def test_a_table_names_files_from_its_own_folder(photos: Path, tmp_path: Path) -> None:
    table = photos / "tables"
    table.mkdir()
    (table / "x.jsonl").write_text(
        '{"clip": "../cats/d.wav", "label": 1, "text": "meow"}\n{"clip": null, "text": "y"}\n'
    )
    (table / "x.csv").write_text(f"clip,label,text\n{photos / 'a.png'},2,z\n")
    rows = loaded(tmp_path, table / "x.jsonl", {"audio": "clip"}, test=str(table / "x.csv")).data
    assert rows["train"]["audio"][:] == [{"bytes": b"cats/d.wav", "path": "d.wav"}, None]
    assert rows["train"]["text"][:] == ["meow", "y"]
    assert rows["test"]["audio"][0] == {"bytes": b"a.png", "path": "a.png"}
    assert rows["train"].features["audio"] == Audio(decode=False)


@pytest.mark.parametrize("value", [b"xyz", {"bytes": b"xyz", "path": "q.png"}, {"bytes": None, "path": "a.png"}])
def test_a_parquet_column_holds_bytes_or_both(value: Any, photos: Path, tmp_path: Path) -> None:
    pandas.DataFrame({"picture": [value, value]}).to_parquet(photos / "t.parquet")
    rows = loaded(tmp_path, photos / "t.parquet", {"image": "picture"}).data["train"]
    assert {row["bytes"] for row in rows["image"]} == {
        b"a.png" if isinstance(value, dict) and not value["bytes"] else b"xyz"
    }
    assert len(set(rows["row_id"])) == 2


def test_a_data_set_of_the_hub_is_not_decoded(tmp_path: Path) -> None:
    features = Features({"sound": Audio(), "picture": Image()})
    table = pa.Table.from_pylist(
        [{"sound": {"bytes": b"s", "path": "s.wav"}, "picture": {"bytes": b"p", "path": None}}]
    )
    (tmp_path / "set").mkdir()
    Dataset(table.cast(features.arrow_schema)).to_parquet(tmp_path / "set" / "train.parquet")
    rows = loaded(tmp_path, f"hf:{tmp_path / 'set'}", {"audio": "sound", "image": "picture"}).data["train"]
    assert rows[0]["audio"] == {"bytes": b"s", "path": "s.wav"}
    assert rows[0]["image"] == {"bytes": b"p", "path": None}


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (3, "column 'c' holds a int where an image file is needed"),
        ([1], "column 'c' holds a list where an image file is needed"),
        ({"array": [0.0]}, "column 'c' holds a dict where an image file is needed"),
        ({"bytes": "text"}, "column 'c' holds a dict where an image file is needed"),
        ("http://x/y.png", "http://x/y.png is no file; download it first"),
        ("nowhere.png", "there is no image file"),
        (".", "cannot be read"),
        ("a\0b", "cannot be read"),
    ],
)
def test_what_is_no_file_is_one_sentence_with_the_row(value: Any, said: str, tmp_path: Path) -> None:
    (tmp_path / "t.jsonl").write_text(json.dumps({"c": value}) + "\n")
    with pytest.raises(ConfigError) as caught:
        loaded(tmp_path, tmp_path / "t.jsonl", {"image": "c"})
    assert str(caught.value).startswith(f"{tmp_path / 't.jsonl'}:1: ")
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_over_the_limit_is_refused_before_it_is_read(tmp_path: Path) -> None:
    with (tmp_path / "huge.png").open("wb") as file:
        file.truncate(media.MAX_BYTES + 1)
    (tmp_path / "t.jsonl").write_text('{"c": "huge.png"}\n')
    with pytest.raises(ConfigError, match=r"t\.jsonl:1: .*huge\.png has 268,435,457 bytes"):
        loaded(tmp_path, tmp_path / "t.jsonl", {"image": "c"})


def test_a_task_that_reads_no_media_refuses_the_column() -> None:
    with pytest.raises(ConfigError, match="`audio` is a column for cleaning, which no task reads"):
        Stack.load({"data": {"train": "x", "columns": {"audio": "a"}}, "tune": "head"})


FILES = st.lists(st.tuples(st.binary(max_size=3), st.text("abc", max_size=2)), min_size=1, max_size=6)


@given(FILES, st.randoms())
def test_identity_follows_from_the_content_alone(files: list[tuple[bytes, str]], chance: Any) -> None:
    rows = [{"image": {"bytes": content, "path": name}, "label": "x"} for content, name in files]
    renamed = [{"image": {"bytes": content, "path": name + "z"}, "label": "x"} for content, name in files]
    assert row_ids("train", rows) == row_ids("train", renamed)
    assert len(set(row_ids("train", rows))) == len(rows)
    firsts = {content: row_ids("train", rows)[n] for n, (content, _) in reversed(list(enumerate(files)))}
    assert len(set(firsts.values())) == len({content for content, _ in files})
    shuffled = chance.sample(rows, len(rows))
    assert sorted(row_ids("train", shuffled)) == sorted(row_ids("train", rows))
