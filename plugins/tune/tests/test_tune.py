"""What each tuner trains, and nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from upright import Stack
from upright.engine.execute import execute, prepare_run
from upright.errors import ConfigError
from upright_tune.blocks import find_blocks, linear_names


def trained(toy: dict[str, Any], tune: Any, folder: Path) -> set[str]:
    (folder / "evidence").mkdir(parents=True)
    run = prepare_run(Stack.load({**toy, "tune": tune}), folder)
    return {name for name, p in run.model.named_parameters() if p.requires_grad}


HEAD = {"classifier.weight", "classifier.bias"}


def test_what_each_tuner_trains(toy: dict[str, Any], tiny_mean: Path, tmp_path: Path) -> None:
    toy["model"]["base"] = str(tiny_mean)
    assert trained(toy, "head", tmp_path / "a") == HEAD
    top = trained(toy, {"use": "top-layers", "layers": 1}, tmp_path / "b")
    assert top >= HEAD
    assert {name.split("layer.")[1][0] for name in top - HEAD} == {"1"}
    everything = trained(toy, "full", tmp_path / "c")
    assert any("embeddings" in name for name in everything)
    lora = trained(toy, {"use": "lora", "rank": 2}, tmp_path / "d")
    assert {name.rpartition(".base_model.model.")[2] for name in lora if "lora" not in name} <= {
        f"base_model.model.{h}" for h in HEAD
    } | HEAD
    assert all("lora_A" in name or "lora_B" in name or "classifier" in name for name in lora)
    some = trained(
        toy, {"use": "lora", "rank": 2, "target_modules": ["query"], "layers_to_transform": [1]}, tmp_path / "e"
    )
    assert {name for name in some if "lora" in name} == {
        f"base_model.model.encoder.encoder.layer.1.attention.self.query.lora_{side}.default.weight" for side in "AB"
    }


def test_lora_begins_as_the_base_and_follows_the_seed(toy: dict[str, Any], tmp_path: Path) -> None:
    first = {}
    for n, seed in enumerate((1, 1, 2)):
        (tmp_path / f"{n}" / "evidence").mkdir(parents=True)
        run = prepare_run(Stack.load({**toy, "seed": seed}), tmp_path / f"{n}")
        first[n] = {name: p.clone() for name, p in run.model.named_parameters() if "lora" in name}
        assert all((p == 0).all() for name, p in first[n].items() if "lora_B" in name)
    assert all(torch.equal(first[0][name], first[1][name]) for name in first[0])
    assert not all(torch.equal(first[0][name], first[2][name]) for name in first[0])


def test_peft_does_not_make_inputs_require_gradients(toy: dict[str, Any], tiny_mean: Path, tmp_path: Path) -> None:
    """Else the backward pass goes through the frozen layers, and vmap cannot run the model at all."""
    toy["model"]["base"] = str(tiny_mean)
    (tmp_path / "evidence").mkdir()
    run = prepare_run(Stack.load(toy), tmp_path)
    assert not run.model.get_input_embeddings()(torch.tensor([[1]])).requires_grad


@pytest.mark.parametrize(
    ("tune", "told"),
    [
        ({"use": "lora", "target_modules": ["qeury"]}, "has no linear layer 'qeury'"),
        ({"use": "lora", "layers_to_transform": [7]}, "blocks 0 to 1"),
        ({"use": "top-layers", "layers": 9}, "2"),
    ],
)
def test_layers_that_are_not_there_are_named(toy: dict[str, Any], tune: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        execute(Stack.load({**toy, "tune": tune}))


def test_blocks_are_found_in_any_architecture(tiny_llama: Path, tiny_bert: Path) -> None:
    from transformers import AutoModel, AutoModelForCausalLM

    [(name, blocks)] = find_blocks(AutoModelForCausalLM.from_pretrained(tiny_llama))
    assert (name, len(blocks)) == ("model.layers", 2)
    model = AutoModel.from_pretrained(tiny_bert)
    assert linear_names(model) == ["dense", "key", "query", "value"]
    with pytest.raises(ValueError, match="no list of layers"):
        find_blocks(torch.nn.Linear(2, 2))


def test_lora_tunes_a_language_model(tiny_llama: Path, tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text("the patient has fever\n" * 40)
    stack = {
        "data": {"train": str(tmp_path / "t.txt")},
        "model": {"base": str(tiny_llama), "task": "text-generation"},
        "tune": {"use": "lora", "rank": 4},
        "train": {"max_steps": 20, "batch_size": 8, "learning_rate": 0.05},
        "output": str(tmp_path / "runs"),
    }
    run = execute(Stack.load(stack))
    scores = [event["score"] for event in _events(run.folder) if event["event"] == "evaluated"]
    assert scores[-1] > scores[0]


def _events(folder: Path) -> list[dict[str, Any]]:
    from upright.evidence.events import read_events

    return list(read_events(folder / "events.jsonl"))
