"""A YAML 1.2 file as plain data that remembers where every key stands."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from upright.errors import ConfigError

Keys = tuple[str | int, ...]
MAX_NODES = 100_000
"""Nodes of a file after aliases are followed; more is an alias bomb."""


class _Yaml12(yaml.SafeLoader):
    """PyYAML's loader with the scalars of YAML 1.2's core schema: `1e-4` is a number, `no` is text."""


_Yaml12.yaml_implicit_resolvers = {}
for _tag, _pattern, _first in (
    ("null", r"^(?:~|null|Null|NULL|)$", ["~", "n", "N", ""]),
    ("bool", r"^(?:true|True|TRUE|false|False|FALSE)$", list("tTfF")),
    ("int", r"^(?:[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+)$", list("-+0123456789")),
    (
        "float",
        r"^(?:[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$",
        list("-+0123456789."),
    ),
):
    _Yaml12.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(_pattern), _first)


@dataclass
class Document:
    """``data`` is what the file says, ``marks`` where: key path -> ``file:line:col``."""

    data: dict[str, Any]
    source: str
    marks: dict[Keys, str] = field(default_factory=dict)


def read_document(path: Path, source: str) -> Document:
    """Read a file; ``source`` is how messages call it. Raises ConfigError with the place of what is wrong."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise ConfigError(
            f"{source}: there is no such file; name a stack file or make one with `upright init`"
        ) from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{source}: byte {error.start} is not UTF-8; save the file as UTF-8") from error
    except OSError as error:
        raise ConfigError(f"{source}: cannot be read ({error.strerror}); check the path") from error
    return parse(text, source)


def parse(text: str, source: str) -> Document:
    """Read YAML text. Raises ConfigError: not YAML, duplicate keys, no mapping at the top."""
    try:
        node = yaml.compose(text, Loader=_Yaml12)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"{source}:{mark.line + 1}:{mark.column + 1}" if mark else source
        raise ConfigError(f"{place}  is not YAML: {error.problem or error.context}; mend the line") from error
    except (yaml.YAMLError, ValueError) as error:
        raise ConfigError(f"{source}: is not YAML ({str(error).splitlines()[0]}); mend the file") from error
    if not isinstance(node, yaml.MappingNode):
        raise ConfigError(f"{source}:1:1  is no mapping; a stack file holds keys such as `data:`, `model:` and `tune:`")
    reader = _Reader(source)
    data = reader.value(node, ())
    if reader.problems:
        raise ConfigError(reader.problems)
    return Document(data, source, {(): f"{source}:1:1", **reader.marks})


def scalar(text: str) -> Any:
    """One YAML value, as a stack file would read it (for ``--set``)."""
    return parse(f"value: {text}", "--set").data["value"]


def override(document: Document, assignment: str) -> None:
    """Apply one ``a.b=v``. Lists are entered by number, or by a step's ``name`` or ``use``."""
    path, equals, text = assignment.partition("=")
    keys = path.split(".")
    if not equals or not all(keys):
        raise ConfigError(f"--set {assignment}: is not of the form a.b=value")
    here: Any = document.data
    trail: list[str | int] = []
    for key in keys[:-1]:
        here, step = _enter(here, key, assignment)
        trail.append(step)
    last: str | int = keys[-1]
    if isinstance(here, list):
        last = _index(here, keys[-1], assignment)
    elif not isinstance(here, dict):
        raise ConfigError(f"--set {assignment}: {'.'.join(keys[:-1])} holds no settings")
    here[last] = scalar(text)
    document.marks[(*trail, last)] = f"--set {assignment}"


def substitute(document: Document) -> None:
    """Replace ``${NAME}`` and ``${NAME:-default}`` in every text by environment variables."""
    problems: list[str] = []

    def replaced(value: Any, path: Keys) -> Any:
        if isinstance(value, dict):
            return {key: replaced(inner, (*path, key)) for key, inner in value.items()}
        if isinstance(value, list):
            return [replaced(inner, (*path, n)) for n, inner in enumerate(value)]
        if isinstance(value, str) and "${" in value:
            return re.sub(r"\$\{(\w+)(?::-([^}]*))?\}", lambda match: _variable(match, path), value)
        return value

    def _variable(match: re.Match[str], path: Keys) -> str:
        found = os.environ.get(match.group(1)) or match.group(2)
        if found is None:
            where = document.marks.get(path, document.source)
            problems.append(f"{where}  {dotted(path)}: the environment variable {match.group(1)} is not set; set it")
            return ""
        return found

    document.data = replaced(document.data, ())
    if problems:
        raise ConfigError(problems)


def dotted(path: Sequence[str | int]) -> str:
    """``a.b[1].c`` for a key path."""
    text = ""
    for key in path:
        text += f"[{key}]" if isinstance(key, int) else f".{key}" if text else str(key)
    return text


def from_mapping(data: Mapping[str, Any], source: str = "<mapping>") -> Document:
    """A document of plain data, for the Python API."""
    import copy

    return Document(copy.deepcopy(dict(data)), source, {(): source})


class _Reader:
    def __init__(self, source: str) -> None:
        self.source = source
        self.marks: dict[Keys, str] = {}
        self.problems: list[str] = []
        self.nodes = 0

    def value(self, node: yaml.Node, path: Keys) -> Any:
        self.nodes += 1
        if self.nodes > MAX_NODES:
            raise ConfigError(f"{self._at(node)}  {dotted(path)}: aliases unfold into too much; write the values out")
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, path)
        if isinstance(node, yaml.SequenceNode):
            items = []
            for number, item in enumerate(node.value):
                self.marks[(*path, number)] = self._at(item)
                items.append(self.value(item, (*path, number)))
            return items
        return self._scalar(node, path)

    def _mapping(self, node: yaml.MappingNode, path: Keys) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = key_node.value if isinstance(key_node, yaml.ScalarNode) else None
            if key is None:
                self.problems.append(f"{self._at(key_node)}  {dotted(path)}: a key must be a word")
                continue
            here = (*path, key)
            if key in found:
                self.problems.append(
                    f"{self._at(key_node)}  {dotted(here)}: is given twice (first at {self.marks[here]})"
                )
                continue
            self.marks[here] = self._at(key_node)
            found[key] = self.value(value_node, here)
        return found

    def _scalar(self, node: yaml.Node, path: Keys) -> Any:
        kind, text = node.tag.rpartition(":")[2], node.value
        if kind == "null":
            return None
        if kind == "bool":
            return text.lower() == "true"
        if kind == "int":
            return int(text, 0) if text[:2] in ("0o", "0x") else int(text)
        if kind == "float":
            return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))
        if kind != "str":
            self.problems.append(
                f"{self._at(node)}  {dotted(path)}: the tag {node.tag} is not allowed; write plain values"
            )
        return text

    def _at(self, node: yaml.Node) -> str:
        return f"{self.source}:{node.start_mark.line + 1}:{node.start_mark.column + 1}"


def _enter(here: Any, key: str, assignment: str) -> tuple[Any, str | int]:
    if isinstance(here, list):
        number = _index(here, key, assignment)
        return here[number], number
    if not isinstance(here, dict):
        raise ConfigError(f"--set {assignment}: there are no settings under {key!r}")
    if not isinstance(here.get(key, {}), (dict, list)):
        raise ConfigError(f"--set {assignment}: {key!r} holds a value, not settings")
    return here.setdefault(key, {}), key


def _index(items: list[Any], key: str, assignment: str) -> int:
    if key.isdigit() and int(key) < len(items):
        return int(key)
    for number, item in enumerate(items):
        if isinstance(item, dict) and key in (item.get("name"), item.get("use")):
            return number
    raise ConfigError(f"--set {assignment}: there is no entry {key!r}; use its number, name or use")
