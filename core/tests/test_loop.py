"""The loop, its optimizers and schedules, and how it ends."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from outside_steps import with_steps
from tiny_stacks import prepared

from upright import Run, Stack, Step, Stop, hook
from upright.engine.checkpoint import checkpoints, newest, read_state
from upright.engine.execute import execute
from upright.engine.optimizer import make_optimizer, make_schedule
from upright.errors import UprightError
from upright.evidence.status import read_status


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
    run = execute(with_steps(Stack.load(toy), ("train", "extra", Falling())))
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
        execute(with_steps(Stack.load(toy), ("train", "extra", Explodes())))
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
        execute(with_steps(Stack.load(toy), ("train", "extra", Never())))
