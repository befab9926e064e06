"""The way of a new author, as a test: `python tests/journey.py` prints how long it takes."""

from __future__ import annotations

from pathlib import Path

import journey

LINES = 45
"""What a person may have to write."""


def test_from_nothing_to_an_installed_plugin(tmp_path: Path) -> None:
    lines, seconds = journey.travel(tmp_path)
    assert lines <= LINES
    assert list(seconds)[-2:] == ["upright registry install", "upright run, elsewhere"]
