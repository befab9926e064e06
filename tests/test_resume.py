"""A resumed run is the run that was never stopped, bit for bit (non-private runs, on a CPU)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from outside_steps import Budget, StopAt, TokenNoise, with_steps
from safetensors.torch import load_file

from upright import Run, Stack
from upright.engine.checkpoint import checkpoints, newest
from upright.engine.execute import execute
from upright.errors import IntegrityError
from upright.evidence.status import read_status

UPDATES = 7


@pytest.fixture(scope="module")
def settings(tiny_bert: Path, toy_files: dict[str, str]) -> dict[str, object]:
    return {
        "name": "resumed",
        "seed": 5,
        "data": toy_files,
        "model": {"base": str(tiny_bert), "task": "text-classification"},
        "tune": [{"use": "lora", "rank": 2, "dropout": 0.2}],
        "train": {
            "max_steps": UPDATES,
            "batch_size": 8,
            "micro_batch_size": 3,
            "eval_strategy": "steps",
            "eval_steps": 3,
            "save_steps": 2,
            "learning_rate": 0.01,
        },
    }


def stack(settings: dict[str, object], output: Path, stop_at: int = -1) -> Stack:
    StopAt.at = stop_at
    loaded = Stack.load({**settings, "output": str(output)})
    return with_steps(
        loaded,
        ("train", "noise", TokenNoise()),
        ("train", "budget", Budget()),
        ("train", "stop", StopAt()),
    )


def outcome(run: Run) -> tuple[dict[str, torch.Tensor], object]:
    weights: dict[str, torch.Tensor] = {}
    for path in sorted((run.folder / "model").glob("*.safetensors")):
        weights |= {f"{path.name}/{name}": tensor for name, tensor in load_file(path).items()}
    return weights, json.loads((run.folder / "metrics.json").read_text())


@pytest.fixture(scope="module")
def unstopped(settings: dict[str, object], tmp_path_factory: pytest.TempPathFactory) -> tuple[object, object]:
    return outcome(execute(stack(settings, tmp_path_factory.mktemp("whole"))))


@pytest.mark.parametrize("at", range(1, UPDATES + 1))
def test_stopped_at_any_update_and_resumed_ends_bit_identical(
    at: int, settings: dict[str, object], unstopped: tuple[dict[str, torch.Tensor], object], tmp_path: Path
) -> None:
    with pytest.raises(KeyboardInterrupt):
        execute(stack(settings, tmp_path, stop_at=at))
    folder = (tmp_path / "resumed" / "latest").resolve()
    assert read_status(folder)["state"] == "interrupted"
    resumed = execute(stack(settings, tmp_path), resume=folder)
    weights, metrics = outcome(resumed)
    assert weights.keys() == unstopped[0].keys()
    assert all(torch.equal(weights[name], unstopped[0][name]) for name in weights)
    assert metrics == unstopped[1]


def test_mutant_a_resume_that_forgets_the_kept_state_is_noticed(
    settings: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from upright.engine import execute as module

    # The last iterate is kept: an earlier best one would hide what the resume did to it.
    settings = {**settings, "train": {**settings["train"], "load_best_model_at_end": False}}
    whole, _ = outcome(execute(stack(settings, tmp_path / "whole")))
    with pytest.raises(KeyboardInterrupt):
        execute(stack(settings, tmp_path, stop_at=5))
    folder = (tmp_path / "resumed" / "latest").resolve()

    def forgetful(path: Path, run: Run | None = None) -> dict[str, object]:
        return {**newest(path, run), "kept": {}}

    monkeypatch.setattr(module, "newest", forgetful)
    weights, _ = outcome(execute(stack(settings, tmp_path), resume=folder))
    assert not all(torch.equal(weights[name], whole[name]) for name in weights)


def test_a_damaged_checkpoint_is_passed_over_and_without_a_whole_one_the_resume_is_refused(
    settings: dict[str, object], unstopped: tuple[dict[str, torch.Tensor], object], tmp_path: Path
) -> None:
    with pytest.raises(KeyboardInterrupt):
        execute(stack(settings, tmp_path, stop_at=6))
    folder = (tmp_path / "resumed" / "latest").resolve()
    older, latest = checkpoints(folder)
    _flip_a_bit(latest / "tensors.safetensors")
    assert newest(folder)["update"] == int(older.name.removeprefix("update-"))
    weights, metrics = outcome(execute(stack(settings, tmp_path), resume=folder))
    assert all(torch.equal(weights[name], unstopped[0][name]) for name in weights)
    assert metrics == unstopped[1]
    for path in checkpoints(folder):
        _flip_a_bit(path / "state.json")
    with pytest.raises(IntegrityError, match="no checkpoint can be trusted"):
        newest(folder)


def _flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
