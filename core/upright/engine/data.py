"""From files to splits: our column names, checked rows, identities that do not depend on order."""

from __future__ import annotations

import difflib
import hashlib
import itertools
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from upright.engine import media
from upright.engine.identities import Identities
from upright.engine.readers import Record, read
from upright.engine.store import gathered, scratch
from upright.errors import ConfigError
from upright.evidence.files import sha256

if TYPE_CHECKING:
    import pyarrow as pa
    from datasets import Dataset

    from upright.run import Run

TEXTS = ("text", "text_pair", "prompt", "completion")
TRAIN, VALIDATION = "train", "validation"
WORDS = ("tokens", "labels")
CHUNK = 5000
"""Rows that are checked at a time."""
MEDIA_CHUNK = 32
"""The same where a row holds a file."""
SET_ASIDE = 0.1
"""Share of train that becomes validation where none is given."""


def load_data(run: Run) -> None:
    """Fill ``run.data`` and ``run.group_values``.

    Raises ConfigError with one sentence that names file and row, and the line of the stack where that helps.
    """
    known: set[str] = set()
    units = Units(run)
    groups: dict[str, set[str]] = {column: set() for column in run.config.data.sensitive}
    for split, source in sources(run).items():
        tables = _tables(run, split, source, known, units, groups)
        run.data[split] = gathered(tables, lambda split=split: scratch(run) / f"{split}.arrow")  # type: ignore[misc]
    units.told()
    if TRAIN in run.data and VALIDATION not in run.data and run.stack.sets_aside:
        aside = set_aside(run.data[TRAIN], run.seed)
        if not any(aside) or all(aside):
            raise ConfigError(
                f"{_told(run, TRAIN)}: has too few rows to set a tenth aside for validation; add rows or give data.validation"
            )
        train = run.data[TRAIN]
        parts = {
            name: train.select([place for place, chosen in enumerate(aside) if chosen is wanted])
            for name, wanted in ((TRAIN, False), (VALIDATION, True))
        }
        run.data = {**parts, **{name: rows for name, rows in run.data.items() if name not in parts}}
    for column, values in groups.items():
        if len(values) < 2:
            raise ConfigError(
                f"{run.stack.where('data', 'sensitive')}  data.sensitive: {column!r} has the one value "
                f"{next(iter(values), None)!r} in every row, so there is nothing to compare; remove it"
            )
        run.group_values[column] = sorted(values)


def _tables(
    run: Run, split: str, source: str, known: set[str], units: Units, groups: dict[str, set[str]]
) -> Iterator[pa.Table]:
    """A split's checked rows, a chunk at a time."""
    told = _told(run, split)
    records = read(source, run.stack.root, run.config.data.encoding, told, run.config.data.max_characters)
    identities = Identities(split)
    folder = media.folder_of(source, run.stack.root)
    columns: dict[str, str] = {}
    size = MEDIA_CHUNK if set(media.MEDIA) & run.config.data.columns.keys() else CHUNK
    while chunk := list(itertools.islice(records, size)):
        columns = columns or _columns(run, chunk[0], told)
        rows = [_row(run, record, columns, folder) for record in chunk]
        _known_labels(run, split, rows, chunk, known)
        for column, values in groups.items():
            values.update(row[column] for row in rows if row[column] is not None)
        ids = identities.of(rows)
        yield _table(rows, ids, units.of(split, chunk))


def _table(rows: list[dict[str, Any]], ids: list[str], units: list[int]) -> pa.Table:
    import pyarrow as pa

    words = pa.list_(pa.string())
    types = {**dict.fromkeys(WORDS, words), **dict.fromkeys(media.MEDIA, media.arrow_type())}
    table = {name: pa.array([row[name] for row in rows], types.get(name, pa.string())) for name in rows[0]}
    return media.typed(pa.table({**table, "row_id": pa.array(ids, pa.string()), "unit": pa.array(units, pa.int64())}))


class Units:
    """Whose each row is: its place in the split, or its owner's number, which is the same in every split."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._numbers: dict[Any, int] = {}
        self._found: dict[str, set[int]] = {}
        self._places: Counter[str] = Counter()

    def of(self, split: str, records: list[Record]) -> list[int]:
        """The units of a split's next rows."""
        start = self._places[split]
        self._places[split] += len(records)
        places = range(start, start + len(records))
        if self._run.config.data.unit is None:
            return list(places)
        owners: list[Any] = _owners(self._run, split, records) or [(split, place) for place in places]
        units = [self._numbers.setdefault(owner, len(self._numbers)) for owner in owners]
        self._found.setdefault(split, set()).update(units)
        return units

    def told(self) -> None:
        """Warn of owners who occur in train and in another split."""
        for split, units in self._found.items():
            known = units & self._found.get(TRAIN, set()) if split != TRAIN else set()
            if known:
                place = f"{self._run.stack.where('data', 'unit')}  data.unit"
                told = f"{len(known)} of {len(units)} units of {split} also occur in train"
                self._run.emit("warning", message=f"{place}: {told}, so its figures say little about new ones")


def sources(run: Run) -> dict[str, str]:
    """Split -> what the stack names for it, in the order train, validation, tests."""
    data = run.config.data
    tests = data.test if isinstance(data.test, dict) else {"test": data.test} if data.test else {}
    for name in tests:
        if name in (TRAIN, VALIDATION) or not name.replace("-", "").replace("_", "").isalnum():
            raise ConfigError(f"{run.stack.where('data', 'test')}  data.test: {name!r} cannot name a test split")
    return {
        name: source for name, source in {TRAIN: data.train, VALIDATION: data.validation, **tests}.items() if source
    }


def digests(run: Run) -> dict[str, dict[str, Any]]:
    """What lock.json says of the data: the name, the SHA-256 and the rows of each split's source."""
    found: dict[str, dict[str, Any]] = {}
    for split, source in sources(run).items():
        name, bracket, chosen = source.removeprefix("hf:").partition("[")
        path = run.stack.root / Path(name if source.startswith("hf:") else source).expanduser()
        files = [path] if path.is_file() else sorted(path.rglob("*")) if path.is_dir() else []
        found[split] = {
            "source": (source if not files else f"hf:{path.name}{bracket}{chosen}")
            if source.startswith("hf:")
            else path.name,
            "sha256": {
                file.relative_to(path if path.is_dir() else path.parent).as_posix(): sha256(file)
                for file in files
                if file.is_file()
            },
            "rows": len(run.data[split]),
        }
    return found


def set_aside(rows: Dataset, seed: int) -> list[bool]:
    """Which rows become validation: a tenth of each label's units, chosen by the seed and the row's identity, not its place.

    ``rows`` has ``row_id``, ``unit`` and, by task, ``label``.
    """
    ids, units = rows["row_id"][:], rows["unit"][:]
    labels = rows["label"][:] if "label" in rows.column_names else [None] * len(ids)
    strata: dict[str, list[int]] = defaultdict(list)
    for place, label in enumerate(labels):
        strata[str(label)].append(place)
    sizes = Counter((str(label), unit) for label, unit in zip(labels, units, strict=True))
    chosen: set[int] = set()
    for label, members in strata.items():
        ranked = sorted(members, key=lambda place: hashlib.blake2b(f"{seed}/{ids[place]}".encode()).digest())
        count = round(SET_ASIDE * len(members)) if len(members) > 1 else 0
        left = count - sum(sizes[label, unit] for unit in chosen)
        for unit in dict.fromkeys(units[place] for place in ranked):
            if left > 0 and unit not in chosen:
                chosen.add(unit)
                left -= sizes[label, unit]
    return [unit in chosen for unit in units]


def required(run: Run) -> tuple[str, ...]:
    """Columns that the task cannot do without."""
    task = run.config.model.task
    if task == "token-classification":
        return ("tokens", "labels")
    if task == "text2text-generation":
        return ("prompt", "completion")
    if task == "text-generation":
        prompted = "completion" in run.config.data.columns or "prompt" in run.config.data.columns
        return ("prompt", "completion") if prompted else ("text",)
    if run.stack.cleans_only:
        return () if run.config.data.columns.keys() & set(media.MEDIA) else ("text",)
    return ("text", "label")


def _told(run: Run, split: str) -> str:
    if split in (TRAIN, VALIDATION):
        return f"{run.stack.where('data', split)}  data.{split}"
    return f"{run.stack.where('data', 'test', split)}  data.test"


def _columns(run: Run, first: Record, told: str) -> dict[str, str]:
    """Our name -> the file's name, for every column that is mapped, required, optional and there, or sensitive."""
    data = run.config.data
    columns = dict(data.columns)
    optional: tuple[str, ...] = (
        () if run.config.model.task == "token-classification" else ("text_pair", "prompt", "completion", "label")
    )
    if run.config.model.task.endswith("generation"):
        optional = ("prompt", "completion")
        plain = run.config.model.task == "text-generation" and "text" not in columns
        if plain and "prompt" in first.values and "completion" in first.values:
            columns |= {"prompt": "prompt", "completion": "completion"}
    if columns.keys() & set(media.MEDIA):
        optional = ("text", *optional)
    needed = required(run) if "completion" not in columns else ("prompt", "completion")
    for name in needed:
        columns.setdefault(name, name)
    for name in optional:
        if name in first.values:
            columns.setdefault(name, name)
    columns |= {name: name for name in data.sensitive}
    for ours, theirs in columns.items():
        if theirs not in first.values:
            near = difflib.get_close_matches(theirs, first.values, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(map(repr, first.values))}"
            what = "sensitive column" if ours in data.sensitive else f"column for `{ours}`,"
            place = (
                run.stack.where("data", "sensitive")
                if ours in data.sensitive
                else run.stack.where("data", "columns", ours)
            )
            raise ConfigError(
                f"{place}  data.{'sensitive' if ours in data.sensitive else 'columns'}: {first.where} has no {what} "
                f"{theirs!r} ({hint}); name it in the stack"
            )
    return columns


def _owners(run: Run, split: str, records: list[Record]) -> list[str]:
    """Whose each row is, by the column of ``data.unit``; empty where every row is its own. Train must have the column."""
    column = run.config.data.unit
    if column is None or (split != TRAIN and column not in records[0].values):
        return []
    place = f"{run.stack.where('data', 'unit')}  data.unit"
    if column not in records[0].values:
        near = difflib.get_close_matches(column, records[0].values, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(map(repr, records[0].values))}"
        raise ConfigError(f"{place}: {records[0].where} has no column {column!r} ({hint}); name it in the stack")
    found = []
    for record in records:
        value = record.values.get(column)
        if value is None or value == "" or isinstance(value, (list, dict)):
            raise ConfigError(
                f"{record.where}: column {column!r} does not say whose the row is; add it or remove the row"
            )
        found.append(_name_of(value))
    return found


def _row(run: Run, record: Record, columns: dict[str, str], folder: Path) -> dict[str, Any]:
    row: dict[str, Any] = {}
    sensitive = set(run.config.data.sensitive)
    for ours, theirs in columns.items():
        value = record.values.get(theirs)
        if ours in sensitive:
            row[ours] = None if value is None or value == "" else str(value)
        elif ours == "label":
            row[ours] = _label(record, value, theirs, needed="label" in required(run))
        elif ours in TEXTS:
            row[ours] = _text(run, record, value, theirs)
        elif ours in ("tokens", "labels"):
            row[ours] = _words(run, record, value, theirs)
        elif ours in media.MEDIA:
            row[ours] = media.content(value, ours, theirs, folder, record.where)
        else:
            row[ours] = None if value is None else str(value)
    if "tokens" in row and len(row["tokens"]) != len(row["labels"]):
        raise ConfigError(
            f"{record.where}: has {len(row['tokens'])} tokens and {len(row['labels'])} labels; give one label per token"
        )
    return row


def _label(record: Record, value: Any, column: str, needed: bool) -> str | None:
    if value is None or value == "":
        if needed:
            raise ConfigError(f"{record.where}: has no label in column {column!r}; add it or remove the row")
        return None
    if isinstance(value, (list, dict)):
        raise ConfigError(f"{record.where}: column {column!r} holds a {type(value).__name__}; give one label per row")
    return _name_of(value)


def _name_of(value: Any) -> str:
    """A value as text; a file without integers (csv read by another, parquet with gaps) gives 3.0 where 3 is meant."""
    return str(int(value) if isinstance(value, float) and value.is_integer() else value)


def _text(run: Run, record: Record, value: Any, column: str) -> str:
    if not isinstance(value, str):
        kind = "nothing" if value is None else f"a {type(value).__name__}"
        raise ConfigError(
            f"{record.where}: column {column!r} holds {kind} where a text is needed; mend or remove the row"
        )
    _short(run, record, len(value), column)
    return _whole(record, value, column)


def _words(run: Run, record: Record, value: Any, column: str) -> list[str]:
    if not isinstance(value, (list, tuple)) or not value:
        raise ConfigError(f"{record.where}: column {column!r} holds no list of words; mend or remove the row")
    if any(word is None for word in value):
        raise ConfigError(f"{record.where}: column {column!r} holds an empty place; give every token a label")
    _short(run, record, sum(len(str(word)) for word in value), column)
    return [_whole(record, str(word), column) for word in value]


def _short(run: Run, record: Record, length: int, column: str) -> None:
    limit = run.config.data.max_characters
    if length > limit:
        raise ConfigError(
            f"{record.where}: column {column!r} holds {length:,} characters, over data.max_characters ({limit:,}); "
            "split the text, remove the row or raise the limit"
        )


def _whole(record: Record, text: str, column: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ConfigError(
            f"{record.where}: column {column!r} holds half a character (a lone surrogate); mend the row"
        ) from error
    return text


def _known_labels(run: Run, split: str, rows: list[dict[str, Any]], records: list[Record], known: set[str]) -> None:
    """Every label of validation and test must occur in train: a model cannot predict what it has never seen."""
    column = "labels" if run.config.model.task == "token-classification" else "label"
    if column not in required(run):
        return
    if split == TRAIN:
        known.update(label for row in rows for label in _listed(row[column]))
        return
    if not known:
        return
    for row, record in zip(rows, records, strict=True):
        for label in _listed(row[column]):
            if label not in known:
                near = difflib.get_close_matches(label, known, n=1)
                hint = f" (did you mean {near[0]!r}?)" if near else ""
                raise ConfigError(
                    f"{record.where}: label {label!r} does not occur in train{hint}; add rows of it to train or remove the row"
                )


def _listed(value: Any) -> list[str]:
    return value if isinstance(value, list) else [value]
