"""Where Python writes while a step is tested. What native code writes does not pass here."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
CHANGING: dict[str, tuple[tuple[int, int | None], ...]] = {
    "os.mkdir": ((0, 2),),
    "os.remove": ((0, 1),),
    "os.rmdir": ((0, 1),),
    "os.truncate": ((0, None),),
    "os.rename": ((0, 2), (1, 3)),
    "os.link": ((1, 3),),
    "os.symlink": ((1, 2),),
}
"""Audit event -> where among its arguments a path stands that it changes, and the folder that the path counts from."""
_listening: list[Callable[[str], None]] = []


@contextmanager
def written(outside: list[str], folder: Path) -> Iterator[None]:
    """Inside, each path that is written, made or removed is noted in ``outside``, but under ``folder``, in folders for
    temporary files and in caches."""
    allowed = tuple(f"{os.path.realpath(place)}{os.sep}" for place in (folder, *_places()))

    def note(path: str) -> None:
        place = os.path.realpath(path)
        if not f"{place}{os.sep}".startswith(allowed) and "__pycache__" not in place and place not in outside:
            outside.append(place)

    _listen()
    _listening.append(note)
    try:
        yield
    finally:
        _listening.remove(note)


def _places() -> list[str | Path]:
    home, told = Path.home(), os.environ.get
    return [
        tempfile.gettempdir(),
        told("XDG_CACHE_HOME") or home / ".cache",
        told("HF_HOME") or home / ".cache" / "huggingface",
        told("MPLCONFIGDIR") or home / ".config" / "matplotlib",
        "/dev",
        "/proc",
    ]


@cache
def _listen() -> None:
    """Once a process: what listens to the events of Python cannot be taken off again."""
    sys.addaudithook(_heard)


def _heard(event: str, arguments: tuple[Any, ...]) -> None:
    if not _listening:
        return
    for path in _changed(event, arguments):
        if isinstance(path, (str, bytes)):
            for note in _listening:
                note(os.fsdecode(path))


def _changed(event: str, arguments: tuple[Any, ...]) -> list[Any]:
    if event == "open":
        return [arguments[0]] if arguments[2] & WRITING else []
    return [arguments[path] for path, base in CHANGING.get(event, ()) if base is None or arguments[base] == -1]
