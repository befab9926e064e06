"""`head` reads each text once. The oracle is the same run whose memory has no room, so that the base reads every time."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from outside_steps import StopAt, with_steps
from tiny_stacks import prepared, words_stack

import upright_tune.features
from upright import Run, Stack
from upright.engine.batches import collate
from upright.engine.execute import execute
from upright.evidence.events import read_events
from upright_tune.features import Features, forget, remember


@pytest.fixture
def stack(toy: dict[str, Any]) -> dict[str, Any]:
    rates = {"learning_rate": 0.05, "head_learning_rate": 0.05}
    return {**toy, "tune": "head", "train": {"max_steps": 12, "batch_size": 8, "micro_batch_size": 3, **rates}}


def on(base: Path, stack: dict[str, Any]) -> dict[str, Any]:
    return {**stack, "model": {**stack["model"], "base": str(base)}}


def trained(run: Run) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in run.model.named_parameters() if p.requires_grad}


def remembered(run: Run) -> list[dict[str, Any]]:
    return [event for event in read_events(run.folder / "events.jsonl") if event["event"] == "features"]


@pytest.fixture
def no_room(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    return lambda: monkeypatch.setattr(upright_tune.features, "LIMIT", 0)


def ready(stack: dict[str, Any], folder: Path) -> tuple[Run, Features]:
    run = prepared(stack, folder)
    memory = remember(run.model.base_model, run)
    assert memory is not None
    return run, memory


@pytest.mark.parametrize(
    "architecture", ["mean", "bert", "roberta", "distilbert", "deberta-v2", "gpt2", "llama", "qwen2"]
)
def test_training_is_the_same_with_and_without_the_memory(
    architecture: str,
    stack: dict[str, Any],
    tiny: Callable[[str], Path],
    tiny_mean: Path,
    no_room: Callable[[], None],
) -> None:
    stack = on(tiny_mean if architecture == "mean" else tiny(architecture), stack)
    with_memory = execute(Stack.load(stack))
    no_room()
    without = execute(Stack.load(stack))
    [told] = remembered(with_memory)
    assert told["texts"] == 68  # train and validation
    assert not remembered(without)
    assert_same(with_memory, without)


def test_training_words_is_the_same_with_and_without_the_memory(
    tiny_bert: Path, tmp_path: Path, no_room: Callable[[], None]
) -> None:
    stack = words_stack(tiny_bert, tmp_path)
    with_memory = execute(Stack.load(stack))
    no_room()
    without = execute(Stack.load(stack))
    assert [event["texts"] for event in remembered(with_memory)] == [2]  # of 16 rows, two differ
    assert_same(with_memory, without)


def assert_same(one: Run, other: Run) -> None:
    left, right = trained(one), trained(other)
    assert left.keys() == right.keys()
    for name in left:
        assert torch.allclose(left[name], right[name], atol=2e-6), name
    for key, metric in one.metrics.items():
        assert metric.value == pytest.approx(other.metrics[key].value, abs=1e-5), key


def test_the_base_reads_each_text_once_and_is_itself_again_afterwards(
    stack: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import BertModel

    read: list[int] = []
    plain = BertModel.forward

    def counted(self: Any, input_ids: torch.Tensor, **others: Any) -> Any:
        read.append(len(input_ids))
        return plain(self, input_ids, **others)

    monkeypatch.setattr(BertModel, "forward", counted)
    long = execute(Stack.load({**stack, "train": {**stack["train"], "max_steps": 30}}))
    rows = sum(read)
    read.clear()
    short = execute(Stack.load({**stack, "train": {**stack["train"], "max_steps": 1}}))
    assert rows == sum(read)  # 5 epochs read no more than one update
    for run in (long, short):
        assert "forward" not in vars(run.model.base_model)


def test_a_run_that_is_stopped_and_resumed_ends_bit_identical(stack: dict[str, Any], tmp_path: Path) -> None:
    stack = {**stack, "train": {**stack["train"], "save_steps": 2}}

    def loaded(folder: Path, at: int = -1) -> Stack:
        StopAt.at = at
        return with_steps(Stack.load({**stack, "output": str(folder)}), ("train", "stop", StopAt()))

    whole = execute(loaded(tmp_path / "whole"))
    for at in (1, 5, 8):
        folder = tmp_path / f"{at}"
        with pytest.raises(KeyboardInterrupt):
            execute(loaded(folder, at))
        resumed = execute(loaded(folder), resume=(folder / "toy" / "latest").resolve())
        assert remembered(resumed)
        expected = trained(whole)
        assert all(torch.equal(value, expected[name]) for name, value in trained(resumed).items())
        assert resumed.metrics == whole.metrics


@pytest.mark.parametrize("changed", ["weight", "hook", "forward", "training", "trained", "input", "setting"])
def test_what_was_not_read_is_left_to_the_base(changed: str, stack: dict[str, Any], tmp_path: Path) -> None:
    """The base as it is now answers, not as it was when it was read; the same model without a memory is the oracle."""
    run, _ = ready(stack, tmp_path / "run")
    base = run.model.base_model
    inputs = dict(collate(run, [0, 1, 2], "train").inputs)
    before = run.model(**inputs).logits
    dense = base.encoder.layer[0].output.dense
    if changed == "weight":
        with torch.no_grad():
            dense.weight.mul_(2)
    elif changed == "hook":
        dense.register_forward_hook(lambda module, given, output: 2 * output)
    elif changed == "forward":
        dense.forward = lambda given: given.new_zeros(*given.shape[:-1], 16)
    elif changed == "training":
        base.train()
    elif changed == "trained":
        dense.bias.requires_grad_(True)
    elif changed == "input":
        inputs["input_ids"] = inputs["input_ids"].clone()
        inputs["input_ids"][1, 1] = 6
    else:
        inputs["position_ids"] = torch.arange(inputs["input_ids"].shape[1]).flip(0).expand(3, -1)
    torch.manual_seed(0)
    found = run.model(**inputs).logits
    forget(base)
    torch.manual_seed(0)
    assert torch.equal(found, run.model(**inputs).logits)
    if changed == "trained":
        [gradient] = torch.autograd.grad(found.sum(), [dense.bias])
        assert gradient.any()
    else:
        assert not torch.equal(found, before)


def test_the_memory_answers_for_repeated_and_mixed_rows(stack: dict[str, Any], tmp_path: Path) -> None:
    run, memory = ready(stack, tmp_path / "run")
    batch = collate(run, [7, 3, 3, 40], "train")
    answers: list[Any] = []

    def kept(*args: Any, **kwargs: Any) -> Any:
        answers.append(memory.answer(*args, **kwargs))
        return answers[-1]

    run.model.base_model.forward = kept
    memory.plain = None  # whoever reads now fails
    run.model(**batch.inputs)
    del run.model.base_model.forward
    with torch.no_grad():
        expected = run.model.base_model(**batch.inputs)
    own = batch.inputs["attention_mask"].bool()
    assert not own.all()
    assert torch.allclose(answers[0].last_hidden_state[own], expected.last_hidden_state[own], atol=1e-6)
    assert not answers[0].last_hidden_state[~own].any()
    assert torch.allclose(answers[0][1], expected.pooler_output, atol=1e-6)


@pytest.mark.parametrize(
    ("changes", "base"),
    [
        ({"train": {"max_steps": 2, "batch_size": 8, "steps": ["r-drop"]}}, "bert"),
        ({"tune": ["head", "bitfit"]}, "bert"),
        ({}, "t5"),  # returns the encoder's states beside the decoder's
    ],
    ids=["changed batches", "trained base", "more than hidden states"],
)
def test_where_the_memory_could_be_wrong_it_is_not_used(
    changes: dict[str, Any], base: str, stack: dict[str, Any], tiny: Callable[[str], Path]
) -> None:
    assert not remembered(execute(Stack.load({**on(tiny(base), stack), **changes})))


@pytest.mark.parametrize("mode", ["direct", "functorch", "loop"])
def test_a_private_run_takes_its_gradients_from_the_memory_too(
    mode: str, stack: dict[str, Any], tiny: Callable[[str], Path]
) -> None:
    private = {"use": "dp-sgd", "noise_multiplier": 1.0, "delta": 1e-3, "grad_sample_mode": mode}
    run = execute(Stack.load({**on(tiny("bert"), stack), "privacy": private}))
    assert remembered(run)
    assert run.metrics["run/privacy/dp-sgd/draws"].value == run.update


def test_a_frozen_base_reads_without_dropout_and_a_trained_one_with_it(stack: dict[str, Any], tmp_path: Path) -> None:
    for tune, reads_alike in (("head", True), (["head", "bitfit"], False)):
        run = prepared({**stack, "tune": tune}, tmp_path / f"{reads_alike}")
        seen: list[torch.Tensor] = []
        run.model.dropout.register_forward_hook(lambda module, given, output, seen=seen: seen.append(given[0]))
        run.model.train()
        batch = collate(run, range(4), "train")
        one, other = run.losses(batch)[0], run.losses(batch)[0]
        assert torch.equal(*seen) is reads_alike
        assert not torch.equal(one, other)  # the head's own dropout
        assert run.model.training


def test_a_plan_tells_of_the_memory(stack: dict[str, Any]) -> None:
    told = Stack.load(stack).plan()
    assert [(event["event"], event["step"], event["texts"]) for event in told["announced"]] == [
        ("features", "head", 68)
    ]
