"""Write docs/hooks.md from core/upright/hooks.py and the steps of this repository: ``make docs``."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from pathlib import Path

from upright import catalog, hooks
from upright.stack import answers

PAGE = Path(__file__).parent / "hooks.md"
RULES = {
    "chain": "each step gets what the last one returned",
    "first": "one step only; two are refused",
    "all": "every step sees the moment",
    "list": "the answers as a list",
    "merge": "one mapping; equal keys are an error",
    "sum": "the answers are added",
    "product": "the answers are multiplied",
}


def page() -> str:
    """The whole reference."""
    source = Path(hooks.__file__).read_text(encoding="utf-8")
    module = ast.parse(source)
    headings = {n: line.strip("# -") for n, line in enumerate(source.splitlines(), 1) if line.startswith("# ---")}
    who = answering()
    lines = [
        "# Hooks",
        "",
        "Written from `core/upright/hooks.py` by `make docs`; change it there.",
        "",
        ast.get_docstring(module) or "",
    ]
    for node in module.body:
        if not isinstance(node, ast.FunctionDef) or node.name not in hooks.HOOKS:
            continue
        above = [place for place in headings if place < node.lineno]
        if above:
            lines += ["", f"## {headings.pop(max(above)).capitalize()}"]
            headings = {place: told for place, told in headings.items() if place > node.lineno}
        rule = hooks.HOOKS[node.name]
        returns = ast.unparse(node.returns) if node.returns else "None"
        arguments = re.sub(r"\s+", " ", ast.unparse(node.args))
        lines += [
            "",
            f"### `{node.name}`",
            "",
            "```python",
            f"def {node.name}(self, {arguments}) -> {returns}",
            "```",
            "",
            f"*{rule}*: {RULES[rule]}.",
            "",
            ast.get_docstring(node) or "",
        ]
        if who[node.name]:
            lines += ["", "Answered by " + ", ".join(f"`{name}`" for name in sorted(who[node.name])) + "."]
    return "\n".join(lines) + "\n"


def answering() -> dict[str, set[str]]:
    """Hook -> the steps of this repository that answer it."""
    found: dict[str, set[str]] = defaultdict(set)
    for entry in catalog.steps():
        if entry.dist.startswith("upright-"):
            step = catalog.load(entry)
            for name in hooks.HOOKS:
                if answers(step.__new__(step), name):
                    found[name].add(f"{entry.section}.{entry.name}")
    return found


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
