"""From files to splits: our column names, checked rows, identities that do not depend on order."""

from __future__ import annotations

import difflib
import hashlib
import json
from collections import Counter, defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from upright.engine import media
from upright.engine.readers import Record, read
from upright.errors import ConfigError
from upright.evidence.files import sha256

if TYPE_CHECKING:
    from upright.run import Run

TEXTS = ("text", "text_pair", "prompt", "completion")
TRAIN, VALIDATION = "train", "validation"
SET_ASIDE = 0.1
"""Share of train that becomes validation where none is given."""


def load_data(run: Run) -> None:
    """Fill ``run.data`` and ``run.group_values``.

    Raises ConfigError with one sentence that names file and row, and the line of the stack where that helps.
    """
    tables: dict[str, list[dict[str, Any]]] = {}
    owners: dict[str, list[str]] = {}
    for split, source in sources(run).items():
        told = _told(run, split)
        records = read(source, run.stack.root, run.config.data.encoding, told)
        columns = _columns(run, records[0], told)
        folder = media.folder_of(source, run.stack.root)
        tables[split] = [_row(run, record, columns, folder) for record in records]
        _known_labels(run, split, tables[split], records, tables)
        owners[split] = _owners(run, split, records)
    units = _units(run, owners, tables)
    for split, rows in tables.items():
        for row, identity, unit in zip(rows, row_ids(split, rows), units[split], strict=True):
            row["row_id"], row["unit"] = identity, unit
    if TRAIN in tables and VALIDATION not in tables and not run.stack.cleans_only:
        tables[TRAIN], tables[VALIDATION] = set_aside(tables[TRAIN], run.seed)
        tables = {TRAIN: tables[TRAIN], VALIDATION: tables[VALIDATION], **tables}
        _still_there(run, tables)
    run.data = {split: media.dataset(rows) for split, rows in tables.items()}
    for column in run.config.data.sensitive:
        values = {row[column] for rows in tables.values() for row in rows} - {None}
        if len(values) < 2:
            raise ConfigError(
                f"{run.stack.where('data', 'sensitive')}  data.sensitive: {column!r} has the one value "
                f"{next(iter(values), None)!r} in every row, so there is nothing to compare; remove it"
            )
        run.group_values[column] = sorted(values)


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
        path = run.stack.root / Path(source).expanduser()
        files = [path] if path.is_file() else sorted(path.rglob("*")) if path.is_dir() else []
        found[split] = {
            "source": source if source.startswith("hf:") else path.name,
            "sha256": {
                file.relative_to(path if path.is_dir() else path.parent).as_posix(): sha256(file)
                for file in files
                if file.is_file()
            },
            "rows": len(run.data[split]),
        }
    return found


def row_ids(split: str, rows: list[dict[str, Any]]) -> list[str]:
    """Keyed BLAKE2b-64 of split, canonical row and ordinal among identical rows: the same whatever the order of others."""
    seen: Counter[str] = Counter()
    found = []
    for row in rows:
        canonical = json.dumps(media.identity(row), sort_keys=True, ensure_ascii=False, default=str)
        words = f"{split}\0{canonical}\0{seen[canonical]}"
        seen[canonical] += 1
        found.append(
            hashlib.blake2b(words.encode("utf-8", "surrogatepass"), digest_size=8, key=b"upright-row").hexdigest()
        )
    return found


def set_aside(rows: list[dict[str, Any]], seed: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Train and validation: a tenth of each label's units, chosen by the seed and the row's identity, not its place."""
    strata: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        strata[str(row.get("label"))].append(row)
    sizes = Counter((str(row.get("label")), row["unit"]) for row in rows)
    chosen: set[int] = set()
    for label, members in strata.items():
        ranked = sorted(members, key=lambda row: hashlib.blake2b(f"{seed}/{row['row_id']}".encode()).digest())
        count = round(SET_ASIDE * len(members)) if len(members) > 1 else 0
        left = count - sum(sizes[label, unit] for unit in chosen)
        for unit in dict.fromkeys(row["unit"] for row in ranked):
            if left > 0 and unit not in chosen:
                chosen.add(unit)
                left -= sizes[label, unit]
    return [row for row in rows if row["unit"] not in chosen], [row for row in rows if row["unit"] in chosen]


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


def _units(run: Run, owners: dict[str, list[str]], tables: dict[str, list[dict[str, Any]]]) -> dict[str, list[int]]:
    """Each row's unit: its place in the split, or its owner's number, which is the same in every split."""
    if run.config.data.unit is None:
        return {split: list(range(len(rows))) for split, rows in tables.items()}
    numbers: dict[Any, int] = {}
    units = {}
    for split, rows in tables.items():
        found: list[Any] = owners[split] or [(split, place) for place in range(len(rows))]
        units[split] = [numbers.setdefault(owner, len(numbers)) for owner in found]
        known = set(units[split]) & set(units.get(TRAIN, ())) if split != TRAIN else set()
        if known:
            told = f"{len(known)} of {len(set(units[split]))} units of {split} also occur in train"
            place = f"{run.stack.where('data', 'unit')}  data.unit"
            run.emit("warning", message=f"{place}: {told}, so its figures say little about new ones")
    return units


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


def _known_labels(
    run: Run, split: str, rows: list[dict[str, Any]], records: list[Record], tables: dict[str, list[dict[str, Any]]]
) -> None:
    """Every label of validation and test must occur in train: a model cannot predict what it has never seen."""
    if split == TRAIN or TRAIN not in tables:
        return
    column = "labels" if run.config.model.task == "token-classification" else "label"
    if column not in required(run):
        return
    known = {label for row in tables[TRAIN] for label in _listed(row[column])}
    for row, record in zip(rows, records, strict=True):
        for label in _listed(row[column]):
            if label not in known:
                near = difflib.get_close_matches(label, known, n=1)
                hint = f" (did you mean {near[0]!r}?)" if near else ""
                raise ConfigError(
                    f"{record.where}: label {label!r} does not occur in train{hint}; add rows of it to train or remove the row"
                )


def _still_there(run: Run, tables: dict[str, list[dict[str, Any]]]) -> None:
    for split in (TRAIN, VALIDATION):
        if not tables[split]:
            raise ConfigError(
                f"{_told(run, TRAIN)}: has too few rows to set a tenth aside for validation; add rows or give data.validation"
            )


def _listed(value: Any) -> list[str]:
    return value if isinstance(value, list) else [value]
