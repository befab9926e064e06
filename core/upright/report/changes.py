"""CHANGELOG.md: what differs from the previous run of the same name."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from upright.objects import Metric
from upright.report.page import interval, number
from upright.report.view import View, view

SHOWN = 60
"""Figures that are told; a run with more has per-class ones, which metrics.json holds."""


def changes(folder: Path, previous: Path | None) -> str:
    """The whole file. A previous run that can no longer be read is said to be so."""
    new = view(folder)
    title = f"# Changes of {new.settings['name']}, run {new.folder}\n\n"
    if previous is None:
        return title + "This is the first finished run of this name.\n"
    try:
        old = view(previous)
    except (OSError, ValueError, KeyError) as error:
        return title + f"The previous run {previous.name} cannot be read ({type(error).__name__}).\n"
    lines = [f"Against run {old.folder}.", ""]
    for heading, found in (
        ("Settings", setting_changes(old.settings, new.settings)),
        ("Versions", _versions(old, new)),
        ("Data", _data(old, new)),
        ("Figures", [_told(*change) for change in figure_changes(old.metrics, new.metrics)][:SHOWN]),
        ("Gates", _gates(old, new)),
    ):
        told = list(found)
        lines += [f"## {heading}", "", *(f"* {line}" for line in told or ["nothing changed"]), ""]
    return title + "\n".join(lines)


def setting_changes(old: Any, new: Any) -> list[str]:
    """One line for each setting that was changed, added or removed, by its dotted path."""
    before, after = dict(_flat(old)), dict(_flat(new))
    found = []
    for key in sorted(before.keys() | after.keys()):
        if key not in before:
            found.append(f"`{key}`: {after[key]!r} (new)")
        elif key not in after:
            found.append(f"`{key}`: was {before[key]!r}, is gone")
        elif before[key] != after[key]:
            found.append(f"`{key}`: {before[key]!r} → {after[key]!r}")
    return found


def figure_changes(
    old: dict[str, Metric], new: dict[str, Metric]
) -> Iterator[tuple[str, Metric | None, Metric | None]]:
    """Figures whose value changed, core's main ones first."""
    for key in sorted(old.keys() | new.keys(), key=lambda key: (key.count("/"), key)):
        one, other = old.get(key), new.get(key)
        if one is None or other is None or one.value != other.value:
            yield key, one, other


def beyond_chance(one: Metric, other: Metric) -> bool:
    """Whether the two intervals do not meet: a difference that is more than the draw of rows."""
    if one.low is None or one.high is None or other.low is None or other.high is None:
        return False
    return one.high < other.low or other.high < one.low


def _told(key: str, one: Metric | None, other: Metric | None) -> str:
    if one is None or other is None:
        there = one or other
        assert there is not None
        return f"`{key}`: {number(there.value)} ({'gone' if other is None else 'new'})"
    more = "; the intervals do not meet" if beyond_chance(one, other) else ""
    bounds = f" ({interval(one)} → {interval(other)}{more})" if one.low is not None else ""
    return f"`{key}`: {number(one.value)} → {number(other.value)}{bounds}"


def _versions(old: View, new: View) -> Iterator[str]:
    before = {name: facts["version"] for name, facts in old.lock["distributions"].items()}
    after = {name: facts["version"] for name, facts in new.lock["distributions"].items()}
    for what in ("python", "device"):
        before[what], after[what] = old.lock[what], new.lock[what]
    yield from setting_changes(before, after)


def _data(old: View, new: View) -> Iterator[str]:
    for split in sorted(old.lock["data"].keys() | new.lock["data"].keys()):
        one, other = old.lock["data"].get(split, {}), new.lock["data"].get(split, {})
        if one.get("sha256") != other.get("sha256"):
            yield f"{split}: the file's content changed"
        if one.get("rows") != other.get("rows"):
            yield f"{split}: {one.get('rows', 0)} → {other.get('rows', 0)} rows after cleaning"


def _gates(old: View, new: View) -> Iterator[str]:
    before = {verdict.gate: verdict.judgement for verdict in old.verdicts}
    after = {verdict.gate: verdict.judgement for verdict in new.verdicts}
    yield from setting_changes(before, after)


def _flat(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Leaves of nested data; a list of steps is keyed by each step's name."""
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from _flat(inner, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list) and value and all(isinstance(item, dict) for item in value):
        for place, item in enumerate(value):
            yield from _flat(item, f"{path}[{item.get('name', place)}]")
    else:
        yield path, value
