"""The constraint against its purpose: it narrows a gap that bias opened, couples no rows, and refuses what is not there."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import WORDS, write_rows
from upright import Run, Stack, Step, hook
from upright.engine.execute import execute
from upright.errors import ConfigError
from upright.stack import Placed
from upright_fairness.threshold import choose


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000))
def test_the_threshold_is_never_bought_by_refusing_everybody(seed: int) -> None:
    chance = np.random.default_rng(seed)
    truth = chance.random(200) < 0.4
    scores = np.clip(truth * 0.4 + chance.random(200) * 0.6, 0, 1)
    group = (chance.random(200) < 0.5).astype(int)
    decision = scores >= choose(scores, truth, [group], 0.02)
    assert 0.05 < decision.mean() < 0.95
    assert (decision == truth).mean() >= (scores.mean() < 2) * 0.6


def biased(folder: Path) -> dict[str, Any]:
    """A task where women's positives are missed half of the time in training."""
    import random

    def rows(count: int, seed: int, missed: float) -> list[dict[str, Any]]:
        chance = random.Random(seed)
        found = []
        for n in range(count):
            label, sex = chance.choice(["sick", "well"]), chance.choice("fm")
            mark = ["very", "mild"][sex == "m"]  # the text gives the group away
            told = "well" if label == "sick" and sex == "f" and chance.random() < missed else label
            words = [*chance.choices(WORDS[label] + WORDS["other"][:4], k=4), mark]
            found.append({"text": " ".join(words) + f" {n}", "label": told, "sex": sex})
        return found

    return {
        "train": write_rows(folder / "train.jsonl", rows(300, 0, 0.6)),
        "validation": write_rows(folder / "v.jsonl", rows(200, 1, 0.0)),
        "test": write_rows(folder / "test.jsonl", rows(400, 2, 0.0)),
        "sensitive": ["sex"],
    }


class Bag(torch.nn.Module):
    """A bag of words with one weight a word and class: convex, so that what is learnt is what the loss asks for."""

    def __init__(self, words: int) -> None:
        super().__init__()
        self.weights = torch.nn.Embedding(words, 2)
        torch.nn.init.zeros_(self.weights.weight)
        self.config = SimpleNamespace(model_type="bag", num_labels=2, pad_token_id=0)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, **_: Any) -> Any:
        mask = attention_mask.unsqueeze(-1).float()
        return SimpleNamespace(logits=(self.weights(input_ids) * mask).sum(1))


class BagOfWords(Step):
    """Brings the bag."""

    @hook
    def model(self, run: Run) -> Any:
        from upright.engine.base import load_model

        load_model(run)
        return Bag(len(run.tokenizer))


@pytest.mark.parametrize("private", [False, True])
def test_the_constraint_narrows_a_gap_that_bias_opened(private: bool, tiny_bert: Path, tmp_path: Path) -> None:
    from upright.engine import probe
    from upright.engine.evaluate import predict
    from upright.engine.execute import prepare_run
    from upright.engine.loop import train

    audit = {"use": "group-audit", "groups": ["sex"], "positive": "sick"}
    odds = {"use": "equalized-odds", "groups": ["sex"], "positive": "sick", "dual_learning_rate": 0.5, "momentum": 0.8}
    gaps, right = [], []
    for number, fairness in enumerate(([audit], [odds, audit])):
        settings_of_run: dict[str, Any] = {
            "data": biased(tmp_path),
            "model": {"base": str(tiny_bert)},
            "tune": "full",
            "train": {
                "epochs": 25,
                "batch_size": 60,
                "learning_rate": 0.1,
                "eval_strategy": "no",
                "max_grad_norm": None,
            },
            "fairness": fairness,
        }
        if private:
            settings_of_run["privacy"] = {"use": "dp-sgd", "noise_multiplier": 0.5, "delta": 1e-3}
        stack = Stack.load(settings_of_run)
        stack.steps.append(Placed("model", "bag", "bag", BagOfWords(), "test"))
        folder = tmp_path / f"run{number}"
        (folder / "evidence").mkdir(parents=True)
        run = prepare_run(stack, folder)
        probe.probe(run)
        run.optimizer = run.calls.optimizer(run)
        train(run)
        run.calls.calibrate(predict(run, "validation"), run)
        found = run.calls.measure(predict(run, "test"), run)
        gaps.append(found["test/fairness/group-audit/equal_opportunity_difference/sex"].value)
        right.append(found["test/fairness/group-audit/accuracy/sex/m"].value)
    assert gaps[0] > 0.3, "the bias was learnt"
    assert gaps[1] < 0.5 * gaps[0]
    assert right[1] > right[0] - 0.1


def test_released_counts_are_all_that_the_loss_reads(toy: dict[str, Any], tmp_path: Path) -> None:
    """Rows stand alone: a row's loss is its own, whoever is beside it."""
    from upright.engine.batches import collate
    from upright.engine.execute import prepare_run

    toy["fairness"] = {"use": "equalized-odds", "groups": ["sex"]}
    (tmp_path / "evidence").mkdir()
    run = prepare_run(Stack.load(toy), tmp_path)
    step = run.stack.steps[-1].step
    step._kept(run, "coefficients").copy_(torch.tensor([0.5, -0.5, 1.0, -1.0]))
    with torch.no_grad():
        together, statistics = run.losses(collate(run, range(6), "train"))
        alone = torch.cat([run.losses(collate(run, [row], "train"))[0] for row in range(6)])
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-6)
    cells = statistics["equalized-odds"]["cells"]
    assert cells.shape == (6, 8)
    assert float(cells.norm(dim=1).max()) <= 1 + 1e-6


def test_groups_and_classes_that_are_not_there(toy: dict[str, Any]) -> None:
    for fairness, told in (
        ({"use": "group-audit", "groups": ["age"]}, "'age' is not in data.sensitive"),
        ({"use": "equalized-odds", "groups": ["age"]}, "'age' is not in data.sensitive"),
        ({"use": "group-audit", "groups": ["sex"], "positive": "ill"}, "'ill' is no class"),
    ):
        with pytest.raises(ConfigError, match=told):
            execute(Stack.load({**toy, "fairness": fairness}))
