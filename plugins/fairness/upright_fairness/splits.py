"""Which splits an audit is about."""

from __future__ import annotations

from collections.abc import Iterable

FITTED = ("train", "validation")
"""Splits that choices were made on."""


def audited(splits: Iterable[str]) -> list[str]:
    """The test splits by name; validation where there is none."""
    splits = set(splits)
    return sorted(splits.difference(FITTED)) or sorted(splits & {"validation"})
