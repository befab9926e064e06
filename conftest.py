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

ROOT = Path(__file__).parent
os.environ["HF_HUB_OFFLINE"] = "1"  # once installed, the tests need no network

DATA = Path(os.environ.get("UPRIGHT_DATA", ROOT.parent / "shared" / "data"))
MODELS = Path(os.environ.get("UPRIGHT_MODELS", ROOT.parent / "shared" / "models"))
WORDS = {
    "sick": ["fever", "cough", "rash", "pain", "wheeze"],
    "well": ["walk", "smile", "rest", "diet", "sleep"],
    "other": ["patient", "today", "has", "some", "and", "the", "note", "very", "again", "mild"],
}


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


def _tokenizer(folder: Path) -> int:
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    letters = [*"abcdefghijklmnopqrstuvwxyz0123456789.,:?!-'"]
    words = [word for group in WORDS.values() for word in group]
    entries = dict.fromkeys([*special, *words, *letters, *(f"##{letter}" for letter in letters)])
    vocabulary = {token: number for number, token in enumerate(entries)}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    tokenizer.decoder = decoders.WordPiece()
    names = dict(zip(("pad_token", "unk_token", "cls_token", "sep_token", "mask_token"), special, strict=True))
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, model_max_length=32, eos_token="[SEP]", bos_token="[CLS]", **names
    ).save_pretrained(folder)
    return len(vocabulary)


@pytest.fixture(scope="session")
def tiny_bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT of two layers, 16 wide, random weights, 32 positions."""
    import torch
    from transformers import BertConfig, BertModel

    folder = tmp_path_factory.mktemp("tiny-bert")
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=_tokenizer(folder),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=32,
    )
    BertModel(config).save_pretrained(folder)
    return folder


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
def tiny_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama of two layers, 16 wide, random weights."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("tiny-llama")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=_tokenizer(folder),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=32,
        pad_token_id=0,
        bos_token_id=2,
        eos_token_id=3,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


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
