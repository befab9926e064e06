"""predictions/<split>.parquet: what the model decided for each row, without text; metrics are derived again from here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from upright.errors import IntegrityError
from upright.evidence.sealing import new_file, opened
from upright.objects import Predictions

if TYPE_CHECKING:
    from upright.run import Run


def write_predictions(run: Run, predictions: Predictions) -> None:
    """Write one split's table; task, split and class names travel in its metadata."""
    import pyarrow.parquet as pq

    about = {"split": predictions.split, "task": predictions.task, "labels": predictions.labels}
    path = run.folder / "predictions" / f"{predictions.split}.parquet"
    path.parent.mkdir(exist_ok=True)
    with new_file(path, run) as draft:
        pq.write_table(
            predictions.table.replace_schema_metadata({"upright": json.dumps(about)}), draft, compression="zstd"
        )


def read_predictions(folder: Path, split: str, run: Run | None = None) -> Predictions:
    """One split's table; ``run`` opens it where it is sealed. Raises IntegrityError where the file cannot be read."""
    import pyarrow.parquet as pq

    path = folder / "predictions" / f"{split}.parquet"
    try:
        with opened(path, run) as plain:
            table = pq.read_table(plain)
        about = json.loads(table.schema.metadata[b"upright"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise IntegrityError(f"{path}: is no predictions file of a run ({error})") from error
    return Predictions(about["split"], about["task"], about["labels"], table)


def predicted_splits(folder: Path) -> list[str]:
    """The splits that have predictions."""
    return sorted(path.stem for path in (folder / "predictions").glob("*.parquet"))
