"""Predictions of a split: the forward pass that training uses, in eval mode."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

from upright.engine.batches import batches, given
from upright.errors import UprightError
from upright.objects import Predictions

if TYPE_CHECKING:
    from datasets import Dataset

    from upright.run import Run


def predict(run: Run, split: str) -> Predictions:
    """What the model, thresholds included, decides for every row of ``split``, in the split's order."""
    return _predicted(run, run.data[split], split)


def predict_rows(run: Run, rows: Dataset) -> Predictions:
    """The same for rows that are in no split."""
    with given(run, rows) as split:
        return _predicted(run, rows, split)


@contextmanager
def evaluating(run: Run) -> Iterator[None]:
    """The model in eval mode and without gradients; every module is as before after the block."""
    modes = {module: module.training for module in run.model.modules()}
    run.model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, training in modes.items():
            module.training = training


def _predicted(run: Run, rows: Dataset, split: str) -> Predictions:
    import pyarrow as pa

    order: list[int] = []
    columns: dict[str, list[Any]] = {}
    with evaluating(run):
        for batch in batches(run, range(len(rows)), split, 2 * run.config.train.micro_batch_size):
            predicted = run.task.predict(batch, run.forward(batch), run)
            order += batch.rows.tolist()
            for name, values in predicted.items():
                columns.setdefault(name, []).extend(values)
    _finite(columns, split)
    place = sorted(range(len(order)), key=order.__getitem__)
    arrays: dict[str, Any] = {
        "row_id": pa.array(rows["row_id"][:], pa.string()),
        "unit": pa.array(rows["unit"][:], pa.int64()),
    }
    for name, values in columns.items():
        arrays[name] = _narrow(pa.array([values[n] for n in place]), name)
    for column in run.config.data.sensitive:
        arrays[f"group/{column}"] = pa.array(rows[column][:], pa.string())
    return Predictions(split, run.config.model.task, run.labels, pa.table(arrays))


def _finite(columns: dict[str, list[Any]], split: str) -> None:
    """Raise UprightError where the model says NaN or infinity: an argmax over it would be a decision all the same."""
    import numpy as np

    for name in columns.keys() & {"scores", "log_likelihood"}:
        for value in columns[name]:
            if not np.isfinite(value).all():
                raise UprightError(
                    f"{split}: the model's {name.replace('_', ' ')} are not finite, so nothing follows from them; lower "
                    "train.learning_rate or use train.precision: fp32"
                )


def _narrow(array: Any, name: str) -> Any:
    """Class numbers and token counts as int32, as `Predictions` says."""
    import pyarrow as pa

    if name in ("label", "decision", "tokens"):
        return array.cast(pa.list_(pa.int32()) if pa.types.is_list(array.type) else pa.int32())
    return array
