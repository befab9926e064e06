"""What the steps on images and sounds share: the column's values, and why one cannot be read."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from upright.errors import ConfigError, PluginError

if TYPE_CHECKING:
    from datasets import Dataset

    from upright import Run, Step


class Unreadable(Exception):
    """A file that cannot be used; ``reason`` is the code that a decision gives."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def needs(step: Step, run: Run, *modules: str) -> None:
    """Raises PluginError where a module of the extra is not installed."""
    for name in modules:
        try:
            importlib.import_module(name)
        except (ImportError, OSError) as error:  # OSError: soundfile without libsndfile
            placed = run.stack.placed(step)
            raise PluginError(
                f"{placed.where}  {placed} needs {name.partition('.')[0]} ({error}); pip install 'upright-clean[media]'"
            ) from error


def files(rows: Dataset, column: str, step: Step, run: Run) -> Iterator[tuple[str, dict[str, Any] | None]]:
    """(row_id, ``{"bytes", "path"}`` or None) of each row, one at a time. Raises ConfigError where the column is missing."""
    if column not in rows.column_names:
        placed = run.stack.placed(step)
        raise ConfigError(
            f"{placed.where}  {placed} cleans the column `{column}`, and data.columns names none "
            f"({run.stack.where('data', 'columns')}); map `{column}` to a column of the file, or remove the step"
        )
    narrow = rows.select_columns(["row_id", column])
    for row in narrow:
        yield row["row_id"], row[column]


def data(value: dict[str, Any] | None) -> bytes:
    """The file's bytes. Raises Unreadable where there are none."""
    if value is None:
        raise Unreadable("no-file")
    if not value["bytes"]:
        raise Unreadable("empty-file")
    found: bytes = value["bytes"]
    return found


def renamed(value: dict[str, Any], suffix: str) -> str | None:
    """The file's name with the suffix of what it now is; None where it had none."""
    name: str | None = value["path"]
    if name is None or name.lower().endswith(suffix):
        return name
    stem = name.rpartition(".")[0] or name
    return stem + suffix
