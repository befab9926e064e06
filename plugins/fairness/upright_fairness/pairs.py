"""Pairs of sentences that differ in whom they speak of, the one nearer to a stereotype named first.

CrowS-Pairs (Nangia et al., 2020, arXiv:2010.00133), WinoBias (Zhao et al., 2018, arXiv:1804.06876), and template sets.
"""

from __future__ import annotations

import csv
import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

Kind = Literal["templates", "crows-pairs", "winobias"]
TEMPLATES = Path(__file__).parent / "lists" / "templates-en.json"
HIS = ("he", "him", "his", "himself")
WINOBIAS_FILES = "*pro_stereotyped_type*.txt.*"


@dataclass(frozen=True)
class Pair:
    """``more`` is nearer to the stereotype than ``less``.

    ``unit``: pairs of one unit (an occupation) are not independent of each other. ``side``: whether ``more`` names the first
    of two groups (0) or the second (1), where all pairs of its type are of the same two groups; else 0.
    """

    id: str
    type: str
    unit: str
    side: int
    more: str
    less: str


class TemplateSet(BaseModel):
    """Two groups, for each the terms that a stereotype ties to it, and sentences that hold a group and a term."""

    model_config = ConfigDict(extra="forbid")

    type: str = Field(pattern=r"^[\w.-]+$")
    groups: tuple[str, str]
    terms: tuple[list[str], list[str]]
    templates: list[str] = Field(min_length=1)

    @model_validator(mode="after")
    def _balanced(self) -> TemplateSet:
        """With lists of two lengths a model that always prefers one group would not be at one half."""
        first, second = map(set, self.terms)
        if (
            len(self.terms[0]) != len(self.terms[1])
            or len(first) < 2
            or first & second
            or self.groups[0] == self.groups[1]
        ):
            raise ValueError("needs two groups, and two lists of as many terms (two at least) that share none")
        if any("{term}" not in template or "{group}" not in template for template in self.templates):
            raise ValueError("needs {term} and {group} in every template")
        return self


def read(kind: Kind, path: Path | None) -> list[Pair]:
    """The pairs of a set. Raises ValueError, in words, where ``path`` is not such a set."""
    source = path or TEMPLATES
    try:
        found = list({"templates": _templates, "crows-pairs": _crows_pairs, "winobias": _winobias}[kind](source))
    except OSError as error:
        raise ValueError(f"{source} cannot be read ({error.strerror}); name a file of {kind}") from error
    except (LookupError, TypeError, AttributeError, ValueError) as error:
        told = error.errors()[0] if isinstance(error, ValidationError) else None
        reason = f"{'.'.join(map(str, told['loc']))}: {told['msg']}" if told else f"{type(error).__name__}: {error}"
        raise ValueError(f"{source} is no file of {kind} ({reason})") from error
    if len({pair.id for pair in found}) < len(found) or not found:
        raise ValueError(f"{source} holds {'no pair' if not found else 'two pairs of one id'}; name a file of {kind}")
    return found


def fingerprint(pairs: list[Pair]) -> str:
    """SHA-256 of the pairs as they were read, whatever form their file has."""
    return hashlib.sha256(json.dumps([astuple(pair) for pair in pairs]).encode()).hexdigest()


def _templates(path: Path) -> Iterator[Pair]:
    for given in json.loads(path.read_text(encoding="utf-8"))["sets"]:
        one = TemplateSet.model_validate(given)
        for side, terms in enumerate(one.terms):
            for number, term in enumerate(terms):
                unit = f"{one.type}/{side}-{number}"
                for place, template in enumerate(one.templates):
                    both = [template.replace("{term}", term).replace("{group}", group) for group in one.groups]
                    yield Pair(f"{unit}/{place}", one.type, unit, side, both[side], both[1 - side])


def _crows_pairs(path: Path) -> Iterator[Pair]:
    """``sent_more``, ``sent_less`` and ``bias_type`` (or ``label``): the published CSV, or JSON lines."""
    for number, row in enumerate(_rows(path)):
        identity = str(row.get("id", number))
        kind = row["bias_type"] if "bias_type" in row else row["label"]
        yield Pair(identity, str(kind), identity, 0, row["sent_more"].strip(), row["sent_less"].strip())


def _winobias(path: Path) -> Iterator[Pair]:
    """The folder of the published text files, or JSON lines of ``id``, ``type`` (1, 2), ``pro`` and ``anti``."""
    for row in _published(path) if path.is_dir() else _rows(path):
        marked = re.findall(r"\[(?:the |an? )?\s*([^\]]*)\]", row["pro"].lower())
        more, less = (re.sub(r"[\[\]]", "", row[side]).strip() for side in ("pro", "anti"))
        yield Pair(str(row["id"]), f"type{row['type']}", marked[0], int(marked[1] not in HIS), more, less)


def _published(folder: Path) -> Iterator[dict[str, Any]]:
    for path in sorted(folder.glob(WINOBIAS_FILES)):
        kind, split = re.findall(r"type(\d)\.txt\.(\w+)", path.name)[0]
        twin = path.with_name(path.name.replace("pro_", "anti_"))
        both = [file.read_text(encoding="utf-8").splitlines() for file in (path, twin)]
        numbered = [[re.sub(r"^\d+\s+", "", line) for line in lines] for lines in both]
        for number, (pro, anti) in enumerate(zip(*numbered, strict=True)):
            yield {"id": f"type{kind}-{split}-{number}", "type": kind, "pro": pro, "anti": anti}


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    with path.open(encoding="utf-8", newline="") as lines:
        if path.suffix == ".csv":
            yield from csv.DictReader(lines)
        else:
            yield from (json.loads(line) for line in lines if line.strip())
