"""Models of two layers, 16 wide, with random weights, and rows to go with them: made here, so that nothing is downloaded."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

WORDS = {
    "sick": ["fever", "cough", "rash", "pain", "wheeze"],
    "well": ["walk", "smile", "rest", "diet", "sleep"],
    "other": ["patient", "today", "has", "some", "and", "the", "note", "very", "again", "mild"],
}
SIZES = {"train": 40, "validation": 24, "test": 96}
"""Rows of each split; a figure of two groups needs a test split of some size."""
ARCHITECTURES: dict[str, tuple[str, dict[str, Any]]] = {
    "bert": (
        "BertForMaskedLM",
        {
            "hidden_size": 16,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "intermediate_size": 32,
            "max_position_embeddings": 48,
        },
    ),
    "gpt2": ("GPT2LMHeadModel", {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 48}),
    "t5": (
        "T5ForConditionalGeneration",
        {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 2, "decoder_start_token_id": 0},
    ),
}


def tiny_model(architecture: str, folder: Path) -> Path:
    """A model of transformers (``bert``, ``gpt2``, ``t5``) with its tokenizer in ``folder``; the same weights every time."""
    import torch
    import transformers

    name, options = ARCHITECTURES[architecture]
    kind = getattr(transformers, name)
    wide = {"initializer_factor": 4.0} if architecture == "t5" else {"initializer_range": 0.2}
    size = _tokenizer(folder)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = kind.config_class(vocab_size=size, pad_token_id=0, bos_token_id=2, eos_token_id=3, **wide, **options)
        kind(config).save_pretrained(folder)
    return folder


def _tokenizer(folder: Path) -> int:
    """Words and letters, framed by [CLS] and [SEP]; returns the size of the vocabulary."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    letters = [*"abcdefghijklmnopqrstuvwxyz0123456789.,:?!-'@"]
    words = [word for group in WORDS.values() for word in group]
    entries = dict.fromkeys([*special, *words, *letters, *(f"##{letter}" for letter in letters)])
    tokenizer = Tokenizer(models.WordPiece({token: n for n, token in enumerate(entries)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    tokenizer.decoder = decoders.WordPiece()
    names = dict(zip(("pad_token", "unk_token", "cls_token", "sep_token", "mask_token"), special, strict=True))
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, model_max_length=48, eos_token="[SEP]", bos_token="[CLS]", **names
    ).save_pretrained(folder)
    return len(entries)


def toy_rows(task: str, count: int, seed: int) -> list[dict[str, Any]]:
    """Made-up notes. Two classes follow from their words; the sensitive ``sex`` was drawn and follows from nothing.

    Columns by task: ``text``, ``label``; ``tokens``, ``labels``; ``prompt``, ``completion``; each with ``sex`` (f, m).
    """
    chance = random.Random(seed)
    rows: list[dict[str, Any]] = []
    for number in range(count):
        label = ("sick", "well")[number % 2]
        words = [*chance.choices(WORDS[label], k=chance.randint(1, 3))]
        words += chance.choices(WORDS["other"], k=chance.randint(1, 5))
        chance.shuffle(words)
        if task == "text-classification":
            row: dict[str, Any] = {"text": " ".join([*words, str(number)]), "label": label}
        elif task == "token-classification":
            row = {"tokens": words, "labels": ["B-sign" if word in WORDS["sick"] else "O" for word in words]}
        else:
            row = {"prompt": " ".join(words), "completion": f" {label}"}
        rows.append({**row, "sex": chance.choice(["f", "m"])})
    return rows


def dirty_rows(task: str) -> list[dict[str, Any]]:
    """Rows with something to clean: repeats and near repeats, empty and long texts, odd characters, addresses, numbers."""
    texts = [
        "patient has fever",
        "patient has fever",
        "Patient  has fever!",
        "patient has some fever today",
        "",
        "rash",
        "call jane.doe@example.org or 030 1234567",
        "jane.doe@example.org has pain",
        "cafe\u0301 \u200b na\u00efve \ufb01ne",
        "very " * 40,
        "walk and rest",
        "sleep and diet and smile",
        "the the the the the the",
        "&lt;b&gt; mild &amp; again",
        "1234 5678 9012 3456",
        "walk and rest today",
    ]
    found: list[dict[str, Any]] = []
    for number, text in enumerate(texts):
        label = ("sick", "well")[number % 2]
        if task == "text-classification":
            row: dict[str, Any] = {"text": text, "label": label}
        elif task == "token-classification":
            words = text.split() or ["rash"]
            row = {"tokens": words, "labels": ["O"] * len(words)}
        else:
            row = {"prompt": text, "completion": label}
        found.append({"row_id": f"{number:016x}", "unit": number, **row, "sex": ("f", "m")[number // 2 % 2]})
    return found


def toy_files(task: str, folder: Path) -> dict[str, Any]:
    """The ``data`` section of a stack on `toy_rows`."""
    folder.mkdir(parents=True, exist_ok=True)
    files: dict[str, Any] = {}
    for seed, (split, size) in enumerate(SIZES.items()):
        path = folder / f"{split}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in toy_rows(task, size, seed)), encoding="utf-8")
        files[split] = str(path)
    return {**files, "sensitive": ["sex"]}
