"""What long benchmarks on a frozen base keep, so that they can be stopped and gone on with: features and figures."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch


class Memory:
    """What the frozen base makes of each text, for all runs of this command: nothing else enters it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.texts: dict[bytes, torch.Tensor] = torch.load(path) if path.is_file() else {}
        self.kept = len(self.texts)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """While it is, BertModel looks texts up instead of reading them again."""
        from transformers import BertModel
        from transformers.modeling_outputs import BaseModelOutputWithPoolingAndCrossAttentions as Read

        plain, texts = BertModel.forward, self.texts

        def forward(base: Any, input_ids: torch.Tensor, attention_mask: torch.Tensor, **rest: Any) -> Any:
            lengths = attention_mask.sum(1).tolist()
            keys = [ids[:n].numpy().tobytes() for ids, n in zip(input_ids, lengths, strict=True)]
            new = [n for n, key in enumerate(keys) if key not in texts]
            if new:
                base.eval()
                with torch.no_grad():
                    read = plain(
                        base, input_ids[new], attention_mask[new], token_type_ids=rest.get("token_type_ids")[new]
                    )
                for n, hidden in zip(new, read.last_hidden_state, strict=True):
                    texts[keys[n]] = hidden[: lengths[n]].clone()
            hidden = torch.zeros(len(keys), input_ids.shape[1], base.config.hidden_size)
            for n, key in enumerate(keys):
                hidden[n, : lengths[n]] = texts[key]
            return Read(last_hidden_state=hidden)

        BertModel.forward = forward
        try:
            yield
        finally:
            BertModel.forward = plain
            if len(texts) > self.kept:
                torch.save(texts, self.path)
                self.kept = len(texts)


class Kept:
    """What was measured, by what was asked: a long command goes on where it was stopped."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / "figures.jsonl"
        lines = self.path.read_text().splitlines() if self.path.is_file() else []
        self.found: dict[str, dict[str, Any]] = dict(map(json.loads, lines))

    def of(self, key: str, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """The figures of ``key``."""
        if key not in self.found:
            self.found[key] = make()
            with self.path.open("a") as out:
                out.write(json.dumps([key, self.found[key]]) + "\n")
        return self.found[key]
