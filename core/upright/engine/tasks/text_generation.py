"""text-generation: a causal language model; the tokens of a prompt are given, not scored."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor
from torch.nn import functional

from upright.engine.tasks import widened
from upright.objects import Batch, Output

if TYPE_CHECKING:
    from upright.run import Run

name = "text-generation"
primary = "perplexity"
IGNORED = -100


def read_labels(run: Run) -> list[str]:
    """A language model has no classes."""
    return []


def encode(records: list[dict[str, Any]], run: Run) -> tuple[list[dict[str, list[int]]], list[list[int]]]:
    """``text``, or ``prompt`` and ``completion``, ended by the end-of-text token.

    Too long: a prompt loses its beginning, so that the completion survives; what remains is cut at its end.
    """
    features, labels = [], []
    end = [] if run.tokenizer.eos_token_id is None else [run.tokenizer.eos_token_id]
    for record in records:
        if "completion" in record:
            prompt = run.tokenizer(record["prompt"])["input_ids"]
            prompt = prompt[:-1] if end and prompt[-1:] == end else prompt
            scored = run.tokenizer(record["completion"], add_special_tokens=False)["input_ids"] + end
            scored = scored[: run.max_length]
            prompt = prompt[max(0, len(prompt) + len(scored) - run.max_length) :]
        else:
            prompt, scored = [], run.tokenizer(record["text"])["input_ids"]
            scored = (scored if scored[-1:] == end else scored + end)[: run.max_length]
        ids = prompt + scored
        features.append({"input_ids": ids, "attention_mask": [1] * len(ids)})
        labels.append([IGNORED] * len(prompt) + scored)
    return features, labels


def objective(batch: Batch, output: Output) -> Tensor:
    """Mean cross-entropy over each row's own scored tokens, ``[R]``; 0 for a row without any."""
    losses, scored = _token_losses(batch, output)
    return losses.sum(1) / scored.clamp(min=1)


def predict(batch: Batch, output: Output, run: Run) -> dict[str, list[Any]]:
    """Summed log-likelihood and number of scored tokens."""
    losses, scored = _token_losses(batch, output)
    return {"log_likelihood": (-losses.double().sum(1)).tolist(), "tokens": scored.tolist()}


def _token_losses(batch: Batch, output: Output) -> tuple[Tensor, Tensor]:
    """Cross-entropy of each next token ``[R, T-1]`` (0 where ignored) and their number ``[R]``."""
    following = batch.labels[:, 1:]
    logits = widened(output.logits[:, :-1]).transpose(1, 2)
    losses = functional.cross_entropy(logits, following, ignore_index=IGNORED, reduction="none")
    return losses, (following != IGNORED).sum(1)
