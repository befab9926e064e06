"""Tasks, batches, the loop and its settings, evaluation and export, on tiny models."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from conftest import WORDS, write_rows
from upright import Run, Stack, Step, Stop, hook
from upright.engine.batches import batches, collate, encode
from upright.engine.checkpoint import checkpoints, newest, read_state
from upright.engine.evaluate import predict
from upright.engine.execute import execute, prepare_run
from upright.engine.optimizer import make_optimizer, make_schedule
from upright.errors import ConfigError, IntegrityError, UprightError
from upright.evidence.status import read_status
from upright.stack import Placed


def with_step(stack: Stack, step: Step) -> Stack:
    stack.steps.append(Placed("train", "extra", "extra", step, "test:1:1"))
    stack.check()
    return stack


def prepared(stack: dict[str, Any], folder: Path) -> Run:
    (folder / "evidence").mkdir(parents=True)
    return prepare_run(Stack.load(stack), folder)


def words_stack(tiny_bert: Path, tmp_path: Path) -> dict[str, Any]:
    rows = [
        {"tokens": ["patient", "has", "feverfever", "\u200b", "today"], "labels": ["O", "O", "B-d", "O", "O"]},
        {"tokens": ["rash"], "labels": ["B-d"]},
    ] * 8
    return {
        "data": {"train": write_rows(tmp_path / "w.jsonl", rows)},
        "model": {"base": str(tiny_bert), "task": "token-classification"},
        "tune": "head",
        "train": {"max_steps": 2, "batch_size": 4},
        "output": str(tmp_path / "runs"),
    }


def lines_stack(tiny_llama: Path, tmp_path: Path) -> dict[str, Any]:
    rows = [{"prompt": "patient has", "completion": "fever"}, {"prompt": "the", "completion": "rash and pain"}] * 8
    return {
        "data": {"train": write_rows(tmp_path / "g.jsonl", rows)},
        "model": {"base": str(tiny_llama), "task": "text-generation"},
        "tune": "full",
        "train": {"max_steps": 2, "batch_size": 4},
        "output": str(tmp_path / "runs"),
    }


# --- tasks ----------------------------------------------------------------------------------------------------------


def test_the_first_sub_token_carries_the_label_and_every_word_is_predicted(tiny_bert: Path, tmp_path: Path) -> None:
    run = prepared(words_stack(tiny_bert, tmp_path), tmp_path / "run")
    encoded = encode(run, "train")
    for row in range(len(run.data["train"])):
        words = run.data["train"][row]["labels"]
        scored = [run.labels[label] for label in encoded.labels[row] if label != -100]
        assert scored == words, "one scored place a word, in order, a word of no sub-tokens included"
    table = predict(run, "train").table
    assert [len(row) for row in table.column("decision").to_pylist()] == [len(w) for w in run.data["train"]["labels"]]


def test_prompt_tokens_are_never_scored(tiny_llama: Path, tmp_path: Path) -> None:
    run = prepared(lines_stack(tiny_llama, tmp_path), tmp_path / "run")
    encoded = encode(run, "train")
    for feature, labels, row in zip(encoded.features, encoded.labels, run.data["train"], strict=True):
        scored = [token for token in labels if token != -100]
        assert run.tokenizer.decode(scored, skip_special_tokens=True) == row["completion"]
        assert feature["input_ids"][-len(scored) :] == scored
        assert scored[-1] == run.tokenizer.eos_token_id


@pytest.mark.parametrize("kind", ["text", "words", "lines"])
def test_a_row_has_the_same_loss_alone_and_padded_among_others(
    kind: str, toy: dict[str, Any], tiny_bert: Path, tiny_llama: Path, tmp_path: Path
) -> None:
    stack = {"text": toy, "words": words_stack(tiny_bert, tmp_path), "lines": lines_stack(tiny_llama, tmp_path)}[kind]
    run = prepared(stack, tmp_path / "run")
    rows = range(8)
    with torch.no_grad():
        together = run.losses(collate(run, rows, "train"))[0]
        alone = torch.cat([run.losses(collate(run, [row], "train"))[0] for row in rows])
    assert together.shape == (8,)
    # float32 sums in another order
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-6)


def test_mutant_token_mean_over_the_batch_is_noticed(tiny_bert: Path, tmp_path: Path) -> None:
    run = prepared(words_stack(tiny_bert, tmp_path), tmp_path / "run")
    batch = collate(run, range(4), "train")
    with torch.no_grad():
        logits = run.forward(batch).logits
        honest = run.losses(batch)[0].mean()
    mutant = torch.nn.functional.cross_entropy(logits.transpose(1, 2), batch.labels, ignore_index=-100)
    assert abs(float(honest - mutant)) > 1e-4


def test_length_sorted_batches_hold_every_row_once(toy: dict[str, Any], tmp_path: Path) -> None:
    run = prepared(toy, tmp_path / "run")
    rows = list(range(len(run.data["train"])))
    found = list(batches(run, rows, "train", 7))
    assert sorted(int(r) for b in found for r in b.rows) == rows
    widths = [b.inputs["input_ids"].shape[1] for b in found]
    assert widths == sorted(widths)
    assert all(int(b.inputs["attention_mask"].sum(1).max()) == b.inputs["input_ids"].shape[1] for b in found)
    assert len(collate(run, [], "train")) == 0
    assert set(found[0].groups) == {"sex"}


def test_pairs_are_read_as_pairs(tiny_bert: Path, tmp_path: Path) -> None:
    rows = [
        {"text": "fever", "text_pair": "cough", "label": "a"},
        {"text": "walk", "text_pair": "rest", "label": "b"},
    ] * 8
    stack = {
        "data": {"train": write_rows(tmp_path / "p.jsonl", rows)},
        "model": {"base": str(tiny_bert)},
        "tune": "head",
    }
    run = prepared(stack, tmp_path / "run")
    ids = encode(run, "train").features[0]["input_ids"]
    assert ids.count(run.tokenizer.sep_token_id) >= 1
    assert run.tokenizer.convert_tokens_to_ids("cough") in ids or run.tokenizer.convert_tokens_to_ids("rest") in ids


def test_numeric_labels_sort_by_value(tiny_bert: Path, tmp_path: Path) -> None:
    rows = [{"text": WORDS["sick"][n % 5], "label": n % 12} for n in range(48)]
    path = write_rows(tmp_path / "n.jsonl", rows)
    stack = {"data": {"train": path, "validation": path}, "model": {"base": str(tiny_bert)}, "tune": "head"}
    assert prepared(stack, tmp_path / "run").labels == [str(n) for n in range(12)]


# --- optimizer and loop ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", ["adamw", "sgd", "adafactor"])
@pytest.mark.parametrize(
    "schedule", ["linear", "cosine", "constant", "constant_with_warmup", "polynomial", "inverse_sqrt"]
)
def test_optimizers_and_schedules(toy: dict[str, Any], tmp_path: Path, optimizer: str, schedule: str) -> None:
    toy["train"] |= {
        "optimizer": optimizer,
        "lr_scheduler_type": schedule,
        "warmup_ratio": 0.5,
        "head_learning_rate": 0.5,
    }
    run = prepared(toy, tmp_path / "run")
    run.optimizer = make_optimizer(run)
    rates = {group["initial_lr"] if "initial_lr" in group else group["lr"] for group in run.optimizer.param_groups}
    assert rates == {0.01, 0.5}, "the head has a rate of its own"
    steps = make_schedule(run)
    first = steps.get_last_lr()[0]
    if schedule != "constant":
        assert first == 0.0, "warmup begins at zero"
    for group in run.optimizer.param_groups:
        for p in group["params"]:
            p.grad = torch.ones_like(p)
    run.optimizer.step()
    steps.step()
    assert steps.get_last_lr()[0] <= 0.01


def test_micro_batches_change_memory_and_not_results(toy: dict[str, Any], tmp_path: Path) -> None:
    found = []
    for size in (8, 3):
        toy["train"]["micro_batch_size"] = size
        run = prepared(toy, tmp_path / f"run{size}")
        for module in run.model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        run.calls.gradients(list(range(8)), run)
        found.append(torch.cat([p.grad.flatten() for p in run.model.parameters() if p.grad is not None]))
    torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=1e-7)


def test_early_stopping_and_the_best_iterate(toy: dict[str, Any]) -> None:
    class Falling(Step):
        """Prefers the iterate of update 2."""

        @hook
        def select(self, run: Run) -> float:
            return -abs(run.update - 2)

    toy["train"] |= {"max_steps": 20, "eval_strategy": "steps", "eval_steps": 1, "early_stopping_patience": 3}
    run = execute(with_step(Stack.load(toy), Falling()))
    training = json.loads((run.folder / "evidence" / "training.json").read_text())
    assert training["best_update"] == 2
    assert training["updates"] == 5
    assert training["stopped"] == "no gain in 3 evaluations"
    best = read_state(next((run.folder / "checkpoints").glob("best-*")))
    kept = dict(run.model.named_parameters())
    assert all(
        torch.equal(kept[name.removeprefix("model.")], value)
        for name, value in best["weights"].items()
        if name.removeprefix("model.") in kept
    )


class Explodes(Step):
    """Gives a loss that is not a number from update 3 on."""

    @hook
    def loss(self, batch: Any, output: Any, run: Run) -> Any:
        bad = float("nan") if run.update >= 2 else 0.0
        return output.logits.sum(-1) * bad


def test_a_nan_loss_stops_within_one_update_and_leaves_a_good_checkpoint(toy: dict[str, Any], tmp_path: Path) -> None:
    toy["train"] |= {"save_steps": 1, "max_steps": 9}
    with pytest.raises(UprightError, match="update 3: the loss or its gradient is not finite"):
        execute(with_step(Stack.load(toy), Explodes()))
    folder = tmp_path / "runs" / "toy" / "latest"
    assert read_status(folder)["state"] == "failed"
    state = newest(folder.resolve())
    assert state["update"] == 2
    assert all(torch.isfinite(value).all() for value in state["weights"].values())


def test_bf16_trains(toy: dict[str, Any]) -> None:
    toy["train"]["precision"] = "bf16"
    run = execute(Stack.load(toy))
    assert run.exit_code == 0
    assert all(p.dtype == torch.float32 for p in run.model.parameters())


def test_a_run_is_the_same_again(toy: dict[str, Any]) -> None:
    first, second = execute(Stack.load(toy)), execute(Stack.load(toy))
    assert first.folder != second.folder, "nothing is overwritten"
    for one, other in zip(first.model.parameters(), second.model.parameters(), strict=True):
        assert torch.equal(one, other)
    assert first.metrics == second.metrics
    assert (first.folder.parent / "latest").resolve() == second.folder.resolve()


def test_checkpoints_are_limited_in_number(toy: dict[str, Any]) -> None:
    toy["train"] |= {"save_steps": 1, "save_total_limit": 2, "max_steps": 5}
    assert [path.name for path in checkpoints(execute(Stack.load(toy)).folder)] == [
        "update-00000004",
        "update-00000005",
    ]


def test_a_stop_at_the_start_trains_nothing(toy: dict[str, Any]) -> None:
    class Never(Step):
        @hook
        def watch(self, moment: str) -> Stop | None:
            return Stop("not today") if moment == "started" else None

    with pytest.raises(UprightError, match="trained weights moved"):
        execute(with_step(Stack.load(toy), Never()))


# --- the base -------------------------------------------------------------------------------------------------------


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
    from upright.engine import base

    toy["model"]["base"] = "minilm"
    monkeypatch.setattr(base, "MINILM_SHA256", "0" * 64)
    with pytest.raises(IntegrityError, match="is not all-MiniLM-L6-v2"):
        execute(Stack.load(toy))


# --- export ---------------------------------------------------------------------------------------------------------


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
