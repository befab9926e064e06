"""What a person reads of a run: one HTML file, a model card, a list of changes."""

from __future__ import annotations

from pathlib import Path


def write_report(folder: Path, previous: Path | None) -> None:
    """Write report.html, MODEL_CARD.md and CHANGELOG.md from what the run folder holds."""
