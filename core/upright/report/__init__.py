"""What a run tells people: report.html, MODEL_CARD.md, CHANGELOG.md; all of it read from the run folder's evidence."""

from __future__ import annotations

from pathlib import Path

from upright.evidence.files import write_atomic


def write_report(folder: Path, previous: Path | None) -> None:
    """Write the three files; ``previous`` is the run of the same name that the changes are told against."""
    from upright.report.card import card
    from upright.report.changes import changes
    from upright.report.page import render

    write_atomic(folder / "CHANGELOG.md", changes(folder, previous))
    write_atomic(folder / "MODEL_CARD.md", card(folder))
    write_atomic(folder / "report.html", render(folder))
