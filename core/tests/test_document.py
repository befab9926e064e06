"""YAML 1.2 with places: what a stack file says, and where."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from upright.document import from_mapping, override, parse, read_document, scalar, substitute
from upright.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4),
        ("1e4", 10000.0),
        (".5", 0.5),
        ("no", "no"),
        ("yes", "yes"),
        ("on", "on"),
        ("012", 12),
        ("0x1F", 31),
        ("0o17", 15),
        ("1_000", "1_000"),
        ("12:30:00", "12:30:00"),
        ("2026-01-01", "2026-01-01"),
        ("~", None),
        ("True", True),
        ("-.inf", -math.inf),
        ("'1e-4'", "1e-4"),
    ],
)
def test_scalars_follow_yaml_1_2(text: str, value: Any) -> None:
    found = scalar(text)
    assert found == value
    assert type(found) is type(value)


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**12), 10**12)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text("abé '\"#:-", max_size=9),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text("abc", min_size=1, max_size=3), inner, max_size=3)
    ),
    max_leaves=12,
)


@given(st.dictionaries(st.text("xyz", min_size=1, max_size=3), JSON, min_size=1, max_size=3))
def test_what_json_writes_is_read_back(data: dict[str, Any]) -> None:
    import json

    assert parse(json.dumps(data), "s").data == data


@given(st.text(max_size=60))
def test_any_text_is_read_or_refused_in_one_sentence(text: str) -> None:
    problems = []
    try:
        parse(text, "s.yaml")
    except ConfigError as error:
        problems = error.problems
    assert all(problem.startswith("s.yaml") for problem in problems)


def test_every_key_and_item_has_its_place() -> None:
    marks = parse("a:\n  b: 1\n  c: [x, {d: 2}]\n", "s.yaml").marks
    assert marks["a", "b"] == "s.yaml:2:3"
    assert marks["a", "c", 1, "d"] == "s.yaml:3:11"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a: 1\na: 2\n", "s.yaml:2:1  a: is given twice (first at s.yaml:1:1)"),
        ("a: [1\n", "s.yaml:2:1"),
        ("- 1\n", "s.yaml:1:1  is no mapping"),
        ("a: !!python/object:os.system 1\n", "is not allowed"),
        ("? [a]\n: 1\n", "a key must be a word"),
    ],
)
def test_what_is_wrong_is_told_with_its_place(text: str, told: str) -> None:
    with pytest.raises(ConfigError) as error:
        parse(text, "s.yaml")
    assert told in str(error.value)


def test_aliases_that_unfold_without_end_are_refused() -> None:
    bomb = "a: &a [x,x,x,x,x,x,x,x,x,x]\n"
    for one, other in zip("abcdef", "bcdefg", strict=True):
        bomb += f"{other}: &{other} [{','.join([f'*{one}'] * 10)}]\n"
    with pytest.raises(ConfigError, match="aliases"):
        parse(bomb, "s.yaml")


def test_overrides_enter_mappings_and_lists_and_the_last_one_wins() -> None:
    document = parse("train: {epochs: 1}\nclean: [{use: length}, {use: unicode, name: forms}]\n", "s")
    for assignment in (
        "train.epochs=2",
        "train.epochs=1e1",
        "clean.length.min_words=4",
        "clean.forms.form=NFKC",
        "data.test=null",
    ):
        override(document, assignment)
    assert document.data["train"] == {"epochs": 10.0}
    assert document.data["clean"] == [
        {"use": "length", "min_words": 4},
        {"use": "unicode", "name": "forms", "form": "NFKC"},
    ]
    assert document.data["data"] == {"test": None}
    assert document.marks["train", "epochs"] == "--set train.epochs=1e1"


@pytest.mark.parametrize("assignment", ["train", "=1", "a..b=1", "train.epochs.x=1", "clean.nothing.x=1", "clean.9=1"])
def test_an_override_that_leads_nowhere_is_refused(assignment: str) -> None:
    document = parse("train: {epochs: 1}\nclean: [{use: length}]\n", "s")
    with pytest.raises(ConfigError, match="--set"):
        override(document, assignment)


def test_environment_variables_are_filled_in_or_missed_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FOLDER", "/data")
    monkeypatch.delenv("NOTHING", raising=False)
    document = parse("a: ${FOLDER}/x\nb: ['${NOTHING:-y}']\n", "s")
    substitute(document)
    assert document.data == {"a": "/data/x", "b": ["y"]}
    with pytest.raises(ConfigError, match=r"s:1:1  a: the environment variable NOTHING is not set"):
        substitute(parse("a: ${NOTHING}\n", "s"))


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no such file"):
        read_document(tmp_path / "no.yaml", "no.yaml")
    (tmp_path / "latin.yaml").write_bytes("a: é".encode("latin-1"))
    with pytest.raises(ConfigError, match="byte 3 is not UTF-8"):
        read_document(tmp_path / "latin.yaml", "latin.yaml")
    with pytest.raises(ConfigError, match="cannot be read"):
        read_document(tmp_path, "folder")


def test_a_mapping_is_copied() -> None:
    given = {"a": {"b": 1}}
    override(document := from_mapping(given), "a.b=2")
    assert given == {"a": {"b": 1}}
    assert yaml.safe_load(str(document.data["a"]["b"])) == 2
