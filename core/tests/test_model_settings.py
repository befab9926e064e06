"""The `model:` section beyond its base: dropout, type, revision, checkpointed activations, encoder-decoders."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_stacks import prepared

from conftest import write_rows
from upright import Stack
from upright.engine.batches import collate
from upright.engine.execute import execute
from upright.errors import ConfigError

ROWS = [
    {"prompt": "patient has fever", "completion": "rest"},
    {"prompt": "some cough today", "completion": "diet and very mild walk"},
    {"prompt": "the", "completion": "smile"},
] * 8


def pairs_stack(base: Path, folder: Path, **train: Any) -> dict[str, Any]:
    return {
        "data": {"train": write_rows(folder / "p.jsonl", ROWS), "test": write_rows(folder / "q.jsonl", ROWS[:3])},
        "model": {"base": str(base), "task": "text2text-generation", "dropout": 0.0},
        "tune": "full",
        "train": {"max_steps": 30, "batch_size": 8, "learning_rate": 0.01, **train},
        "output": str(folder / "runs"),
    }


def test_an_encoder_decoder_is_scored_on_the_completion_alone(tiny: Callable[[str], Path], tmp_path: Path) -> None:
    """The loss of each row is transformers' own on that row; padding on either side is in none."""
    run = prepared(pairs_stack(tiny("t5"), tmp_path), tmp_path / "run")
    batch = collate(run, range(3), "train")
    found, _ = run.losses(batch)
    for place, row in enumerate(run.data["train"].select(range(3))):
        ids = run.tokenizer(row["prompt"], return_tensors="pt")["input_ids"]
        words = run.tokenizer(row["completion"], add_special_tokens=False)["input_ids"]
        labels = torch.tensor([[*words, run.tokenizer.eos_token_id]])
        with torch.no_grad():
            expected = run.model(input_ids=ids, labels=labels).loss
        assert float(found[place]) == pytest.approx(float(expected), rel=1e-5)


def test_an_encoder_decoder_learns_and_reports_its_perplexity(tiny: Callable[[str], Path], tmp_path: Path) -> None:
    run = execute(Stack.load(pairs_stack(tiny("t5"), tmp_path)))
    table = run.metrics["test/perplexity"]
    assert table.value < 20  # of 77 tokens, three answers
    batch = collate(run, range(3), "test")
    with torch.no_grad():
        logits = run.forward(batch).logits.double()
    logs = torch.log_softmax(logits, -1)
    scored = batch.labels != -100
    total = logs.gather(2, batch.labels.clamp(min=0).unsqueeze(2)).squeeze(2)[scored].sum()
    assert table.value == pytest.approx(math.exp(-float(total) / int(scored.sum())), rel=1e-6)
    assert run.embed(["patient has fever"]).shape == (1, 16)


@pytest.mark.parametrize("tune", ["full", {"use": "lora", "rank": 2}], ids=["full", "lora"])
def test_checkpointed_activations_change_no_gradient(tune: Any, toy: dict[str, Any], tmp_path: Path) -> None:
    found = {}
    for on in (False, True):
        toy["model"]["dropout"] = 0.0
        train = {"max_steps": 2, "gradient_checkpointing": on}
        run = prepared({**toy, "tune": tune, "train": train}, tmp_path / f"{on}")
        run.model.train()
        run.calls.gradients(range(6), run)
        found[on] = {name: p.grad.clone() for name, p in run.model.named_parameters() if p.grad is not None}
    assert found[True].keys() == found[False].keys()
    for name, gradient in found[False].items():
        assert torch.allclose(found[True][name], gradient, atol=1e-7)


def test_dropout_and_type_are_those_of_the_stack(toy: dict[str, Any], tmp_path: Path) -> None:
    toy["model"] |= {"dropout": 0.35, "dtype": "bfloat16"}
    run = prepared({**toy, "tune": "full"}, tmp_path)
    rates = {module.p for module in run.model.modules() if isinstance(module, torch.nn.Dropout)}
    assert rates == {0.35}
    assert {p.dtype for p in run.model.parameters()} == {torch.bfloat16}
    assert execute(Stack.load({**toy, "tune": {"use": "lora", "rank": 2}})).exit_code == 0


def test_weights_in_several_files_are_one_model(toy: dict[str, Any], tiny_bert: Path, tmp_path: Path) -> None:
    from transformers import AutoModel, AutoTokenizer

    folder = tmp_path / "sharded"
    AutoModel.from_pretrained(tiny_bert).save_pretrained(folder, max_shard_size="8KB")
    AutoTokenizer.from_pretrained(tiny_bert).save_pretrained(folder)
    assert len(list(folder.glob("*.safetensors"))) > 1
    toy["model"]["base"] = str(folder)
    run = prepared({**toy, "tune": "head"}, tmp_path / "run")
    expected = AutoModel.from_pretrained(tiny_bert).state_dict()
    state = run.model.bert.state_dict()
    assert all(torch.equal(state[name], value) for name, value in expected.items() if name in state)


@pytest.mark.parametrize(
    ("model", "told"),
    [
        ({"base": "owner/name@v1", "revision": "v2"}, "names the revision 'v1' and model.revision says 'v2'"),
        ({"quantize": "nf4"}, "model.quantize: nf4 needs a CUDA device and there is none here"),
        ({"dtype": "float8"}, "model.dtype: input should be 'float32', 'bfloat16' or 'float16', not 'float8'"),
        ({"dropout": 1.0}, "model.dropout: input should be less than 1"),
    ],
)
def test_settings_that_cannot_be_met_are_refused(
    model: dict[str, Any], told: str, toy: dict[str, Any], tmp_path: Path
) -> None:
    if torch.cuda.is_available() and "quantize" in model:
        pytest.skip("there is a CUDA device")
    with pytest.raises(ConfigError, match=told):
        prepared({**toy, "model": {**toy["model"], **model}}, tmp_path)


def test_a_folder_with_parts_that_transformers_would_leave_out_is_no_base(toy: dict[str, Any], tmp_path: Path) -> None:
    """An adapter of our own that is silently dropped would be another model."""
    run = execute(Stack.load({**toy, "tune": {"use": "adapter", "bottleneck": 2}}))
    toy["model"]["base"] = str(run.folder)
    with pytest.raises(ConfigError, match=r"holds adapter\.safetensors, which only its own loader"):
        prepared({**toy, "tune": "head"}, tmp_path)


def test_an_adapter_in_a_folder_of_its_own_becomes_part_of_the_base(toy: dict[str, Any], tmp_path: Path) -> None:
    run = execute(Stack.load({**toy, "tune": {"use": "vera", "rank": 8}}))
    assert (run.folder / "model" / "adapter" / "adapter_config.json").is_file()
    toy["model"]["base"] = str(run.folder)
    again = prepared({**toy, "tune": "head"}, tmp_path)
    batch = collate(run, range(4), "test")
    with torch.no_grad():
        again.model.eval()
        assert torch.allclose(again.forward(batch).logits, run.forward(batch).logits, atol=1e-6)
