"""Rows as tensors: prompts rendered and tokens made once per split, then padded batches of similar length."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from upright.objects import Batch

if TYPE_CHECKING:
    from datasets import Dataset

    from upright.run import Run

IGNORED = -100


@dataclass(frozen=True)
class Encoded:
    """Rows as the model sees them: records before and after ``prompt``, token lists, labels, and whose each row is."""

    given: list[dict[str, Any]]
    records: list[dict[str, Any]]
    features: list[dict[str, list[int]]]
    labels: list[Any]
    lengths: np.ndarray
    unit: Tensor
    groups: dict[str, Tensor]


def encode(run: Run, split: str) -> Encoded:
    """The split's encoding, made on first use: ``prompt`` hooks, then the task's tokens."""
    if split not in run.encoded:
        run.encoded[split] = _of_rows(run, run.data[split])
    encoded: Encoded = run.encoded[split]
    return encoded


def batches_of(run: Run, records: Sequence[dict[str, Any]]) -> Iterator[Batch]:
    """Records of no split as batches; ``rows`` are places in ``records``, every group is missing."""
    nobody = torch.full((len(records),), -1, dtype=torch.long)
    groups = dict.fromkeys(run.config.data.sensitive, nobody)
    made = _encoded(run, [dict(record) for record in records], torch.arange(len(records)), groups)
    with _for_now(run, made) as split:
        yield from batches(run, range(len(records)), split)


@contextmanager
def given(run: Run, rows: Dataset) -> Iterator[str]:
    """The name of a split that ``rows`` are while the block lasts."""
    with _for_now(run, _of_rows(run, rows)) as split:
        yield split


@contextmanager
def _for_now(run: Run, made: Encoded) -> Iterator[str]:
    split = f"given-{len(run.encoded)}"
    run.encoded[split] = made
    try:
        yield split
    finally:
        del run.encoded[split]


def _of_rows(run: Run, rows: Dataset) -> Encoded:
    hidden = {"row_id", "unit", *run.config.data.sensitive}
    seen = rows.remove_columns([name for name in rows.column_names if name in hidden])
    unit = torch.tensor(rows["unit"][:], dtype=torch.long)
    groups = {column: _codes(run, rows, column) for column in run.config.data.sensitive}
    return _encoded(run, [dict(record) for record in seen], unit, groups)


def _encoded(run: Run, given: list[dict[str, Any]], unit: Tensor, groups: dict[str, Tensor]) -> Encoded:
    records = given
    if run.calls.answers("prompt"):
        records = [{**record, **run.calls.prompt(dict(record), run)} for record in given]
    features, labels = run.task.encode(records, run)
    lengths: np.ndarray = np.array([len(feature["input_ids"]) for feature in features], dtype=np.int64)
    return Encoded(given, records, features, labels, lengths, unit, groups)


def batches(run: Run, rows: Sequence[int], split: str, size: int | None = None) -> Iterator[Batch]:
    """The rows as batches of ``size`` (default: micro_batch_size), sorted by length so that little is padding."""
    size = size or run.config.train.micro_batch_size
    lengths = encode(run, split).lengths
    order = sorted(rows, key=lengths.__getitem__) if len(rows) > size else rows
    for start in range(0, len(order), size):
        yield collate(run, order[start : start + size], split)


def collate(run: Run, rows: Sequence[int], split: str) -> Batch:
    """One batch on the run's device; of no rows, one with R = 0 and T = 1."""
    encoded = encode(run, split)
    width = _width([encoded.features[row]["input_ids"] for row in rows], run)
    names = encoded.features[0].keys()
    filler = {"input_ids": run.tokenizer.pad_token_id or 0}
    decoder = "decoder_input_ids" in names  # then it, and the labels, have a length of their own
    scored = _width([encoded.labels[row] for row in rows], run) if decoder else width
    filler["decoder_input_ids"] = filler["input_ids"]
    inputs = {
        name: _padded(
            [encoded.features[row][name] for row in rows],
            scored if name.startswith("decoder_") else width,
            filler.get(name, 0),
        )
        for name in names
    }
    if "attention_mask" not in inputs:
        inputs["attention_mask"] = _padded([[1] * int(encoded.lengths[row]) for row in rows], width, 0)
    if encoded.labels and isinstance(encoded.labels[0], list):
        labels = _padded([encoded.labels[row] for row in rows], scored, IGNORED)
    else:
        labels = torch.tensor([encoded.labels[row] for row in rows], dtype=torch.long)
    numbers = torch.tensor(rows, dtype=torch.long)
    groups = {column: codes[numbers] for column, codes in encoded.groups.items()}
    batch = Batch(inputs, labels, numbers, encoded.unit[numbers], groups, split)
    return batch if run.device.type == "cpu" else batch.to(run.device)


def _width(rows: list[list[int]], run: Run) -> int:
    """The longest row's length; on a GPU the next multiple of 8, which its kernels are made for."""
    width = max(map(len, rows), default=1)
    return -(-width // 8) * 8 if run.device.type == "cuda" else width


def _padded(rows: list[list[int]], width: int, filler: int) -> Tensor:
    table: np.ndarray = np.full((len(rows), width), filler, dtype=np.int64)
    for place, row in enumerate(rows):
        table[place, : len(row)] = row
    return torch.from_numpy(table)


def _codes(run: Run, rows: Any, column: str) -> Tensor:
    codes = {value: code for code, value in enumerate(run.group_values[column])}
    return torch.tensor([codes.get(value, -1) for value in rows[column][:]], dtype=torch.long)
