"""Files as records: jsonl, csv, parquet, txt, a folder of those, or a dataset of the Hugging Face hub.

Every error is one sentence that names the file and the line or row.
"""

from __future__ import annotations

import codecs
import csv
import itertools
import json
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from upright.engine import media
from upright.errors import ConfigError

ROWS = 4096
"""Rows of a parquet file that are in memory at a time."""


@dataclass(frozen=True, slots=True)
class Record:
    """One row of a file and where it stands (``train.jsonl:17``)."""

    values: dict[str, Any]
    where: str


def read(source: str, root: Path, encoding: str, told: str, longest: int = sys.maxsize) -> Iterator[Record]:
    """The records of a file, a folder or ``hf:<dataset>[<split>]``, one after the other.

    ``told`` says where the stack names it; a cell of more than ``longest`` characters may be refused before it is
    parsed. A file is read as its records are asked for: memory does not grow with it.
    """
    if source.startswith("hf:"):
        yield from _hub(source, root, told)
        return
    path = root / Path(source).expanduser()
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if file.suffix in READERS)
        if not files and (found := media.listed(path)):
            yield from (Record(values, where) for values, where in found)
            return
        if not files:
            raise ConfigError(f"{told}: {path} holds no {', '.join(READERS)} file; name a folder that does")
    elif path.is_file():
        files = [path]
    else:
        raise ConfigError(f"{told}: there is no file {path}; check the path (it counts from the stack file's folder)")
    for file in files:
        yield from _file(file, encoding, told, longest)


def _file(path: Path, encoding: str, told: str, longest: int) -> Iterator[Record]:
    reader = READERS.get(path.suffix)
    if reader is None:
        raise ConfigError(f"{told}: {path} is none of {', '.join(READERS)}; convert it to one of them")
    empty = True
    try:
        for record in reader(path, encoding, longest):
            empty = False
            yield record
    except OSError as error:
        raise ConfigError(
            f"{told}: {path} cannot be read ({error.strerror or error}); check its permissions"
        ) from error
    if empty:
        raise ConfigError(f"{told}: {path} is empty; name a file with rows")


def _lines(path: Path, encoding: str, longest: int = sys.maxsize) -> Iterator[tuple[int, str]]:
    """Numbered lines, split at line feeds alone, without them.

    Raises ConfigError naming line and byte where the encoding does not fit, and the line that is over ``longest``.
    """
    name = "utf-8-sig" if encoding.lower() in ("utf-8", "utf8") else encoding
    try:
        with path.open(encoding=name, newline="\n") as lines:
            for number in itertools.count(1):
                line = lines.readline(min(longest, sys.maxsize - 1) + 1)
                if not line:
                    return
                if len(line) > longest:
                    raise ConfigError(
                        f"{path}:{number}: holds over {longest:,} characters, far over data.max_characters; split the "
                        "text, remove the row or raise the limit"
                    )
                yield number, line.removesuffix("\n")
    except UnicodeDecodeError as error:
        raise _misread(path, encoding, name) from error
    except LookupError as error:
        raise ConfigError(f"data.encoding: there is no encoding {encoding!r}; try utf-8 or latin-1") from error


def _misread(path: Path, encoding: str, name: str) -> ConfigError:
    """Where a file is not in its encoding: a second look, since a decoder that reads on counts from its own buffer."""
    decoder, place, line = codecs.getincrementaldecoder(name)(), 0, 1
    with path.open("rb") as content:
        while piece := content.read(1 << 20):
            kept = len(decoder.getstate()[0])
            try:
                decoder.decode(piece)
            except UnicodeDecodeError as error:
                inside = error.start - kept
                place, line = place + inside, line + piece.count(b"\n", 0, max(inside, 0))
                break
            place, line = place + len(piece), line + piece.count(b"\n")
    return ConfigError(
        f"{path}:{line}: byte {place} is not {encoding}; set data.encoding to the file's (latin-1, utf-16, ...)"
    )


def _jsonl(path: Path, encoding: str, longest: int) -> Iterator[Record]:
    for number, line in _lines(path, encoding, _escaped(longest)):
        if not line.strip():
            continue
        try:
            values = json.loads(line)
        except ValueError as error:
            raise ConfigError(f"{path}:{number}: is not JSON ({error}); mend the line") from error
        if not isinstance(values, dict):
            raise ConfigError(f"{path}:{number}: is no JSON object; every line holds one row as {{...}}")
        yield Record(values, f"{path}:{number}")


def _escaped(longest: int) -> int:
    """A line's bound that no row of allowed cells reaches: every character escaped, several columns."""
    return max(16 * longest, 1 << 26)


def _csv(path: Path, encoding: str, longest: int) -> Iterator[Record]:
    csv.field_size_limit(min(_escaped(longest), 2**31 - 1))
    rows = csv.reader(_whole_lines(path, encoding), strict=True)
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


def _whole_lines(path: Path, encoding: str) -> Iterator[str]:
    """Lines with their ends, as csv wants them; str.splitlines would split at U+2028 too."""
    for _, line in _lines(path, encoding):
        if "\0" in line:
            raise ConfigError(
                f"{path}: holds zero bytes, so it is not {encoding}; set data.encoding to the file's (utf-16?)"
            )
        yield line + "\n"


def _txt(path: Path, encoding: str, longest: int) -> Iterator[Record]:
    for number, line in _lines(path, encoding, _escaped(longest)):
        if line.strip():
            yield Record({"text": line.rstrip("\r")}, f"{path}:{number}")


def _parquet(path: Path, encoding: str, longest: int) -> Iterator[Record]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        numbers = itertools.count(1)
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=ROWS):
                for values in batch.to_pylist():
                    yield Record(values, f"{path} row {next(numbers)}")
    except (pa.ArrowInvalid, pa.ArrowException) as error:
        raise ConfigError(f"{path}: is no parquet file ({error}); write it again") from error


def _hub(source: str, root: Path, told: str) -> Iterator[Record]:
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
            for number, row in enumerate(rows, 1):
                yield Record({**row, column: [inner.names[code] for code in row[column]]}, f"{source} row {number}")
            return
    for number, values in enumerate(rows, 1):
        yield Record(dict(values), f"{source} row {number}")


def _named(column: str, names: list[str]) -> Callable[[dict[str, Any]], dict[str, Any]]:
    def name(row: dict[str, Any]) -> dict[str, Any]:
        return {column: names[row[column]] if row[column] is not None and row[column] >= 0 else None}

    return name


def _with_text(features: Any, column: str) -> Any:
    import datasets

    return datasets.Features({**features, column: datasets.Value("string")})


READERS: dict[str, Callable[[Path, str, int], Iterator[Record]]] = {
    ".jsonl": _jsonl,
    ".csv": _csv,
    ".parquet": _parquet,
    ".txt": _txt,
}
