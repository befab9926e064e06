"""Stacks on tiny models, one for each task, and a run that is prepared and not yet trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from conftest import write_rows
from upright import Run, Stack
from upright.engine.execute import prepare_run


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
