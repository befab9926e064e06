"""Versioned word lists, made for this project: tab-separated, the first line names the list and its version."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path


def shipped(name: str) -> list[list[str]]:
    """The fields of each line of a list that comes with the package."""
    return _fields(files(__name__).joinpath(f"{name}.tsv").read_text(encoding="utf-8"))


def version(name: str) -> str:
    """``swaps-en 1``: what the first line of a shipped list says."""
    first: str = files(__name__).joinpath(f"{name}.tsv").read_text(encoding="utf-8").split("\n", 1)[0]
    return first.removeprefix("# ")


def given(path: Path) -> list[list[str]]:
    """The fields of each line of a user's list. Raises OSError and UnicodeDecodeError."""
    return _fields(path.read_text(encoding="utf-8"))


def _fields(text: str) -> list[list[str]]:
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return [[field.strip() for field in line.split("\t")] for line in lines]
