"""What a language model writes after a row's prompt, through the run's own forward pass."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from datasets import Dataset
    from torch import Tensor
    from torch.nn import Module

    from upright import Batch, Run

IGNORED = -100


def prompt_of(batch: Batch) -> Tensor:
    """The prompt's tokens ``[P]`` of a batch of one row: those before the first that is scored."""
    scored = (batch.labels[0] != IGNORED).nonzero()
    ids: Tensor = batch.inputs["input_ids"][0]
    return ids[: int(scored[0])] if len(scored) else ids[: int(batch.inputs["attention_mask"][0].sum())]


def blank_of(run: Run) -> int:
    """The token that stands for no word."""
    tokenizer: Any = run.tokenizer
    known = (tokenizer.pad_token_id, tokenizer.unk_token_id, tokenizer.eos_token_id, 0)
    return next(int(token) for token in known if token is not None)


def causal(batch: Batch, run: Run) -> Module:
    """A module that reads token ids ``[R, T]`` as the run's model does, in the place of the batch's one row."""
    import torch

    class Causal(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.device = run.device
            self.embedding = run.model.get_input_embeddings()

        def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> SimpleNamespace:
            many = batch.take(torch.zeros(len(input_ids), dtype=torch.long, device=input_ids.device))
            inputs = {"input_ids": input_ids, "attention_mask": torch.ones_like(input_ids)}
            given = replace(many, inputs=inputs, labels=torch.full_like(input_ids, IGNORED))
            logits = run.forward(given).logits
            return SimpleNamespace(logits=logits.to(torch.promote_types(logits.dtype, torch.float32)))

    return Causal()


def greedy(model: Module, prompt: Tensor, max_new_tokens: int, run: Run) -> Tensor:
    """The likeliest token after token ``[A]``, until the end-of-text token or the end of the model's window."""
    import torch

    ids = prompt
    with torch.no_grad():
        for _ in range(min(max_new_tokens, run.max_length - len(prompt))):
            token = model(ids.unsqueeze(0)).logits[0, -1].argmax()
            ids = torch.cat([ids, token.view(1)])
            if int(token) == run.tokenizer.eos_token_id:
                break
    return ids[len(prompt) :]


def masked(text: str, row: Dataset, split: str, run: Run) -> str:
    """What a model wrote as the run's row-local cleaners leave ``row`` with it: what they replace in data is not shown."""
    for placed in run.stack.answering("clean"):
        if placed.step.scope.row_local:
            written = row.from_list([{**row[0], "completion": text}], features=row.features)
            decisions = run.calls.clean(placed.step, written, split, run)
            for one in decisions.rows if decisions else []:
                if one["action"] == "edit":
                    text = one["values"].get("completion", text)
    return text
