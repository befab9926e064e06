"""Files as records: jsonl, csv, parquet, txt, a folder of those, or a dataset of the Hugging Face hub.

Every error is one sentence that names the file and the line or row.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from upright.engine import media
from upright.errors import ConfigError


@dataclass(frozen=True)
class Record:
    """One row of a file and where it stands (``train.jsonl:17``)."""

    values: dict[str, Any]
    where: str


def read(source: str, root: Path, encoding: str, told: str) -> list[Record]:
    """The records of a file, a folder or ``hf:<dataset>[<split>]``. ``told`` says where the stack names it."""
    if source.startswith("hf:"):
        return _hub(source, root, told)
    path = root / Path(source).expanduser()
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if file.suffix in READERS)
        if not files and (found := media.listed(path)):
            return [Record(values, where) for values, where in found]
        if not files:
            raise ConfigError(f"{told}: {path} holds no {', '.join(READERS)} file; name a folder that does")
        return [record for file in files for record in _file(file, encoding, told)]
    if not path.is_file():
        raise ConfigError(f"{told}: there is no file {path}; check the path (it counts from the stack file's folder)")
    return _file(path, encoding, told)


def _file(path: Path, encoding: str, told: str) -> list[Record]:
    reader = READERS.get(path.suffix)
    if reader is None:
        raise ConfigError(f"{told}: {path} is none of {', '.join(READERS)}; convert it to one of them")
    try:
        records = list(reader(path, encoding))
    except OSError as error:
        raise ConfigError(
            f"{told}: {path} cannot be read ({error.strerror or error}); check its permissions"
        ) from error
    if not records:
        raise ConfigError(f"{told}: {path} is empty; name a file with rows")
    return records


def _decoded(path: Path, encoding: str) -> Iterator[tuple[int, str]]:
    """Numbered lines. Raises ConfigError naming line and byte where the encoding does not fit."""
    content = path.read_bytes()
    try:
        text = content.decode("utf-8-sig" if encoding.lower() in ("utf-8", "utf8") else encoding)
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ConfigError(
            f"{path}:{line}: byte {error.start} is not {encoding}; set data.encoding to the file's (latin-1, utf-16, ...)"
        ) from error
    except LookupError as error:
        raise ConfigError(f"data.encoding: there is no encoding {encoding!r}; try utf-8 or latin-1") from error
    yield from enumerate(text.split("\n"), 1)


def _jsonl(path: Path, encoding: str) -> Iterator[Record]:
    for number, line in _decoded(path, encoding):
        if not line.strip():
            continue
        try:
            values = json.loads(line)
        except ValueError as error:
            raise ConfigError(f"{path}:{number}: is not JSON ({error}); mend the line") from error
        if not isinstance(values, dict):
            raise ConfigError(f"{path}:{number}: is no JSON object; every line holds one row as {{...}}")
        yield Record(values, f"{path}:{number}")


def _csv(path: Path, encoding: str) -> Iterator[Record]:
    lines = "\n".join(line for _, line in _decoded(path, encoding))
    if "\0" in lines:
        raise ConfigError(
            f"{path}: holds zero bytes, so it is not {encoding}; set data.encoding to the file's (utf-16?)"
        )
    csv.field_size_limit(2**31 - 1)
    rows = csv.reader(io.StringIO(lines, newline=""), strict=True)  # str.splitlines would split at U+2028 too
    try:
        header = next(rows, None)
        for row in rows:
            if not row:
                continue
            if len(row) != len(header or ()):
                raise ConfigError(
                    f"{path}:{rows.line_num}: has {len(row)} fields where the header has {len(header or ())}; mend the line"
                )
            yield Record(dict(zip(header or (), row, strict=True)), f"{path}:{rows.line_num}")
    except csv.Error as error:
        raise ConfigError(f"{path}:{rows.line_num}: is not CSV ({error}); mend the line") from error


def _txt(path: Path, encoding: str) -> Iterator[Record]:
    for number, line in _decoded(path, encoding):
        if line.strip():
            yield Record({"text": line.rstrip("\r")}, f"{path}:{number}")


def _parquet(path: Path, encoding: str) -> Iterator[Record]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path)
    except (pa.ArrowInvalid, pa.ArrowException) as error:
        raise ConfigError(f"{path}: is no parquet file ({error}); write it again") from error
    for number, values in enumerate(table.to_pylist(), 1):
        yield Record(values, f"{path} row {number}")


def _hub(source: str, root: Path, told: str) -> list[Record]:
    """``hf:<dataset>[<split>]``; the dataset may be a folder. HF_HUB_OFFLINE is obeyed."""
    match = re.fullmatch(r"hf:([^\[\]]+)(?:\[([^\[\]]+)\])?", source)
    if match is None:
        raise ConfigError(f"{told}: {source!r} is not of the form hf:<dataset>[<split>]")
    import datasets

    name, split = match.group(1), match.group(2) or "train"
    folder = root / name
    try:
        rows = datasets.load_dataset(str(folder) if folder.is_dir() else name, split=split)
    except Exception as error:  # datasets raises a dozen kinds; each is a dataset that cannot be had
        reason = str(error).strip().split("\n")[0]
        raise ConfigError(
            f"{told}: {source} cannot be loaded ({reason}); check the name, the split and the network"
        ) from error
    rows = media.undecoded(rows)
    for column, feature in rows.features.items():
        if isinstance(feature, datasets.ClassLabel):
            names = feature.names
            rows = rows.cast_column(column, datasets.Value("int64"))
            rows = rows.map(_named(column, names), features=_with_text(rows.features, column))
        inner = getattr(feature, "feature", None)
        if isinstance(inner, datasets.ClassLabel):
            records = [{**row, column: [inner.names[code] for code in row[column]]} for row in rows]
            return [Record(values, f"{source} row {number}") for number, values in enumerate(records, 1)]
    return [Record(dict(values), f"{source} row {number}") for number, values in enumerate(rows, 1)]


def _named(column: str, names: list[str]) -> Callable[[dict[str, Any]], dict[str, Any]]:
    def name(row: dict[str, Any]) -> dict[str, Any]:
        return {column: names[row[column]] if row[column] is not None and row[column] >= 0 else None}

    return name


def _with_text(features: Any, column: str) -> Any:
    import datasets

    return datasets.Features({**features, column: datasets.Value("string")})


READERS: dict[str, Callable[[Path, str], Iterator[Record]]] = {
    ".jsonl": _jsonl,
    ".csv": _csv,
    ".parquet": _parquet,
    ".txt": _txt,
}
