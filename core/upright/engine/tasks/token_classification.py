"""token-classification: one class for each word; a word's first sub-token carries it, the others are ignored."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional

from upright.engine.tasks import sorted_labels, widened
from upright.objects import Batch, Output

if TYPE_CHECKING:
    from upright.run import Run

name = "token-classification"
primary = "span_f1"
IGNORED = -100


def read_labels(run: Run) -> list[str]:
    """The tags of train; without train, of every split."""
    splits = [run.data["train"]] if "train" in run.data else list(run.data.values())
    return sorted_labels({tag for rows in splits for tags in rows["labels"] for tag in tags})


def encode(records: list[dict[str, Any]], run: Run) -> tuple[list[dict[str, list[int]]], list[list[int]]]:
    """Words as sub-tokens, cut at ``run.max_length``."""
    encoded = _tokenized([record["tokens"] for record in records], run)
    numbers = {tag: code for code, tag in enumerate(run.labels)}
    features, labels = [], []
    for n, record in enumerate(records):
        features.append({key: encoded[key][n] for key in encoded})
        row, last = [], None
        for word in encoded.word_ids(n):
            first = word is not None and word != last
            row.append(numbers.get(record["labels"][word], IGNORED) if first else IGNORED)
            last = word
        labels.append(row)
    return features, labels


def _tokenized(rows: list[list[str]], run: Run) -> Any:
    """Every word has a sub-token: one that the tokenizer leaves nothing of stands as the unknown token.

    Else the decisions of a row would be counted from a wrong place after it.
    """
    options = {"is_split_into_words": True, "truncation": True, "max_length": run.max_length}
    encoded = run.tokenizer(rows, **options)
    odd = False
    whole = []
    for n, words in enumerate(rows):
        there = {word for word in encoded.word_ids(n) if word is not None}
        lost = set(range(max(there, default=-1) + 1)) - there
        if not there:
            lost = set(range(len(words)))
        odd = odd or bool(lost)
        whole.append([run.tokenizer.unk_token if place in lost else word for place, word in enumerate(words)])
    return run.tokenizer(whole, **options) if odd else encoded


def objective(batch: Batch, output: Output) -> Tensor:
    """Mean cross-entropy over each row's own words, ``[R]``; 0 for a row without any."""
    losses = functional.cross_entropy(
        widened(output.logits).transpose(1, 2), batch.labels, ignore_index=IGNORED, reduction="none"
    )
    return losses.sum(1) / (batch.labels != IGNORED).sum(1).clamp(min=1)


def predict(batch: Batch, output: Output, run: Run) -> dict[str, list[Any]]:
    """Lists over the row's words; a word that was cut off counts as ``O`` (or the first class), with scores of 0."""
    scores = torch.softmax(output.logits.double(), dim=-1).cpu()
    labels = batch.labels.cpu()
    outside = run.labels.index("O") if "O" in run.labels else 0
    numbers = {tag: code for code, tag in enumerate(run.labels)}
    columns: dict[str, list[Any]] = {"label": [], "scores": [], "decision": []}
    tags = run.data[batch.split].select_columns("labels")
    for place, row in enumerate(batch.rows.tolist()):
        mine = scores[place][labels[place] != IGNORED]
        true = [numbers[tag] for tag in tags[row]["labels"]]
        missing = len(true) - len(mine)
        columns["label"].append(true)
        columns["scores"].append([*mine.tolist(), *[[0.0] * len(run.labels)] * missing])
        columns["decision"].append([*mine.argmax(-1).tolist(), *[outside] * missing])
    return columns
