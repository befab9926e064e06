"""text2text-generation: an encoder reads the prompt, a decoder is scored on the completion."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor
from torch.nn import functional

from upright.engine.tasks import widened
from upright.objects import Batch, Output

if TYPE_CHECKING:
    from upright.run import Run

name = "text2text-generation"
primary = "perplexity"
IGNORED = -100


def read_labels(run: Run) -> list[str]:
    """Texts have no classes."""
    return []


def encode(records: list[dict[str, Any]], run: Run) -> tuple[list[dict[str, list[int]]], list[list[int]]]:
    """``prompt`` for the encoder, ``completion`` and the end-of-text token for the decoder, each cut at its end.

    ``decoder_input_ids`` are the completion shifted right behind the model's start token, as transformers makes them.
    """
    config: Any = run.model.config
    start = config.decoder_start_token_id if config.decoder_start_token_id is not None else config.pad_token_id
    end = [] if run.tokenizer.eos_token_id is None else [run.tokenizer.eos_token_id]
    features, labels = [], []
    for record in records:
        prompt = run.tokenizer(record["prompt"], truncation=True, max_length=run.max_length)["input_ids"]
        scored = run.tokenizer(record["completion"], add_special_tokens=False)["input_ids"]
        scored = [*scored[: run.max_length - len(end)], *end]
        features.append(
            {"input_ids": prompt, "attention_mask": [1] * len(prompt), "decoder_input_ids": [start, *scored[:-1]]}
        )
        labels.append(scored)
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
    """Cross-entropy of each token ``[R, T]`` (0 where ignored) and their number ``[R]``."""
    losses = functional.cross_entropy(
        widened(output.logits).transpose(1, 2), batch.labels, ignore_index=IGNORED, reduction="none"
    )
    return losses, (batch.labels != IGNORED).sum(1)
