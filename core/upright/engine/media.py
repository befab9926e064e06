"""Images and sounds as columns: what a record may say of one, and the `datasets` column that it becomes.

A column that the stack maps to `image` or `audio` holds the file's bytes, undecoded: ``{"bytes": bytes, "path": name}``.
Nothing here decodes; a file that is no image is a cleaner's finding, not an error.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from upright.errors import ConfigError

if TYPE_CHECKING:
    import pyarrow as pa
    from datasets import Dataset

MEDIA = ("image", "audio")
"""Our columns that hold a file."""
SUFFIXES = frozenset(
    ".avif .bmp .gif .jp2 .jpeg .jpg .png .ppm .tif .tiff .webp .aif .aiff .flac .m4a .mp3 .ogg .opus .wav".split()
)
"""File names that a folder without a table of rows is listed by."""
MAX_BYTES = 2**28
"""A larger file is refused with its row."""


def content(value: Any, kind: str, column: str, folder: Path, where: str) -> dict[str, Any] | None:
    """A record's ``image`` or ``audio``: a path, bytes, or ``{"bytes", "path"}``, as bytes and the file's name.

    A path counts from ``folder``, that of the file that names it; ``where`` is the record's place. None where there is
    nothing. Raises ConfigError where the value is something else, or the file cannot be read.
    """
    given = value if isinstance(value, dict) else {"bytes": value} if isinstance(value, bytes) else {"path": value}
    data, path = given.get("bytes"), given.get("path")
    odd = not isinstance(data, bytes | None) or not isinstance(path, str | None) or given.keys() - {"bytes", "path"}
    if odd:
        raise ConfigError(
            f"{where}: column {column!r} holds a {type(value).__name__} where an {kind} file is needed: a path, bytes, or both "
            "as {bytes, path}; mend or remove the row"
        )
    if data is None and path in (None, ""):
        return None
    if data is None:
        data = _read(folder / Path(str(path)).expanduser(), str(path), kind, where)
    if len(data) > MAX_BYTES:
        raise ConfigError(
            f"{where}: column {column!r} holds {len(data):,} bytes, over the {MAX_BYTES:,} that one {kind} may have; "
            "split or remove the row"
        )
    return {"bytes": data, "path": Path(str(path)).name if path else None}


def folder_of(source: str, root: Path) -> Path:
    """Where the paths in a source's records count from: the folder of the file that holds them."""
    if source.startswith("hf:"):
        return root
    path = root / Path(source).expanduser()
    return path if path.is_dir() else path.parent


def listed(folder: Path) -> list[tuple[dict[str, Any], str]]:
    """(values, where) of each image and sound file under a folder that has no table of rows, by name.

    ``file_name`` is its path from the folder; files in a folder of their own have that folder's name as ``label``.
    """
    found = []
    for path in sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file()):
        name = path.relative_to(folder)
        label = {"label": name.parent.name} if name.parent.name else {}
        found.append(({"file_name": name.as_posix(), **label}, str(path)))
    return found


def identity(row: dict[str, Any]) -> dict[str, Any]:
    """The row with the BLAKE2b-256 of its files in their place: a file's name and folder are no part of what a row is."""
    return {**row, **{name: _digest(row[name]) for name in MEDIA if name in row}}


def arrow_type() -> pa.DataType:
    """The Arrow type of a media column, which is that of `datasets.Image` and `datasets.Audio`."""
    import pyarrow as pa

    return pa.struct({"bytes": pa.binary(), "path": pa.string()})


def typed(table: pa.Table) -> pa.Table:
    """The table, its media columns marked as `datasets.Image` and `datasets.Audio` columns that decode nothing.

    Goes by Arrow, since `datasets` wants torchcodec for every value that it puts into an Audio column, decoded or not.
    """
    if not set(MEDIA) & set(table.column_names):
        return table
    from datasets import Audio, Features, Image

    kinds = {"image": Image(decode=False), "audio": Audio(decode=False)}
    others = Features.from_arrow_schema(table.schema)
    features = Features({name: kinds.get(name, others[name]) for name in table.column_names})
    return table.cast(features.arrow_schema)


def undecoded(rows: Dataset) -> Dataset:
    """A data set of the hub whose media columns give their bytes."""
    from datasets import Audio, Image

    for name, feature in rows.features.items():
        if isinstance(feature, Image | Audio):
            rows = rows.cast_column(name, type(feature)(decode=False))
    return rows


def _read(path: Path, given: str, kind: str, where: str) -> bytes:
    if "://" in given:
        raise ConfigError(f"{where}: {given} is no file; download it first and name the file")
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ConfigError(
                f"{where}: {path} has {path.stat().st_size:,} bytes, over the {MAX_BYTES:,} that one {kind} may have; "
                "split or remove it"
            )
        return path.read_bytes()
    except FileNotFoundError as error:
        raise ConfigError(
            f"{where}: there is no {kind} file {path}; a path counts from the folder of the file that names it"
        ) from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(
            f"{where}: the {kind} file {path} cannot be read ({reason}); mend or remove the row"
        ) from error


def _digest(value: dict[str, Any] | None) -> str | None:
    return hashlib.blake2b(value["bytes"], digest_size=32).hexdigest() if value else None
