"""What the tests of every distribution share: tiny models made here, a toy task, and the real data where it is."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from tiny_models import WORDS, make_model

ROOT = Path(__file__).parent
os.environ["HF_HUB_OFFLINE"] = "1"  # once installed, the tests need no network

settings.register_profile("repeatable", derandomize=True)
"""What `make test` uses, so that a change is judged by itself; `make test-all` looks at new examples every time."""

DATA = Path(os.environ.get("UPRIGHT_DATA", ROOT.parent / "shared" / "data"))
MODELS = Path(os.environ.get("UPRIGHT_MODELS", ROOT.parent / "shared" / "models"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    import torch

    for item in items:
        if item.get_closest_marker("gpu") and not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    import torch

    from upright.progress import quiet_libraries

    torch.set_num_threads(1)
    quiet_libraries()


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """``tiny("gpt2")``: the folder of a model of that architecture with random weights, made once."""
    made: dict[str, Path] = {}

    def make(architecture: str) -> Path:
        if architecture not in made:
            made[architecture] = make_model(architecture, tmp_path_factory.mktemp(f"tiny-{architecture}"))
        return made[architecture]

    return make


@pytest.fixture(scope="session")
def tiny_bert(tiny: Callable[[str], Path]) -> Path:
    """A BERT of two layers, 16 wide, random weights, 32 positions."""
    return tiny("bert")


@pytest.fixture(scope="session")
def tiny_mean(tiny_bert: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same, said to be trained with mean pooling."""
    import shutil

    folder = tmp_path_factory.mktemp("tiny-mean") / "model"
    shutil.copytree(tiny_bert, folder)
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode_mean_tokens": True}))
    return folder


@pytest.fixture(scope="session")
def tiny_llama(tiny: Callable[[str], Path]) -> Path:
    """A Llama of two layers, 16 wide, random weights."""
    return tiny("llama")


def toy_rows(count: int, seed: int) -> list[dict[str, Any]]:
    """Notes whose label follows from their words; ``sex`` has nothing to do with it."""
    chance = random.Random(seed)
    rows = []
    for number in range(count):
        label = chance.choice(["sick", "well"])
        words = chance.choices(WORDS[label], k=chance.randint(1, 3)) + chance.choices(
            WORDS["other"], k=chance.randint(1, 6)
        )
        chance.shuffle(words)
        rows.append({"text": " ".join([*words, str(number)]), "label": label, "sex": chance.choice(["f", "m"])})
    return rows


def write_rows(path: Path, rows: list[dict[str, Any]]) -> str:
    """A jsonl file; returns its path as text."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


@pytest.fixture(scope="session")
def toy_files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The ``data`` section of a toy task."""
    folder = tmp_path_factory.mktemp("toy")
    sizes = {"train": 48, "validation": 20, "test": 24}
    return {
        split: write_rows(folder / f"{split}.jsonl", toy_rows(size, seed))
        for seed, (split, size) in enumerate(sizes.items())
    }


@pytest.fixture
def toy(tiny_bert: Path, toy_files: dict[str, Any], tmp_path: Path) -> dict[str, Any]:
    """A whole stack as a mapping: LoRA on the tiny BERT, a few updates."""
    return {
        "name": "toy",
        "data": {**toy_files, "sensitive": ["sex"]},
        "model": {"base": str(tiny_bert), "task": "text-classification"},
        "tune": {"use": "lora", "rank": 2},
        "train": {"max_steps": 4, "batch_size": 8, "learning_rate": 0.01},
        "output": str(tmp_path / "runs"),
    }


@pytest.fixture(scope="session")
def finished(tiny_mean: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with a step of every kind."""
    from upright import Stack
    from upright.engine.execute import execute

    folder = tmp_path_factory.mktemp("finished")
    data = {
        name: write_rows(folder / f"{name}.jsonl", toy_rows(size, n))
        for n, (name, size) in enumerate({"train": 60, "validation": 40, "test": 80}.items())
    }
    (folder / "stack.yaml").write_text(
        json.dumps(
            {
                "name": "whole",
                "about": {
                    "purpose": "Notes of the unwell are read first.",
                    "decision": "A nurse decides who is seen; about patients.",
                    "criterion": "Equalized odds, because both errors cost the patient.",
                },
                "data": {**data, "sensitive": ["sex"]},
                "clean": ["exact-dup", "unicode", "length"],
                "model": {"base": str(tiny_mean)},
                "prompt": {"use": "template", "text": "note: {text}"},
                "tune": {"use": "lora", "rank": 2},
                "train": {"max_steps": 3, "batch_size": 12},
                "fairness": [
                    {"use": "equalized-odds", "groups": ["sex"]},
                    {"use": "group-audit", "groups": ["sex"], "max_gap": 0.9, "min_rows": 1},
                ],
                "privacy": ["pii", {"use": "dp-sgd", "noise_multiplier": 1.0, "delta": 1e-3}],
                "explain": {"use": "integrated-gradients", "samples": 4},
                "output": str(folder / "runs"),
            }
        )
    )
    return execute(Stack.load(folder / "stack.yaml")).folder


@pytest.fixture
def upright(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """The command line as a process of its own, in ``tmp_path``."""

    def call(*arguments: str | Path, **options: Any) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "upright", *map(str, arguments)],
            capture_output=True,
            text=True,
            cwd=options.pop("cwd", tmp_path),
            env={**os.environ, "COLUMNS": "200", "NO_COLOR": "1", "HF_HUB_OFFLINE": "1", **options.pop("env", {})},
            check=False,
            timeout=240,
            **options,
        )

    return call


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data; tests that need it skip where it is missing."""
    if not DATA.is_dir():
        pytest.skip(f"real data is not at {DATA}; set UPRIGHT_DATA")
    return DATA
