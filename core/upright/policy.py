"""``upright.toml``: what the stacks of a house may be made of, and what each of them must have.

```toml
[policy]
allow = ["upright-*", "hospital-*"]      # distributions whose steps may be named
publishers = ["A. Author"]               # maintainers, as the registry's index names them
minimum_tier = "tested"                  # of the registry's index
local_steps = false                      # no step of a file beside the stack
required = ["my-cleaner"]                # steps that every stack has
```
"""

from __future__ import annotations

import hashlib
import os
import re
import tomllib
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from packaging.utils import canonicalize_name
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from upright import catalog
from upright.errors import ConfigError, UprightError
from upright.standing import TIERS, standing

if TYPE_CHECKING:
    from collections.abc import Iterable

    from upright.catalog import Entry

NAME = "upright.toml"
VARIABLE = "UPRIGHT_POLICY"


class Rules(BaseModel):
    """The table ``[policy]``; a rule that is left out allows everything."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    allow: list[str] | None = Field(
        None, description="Distributions whose steps may be named; `*` stands for any text."
    )
    publishers: list[str] | None = Field(None, description="Maintainers whose plugins may be named.")
    minimum_tier: Literal["listed", "tested", "measured", "reviewed"] | None = Field(
        None, description="The least that the registry's index must say of a plugin."
    )
    local_steps: bool = Field(True, description="Whether steps of a file beside the stack may be named.")
    required: list[str] = Field(default_factory=list, description="Steps that every stack must have, by `use:`.")


class _File(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    policy: Rules = Rules()


@dataclass(frozen=True)
class Policy:
    """One file's rules; ``source`` is how messages call the file."""

    source: str
    text: str
    rules: Rules

    @property
    def sha256(self) -> str:
        """The file's SHA-256 in hex."""
        return hashlib.sha256(self.text.encode()).hexdigest()

    def refuses(self, entry: Entry, where: str) -> list[str]:
        """Why a step of an installed distribution may not be named; looked at before it is imported."""
        who, rules = f"{entry.section}.{entry.name} of {entry.dist} ({where})", self.rules
        problems = []
        if rules.allow is not None and not _matches(entry.dist, rules.allow):
            problems.append(self._told("allow", f"{who} is of none of {', '.join(rules.allow)}; remove the step"))
        if rules.publishers is None and rules.minimum_tier is None:
            return problems
        teller = next((one.dist for one in catalog.installed() if one.section == catalog.INDEX), None)
        if teller is not None and rules.allow is not None and not _matches(teller, rules.allow):
            told = f"{teller} tells what the index says, and is of none of {', '.join(rules.allow)}; uninstall it"
            return [*problems, self._told("allow", told)]
        try:
            known = standing([canonicalize_name(entry.dist)])
        except UprightError as error:
            rule = "minimum_tier" if rules.minimum_tier else "publishers"
            return [*problems, self._told(rule, f"{who} cannot be looked up: {error}")]
        facts = known.get("plugins", {}).get(canonicalize_name(entry.dist))
        if facts is None:
            rule = "minimum_tier" if rules.minimum_tier else "publishers"
            hint = "is not in the registry's index" if known else "cannot be looked up, since no index was seen"
            return [*problems, self._told(rule, f"{who} {hint}; remove it, or see `upright registry`")]
        if rules.publishers is not None and not set(facts["maintainers"]) & set(rules.publishers):
            told = f"{who} is kept by {', '.join(facts['maintainers'])}, not by {' or '.join(rules.publishers)}"
            problems.append(self._told("publishers", f"{told}; remove the step"))
        rule = "minimum_tier" if rules.minimum_tier else "publishers"
        if entry.version not in facts["versions"]:
            problems.append(self._told(rule, f"{who}: {entry.version} is no release of the index; install one that is"))
        if facts["status"] == "quarantined":
            problems.append(self._told(rule, f"{who} is quarantined; remove the step"))
        elif rules.minimum_tier and TIERS.index(facts["tier"]) < TIERS.index(rules.minimum_tier):
            told = f"{who} is {facts['tier']}, and {rules.minimum_tier} is asked for; remove the step"
            problems.append(self._told("minimum_tier", told))
        return problems

    def refuses_local(self, use: str, where: str) -> list[str]:
        """Why a step of a file beside the stack may not be named; looked at before the file is run."""
        if self.rules.local_steps:
            return []
        return [self._told("local_steps", f"{use} ({where}) is a file's step; make a plugin of it or remove it")]

    def misses(self, uses: Iterable[str], where: str) -> list[str]:
        """The required steps that a stack does not have."""
        there = set(uses)
        return [
            self._told("required", f"the stack ({where}) has no step {name!r}; add it")
            for name in self.rules.required
            if name not in there
        ]

    def _told(self, rule: str, sentence: str) -> str:
        return f"{self.source}:{_line(self.text, rule)}  policy.{rule}: {sentence}"


def policies(root: Path) -> list[Policy]:
    """The nearest ``upright.toml`` from a stack's folder upwards, and the one that UPRIGHT_POLICY names; both hold.

    Raises ConfigError with file and line where one cannot be read.
    """
    found = next((path for folder in (root, *root.parents) if (path := folder / NAME).is_file()), None)
    named = os.environ.get(VARIABLE)
    paths = [path for path in (Path(named).expanduser() if named else None, found) if path is not None]
    return [_read(path) for path in dict.fromkeys(path.resolve() for path in paths)]


def _read(path: Path) -> Policy:
    source = _source(path)
    try:
        text = path.read_text(encoding="utf-8")
        return Policy(source, text, _File.model_validate(tomllib.loads(text)).policy)
    except tomllib.TOMLDecodeError as error:
        line = re.search(r"at line (\d+)", str(error))
        raise ConfigError(f"{source}:{line[1] if line else 1}  is no TOML ({error}); mend the line") from error
    except ValidationError as error:
        problems = []
        for one in error.errors():
            rule = str(one["loc"][min(1, len(one["loc"]) - 1)])
            message = "there is no such rule" if one["type"] == "extra_forbidden" else one["msg"]
            problems.append(f"{source}:{_line(text, rule)}  {'.'.join(map(str, one['loc']))}: {message}")
        raise ConfigError(problems) from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{source}: the policy cannot be read ({error}), so nothing is allowed; mend it") from error


def _source(path: Path) -> str:
    """The path from here, where it is not longer than the whole one."""
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)


def _matches(dist: str, patterns: list[str]) -> bool:
    return any(fnmatchcase(canonicalize_name(dist), pattern.lower()) for pattern in patterns)


def _line(text: str, rule: str) -> int:
    """The line on which a rule stands, from 1."""
    lines = enumerate(text.splitlines(), 1)
    return next((number for number, line in lines if re.match(rf"\s*\[?[\"']?{re.escape(rule)}\b", line)), 1)
