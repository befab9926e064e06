"""The page of all plugins: one HTML file, nothing from elsewhere."""

from __future__ import annotations

import base64
import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from upright_registry.index import Index
    from upright_registry.plugin import Plugin

SEARCH = """
const box = document.getElementById("search");
box.addEventListener("input", () => {
  const words = box.value.toLowerCase().split(/\\s+/);
  for (const card of document.querySelectorAll("article"))
    card.hidden = !words.every(word => card.dataset.words.includes(word));
  for (const kind of document.querySelectorAll("section"))
    kind.hidden = !kind.querySelector("article:not([hidden])");
});
"""


def page(index: Index) -> str:
    """HTML with a card for each plugin under each of its kinds. The one script is the search; its hash is in the policy."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    loader = PackageLoader("upright_registry", "")
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    kinds = sorted({kind for plugin in index.plugins for kind in plugin.steps})
    digest = base64.b64encode(hashlib.sha256(SEARCH.encode()).digest()).decode()
    return environment.get_template("page.html.j2").render(
        index=index, kinds=kinds, words=words, script=SEARCH, digest=digest
    )


def words(plugin: Plugin) -> str:
    """What a search looks at, in lower case."""
    steps = [word for kind, names in plugin.steps.items() for word in (kind, *names)]
    return " ".join([plugin.dist, plugin.summary, plugin.tier, plugin.status, *steps]).lower()
