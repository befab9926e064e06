"""MODEL_CARD.md (Mitchell et al., 2019, arXiv:1810.03993), in the form that model hubs read."""

from __future__ import annotations

import re
from pathlib import Path

import jinja2

from upright.report.page import ASKED, HERE, interval, number, state_of
from upright.report.view import view


def card(folder: Path) -> str:
    """The card of a run folder."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE), autoescape=False, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"number": number, "interval": interval}
    run = view(folder)
    text = environment.get_template("card.md.j2").render(
        run=run, asked=ASKED, task=run.settings.get("model", {}).get("task"), state=state_of(run)[0]
    )
    return re.sub(r"\n{3,}", "\n\n", text)
