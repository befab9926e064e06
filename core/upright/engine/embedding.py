"""The untuned base as an encoder: embeddings of texts, past any prompt."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.nn import Module

from upright.engine.base import load_tokenizer, window
from upright.engine.heads import mean_pool
from upright.engine.source import resolve

if TYPE_CHECKING:
    from collections.abc import Sequence

    from datasets import Dataset

    from upright.run import Run


def load_encoder(run: Run) -> Module:
    """The base without a head, for embeddings; on the run's device, in eval mode, frozen."""
    from transformers import AutoModel

    source = resolve(run)
    if run.tokenizer is None:
        run.tokenizer = load_tokenizer(source)
    encoder: Any = AutoModel.from_pretrained(source.location, revision=source.revision or "main", use_safetensors=True)
    if not run.max_length:
        run.max_length = window(run, source, encoder.config)
    module: Module = encoder.to(run.device).eval().requires_grad_(False)
    return module


def embed(run: Run, rows: Sequence[str] | Dataset) -> np.ndarray:
    """Mean-pooled embeddings of unit norm, ``[N, D]`` float32, in batches of similar length."""
    texts = [row if isinstance(row, str) else _text(row) for row in rows]
    encoder: Any = run.base
    order = sorted(range(len(texts)), key=lambda n: len(texts[n]))
    width = int(encoder.config.hidden_size)
    if encoder.config.is_encoder_decoder:
        encoder = encoder.get_encoder()
    result = np.zeros((len(texts), width), dtype=np.float32)
    for start in range(0, len(order), 64):
        chosen = order[start : start + 64]
        inputs = run.tokenizer(
            [texts[n] for n in chosen], padding=True, truncation=True, max_length=run.max_length, return_tensors="pt"
        ).to(run.device)
        with torch.inference_mode():
            pooled = mean_pool(encoder(**inputs).last_hidden_state, inputs["attention_mask"])
        result[chosen] = torch.nn.functional.normalize(pooled.float(), dim=-1).cpu().numpy()
    return result


def _text(row: dict[str, Any]) -> str:
    parts = row.get("tokens") or [row.get(name) for name in ("text", "text_pair", "prompt", "completion")]
    return " ".join(part for part in parts if part)
