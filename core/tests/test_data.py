"""Reading rows: formats, identities, splits set aside, and one sentence for what cannot be used."""

from __future__ import annotations

import json
import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from datasets import Dataset

from upright import Stack
from upright.calls import Calls
from upright.engine.data import load_data, set_aside
from upright.engine.identities import row_ids
from upright.engine.tasks import get
from upright.errors import ConfigError
from upright.run import Run

ROWS = [{"text": f"note {n}", "label": "ab"[n % 2], "sex": "fm"[n % 3 == 0]} for n in range(40)]


def loaded(tmp_path: Path, data: dict[str, Any], **more: Any) -> Run:
    stack = Stack.load({"data": data, "tune": "head"} | more)
    run = Run(stack, tmp_path, Calls([]))
    run.task = get(stack.settings.model.task)
    load_data(run)
    return run


def jsonl(path: Path, rows: list[dict[str, Any]] | None = None) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in (rows or ROWS)))
    return str(path)


def csv(path: Path) -> str:
    path.write_text("text,label,sex\n" + "".join(f'"{r["text"]}",{r["label"]},{r["sex"]}\n' for r in ROWS))
    return str(path)


def parquet(path: Path) -> str:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.Table.from_pylist(ROWS), path)
    return str(path)


def folder(path: Path) -> str:
    path.mkdir()
    jsonl(path / "a.jsonl", ROWS[:20])
    jsonl(path / "b.jsonl", ROWS[20:])
    return str(path)


def hub_folder(path: Path) -> str:
    path.mkdir()
    jsonl(path / "train.jsonl")
    return f"hf:{path}[train]"


@pytest.mark.parametrize("write", [jsonl, csv, parquet, folder, hub_folder])
def test_every_format_gives_the_same_rows(tmp_path: Path, write: Any) -> None:
    suffix = {"jsonl": ".jsonl", "csv": ".csv", "parquet": ".parquet"}.get(write.__name__, "")
    run = loaded(
        tmp_path,
        {"train": write(tmp_path / f"rows{suffix}"), "validation": jsonl(tmp_path / "v.jsonl"), "sensitive": ["sex"]},
    )
    assert run.data["train"]["text"][:] == [row["text"] for row in ROWS]
    assert run.data["train"]["sex"][:] == [row["sex"] for row in ROWS]
    assert run.data["train"]["unit"][:] == list(range(40))
    assert run.group_values == {"sex": ["f", "m"]}


def test_row_identities_do_not_depend_on_the_order_of_others_and_tell_twins_apart() -> None:
    rows = [{"text": "a"}, {"text": "b"}, {"text": "a"}]
    ids = row_ids("train", rows)
    assert len(set(ids)) == 3
    assert row_ids("train", rows[::-1])[1] == ids[1]
    assert row_ids("test", rows)[1] != ids[1]


def test_a_tenth_is_set_aside_by_label_whatever_the_order_of_rows() -> None:
    def aside(rows: list[dict[str, Any]], seed: int) -> list[dict[str, Any]]:
        return [row for row, chosen in zip(rows, set_aside(Dataset.from_list(rows), seed), strict=True) if chosen]

    rows = [{"label": "ab"[n % 4 == 0], "row_id": f"{n}", "unit": n} for n in range(100)]
    validation = aside(rows, 3)
    assert len(validation) == 10
    assert sum(row["label"] == "b" for row in validation) == 2
    mixed = random.Random(0).sample(rows, 100)
    assert {row["row_id"] for row in aside(mixed, 3)} == {row["row_id"] for row in validation}
    assert {row["row_id"] for row in aside(rows, 4)} != {row["row_id"] for row in validation}


def test_rows_of_one_value_of_the_unit_column_are_one_unit_and_stay_together(tmp_path: Path) -> None:
    rows = [{"text": f"text {n}", "label": "ab"[n % 2], "patient": f"p{n // 5}"} for n in range(200)]
    new = [{"text": "x", "label": "a", "patient": p} for p in ("p1", "new")]
    data = {"train": jsonl(tmp_path / "t.jsonl", rows), "test": jsonl(tmp_path / "test.jsonl", new), "unit": "patient"}
    run = loaded(tmp_path, data)
    assert all("patient" not in split.column_names for split in run.data.values())
    units = {name: set(split["unit"][:]) for name, split in run.data.items()}
    assert not units["train"] & units["validation"]
    assert len(units["train"]) == 36
    assert len(run.data["validation"]) == 20
    both = {**dict(zip(run.data["train"]["text"][:], run.data["train"]["unit"][:], strict=True))}
    both |= dict(zip(run.data["validation"]["text"][:], run.data["validation"]["unit"][:], strict=True))
    assert all((both[f"text {n}"] == both[f"text {m}"]) == (n // 5 == m // 5) for n in range(60) for m in range(60))
    assert run.data["test"]["unit"][0] == both["text 5"]
    assert run.data["test"]["unit"][1] not in both.values()


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ({"patient": None}, "t.jsonl:31: column 'patient' does not say whose the row is"),
        ({"patient": ["p"]}, "t.jsonl:31: column 'patient' does not say whose the row is"),
    ],
)
def test_a_row_of_nobody_is_named(tmp_path: Path, row: dict[str, Any], told: str) -> None:
    rows = [{"text": f"text {n}", "label": "ab"[n % 2], "patient": n // 5} for n in range(30)]
    path = jsonl(tmp_path / "t.jsonl", [*rows, {**rows[0], **row}])
    with pytest.raises(ConfigError) as error:
        loaded(tmp_path, {"train": path, "unit": "patient"})
    assert told in str(error.value)
    with pytest.raises(ConfigError, match=r"data\.unit: .*has no column 'patiend' \(did you mean 'patient'\?\)"):
        loaded(tmp_path, {"train": path, "unit": "patiend"})


def _bad(tmp_path: Path, name: str, content: bytes) -> str:
    (tmp_path / name).write_bytes(content)
    return str(tmp_path / name)


GOOD = b'{"text": "x", "label": "a", "sex": "f"}\n{"text": "y", "label": "b", "sex": "m"}\n' * 20


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("t.jsonl", b"", "t.jsonl is empty"),
        ("t.jsonl", b"\n\n", "t.jsonl is empty"),
        ("t.jsonl", GOOD + b'{"text": "x"}\n', "t.jsonl:41: has no label in column 'label'"),
        ("t.jsonl", GOOD + b'{"text": null, "label": "a"}\n', "t.jsonl:41: column 'text' holds nothing"),
        ("t.jsonl", GOOD + b'{"text": "x"\n', "t.jsonl:41: is not JSON"),
        ("t.jsonl", GOOD + b"[1]\n", "t.jsonl:41: is no JSON object"),
        ("t.jsonl", GOOD + b'{"text": "\xff", "label": "a"}\n', "t.jsonl:41"),
        ("t.jsonl", b'{"txt": "x", "label": "a", "sex": "f"}\n' * 9, "did you mean 'txt'?"),
        ("t.jsonl", b'{"text": "x", "label": "a", "sex": "f"}\n' * 30, "the one value 'f'"),
        ("t.jsonl", GOOD + b'{"text": "' + b"x" * 10_000_000 + b'", "label": "a"}\n', "10,000,000 characters"),
        ("t.csv", "text,label,sex\ncafé,a,f\n".encode("latin-1") * 9, "t.csv:2"),
        ("t.csv", b"text,label,sex\nx,a,f,g,h\n", "t.csv:2"),
        ("t.parquet", b"PAR1 not really", "t.parquet: is no parquet file"),
        ("t.pkl", b"\x80\x04.", "is none of"),
        ("t.jsonl", GOOD + b'{"text": "\\ud800", "label": "a"}\n', "lone surrogate"),
        ("t.jsonl", GOOD + b'{"text": "x", "label": ["a"]}\n', "give one label per row"),
    ],
)
def test_rows_that_cannot_be_used_are_named(tmp_path: Path, name: str, content: bytes, told: str) -> None:
    with pytest.raises(ConfigError) as error:
        loaded(tmp_path, {"train": _bad(tmp_path, name, content), "sensitive": ["sex"]})
    assert told in str(error.value)
    assert "\n" not in str(error.value)


def test_another_encoding_is_read_when_it_is_named(tmp_path: Path) -> None:
    path = _bad(tmp_path, "t.csv", ("text,label\n" + "café,a\nthé,b\n" * 20).encode("latin-1"))
    assert loaded(tmp_path, {"train": path, "encoding": "latin-1"}).data["train"]["text"][0] in ("café", "thé")
    with pytest.raises(ConfigError, match="there is no encoding"):
        loaded(tmp_path, {"train": path, "encoding": "latin-99"})


def test_a_label_of_the_test_that_train_does_not_have_is_named_with_its_row(tmp_path: Path) -> None:
    test = jsonl(tmp_path / "test.jsonl", [{"text": "x", "label": "a"}, {"text": "y", "label": "bb"}])
    with pytest.raises(ConfigError, match=r"test\.jsonl:2: label 'bb' does not occur in train \(did you mean 'b'\?\)"):
        loaded(tmp_path, {"train": jsonl(tmp_path / "train.jsonl"), "test": test})


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ({"tokens": ["a", "b"], "labels": ["O"]}, "2 tokens and 1 labels"),
        ({"tokens": "a b", "labels": ["O"]}, "no list of words"),
        ({"tokens": ["a", None], "labels": ["O", "O"]}, "an empty place"),
    ],
)
def test_words_and_tags_must_go_together(tmp_path: Path, row: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        loaded(tmp_path, {"train": jsonl(tmp_path / "t.jsonl", [row] * 12)}, model={"task": "token-classification"})


def test_a_hub_source_that_cannot_be_had_says_so(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="hf:nobody/nothing"):
        loaded(tmp_path, {"train": "hf:nobody/nothing[train]"})


def test_a_column_may_be_named_and_carried(tmp_path: Path) -> None:
    rows = [{"body": "x", "class": n % 2, "note": n} for n in range(20)]
    run = loaded(
        tmp_path,
        {"train": jsonl(tmp_path / "t.jsonl", rows), "columns": {"text": "body", "label": "class", "note": "note"}},
    )
    assert run.data["train"][0]["note"].isdigit()
    assert set(run.data["train"]["label"]) == {"0", "1"}


def test_a_test_split_must_not_be_called_train(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "t.jsonl")
    with pytest.raises(ConfigError, match="cannot name a test split"):
        loaded(tmp_path, {"train": path, "test": {"train": path}})


def test_text_files_hold_a_row_a_line(tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text("one\n\ntwo\n" * 10)
    run = loaded(tmp_path, {"train": str(tmp_path / "t.txt")}, model={"task": "text-generation"}, tune="full")
    assert sum(len(rows) for rows in run.data.values()) == 20
    assert SimpleNamespace(**run.data["train"][0]).text in ("one", "two")


def test_a_csv_field_may_hold_odd_line_ends(tmp_path: Path) -> None:
    rows = "".join(f"please refund\u2028the lamp\x0c{n},{'ab'[n % 2]}\r\n" for n in range(20))
    (tmp_path / "odd.csv").write_text("text,label\r\n" + rows, encoding="utf-8", newline="")
    found = loaded(tmp_path, {"train": str(tmp_path / "odd.csv")})
    assert sum(map(len, found.data.values())) == 20
    assert "\u2028" in found.data["train"]["text"][0]
