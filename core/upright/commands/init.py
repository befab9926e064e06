"""``upright init``: a stack to begin with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from upright.errors import ConfigError, PluginError

if TYPE_CHECKING:
    from upright.catalog import Entry

HEAD = """\
# yaml-language-server: $schema=./stack.schema.json
name: {name}
seed: 13
data:
  train: data/train.jsonl          # jsonl, csv, parquet, a folder, or hf:<dataset>[<split>]
  test: data/test.jsonl            # without a validation file a tenth of train is set aside
  columns: {{text: text, label: label}}
  # sensitive: [sex]               # for auditing; never a model input
model: {{base: minilm, task: text-classification}}
"""
TAIL = "output: runs/\n"
TRAIN = "train:\n  epochs: 5\n  batch_size: 16\n"
REQUESTS = {
    "refund": ("I want my money back for {}", "please refund {}", "{} never came, return what I paid"),
    "delivery": ("when will {} arrive", "where is my parcel with {}", "has {} been shipped yet"),
    "praise": ("{} is wonderful, thank you", "I love {}", "very happy with {}"),
}
THINGS = ("the lamp", "the shoes", "this book", "the blue chair", "my order", "the kettle", "the coat", "two plates")


def init(folder: Annotated[Path, typer.Argument(help="Where to write.")] = Path()) -> None:
    """Write stack.yaml, its schema and a few made-up rows to a folder; nothing that is there is overwritten."""
    from upright import catalog
    from upright.schema import schema

    files = {
        "stack.yaml": _stack(folder, catalog.steps()),
        "stack.schema.json": json.dumps(schema(), indent=2) + "\n",
        "data/train.jsonl": _rows(THINGS[:6]),
        "data/test.jsonl": _rows(THINGS[6:]),
    }
    there = [name for name in files if (folder / name).exists()]
    if there:
        raise ConfigError(f"{folder / there[0]}: is there already; name another folder")
    try:
        for name, content in files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("x", encoding="utf-8") as out:
                out.write(content)
    except OSError as error:
        raise ConfigError(f"{folder}: cannot be written ({error.strerror}); name another folder") from error
    typer.echo(f"{folder / 'stack.yaml'}: written; go on with `upright run {folder / 'stack.yaml'}`")


def _stack(folder: Path, entries: list[Entry]) -> str:
    """A stack that runs with what is installed: the first tuning step that needs no setting, the others as remarks."""
    from upright.stack import SECTIONS

    name = "".join(c if c.isalnum() else "-" for c in folder.resolve().name.lower()).strip("-") or "first"
    lines = [HEAD.format(name=name)]
    by_section: dict[str, list[Entry]] = {}
    for entry in entries:
        by_section.setdefault(entry.section, []).append(entry)
    for section in SECTIONS:
        offered = by_section.get(section, [])
        names = ", ".join(entry.name for entry in offered)
        ready = first_ready(section) if section == "tune" else None
        if ready:
            lines.append(f"tune: {{use: {ready.name}}}   # installed: {names}\n{TRAIN}")
        elif offered and section == "train":
            lines.append(f"  # steps: [{_example(offered[0])}]   # installed: {names}\n")
        elif offered:
            lines.append(f"# {section}: [{_example(offered[0])}]   # installed: {names}\n")
    return "".join([*lines, TAIL])


def _example(entry: Entry) -> str:
    """``{use: name}`` with a place for each setting that must be given."""
    from upright import catalog

    try:
        fields = catalog.load(entry).model_fields
    except PluginError:
        fields = {}
    needed = [f"{name}: ..." for name, field in fields.items() if field.is_required()]
    return "{" + ", ".join([f"use: {entry.name}", *needed]) + "}"


def first_ready(section: str) -> Entry | None:
    """The first installed step of a section that needs no setting."""
    from upright import catalog

    offered = (entry for entry in catalog.steps() if entry.section == section)
    return next((entry for entry in offered if _needs_nothing(entry)), None)


def _needs_nothing(entry: Entry) -> bool:
    from upright import catalog

    try:
        return not any(field.is_required() for field in catalog.load(entry).model_fields.values())
    except PluginError:
        return False


def _rows(things: tuple[str, ...]) -> str:
    rows = [
        {"text": form.format(thing), "label": label}
        for thing in things
        for label, forms in REQUESTS.items()
        for form in forms
    ]
    return "".join(json.dumps(row) + "\n" for row in rows)
