"""AdaLoRA: ranks move, and what moves them survives a resume."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from outside_steps import StopAt, with_steps
from safetensors.torch import load_file

from upright import Run, Stack
from upright.engine.execute import execute

UPDATES = 10


def stack(toy: dict[str, Any], output: Path, stop_at: int = -1) -> Stack:
    StopAt.at = stop_at
    tune = {"use": "adalora", "init_r": 4, "target_r": 2, "tinit": 0.2, "tfinal": 0.3, "dropout": 0.1}
    train = {"max_steps": UPDATES, "batch_size": 8, "learning_rate": 0.02, "save_steps": 2, "eval_strategy": "no"}
    return with_steps(
        Stack.load({**toy, "tune": tune, "train": train, "output": str(output)}), ("train", "stop", StopAt())
    )


def tensors(run: Run) -> dict[str, torch.Tensor]:
    return load_file(run.folder / "model" / "adapter_model.safetensors")


@pytest.fixture
def unstopped(toy: dict[str, Any], tmp_path: Path) -> Run:
    return execute(stack(toy, tmp_path / "whole"))


def test_the_ranks_fall_to_the_budget_and_differ(unstopped: Run) -> None:
    ranks = [int((value != 0).sum()) for name, value in tensors(unstopped).items() if "lora_E" in name]
    assert len(ranks) == 12
    assert sum(ranks) == 2 * len(ranks)
    assert len(set(ranks)) > 1


@pytest.mark.parametrize("at", [3, 5, 8])
def test_a_resumed_run_ends_bit_identical(at: int, toy: dict[str, Any], unstopped: Run, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        execute(stack(toy, tmp_path / "again", stop_at=at))
    folder = next((tmp_path / "again" / "toy").glob("2*"))
    resumed = execute(stack(toy, tmp_path / "again"), resume=folder)
    expected, found = tensors(unstopped), tensors(resumed)
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[name], found[name]) for name in expected)


def test_mutant_a_resume_without_the_allocators_state_is_noticed(
    toy: dict[str, Any], unstopped: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from upright_tune.adalora import Allocator

    monkeypatch.setattr(Allocator, "load_state_dict", lambda self, state: None)
    with pytest.raises(KeyboardInterrupt):
        execute(stack(toy, tmp_path / "again", stop_at=5))
    folder = next((tmp_path / "again" / "toy").glob("2*"))
    resumed = execute(stack(toy, tmp_path / "again"), resume=folder)
    expected, found = tensors(unstopped), tensors(resumed)
    assert not all(torch.equal(expected[name], found[name]) for name in expected)
