"""Where a model comes from and what is left of it: bases, exports, embeddings."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from outside_steps import with_steps
from tiny_stacks import lines_stack, prepared

from conftest import write_rows
from upright import Capability, Run, Stack, Step
from upright.engine.evaluate import predict
from upright.engine.execute import execute
from upright.errors import ConfigError, IntegrityError
from upright.evidence.status import read_status


@pytest.mark.parametrize(
    ("files", "told", "error"),
    [
        ({}, "holds no config.json", ConfigError),
        ({"config.json": "{}"}, "holds no weights", ConfigError),
        ({"config.json": "{}", "pytorch_model.bin": "x"}, "only pickled weights (pytorch_model.bin)", ConfigError),
        ({"config.json": "{}", "model.safetensors": "x"}, "cannot be loaded", ConfigError),
    ],
)
def test_bases_that_cannot_be_used(
    toy: dict[str, Any], tmp_path: Path, files: dict[str, str], told: str, error: Any
) -> None:
    folder = tmp_path / "base"
    folder.mkdir()
    for name, content in files.items():
        (folder / name).write_text(content)
    toy["model"]["base"] = str(folder)
    with pytest.raises(error) as raised:
        execute(Stack.load(toy))
    assert told in str(raised.value)
    assert read_status(tmp_path / "runs" / "toy" / "latest")["exit_code"] == 2


def test_a_base_that_is_nowhere(toy: dict[str, Any]) -> None:
    for base in ("./nowhere", "nobody/nothing"):
        toy["model"]["base"] = base
        with pytest.raises(ConfigError, match=r"model\.base"):
            execute(Stack.load(toy))


def test_minilm_of_another_hash_is_refused(toy: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    from upright.engine import source

    toy["model"]["base"] = "minilm"
    monkeypatch.setattr(source, "MINILM_SHA256", "0" * 64)
    with pytest.raises(IntegrityError, match="is not all-MiniLM-L6-v2"):
        execute(Stack.load(toy))


def exported_logits(run: Run, texts: list[str]) -> torch.Tensor:
    """What a user gets who follows the card, without us."""
    space: dict[str, Any] = {"folder": str(run.folder / "model")}
    exec(json.loads((run.folder / "evidence" / "export.json").read_text())["how_to_load"], space)
    with torch.no_grad():
        if "logits" in space:
            return space["logits"](texts)
        encoded = space["tokenizer"](
            texts, padding=True, truncation=True, max_length=run.max_length, return_tensors="pt"
        )
        return space["model"](**encoded).logits


@pytest.mark.parametrize("base", ["tiny_bert", "tiny_mean"])
@pytest.mark.parametrize("tune", ["full", "head", "lora", "top-layers", {"use": "lora", "merge": True}])
def test_the_exported_model_decides_as_the_run_did(
    toy: dict[str, Any], base: str, tune: Any, request: pytest.FixtureRequest
) -> None:
    if tune == "top-layers":
        tune = {"use": "top-layers", "layers": 1}
    toy |= {"model": {"base": str(request.getfixturevalue(base))}, "tune": tune}
    run = execute(Stack.load(toy))
    found = torch.softmax(exported_logits(run, run.data["test"]["text"][:]).double(), -1).numpy()
    np.testing.assert_allclose(found, predict(run, "test").numpy("scores"), atol=1e-5)  # float32 in another batch
    names = {path.name for path in (run.folder / "model").iterdir()}
    assert not [name for name in names if name.endswith((".bin", ".pt"))]


def test_a_run_is_a_base_for_the_next_one(toy: dict[str, Any]) -> None:
    first = execute(Stack.load(toy))
    audit = {
        "name": "again",
        "data": {"test": toy["data"]["test"]},
        "model": {"base": str(first.folder)},
        "output": toy["output"],
    }
    second = execute(Stack.load({**audit, "explain": {"use": "integrated-gradients", "samples": 2}}))
    assert second.metrics["test/accuracy"] == first.metrics["test/accuracy"]


def test_generation_is_measured_by_perplexity(tiny_llama: Path, tmp_path: Path) -> None:
    stack = lines_stack(tiny_llama, tmp_path)
    stack["data"]["test"] = stack["data"]["train"]
    run = execute(Stack.load(stack))
    table = predict(run, "test").table
    expected = math.exp(-sum(table.column("log_likelihood").to_pylist()) / sum(table.column("tokens").to_pylist()))
    assert run.metrics["test/perplexity"].value == pytest.approx(expected)
    assert (run.folder / "model" / "model.safetensors").is_file()


def test_embeddings_have_unit_norm_and_keep_their_order(toy: dict[str, Any], tmp_path: Path) -> None:
    run = prepared(toy, tmp_path / "run")
    texts = ["fever and cough", "walk", "the rash has pain today"]
    found = run.embed(texts)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(run.embed(texts[::-1])[::-1], found, atol=1e-5)
    assert len(run.embed(run.data["test"])) == len(run.data["test"])


def audit_of(toy: dict[str, Any], base: Path, rows: list[dict[str, Any]], folder: Path) -> dict[str, Any]:
    data = {"test": write_rows(folder / "audit.jsonl", rows)}
    return {"name": "audit", "data": data, "model": {"base": str(base)}, "output": toy["output"]}


@pytest.mark.parametrize("base", ["tiny_bert", "tiny_mean"])
def test_an_audit_takes_the_classes_of_the_model_and_not_of_the_data(
    toy: dict[str, Any], base: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    toy["model"]["base"] = str(request.getfixturevalue(base))
    first = execute(Stack.load(toy))
    rows = [
        row for row in map(json.loads, Path(toy["data"]["test"]).read_text().splitlines()) if row["label"] == "well"
    ]
    second = execute(Stack.load(audit_of(toy, first.folder, rows, tmp_path)))
    assert second.labels == ["sick", "well"]
    assert second.metrics["test/accuracy"].value == first.metrics["test/recall/well"].value
    with pytest.raises(ConfigError, match=r"label 'ill' is none that .* knows \(sick, well\)"):
        execute(Stack.load(audit_of(toy, first.folder, [{"text": "x", "label": "ill"}], tmp_path)))


def test_a_head_of_chance_is_not_audited(toy: dict[str, Any], tiny_bert: Path, tiny_mean: Path, tmp_path: Path) -> None:
    rows = [{"text": "x", "label": "a"}, {"text": "y", "label": "b"}]
    for base in (tiny_bert, tiny_mean):
        with pytest.raises(ConfigError, match="no trained head and no step trains one"):
            execute(Stack.load(audit_of(toy, base, rows, tmp_path)))


def test_a_step_loads_the_base_by_another_class_and_reads_records_of_no_split(
    toy: dict[str, Any], tiny_bert: Path, tmp_path: Path
) -> None:
    run = prepared({**toy, "model": {"base": str(tiny_bert), "dropout": 0.3}}, tmp_path)
    assert run.base_config.model_type == "bert"
    other = run.load_as("AutoModelForMaskedLM")
    assert type(other).__name__ == "BertForMaskedLM"
    assert other.config.hidden_dropout_prob == 0.3
    before = set(run.encoded)
    given = [{"text": "fever " * n} for n in range(1, 40)]
    seen = [
        (row, record)
        for batch in run.batches_of(given)
        for row, record in zip(batch.rows.tolist(), run.records(batch), strict=True)
    ]
    assert sorted(row for row, _ in seen) == list(range(39))
    assert all(record == given[row] for row, record in seen)
    batch = next(run.batches_of(given[:3]))
    assert batch.labels.tolist() == [-1, -1, -1]
    assert batch.groups["sex"].tolist() == [-1, -1, -1]
    assert set(run.encoded) - before <= {batch.split}  # what was asked for is let go again
    test = next(run.batches(range(4), "test"))
    assert [record["text"] for record in run.records(test)] == [run.data["test"][n]["text"] for n in test.rows.tolist()]
    assert "sex" not in run.records(test)[0]


def test_a_step_that_needs_the_base_untuned_is_refused_beside_one_that_trains(toy: dict[str, Any]) -> None:
    class Asks(Step):
        needs = frozenset({Capability.UNTUNED})

    with pytest.raises(
        ConfigError, match=r"prompt.asks cannot run with tune.lora .*the base's own weights answer.*remove one"
    ):
        with_steps(Stack.load(toy), ("prompt", "asks", Asks())).check()
