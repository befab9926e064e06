"""predictions/<split>.parquet: what the model decided for each row, without text; metrics are derived again from here."""

from __future__ import annotations

import io
import json
from pathlib import Path

from upright.errors import IntegrityError
from upright.evidence.files import write_atomic
from upright.objects import Predictions


def write_predictions(folder: Path, predictions: Predictions) -> None:
    """Write one split's table; task, split and class names travel in its metadata."""
    import pyarrow.parquet as pq

    about = {"split": predictions.split, "task": predictions.task, "labels": predictions.labels}
    buffer = io.BytesIO()
    pq.write_table(
        predictions.table.replace_schema_metadata({"upright": json.dumps(about)}), buffer, compression="zstd"
    )
    path = folder / "predictions" / f"{predictions.split}.parquet"
    path.parent.mkdir(exist_ok=True)
    write_atomic(path, buffer.getvalue())


def read_predictions(folder: Path, split: str) -> Predictions:
    """Raises IntegrityError where the file cannot be read."""
    import pyarrow.parquet as pq

    path = folder / "predictions" / f"{split}.parquet"
    try:
        table = pq.read_table(path)
        about = json.loads(table.schema.metadata[b"upright"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise IntegrityError(f"{path}: is no predictions file of a run ({error})") from error
    return Predictions(about["split"], about["task"], about["labels"], table)


def predicted_splits(folder: Path) -> list[str]:
    """The splits that have predictions."""
    return sorted(path.stem for path in (folder / "predictions").glob("*.parquet"))
