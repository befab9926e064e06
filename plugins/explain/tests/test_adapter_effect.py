"""The effect of an adapter against a float64 twin whose adapter is set to zero by hand."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from scipy.stats import binomtest, ttest_1samp

from upright import Run, Stack
from upright.engine.execute import execute
from upright.engine.target import CoreTarget
from upright.errors import ConfigError
from upright.evidence.verify import verify
from upright_explain import adapter_effect

TOLERANCE = 1e-4
"""Logits: float32 against float64 through two layers of a tiny model."""
Make = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def make(tiny_mean: Path, toy_files: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Make:
    def stack(**changes: Any) -> dict[str, Any]:
        return {
            "data": {**toy_files, "sensitive": ["sex"]},
            "model": {"base": str(tiny_mean)},
            "tune": {"use": "lora", "rank": 4},
            "train": {"max_steps": 30, "batch_size": 8, "learning_rate": 0.05, "head_learning_rate": 0.05},
            "explain": {"use": "adapter-effect", "min_rows": 5},
            "output": str(tmp_path_factory.mktemp("effect") / "runs"),
            **changes,
        }

    return stack


@pytest.fixture(scope="module")
def run(make: Make) -> Run:
    return execute(Stack.load(make()))


def lines(run: Run) -> list[dict[str, Any]]:
    """What the step says of the run now."""
    step = run.stack.steps[-1].step
    assert isinstance(step, adapter_effect.AdapterEffect)
    return list(step._lines(CoreTarget(run, "test"), run.data["test"], run))


def error(run: Run) -> float:
    """The largest difference of an effect from the twins'; 1 where a decision is another."""
    tuned = copy.deepcopy(run.model).double().eval()
    zeroed = copy.deepcopy(tuned)
    with torch.no_grad():
        for name, p in zeroed.named_parameters():
            if "lora_B" in name:
                p.zero_()
    texts = dict(zip(run.data["test"]["row_id"], run.data["test"]["text"], strict=True))
    found = lines(run)
    assert sorted(line["row_id"] for line in found) == sorted(texts)
    apart = []
    for line in found:
        given = run.tokenizer(texts[line["row_id"]], return_tensors="pt")
        with torch.no_grad():
            after, before = tuned(**given).logits[0], zeroed(**given).logits[0]
        decided = int(after.argmax())
        same = (run.labels[decided], run.labels[int(before.argmax())]) == (line["with"], line["without"])
        apart.append(abs(line["effect"] - float(after[decided] - before[decided])) if same else 1.0)
    return max(apart)


def test_the_effect_is_what_the_adapter_adds_to_the_decided_class(run: Run) -> None:
    assert run.exit_code == 0
    assert error(run) < TOLERANCE
    assert any(line["with"] != line["without"] for line in lines(run))


def test_figures_are_those_of_the_rows(run: Run) -> None:
    found = lines(run)
    labels = dict(zip(run.data["test"]["row_id"], run.data["test"]["label"], strict=True))
    sexes = dict(zip(run.data["test"]["row_id"], run.data["test"]["sex"], strict=True))
    flips = [line for line in found if line["with"] != line["without"]]

    def of(name: str) -> Any:
        return run.metrics[f"run/explain/adapter-effect/{name}"]

    assert of("flipped").value == len(flips) / len(found)
    assert of("corrected").value == sum(line["with"] == labels[line["row_id"]] for line in flips) / len(found)
    assert of("spoiled").value == sum(line["without"] == labels[line["row_id"]] for line in flips) / len(found)
    wilson = binomtest(len(flips), len(found)).proportion_ci(method="wilson")
    assert (of("flipped").low, of("flipped").high) == pytest.approx((wilson.low, wilson.high))
    for sex in ("f", "m"):
        mine = [line["effect"] for line in found if sexes[line["row_id"]] == sex]
        student = ttest_1samp(mine, 0).confidence_interval(1 - 0.05 / 2)  # two groups at once
        assert of(f"effect/group/sex/{sex}").value == pytest.approx(sum(mine) / len(mine))
        assert (of(f"effect/group/sex/{sex}").low, of(f"effect/group/sex/{sex}").high) == pytest.approx(tuple(student))
    assert verify(run.folder).problems == []


def test_a_group_of_few_rows_is_not_shown(run: Run) -> None:
    step = run.stack.steps[-1].step.model_copy(update={"min_rows": 1000})
    figures = step.account(run.folder / "steps" / "adapter-effect", run)
    assert figures.keys() == {"flipped", "effect", "corrected", "spoiled"}


def test_the_report_names_rows_and_shows_no_text(run: Run) -> None:
    written = (run.folder / "evidence" / "explain.json").read_text()
    assert json.loads(written)["steps"]["adapter-effect"]["status"] == "ok"
    assert not any(text in written for text in run.data["test"]["text"])


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"tune": "full"}, r"needs an adapter that can be turned off, which tune\.full"),
        ({"tune": {"use": "lora", "rank": 2, "merge": True}}, "set merge: false there"),
    ],
)
def test_what_cannot_be_turned_off_is_refused_before_training(make: Make, changes: Any, told: str) -> None:
    events: list[str] = []
    with pytest.raises(ConfigError, match=told):
        execute(Stack.load(make(**changes)), listen=lambda event: events.append(event["event"]))
    assert "update" not in events


# --- wrong implementations ------------------------------------------------------------------------------------------


class NeverOff(CoreTarget):
    """The adapter stays on."""

    def plain(self) -> Any:
        import contextlib

        return contextlib.nullcontext()


class OfTheFirstClass(CoreTarget):
    """Scores are of class 0, whatever is asked for."""

    def scores(self, embeds: Any, batch: Any, target: Any) -> Any:
        return super().scores(embeds, batch, torch.zeros_like(target))


@pytest.mark.parametrize("mutant", [NeverOff, OfTheFirstClass])
def test_a_mutant_is_noticed(mutant: Any, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "CoreTarget", mutant)
    assert error(run) > TOLERANCE
