"""What the documents show works, and what they point at is there."""

from __future__ import annotations

import re
import runpy
from pathlib import Path
from typing import Any

import pytest
from outside_steps import with_steps

from conftest import ROOT
from upright import Stack, Step
from upright.engine.execute import execute

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]
PAGES += sorted(
    path for folder in ("core", "plugins", "registry", "examples") for path in (ROOT / folder).rglob("README.md")
)


def blocks(path: Path, language: str) -> list[str]:
    """The fenced blocks of a page."""
    return re.findall(rf"^```{language}\n(.*?)^```", path.read_text(), re.DOTALL | re.MULTILINE)


def test_the_method_of_contributing_is_a_step_that_trains(toy: dict[str, Any]) -> None:
    space: dict[str, Any] = {"__name__": "l2sp"}
    exec(compile(blocks(ROOT / "CONTRIBUTING.md", "python")[0], "CONTRIBUTING.md", "exec"), space)
    step = space["L2Sp"]
    assert issubclass(step, Step)
    run = execute(with_steps(Stack.load(toy), ("train", "l2-sp", step(strength=0.1))))
    assert run.exit_code == 0
    assert any(key.startswith("l2-sp/") for key in run.kept)


def test_the_stack_of_the_readme_is_one(tmp_path: Path) -> None:
    (tmp_path / "stack.yaml").write_text(blocks(ROOT / "README.md", "yaml")[0])
    stack = Stack.load(tmp_path)
    assert stack.private
    assert len(stack.steps) == 9


@pytest.mark.parametrize(
    "path", sorted((ROOT / "examples").glob("*/stack*.yaml")), ids=lambda p: f"{p.parent.name}/{p.name}"
)
def test_every_example_checks(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UPRIGHT_DATA", "/nowhere")
    assert Stack.load(path).settings.name


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text())
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_the_reference_of_hooks_is_what_make_docs_writes() -> None:
    assert (ROOT / "docs" / "hooks.md").read_text() == runpy.run_path(str(ROOT / "docs" / "write_hooks.py"))["page"]()


def test_every_target_that_the_documents_name_is_in_the_makefile() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {name for page in PAGES for name in re.findall(r"(?:`|^)make ([a-z-]+)", page.read_text(), re.MULTILINE)}
    assert named <= targets
