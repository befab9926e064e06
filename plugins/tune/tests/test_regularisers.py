"""Steps that keep training in bounds, against their formulas in float64."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_stacks import prepared, words_stack

from upright import Run, Stack
from upright.engine.batches import collate
from upright.engine.execute import execute
from upright.engine.optimizer import make_optimizer
from upright.errors import ConfigError
from upright.objects import Batch, Output
from upright_tune.focal import Focal
from upright_tune.label_smoothing import LabelSmoothing
from upright_tune.mixout import _mixed
from upright_tune.rates import multiply_rate


class TaskOnly:
    """All that an objective reads of a run."""

    def __init__(self, name: str) -> None:
        self.task = type("Task", (), {"name": name})


def losses_by_hand(scores: np.ndarray, label: int, smoothing: float, gamma: float) -> float:
    """One decision, float64, written out."""
    logs = scores - scores.max()
    logs = logs - np.log(np.exp(logs).sum())
    smoothed = -(1 - smoothing) * logs[label] - smoothing * logs.mean()
    return float((1 - np.exp(logs[label])) ** gamma * smoothed)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.floats(0, 0.9), st.floats(0, 4), st.sampled_from(["record", "words", "text"]))
def test_smoothing_and_focal_are_their_formulas(seed: int, smoothing: float, gamma: float, kind: str) -> None:
    chance = np.random.default_rng(seed)
    rows, tokens, classes = 3, 5, 4
    shape = (rows, classes) if kind == "record" else (rows, tokens, classes)
    scores = chance.normal(0, 3, shape)
    labels = chance.integers(0, classes, shape[:-1])
    if kind != "record":
        labels[chance.random(labels.shape) < 0.4] = -100
    name = {"record": "text-classification", "words": "token-classification", "text": "text-generation"}[kind]
    batch = Batch({}, torch.tensor(labels), torch.arange(rows), torch.arange(rows))
    output = Output(torch.tensor(scores, dtype=torch.float32))
    run: Any = TaskOnly(name)
    for step, eps, power in (
        (LabelSmoothing(label_smoothing_factor=smoothing), smoothing, 0.0),
        (Focal(gamma=gamma), 0.0, gamma),
    ):
        found = step.objective(batch, output, run)
        for row in range(rows):
            if kind == "record":
                expected = losses_by_hand(scores[row], labels[row], eps, power)
            else:
                shift = int(kind == "text")
                each = [
                    losses_by_hand(scores[row, t - shift], labels[row, t], eps, power)
                    for t in range(shift, tokens)
                    if labels[row, t] != -100
                ]
                expected = sum(each) / len(each) if each else 0.0
            assert float(found[row]) == pytest.approx(expected, rel=1e-4, abs=1e-5)  # float32


def test_the_slope_of_focal_is_finite_where_nothing_is_wrong() -> None:
    scores = torch.tensor([[200.0, 0.0]], requires_grad=True)
    batch = Batch({}, torch.tensor([0]), torch.arange(1), torch.arange(1))
    run: Any = TaskOnly("text-classification")
    Focal(gamma=0.5).objective(batch, Output(scores), run).sum().backward()
    assert scores.grad is not None
    assert torch.isfinite(scores.grad).all()


@pytest.mark.parametrize("words", [False, True])
def test_r_drop_is_two_passes_and_their_divergence(
    words: bool, toy: dict[str, Any], tiny_bert: Path, tmp_path: Path
) -> None:
    stack = words_stack(tiny_bert, tmp_path) if words else toy
    plain = prepared({**stack, "train": {"max_steps": 2}}, tmp_path / "a")
    run = prepared({**stack, "train": {"max_steps": 2, "steps": [{"use": "r-drop", "alpha": 0.7}]}}, tmp_path / "b")
    run.model.load_state_dict(plain.model.state_dict())
    run.model.train()
    torch.manual_seed(4)
    batch = run.calls.batch(collate(run, range(4), "train"), run)
    assert batch.rows.tolist() == [0, 1, 2, 3, 0, 1, 2, 3]
    assert batch.unit[:4].equal(batch.unit[4:])
    found, _ = run.losses(batch)
    torch.manual_seed(4)
    scores = run.forward(batch).logits.double().detach()
    base = run.task.objective(batch, Output(scores)).double()
    logs = torch.log_softmax(scores, -1)
    for row in range(4):
        p, q = logs[row], logs[row + 4]
        kl = ((p.exp() * (p - q)).sum(-1) + (q.exp() * (q - p)).sum(-1)) / 2
        if words:
            kl = kl[batch.labels[row] != -100].mean()
        for place in (row, row + 4):
            assert float(found[place]) == pytest.approx(float(base[place] + 0.35 * kl), rel=1e-4)


def test_r_drop_and_privacy_are_refused_together(toy: dict[str, Any]) -> None:
    stack = {
        **toy,
        "train": {"max_steps": 2, "steps": ["r-drop"]},
        "privacy": {"use": "dp-sgd", "noise_multiplier": 1.0, "delta": 1e-3},
    }
    with pytest.raises(ConfigError, match="each record's loss depends on that record alone"):
        Stack.load(stack)


def test_mixout_keeps_the_expectation_and_is_plain_in_evaluation() -> None:
    base, own = torch.randn(40, 50), torch.randn(40, 50)
    mixed = _mixed(base, 0.3).train()
    mean = torch.stack([mixed(own) for _ in range(800)]).mean(0)
    # Each entry is base with probability .3, corrected: its deviation over 800 draws is .65 |own - base| / sqrt(800).
    assert float(((mean - own) / (0.0233 * (own - base).abs() + 1e-9)).abs().max()) < 5.5
    assert torch.equal(mixed.eval()(own), own)
    once = mixed.train()(own)
    kept = (own - 0.3 * base) / 0.7
    assert torch.all(torch.isclose(once, base, atol=1e-5) | torch.isclose(once, kept, atol=1e-5))


def test_a_run_with_mixout_exports_a_plain_model(toy: dict[str, Any], tmp_path: Path) -> None:
    from transformers import AutoModelForSequenceClassification

    run = execute(
        Stack.load({**toy, "tune": "full", "train": {"max_steps": 3, "steps": [{"use": "mixout", "p": 0.5}]}})
    )
    loaded = AutoModelForSequenceClassification.from_pretrained(run.folder / "model").eval()
    batch = collate(run, range(4), "test")
    with torch.no_grad():
        assert torch.equal(loaded(**batch.inputs).logits, run.forward(batch).logits)
    with pytest.raises(ConfigError, match="nothing to mix"):
        execute(Stack.load({**toy, "train": {"max_steps": 3, "steps": ["mixout"]}}))


def test_rates_fall_from_block_to_block_and_lora_plus_raises_b(toy: dict[str, Any], tmp_path: Path) -> None:
    train = {
        "max_steps": 3,
        "learning_rate": 1e-3,
        "head_learning_rate": 5e-3,
        "steps": [{"use": "layer-decay", "decay": 0.5}],
    }
    run = prepared({**toy, "tune": "full", "train": train}, tmp_path / "a")
    run.optimizer = run.calls.optimizer(run)
    rates = _rates(run)
    assert rates["classifier.weight"] == 5e-3
    assert rates["bert.encoder.layer.1.output.dense.weight"] == 1e-3
    assert rates["bert.encoder.layer.0.output.dense.weight"] == 5e-4
    assert rates["bert.embeddings.word_embeddings.weight"] == 2.5e-4
    assert len(rates) == sum(p.requires_grad for p in run.model.parameters())
    tune = {"use": "lora", "rank": 2, "loraplus_lr_ratio": 16}
    run = prepared({**toy, "tune": tune, "train": {"max_steps": 3, "learning_rate": 1e-3}}, tmp_path / "b")
    run.optimizer = run.calls.optimizer(run)
    rates = _rates(run)
    assert {rate for name, rate in rates.items() if "lora_A" in name} == {1e-3}
    assert {rate for name, rate in rates.items() if "lora_B" in name} == {1.6e-2}


def test_splitting_groups_loses_no_parameter_and_no_setting() -> None:
    layers = [torch.nn.Linear(2, 2) for _ in range(3)]
    optimizer = torch.optim.AdamW(
        [
            {"params": layers[0].parameters(), "weight_decay": 0.3},
            {"params": [*layers[1].parameters(), *layers[2].parameters()]},
        ],
        lr=0.1,
    )
    slow = {id(p) for p in layers[2].parameters()}
    multiply_rate(optimizer, lambda p: 0.5 if id(p) in slow else None)
    assert [(len(g["params"]), g["lr"], g["weight_decay"]) for g in optimizer.param_groups] == [
        (2, 0.1, 0.3),
        (2, 0.1, 0.01),
        (2, 0.05, 0.01),
    ]


def _rates(run: Run) -> dict[str, float]:
    names = {id(p): name for name, p in run.model.named_parameters()}
    return {names[id(p)]: group["lr"] for group in run.optimizer.param_groups for p in group["params"]}


@pytest.mark.parametrize("kind", ["ema", "soup"])
def test_the_final_weights_are_the_average(kind: str, toy: dict[str, Any], tmp_path: Path) -> None:
    """Against a loop by hand with the same batches."""
    average = {"use": "weight-average", "kind": kind, "decay": 0.6, "last": 2}
    train = {
        "max_steps": 6,
        "batch_size": 8,
        "eval_strategy": "steps",
        "eval_steps": 2,
        "load_best_model_at_end": False,
        "learning_rate": 0.01,
        "optimizer": "sgd",
        "lr_scheduler_type": "constant",
        "max_grad_norm": None,
    }
    toy = {**toy, "tune": "head", "model": {**toy["model"], "dropout": 0.0}}
    run = execute(Stack.load({**toy, "train": {**train, "steps": [average]}}))
    other = prepared({**toy, "train": train}, tmp_path / "by-hand")
    other.model.train()
    parameters = {name: p for name, p in other.model.named_parameters() if p.requires_grad}
    optimizer = make_optimizer(other)
    mean = {name: p.detach().double().clone() for name, p in parameters.items()}
    found: list[dict[str, torch.Tensor]] = []
    for update in range(6):
        optimizer.zero_grad()
        batch = collate(other, other.calls.sample(update, other), "train")
        torch.nn.functional.cross_entropy(other.model(**batch.inputs).logits, batch.labels).backward()
        optimizer.step()
        decay = min(0.6, (2 + update) / (11 + update))
        for name, p in parameters.items():
            mean[name] = decay * mean[name] + (1 - decay) * p.detach().double()
        if update % 2:
            found.append({name: p.detach().double().clone() for name, p in parameters.items()})
    if kind == "soup":
        mean = {name: (found[-1][name] + found[-2][name]) / 2 for name in mean}
    for name, p in run.model.named_parameters():
        if name in mean:
            assert torch.allclose(p.double(), mean[name], atol=1e-6)


def test_the_range_test_leaves_the_weights_and_sets_the_rate(toy: dict[str, Any], tmp_path: Path) -> None:
    train = {
        "max_steps": 3,
        "batch_size": 16,
        "head_learning_rate": 4e-3,
        "learning_rate": 2e-3,
        "steps": ["lr-finder"],
    }
    run = prepared({**toy, "tune": "full", "train": train}, tmp_path)
    before = copy.deepcopy(run.model.state_dict())
    optimizer = run.calls.optimizer(run)
    assert all(torch.equal(before[name], value) for name, value in run.model.state_dict().items())
    assert not optimizer.state
    found = run.keep(run.stack.answering("report")[0].step, "found", dict)
    rates = sorted({group["lr"] for group in optimizer.param_groups})
    assert found["learning_rate"] in [pytest.approx(rate) for rate in rates]
    assert rates[-1] / rates[0] == pytest.approx(2)
    assert 1e-6 <= found["learning_rate"] < 1


def test_a_run_with_a_range_test_reports_it_and_privacy_refuses_it(toy: dict[str, Any]) -> None:
    train = {"max_steps": 2, "steps": [{"use": "lr-finder", "updates": 20}]}
    run = execute(Stack.load({**toy, "train": train}))
    sections = json.loads((run.folder / "evidence" / "train.json").read_text())["steps"]["lr-finder"]["sections"]
    assert sections[0]["title"] == "Learning-rate range test"
    private = {"use": "dp-sgd", "noise_multiplier": 1.0, "delta": 1e-3}
    with pytest.raises(ConfigError, match="figures about single training records may be published"):
        Stack.load({**toy, "train": train, "privacy": private})
