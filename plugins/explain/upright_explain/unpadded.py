"""Batches without padding: an explainer reads each row many times over, so that padding would be paid for as often."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from upright import Batch


def unpadded(batches: Iterable[Batch]) -> Iterator[Batch]:
    """The rows of ``batches``, those of a batch that are of equal length together, at their true length."""
    for batch in batches:
        width = batch.inputs["attention_mask"].shape[1]
        lengths = batch.inputs["attention_mask"].sum(1)
        for length in lengths.unique().tolist():
            alike = batch.take(lengths == length)
            cut = {
                name: value[:, :length] if value.shape[1] == width else value for name, value in alike.inputs.items()
            }
            labels = alike.labels[:, :length] if alike.labels.dim() == 2 else alike.labels
            yield dataclasses.replace(alike, inputs=cut, labels=labels)
