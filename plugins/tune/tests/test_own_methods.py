"""Our own tuning methods against plain PyTorch and transformers."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_stacks import prepared

from upright.engine.batches import collate
from upright.errors import ConfigError


def text_stack(base: Path, folder: Path, tune: Any, lines: str = "the patient has fever\nrest\n") -> dict[str, Any]:
    (folder / "t.txt").write_text(lines * 12)
    return {
        "data": {"train": str(folder / "t.txt")},
        "model": {"base": str(base), "task": "text-generation"},
        "tune": tune,
        "output": str(folder / "runs"),
    }


def perturb(run: Any) -> None:
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for p in run.model.parameters():
            if p.requires_grad:
                p.add_(torch.randn(p.shape, generator=generator) * 0.3)


def logits(run: Any, rows: int = 5) -> tuple[Any, torch.Tensor]:
    batch = collate(run, range(rows), "train")
    run.model.eval()
    with torch.no_grad():
        return batch, run.forward(batch).logits


def test_an_adapter_begins_as_the_base_and_adds_what_the_paper_says(
    toy: dict[str, Any], tiny_bert: Path, tmp_path: Path
) -> None:
    run = prepared({**toy, "tune": {"use": "adapter", "bottleneck": 4, "non_linearity": "relu"}}, tmp_path)
    plain = copy.deepcopy(run.model)
    layers = {name: module for name, module in run.model.named_modules() if hasattr(module, "adapter")}
    assert sorted(layers) == [
        f"bert.encoder.layer.{n}.{part}.dense" for n in (0, 1) for part in ("attention.output", "output")
    ]
    for name in layers:
        del plain.get_submodule(name).adapter
        plain.get_submodule(name)._forward_hooks.clear()
    batch, before = logits(run)
    with torch.no_grad():
        assert torch.equal(plain.eval()(**batch.inputs).logits, before)
    perturb(run)
    plain.classifier.load_state_dict(run.model.classifier.state_dict())
    for name, layer in layers.items():  # written out: y + W_up relu(W_down y + b_down) + b_up
        a, dense = layer.adapter, plain.get_submodule(name)

        def forward(x: torch.Tensor, dense: Any = dense, a: Any = a) -> torch.Tensor:
            y = x @ dense.weight.T + dense.bias
            return y + torch.relu(y @ a.down.weight.T + a.down.bias) @ a.up.weight.T + a.up.bias

        dense.forward = forward
    with torch.no_grad():
        expected = plain(**batch.inputs).logits
    assert torch.allclose(logits(run)[1], expected, atol=1e-6)
    assert not torch.allclose(expected, before, atol=1e-3)


def test_pfeiffer_adapters_follow_the_feed_forward_only(toy: dict[str, Any], tmp_path: Path) -> None:
    run = prepared({**toy, "tune": {"use": "adapter", "placement": "pfeiffer"}}, tmp_path)
    placed = [name for name, module in run.model.named_modules() if hasattr(module, "adapter")]
    assert placed == [f"bert.encoder.layer.{n}.output.dense" for n in (0, 1)]


def test_virtual_tokens_are_read_where_they_stand(toy: dict[str, Any], tmp_path: Path) -> None:
    """The model fed by hand with embeddings: [CLS], virtual tokens, the text."""
    run = prepared({**toy, "tune": {"use": "soft-prompt", "num_virtual_tokens": 3}}, tmp_path)
    perturb(run)
    batch, found = logits(run)
    table = run.model.spliced.table.weight
    words = run.model.get_input_embeddings().weight
    inner = copy.deepcopy(run.model.model)
    inner.set_input_embeddings(torch.nn.Embedding.from_pretrained(words))
    ids, mask = batch.inputs["input_ids"], batch.inputs["attention_mask"]
    for row in range(len(ids)):
        own = words[ids[row, : int(mask[row].sum())]]
        embeds = torch.cat([own[:1], table, own[1:]]).unsqueeze(0)
        with torch.no_grad():
            expected = inner(inputs_embeds=embeds).logits
        assert torch.allclose(found[row], expected[0], atol=1e-6)


def test_virtual_tokens_stand_before_a_language_models_text(tiny_llama: Path, tmp_path: Path) -> None:
    stack = text_stack(tiny_llama, tmp_path, {"use": "soft-prompt", "num_virtual_tokens": 3})
    run = prepared(stack, tmp_path / "run")
    batch, found = logits(run)
    assert run.max_length == 29
    table, words = run.model.spliced.table.weight, run.model.get_input_embeddings().weight
    inner = copy.deepcopy(run.model.model)
    inner.set_input_embeddings(torch.nn.Embedding.from_pretrained(words))
    length = int(batch.inputs["attention_mask"][0].sum())
    with torch.no_grad():
        embeds = torch.cat([table, words[batch.inputs["input_ids"][0, :length]]]).unsqueeze(0)
        expected = inner(inputs_embeds=embeds).logits[0, 3:]
    assert torch.allclose(found[0, :length], expected, atol=1e-5)


@pytest.mark.parametrize("architecture", ["llama", "qwen2"])
def test_a_prefix_is_a_cache_that_was_there_before(
    architecture: str, tiny: Callable[[str], Path], tmp_path: Path
) -> None:
    """transformers' own cache, filled with the keys and values, at the same positions."""
    from transformers import AutoModelForCausalLM, DynamicCache

    run = prepared(text_stack(tiny(architecture), tmp_path, {"use": "prefix", "num_virtual_tokens": 3}), tmp_path / "r")
    perturb(run)
    batch, found = logits(run, 3)
    plain = AutoModelForCausalLM.from_pretrained(tiny(architecture)).eval()
    cache = DynamicCache()
    rows, length = batch.inputs["input_ids"].shape
    for number, layer in enumerate(run.model.model.layers):
        keys, values = layer.self_attn.prefix(rows, torch.device("cpu"))
        cache.update(keys.detach(), values.detach(), number)
    mask = torch.cat([torch.ones(rows, 3, dtype=torch.long), batch.inputs["attention_mask"]], dim=1)
    with torch.no_grad():
        expected = plain(
            input_ids=batch.inputs["input_ids"],
            attention_mask=mask,
            past_key_values=cache,
            position_ids=torch.arange(length).expand(rows, -1),
        ).logits
    own = batch.inputs["attention_mask"].bool()
    assert torch.allclose(found[own], expected[own], atol=1e-5)


def test_a_prefix_by_a_network_becomes_a_table(toy: dict[str, Any], tmp_path: Path) -> None:
    tune = {"use": "prefix", "num_virtual_tokens": 3, "prefix_projection": True, "encoder_hidden_size": 5}
    run = prepared({**toy, "tune": tune}, tmp_path)
    perturb(run)
    _, before = logits(run)
    run.model = run.calls.finalize(run.model, run)
    assert torch.allclose(logits(run)[1], before, atol=1e-6)
    assert all(isinstance(m.table, torch.nn.Embedding) for m in run.model.modules() if type(m).__name__ == "Keys")


@pytest.mark.parametrize(
    "tune",
    [
        {"use": "soft-prompt", "num_virtual_tokens": 3},
        {"use": "p-tuning", "num_virtual_tokens": 3},
    ],
    ids=lambda tune: tune["use"],
)
def test_the_untuned_model_answers_where_adapters_are_off(
    tune: dict[str, Any], toy: dict[str, Any], tmp_path: Path
) -> None:
    run = prepared({**toy, "tune": tune}, tmp_path)
    batch, tuned = logits(run)
    with torch.no_grad(), run.model.disable_adapter():
        off = run.forward(batch).logits
        again = run.model.model(**batch.inputs).logits
        assert run.model.get_input_embeddings() is run.model.model.get_input_embeddings()
    assert torch.equal(off, again)
    assert not torch.allclose(off, tuned)
    assert torch.equal(logits(run)[1], tuned)


@pytest.mark.parametrize(
    ("tune", "told"),
    [
        ({"use": "soft-prompt", "num_virtual_tokens": 40}, "leave no room for a text in the model's 32"),
        ({"use": "lora", "rank": 17}, "17 is above the width of .* \\(16\\)"),
        ({"use": "adapter", "target_modules": ["bert.encoder.layer.0.output.dens"]}, "has no layer"),
        (
            {"use": "trainable-tokens", "tokens": ["feverish"]},
            r"'feverish' is no token of the model; it reads it as \['fever', '##i'",
        ),
        ({"use": "ln-tuning", "target_modules": ["norm"]}, "no normalisation layer 'norm'; it has LayerNorm"),
        ({"use": "peft", "method": "prefix-tuning"}, "use `soft-prompt`, `prefix` or `p-tuning`"),
        ({"use": "peft", "method": "lorra"}, "is no adapter of peft that fits here; there are .*lora"),
        ({"use": "peft", "method": "lora", "config": {"rank": 3}}, "peft cannot put this into a .*rank"),
        ([{"use": "lora", "rank": 2}, "soft-prompt"], "cannot be put around an adapter of peft"),
        (["soft-prompt", {"use": "lora", "rank": 2}], "tune.lora: peft would freeze what the step before it trains"),
        ([{"use": "lora", "rank": 2}, "adapter"], "tune.adapter: cannot be put around an adapter of peft"),
        ({"use": "adalora", "init_r": 4, "target_r": 8}, "must not be above init_r"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_sentence(
    tune: Any, told: str, toy: dict[str, Any], tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=told):
        prepared({**toy, "tune": tune}, tmp_path)
