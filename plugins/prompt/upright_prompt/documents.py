"""A user's documents: paragraphs of text files, or lines of a jsonl file."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from upright.errors import ConfigError


@dataclass(frozen=True)
class Document:
    """One passage; ``where`` is the file and line it begins at."""

    id: str
    text: str
    where: str
    title: str = ""

    @property
    def whole(self) -> str:
        """What is searched and shown: the title above the text."""
        return f"{self.title}\n{self.text}" if self.title else self.text


def read(path: Path, told: str) -> list[Document]:
    """The documents of a .txt, a .jsonl or a folder of .txt. Raises ConfigError naming file and line."""
    found: list[Document] = []
    ids: dict[str, Document] = {}
    for file in _files(path, told):
        for document in (_lines if file.suffix == ".jsonl" else _paragraphs)(file, _content(file, told)):
            if document.id in ids:
                raise ConfigError(
                    f"{document.where}: the id {document.id!r} stands at {ids[document.id].where} too; give each document "
                    "its own"
                )
            ids[document.id] = document
            found.append(document)
    if not found:
        raise ConfigError(f"{told}: {path} holds no document; name a file with text")
    return found


def digest(path: Path) -> str:
    """SHA-256 over names and contents of what `read` reads."""
    whole = hashlib.sha256()
    for file in [path] if path.is_file() else sorted(path.glob("*.txt")):
        whole.update(file.name.encode() + b"\0" + hashlib.sha256(file.read_bytes()).digest())
    return whole.hexdigest()


def _files(path: Path, told: str) -> list[Path]:
    if path.is_dir():
        files = sorted(path.glob("*.txt"))
        if not files:
            raise ConfigError(f"{told}: the folder {path} holds no .txt file; name one that does")
        return files
    if not path.is_file():
        raise ConfigError(
            f"{told}: there is no file {path}; check `documents` (it counts from the stack file's folder)"
        )
    if path.suffix not in (".txt", ".jsonl"):
        raise ConfigError(f"{told}: {path} is neither .txt nor .jsonl; convert it to one of them")
    return [path]


def _content(file: Path, told: str) -> str:
    try:
        content = file.read_bytes()
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{file}:{line}: is not UTF-8 (byte {error.start}); save it as UTF-8") from error
    except OSError as error:
        raise ConfigError(
            f"{told}: {file} cannot be read ({error.strerror or error}); check its permissions"
        ) from error


def _paragraphs(file: Path, content: str) -> Iterator[Document]:
    lines: list[str] = []
    number = 0
    content = content.replace("\r\n", "\n").replace("\r", "\n")
    for at, line in enumerate([*content.split("\n"), ""], 1):
        if line.strip():
            lines.append(line)
        elif lines:
            number += 1
            yield Document(f"{file.name}#{number}", "\n".join(lines).strip(), f"{file}:{at - len(lines)}")
            lines = []


def _lines(file: Path, content: str) -> Iterator[Document]:
    for at, line in enumerate(content.split("\n"), 1):
        if not line.strip():
            continue
        where = f"{file}:{at}"
        try:
            values = json.loads(line)
        except ValueError as error:
            raise ConfigError(f"{where}: is not JSON ({error}); mend the line") from error
        if not isinstance(values, dict):
            raise ConfigError(f"{where}: is no JSON object; every line holds one document as {{...}}")
        text, title = (_text(values, name, where) for name in ("text", "title"))
        if not text:
            raise ConfigError(f"{where}: has no `text`; add it or remove the line")
        identity = values.get("id")
        yield Document(str(identity) if identity is not None else f"{file.name}:{at}", text, where, title)


def _text(values: dict[str, Any], name: str, where: str) -> str:
    value = values.get(name)
    if value is not None and not isinstance(value, str):
        raise ConfigError(f"{where}: `{name}` is a {type(value).__name__}; give text")
    if value and re.search("[\ud800-\udfff]", value):
        raise ConfigError(f"{where}: `{name}` holds half a character (a lone surrogate); mend the line")
    return (value or "").strip()
