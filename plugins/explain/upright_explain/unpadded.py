"""Rows without padding: an explainer reads each row many times over, so that padding would be paid for as often."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from upright import Batch


def unpadded(batch: Batch) -> Iterator[tuple[Tensor, Batch]]:
    """The rows of equal length together, at their length: their places in the batch (``Long[n]``), and them alone."""
    width = batch.inputs["attention_mask"].shape[1]
    lengths = batch.inputs["attention_mask"].sum(1)
    for length in lengths.unique().tolist():
        places = (lengths == length).nonzero().squeeze(1)
        alike = batch.take(places)
        cut = {name: value[:, :length] if value.shape[1] == width else value for name, value in alike.inputs.items()}
        labels = alike.labels[:, :length] if alike.labels.dim() == 2 else alike.labels
        yield places, dataclasses.replace(alike, inputs=cut, labels=labels)
