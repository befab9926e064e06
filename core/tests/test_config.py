"""A stack file becomes settings and steps; what is wrong is told with its place and a way out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from outside_steps import with_steps

from upright import Stack, Step
from upright.config import resolved
from upright.errors import ConfigError, PluginError
from upright.schema import schema

GOOD = """\
name: clinic
data:
  train: train.jsonl
  sensitive: [sex]
clean:
  - use: exact-dup
  - {use: unicode, name: forms}
tune: {use: lora, rank: 4}
train: {epochs: 2, learning_rate: 1e-3}
"""


def load(folder: Path, text: str, *overrides: str) -> Stack:
    path = folder / "stack.yaml"
    path.write_text(text)
    return Stack.load(path, overrides)


def test_a_good_file(tmp_path: Path) -> None:
    stack = load(tmp_path, GOOD, "tune.rank=2")
    assert [str(placed) for placed in stack.steps] == ["clean.exact-dup", "clean.forms", "tune.lora"]
    assert stack.settings.train.learning_rate == 1e-3
    assert stack.steps[-1].step.rank == 2
    assert stack.trains
    assert not stack.private
    assert stack.where("tune", "alpha").endswith("stack.yaml:8:1"), "the nearest key that is there"


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("rank: 4", "rnak: 4", "stack.yaml:8:19  tune.lora.rnak: unknown setting (did you mean 'rank'?)"),
        ("epochs: 2", "epochs: two", "stack.yaml:9:9  train.epochs: "),
        ("rank: 4", "rank: 0", "stack.yaml:8:19  tune.lora.rank: input should be greater than or equal to 1, not 0"),
        ("tune:", "tnue:", "stack.yaml:8:1  tnue: unknown section (did you mean 'tune'?)"),
        ("{use: unicode, name: forms}", "{name: forms}", "clean[1]: needs `use:`"),
        ("name: forms", "name: 'a b'", "cannot name a step"),
        ("{use: unicode, name: forms}", "7", "clean[1]: must be a step"),
        ("name: clinic", "name: /clinic", "stack.yaml:1:1  name: "),
        ("train: {epochs: 2, learning_rate: 1e-3}", "train: 3", "stack.yaml:9:1  train: "),
        ("name: forms", "name: exact-dup", "two steps are called 'exact-dup'"),
        ("  train: train.jsonl\n", "", "data.train: no file is named"),
    ],
)
def test_a_wrong_file_is_refused_with_place_and_way_out(tmp_path: Path, old: str, new: str, told: str) -> None:
    assert old in GOOD
    with pytest.raises(ConfigError) as error:
        load(tmp_path, GOOD.replace(old, new, 1))
    assert told in str(error.value)


def test_all_problems_are_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as error:
        load(tmp_path, GOOD.replace("rank: 4", "rnak: 4").replace("epochs: 2", "epochs: two"))
    assert len(error.value.problems) == 2


@pytest.mark.parametrize(
    ("use", "told"),
    [
        ("lroa", "did you mean 'lora'?"),
        ("pii", "upright-privacy offers it in the section `privacy`"),
        ("zzz", "installed are"),
    ],
)
def test_a_step_that_is_not_there_is_a_plugin_error_with_a_hint(tmp_path: Path, use: str, told: str) -> None:
    with pytest.raises(PluginError) as error:
        load(tmp_path, GOOD.replace("use: lora, rank: 4", f"use: {use}"))
    assert told in str(error.value)
    assert "stack.yaml:8:8" in str(error.value)


def test_the_resolved_stack_loads_to_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = resolved(load(tmp_path, GOOD))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "stack.yaml").write_text(yaml.safe_dump(first))
    assert resolved(Stack.load("stack.yaml")) == first
    assert first["data"]["train"] == str(tmp_path / "train.jsonl")


def test_a_folder_stands_for_its_stack_file(tmp_path: Path) -> None:
    load(tmp_path, GOOD)
    assert Stack.load(tmp_path).settings.name == "clinic"


def test_the_schema_knows_every_step_and_setting() -> None:
    made: dict[str, Any] = schema()
    assert made["$defs"]["tune.lora"]["properties"]["rank"]["description"]
    assert made["$defs"]["tune.lora"]["properties"]["use"] == {
        "const": "lora",
        "description": made["$defs"]["tune.lora"]["description"],
    }
    assert "privacy" in made["properties"]
    references = json.dumps(made).count('"$ref"')
    assert references > 10


def test_a_mapping_is_a_stack_too() -> None:
    stack = Stack.load({"data": {"train": "x.jsonl"}, "clean": "exact-dup"})
    assert stack.cleans_only
    assert stack.source == "<mapping>"


def test_a_path_of_a_step_counts_from_the_stack_file_and_is_absolute_in_the_resolved_one(tmp_path: Path) -> None:
    class Reads(Step):
        notes: Path = Path("notes.txt")

    (tmp_path / "stack.yaml").write_text("data: {train: t.jsonl}\ntune: full\n")
    stack = with_steps(Stack.load(tmp_path), ("train", "reads", Reads()))
    assert resolved(stack)["train"]["steps"][0]["notes"] == str(tmp_path / "notes.txt")
