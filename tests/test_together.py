"""LoRA, dp-sgd, equalized odds, a penalty, a perturbing step that repeats rows, and early stopping in one stack:
the gradient of an update is what a plain loop over single units gives, in float64."""

from __future__ import annotations

import copy
import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from outside_steps import Plateau, Ridge, TokenNoise, with_steps

from upright import Batch, Run, Stack, Step, hook
from upright.engine.execute import execute

CLIP, BATCH, RIDGE, NORM = 0.5, 8, 0.05, 1.0
TOLERANCE = 2e-4
"""Relative to the gradient's norm. Float32 has 24 bits; two layers of sums of a few hundred terms lose some ten of them."""


class Witness(Step):
    """Keep what each update saw and left: weights and coefficients before it, its batches, its gradient."""

    @hook(wrapper=True)
    def sample(self, update: int, run: Run) -> Any:
        rows = yield
        coefficients = run.kept["equalized-odds/coefficients"] if update else torch.zeros(4)
        SEEN.append(
            {
                "model": copy.deepcopy(run.model).double(),
                "coefficients": coefficients.detach().double().clone(),
                "batches": [],
                "noise": [],
            }
        )
        return rows

    @hook
    def batch(self, batch: Batch) -> Batch:
        if SEEN:
            SEEN[-1]["batches"].append(batch)
        return batch

    @hook
    def watch(self, moment: str, run: Run) -> None:
        if moment == "updated":
            named = run.model.named_parameters()
            SEEN[-1]["gradient"] = {name: p.grad.double().clone() for name, p in named if p.requires_grad}
            SEEN[-1]["released"] = run.groups["equalized-odds"]["cells"].double().clone()


SEEN: list[dict[str, Any]] = []


@pytest.fixture
def together(tiny_mean: Path, toy_files: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stack:
    base = tmp_path / "base"
    shutil.copytree(tiny_mean, base)
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(
        json.dumps({**config, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0})
    )
    from upright_privacy import noise as source

    drawn = source.gaussian

    def gaussian(shape: torch.Size, scale: float, device: torch.device) -> torch.Tensor:
        noise = drawn(shape, scale, device)
        SEEN[-1]["noise"].append(noise.double())
        return noise

    monkeypatch.setattr(source, "gaussian", gaussian)
    SEEN.clear()
    stack = Stack.load(
        {
            "name": "together",
            "data": {**toy_files, "sensitive": ["sex"]},
            "model": {"base": str(base)},
            "tune": {"use": "lora", "rank": 2},
            "train": {
                "max_steps": 9,
                "batch_size": BATCH,
                "micro_batch_size": 3,
                "max_grad_norm": NORM,
                "learning_rate": 0.05,
            },
            "fairness": {"use": "equalized-odds", "groups": ["sex"], "dual_learning_rate": 1.0, "momentum": 0.1},
            "privacy": {"use": "dp-sgd", "noise_multiplier": 0.3, "delta": 1e-3, "max_grad_norm": CLIP},
            "output": str(tmp_path / "runs"),
        }
    )
    return with_steps(
        stack,
        ("train", "noise", TokenNoise()),
        ("train", "witness", Witness()),
        ("train", "ridge", Ridge(strength=RIDGE)),
        ("train", "plateau", Plateau(after=5)),
    )


def one_unit(seen: dict[str, Any], rows: list[tuple[Batch, int]]) -> tuple[list[torch.Tensor], torch.Tensor]:
    """The gradient of one unit's mean loss and its mean statistics, both bounded; by hand, in float64."""
    model = seen["model"]
    parameters = [p for p in model.parameters() if p.requires_grad]
    loss, statistics = torch.zeros((), dtype=torch.float64), torch.zeros(8, dtype=torch.float64)
    for batch, place in rows:
        length = int(batch.inputs["attention_mask"][place].sum())
        logits = model(**{name: value[place : place + 1, :length] for name, value in batch.inputs.items()}).logits[0]
        label, sex = int(batch.labels[place]), int(batch.groups["sex"][place])
        cell = 2 * label + sex
        chances = torch.softmax(logits, 0)
        loss = loss + (seen["coefficients"][cell] * chances[1] - torch.log(chances[label])) / len(rows)
        statistics[cell] += 2**-0.5 / len(rows)
        statistics[4 + cell] += 2**-0.5 * float(logits.argmax() == 1) / len(rows)
    gradient = torch.autograd.grad(loss, parameters)
    norm = torch.sqrt(sum(g.square().sum() for g in gradient))
    gradient = [g * min(1.0, CLIP / float(norm)) for g in gradient]
    return gradient, statistics * min(1.0, 1 / float(statistics.norm()))


def expected(seen: dict[str, Any]) -> tuple[list[torch.Tensor], torch.Tensor]:
    """The update's gradient and released statistics by the definition."""
    units: dict[int, list[tuple[Batch, int]]] = {}
    for batch in seen["batches"]:
        for place, unit in enumerate(batch.unit.tolist()):
            units.setdefault(unit, []).append((batch, place))
    parameters = [p for p in seen["model"].parameters() if p.requires_grad]
    total, released = [torch.zeros_like(p) for p in parameters], torch.zeros(8, dtype=torch.float64)
    for rows in units.values():
        gradient, statistics = one_unit(seen, rows)
        total = [a + b for a, b in zip(total, gradient, strict=True)]
        released += statistics
    drawn, last = seen["noise"]
    noise = [part.view_as(p) for part, p in zip(drawn.split([p.numel() for p in parameters]), parameters, strict=True)]
    total = [(a + b) / BATCH + RIDGE * p.detach() for a, b, p in zip(total, noise, parameters, strict=True)]
    norm = float(torch.sqrt(sum(g.square().sum() for g in total)))
    return [g * min(1.0, NORM / norm) for g in total], released + last


def errors() -> list[float]:
    """For each update, how far gradient and statistics are from the definition, relative to their norms."""
    found = []
    for seen in SEEN:
        gradient, released = expected(seen)
        pairs = [*zip(seen["gradient"].values(), gradient, strict=True), (seen["released"], released)]
        apart = torch.sqrt(sum((a - b).square().sum() for a, b in pairs))
        found.append(float(apart / torch.sqrt(sum(b.square().sum() for _, b in pairs))))
    return found


def test_every_update_is_what_the_loop_over_single_units_gives(together: Stack) -> None:
    run = execute(together)
    assert run.update == 5
    assert len(SEEN) == 5
    assert any(len(seen["batches"]) > 1 for seen in SEEN), "several micro-batches in one update"
    assert any(seen["coefficients"].abs().max() > 0 for seen in SEEN), "the constraint acted"
    assert max(errors()) < TOLERANCE
    ledger = (run.folder / "steps" / "dp-sgd" / "accountant.jsonl").read_text().splitlines()
    assert len(ledger) == 5


def test_mutant_that_clips_rows_instead_of_units_is_noticed(together: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    from upright_privacy.per_unit import units

    honest = units.units_of

    def by_row(losses: Any, batches: Any, mode: Any, served: Any = None) -> Any:
        for batch in batches:
            yield from honest(losses, [dataclasses.replace(batch, unit=torch.arange(len(batch)))], mode, served)

    monkeypatch.setattr(units, "units_of", by_row)
    execute(together)
    assert min(errors()) > 10 * TOLERANCE


def test_mutant_that_clips_the_batch_as_one_is_noticed(together: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    from upright_privacy.per_unit.units import Units

    honest = Units.norms

    def as_one(self: Units) -> torch.Tensor:
        each = honest(self)
        like = {name: part.dense()[0] for name, parts in self.contributions.items() for part in parts}
        whole = self.weighted_sum(torch.ones(len(each)), like)
        return torch.cat([g.flatten() for g in whole.values()]).norm().double().expand(len(each))

    monkeypatch.setattr(Units, "norms", as_one)
    execute(together)
    assert max(errors()) > 10 * TOLERANCE


def test_mutant_that_adds_the_penalty_in_every_micro_batch_is_noticed(
    together: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    from upright.calls import Calls

    honest = Calls.penalty

    def repeated(self: Calls, model: Any, run: Run) -> Any:
        once = honest(self, model, run)
        return once * max(len(SEEN[-1]["batches"]), 1) if once is not None else None

    monkeypatch.setattr(Calls, "penalty", repeated)
    execute(together)
    assert max(errors()) > 10 * TOLERANCE
