"""A plugin as the registry describes it: one TOML file each."""

from __future__ import annotations

import re
import tomllib
from datetime import date
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal, Self

from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from upright.errors import ConfigError

CONTRACT = "v1"
"""The contract that this core keeps: the middle of the entry-point groups ``upright.v1.<kind>``."""


def _version(text: str) -> str:
    try:
        if str(Version(text)) == text:
            return text
    except InvalidVersion:
        pass
    raise ValueError(f"{text!r} is no version in its normal form, such as 1.2.0")


def _dist(text: str) -> str:
    if canonicalize_name(text) != text:
        raise ValueError(f"{text!r} is not in its normal form; write {canonicalize_name(text)!r}")
    return text


Name = Annotated[str, Field(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$")]


class Tier(StrEnum):
    """How much is known of a plugin; each includes the ones before."""

    listed = "listed"
    tested = "tested"
    measured = "measured"
    reviewed = "reviewed"


class Part(BaseModel):
    """Any table of the file: frozen, and closed to unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Conformance(Part):
    """What ``upright conform --json`` said of all steps of one release: how many checks ended in which way."""

    passed: int = Field(ge=0)
    failed: int = Field(ge=0)
    skipped: int = Field(default=0, ge=0)
    expected: int = Field(default=0, ge=0, description="Failures that the authors announced with a reason.")


class Release(Part):
    """One version, as one wheel."""

    version: Annotated[str, AfterValidator(_version)]
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$", description="Of the wheel's bytes.")
    contract: str = Field(pattern=r"^v[0-9]+$")
    conformance: Conformance | None = None


class Measurement(Part):
    """A figure that the authors claim, and the command that prints it."""

    figure: str = Field(min_length=1)
    command: str = Field(min_length=1)


class Review(Part):
    """Somebody else read this version."""

    by: str = Field(min_length=1)
    version: Annotated[str, AfterValidator(_version)]
    on: date


class Plugin(Part):
    """One distribution: what it offers, who keeps it, and what is known of its releases."""

    dist: Annotated[str, AfterValidator(_dist)]
    summary: str = Field(min_length=1, max_length=200)
    repository: str | None = Field(default=None, pattern=r"^https://[^\s\"'<>]+$")
    licence: str = Field(min_length=1, description="SPDX expression.")
    maintainers: tuple[str, ...] = Field(min_length=1)
    steps: dict[Name, tuple[Name, ...]] = Field(min_length=1, description="Kind -> names, as `use:` takes them.")
    tier: Tier = Tier.listed
    exempt: dict[Literal["tested", "measured"], Annotated[str, Field(min_length=10)]] = Field(
        default={}, description="Tier -> why its rule does not apply."
    )
    status: Literal["ok", "deprecated", "quarantined"] = "ok"
    reason: str | None = Field(default=None, description="Of a status that is not ok.")
    releases: tuple[Release, ...] = ()
    measurements: tuple[Measurement, ...] = ()
    reviews: tuple[Review, ...] = ()

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        versions = [release.version for release in self.releases]
        if len(set(versions)) < len(versions):
            raise ValueError("releases: one version stands there twice")
        if self.status != "ok" and not self.reason:
            raise ValueError(f"status: {self.status} needs a reason")
        for tier in list(Tier)[1 : list(Tier).index(self.tier) + 1]:
            problem = self.short_of(tier)
            if problem and tier not in self.exempt:
                raise ValueError(f"tier: is not {tier}: {problem}")
        return self

    @property
    def newest(self) -> Release | None:
        """The release of the highest version; None where there is none."""
        return max(self.releases, key=lambda release: Version(release.version), default=None)

    def short_of(self, tier: Tier) -> str | None:
        """Why the rule of a tier is not met, None where it is; rules look at the newest release."""
        if tier == Tier.listed:
            return None
        if self.newest is None:
            return "there is no release"
        if tier == Tier.tested:
            found = self.newest.conformance
            if found is None:
                return f"{self.newest.version} has no conformance result"
            return None if found.passed and not found.failed else f"{self.newest.version} fails {found.failed} checks"
        if tier == Tier.measured:
            return None if self.measurements else "there is no figure with the command that prints it"
        others = [r for r in self.reviews if r.version == self.newest.version and r.by not in self.maintainers]
        return None if others else f"nobody but its maintainers has reviewed {self.newest.version}"


def read(path: Path) -> Plugin:
    """The plugin of a file. Raises ConfigError with file:line for each problem."""
    try:
        text = path.read_text(encoding="utf-8")
        plugin = Plugin.model_validate(tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        line = re.search(r"at line (\d+)", str(error))
        raise ConfigError(f"{path}:{line[1] if line else text.count(chr(10)) + 1}  is no TOML: {error}") from error
    except ValidationError as error:
        raise ConfigError([_told(path, text, one["loc"], one["msg"]) for one in error.errors()]) from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}  cannot be read: {error}") from error
    if path.stem != plugin.dist:
        raise ConfigError(
            f"{path}:{_line(text, ('dist',))}  dist: is {plugin.dist}, so name the file {plugin.dist}.toml"
        )
    return plugin


def read_all(folder: Path) -> list[Plugin]:
    """Every plugin of a folder, by name. Raises ConfigError: all problems of all files, or a step offered twice."""
    plugins, problems = [], []
    for path in sorted(folder.glob("*.toml")):
        try:
            plugins.append(read(path))
        except ConfigError as error:
            problems += error.problems
    offered: dict[tuple[str, str], str] = {}
    for plugin in plugins:
        for kind, names in plugin.steps.items():
            for name in names:
                other = offered.setdefault((kind, name), plugin.dist)
                if other != plugin.dist:
                    path = folder / f"{plugin.dist}.toml"
                    line = _line(path.read_text(encoding="utf-8"), ("steps", kind))
                    problems.append(
                        f"{path}:{line}  steps.{kind}: {other} offers {name!r} already; choose another name"
                    )
    if problems:
        raise ConfigError(problems)
    if not plugins:
        raise ConfigError(f"{folder}: holds no plugins; name a folder of <dist>.toml files")
    return plugins


def _told(path: Path, text: str, loc: tuple[int | str, ...], message: str) -> str:
    message = message.removeprefix("Value error, ")
    if not loc:  # the rule of the whole file names its key itself
        return f"{path}:{_line(text, (message.partition(':')[0],))}  {message}"
    return f"{path}:{_line(text, loc)}  {'.'.join(map(str, loc))}: {message[0].lower()}{message[1:]}"


def _line(text: str, loc: tuple[int | str, ...]) -> int:
    """The line of a key, such as ("releases", 1, "sha256"): of the nearest thing around it where it has none; from 1."""
    best, depth = 1, 0
    table: tuple[int | str, ...] = ()
    counts: dict[str, int] = {}
    for number, line in enumerate(text.splitlines(), 1):
        header = re.match(r"\s*(\[\[?)\s*([\w.\-\"']+)\s*\]", line)
        key = re.match(r"\s*([\w\-]+|\"[^\"]*\"|'[^']*')\s*=", line)
        if header:
            name = header[2].replace('"', "").replace("'", "")
            counts[name] = counts.get(name, -1) + 1
            table = (*name.split("."), counts[name]) if header[1] == "[[" else tuple(name.split("."))
            here = table
        elif key:
            here = (*table, key[1].strip("\"'"))
        else:
            continue
        if len(here) > depth and loc[: len(here)] == here:
            best, depth = number, len(here)
    return best
