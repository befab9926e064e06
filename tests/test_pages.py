"""A browser opens the report of each example; its numbers are the run's, and nothing that was planted is in it."""

from __future__ import annotations

import html
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from browser import opened, screenshot, width
from example_stacks import PATHS, SECRETS, tiny_example
from page_numbers import problems

from conftest import ROOT, toy_rows, write_rows
from upright import Stack
from upright.engine.execute import execute

SCREENS = (390, 1280)
QUICKSTART = ROOT / "examples" / "quickstart" / "stack.yaml"
STORY = ROOT / "examples" / "story-writer" / "stack.yaml"


@pytest.fixture(scope="module")
def cleaned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that only cleans."""
    folder = tmp_path_factory.mktemp("cleaned")
    train = write_rows(folder / "train.jsonl", [*toy_rows(40, 0), *toy_rows(10, 0)])
    return execute(
        Stack.load({"name": "cleaned", "data": {"train": train}, "clean": "exact-dup", "output": str(folder)})
    ).folder


@pytest.fixture(scope="module")
def written(tiny: Callable[[str], Path], tiny_mean: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that generates."""
    return execute(tiny_example(STORY, tmp_path_factory.mktemp("written"), tiny_mean, tiny("llama"))).folder


def looked_at(folder: Path, scratch: Path) -> None:
    """The page opens, asks for nothing, complains of nothing, fits both screens, and its numbers are the run's."""
    page = folder / "report.html"
    seen = opened(page, scratch)
    assert "<h1>" in seen.dom
    assert ">Verify<" in seen.dom
    assert seen.requests == []
    assert seen.console == []
    assert problems(folder) == []
    links = set(re.findall(r'href="#([^"]+)"', seen.dom))
    assert links <= set(re.findall(r'id="([^"]+)"', seen.dom))
    for screen in SCREENS:
        assert width(page, screen, scratch) <= screen
        screenshot(page, screen, 2400, scratch / f"{screen}.png", scratch)
        assert (scratch / f"{screen}.png").stat().st_size > 10_000


@pytest.mark.parametrize("kind", ["finished", "cleaned", "written"])
def test_the_page_of_every_kind_of_run_opens(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    looked_at(request.getfixturevalue(kind), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("path", PATHS, ids=lambda p: f"{p.parent.name}/{p.name}")
def test_the_page_of_every_example_opens(
    path: Path, tiny: Callable[[str], Path], tiny_mean: Path, tmp_path: Path
) -> None:
    run = execute(tiny_example(path, tmp_path / "example", tiny_mean, tiny("llama")))
    assert run.exit_code == 0
    looked_at(run.folder, tmp_path)
    if run.stack.answering("clean") and run.private:
        assert secrets(run.folder) == []


def test_the_page_needs_no_javascript(finished: Path, tmp_path: Path) -> None:
    """It has none, and its policy lets none run: what the browser shows is what it shows without."""
    page = (finished / "report.html").read_text()
    assert "<script" not in page
    assert not re.search(r"<[^>]*\son\w+=", page)
    assert "default-src 'none'" in page
    assert "script-src" not in page
    shown = opened(finished / "report.html", tmp_path).dom
    for heading in ("Figures", "Gates", "Training", "Groups", "Explanations", "Headings of three frameworks", "Verify"):
        assert f">{heading}<" in shown


def test_a_page_that_acts_asks_or_is_too_wide_is_noticed(finished: Path, tmp_path: Path) -> None:
    """The mutants of the tests above: without its policy a page can do all of it."""
    page = (finished / "report.html").read_text()
    free = page.replace('http-equiv="Content-Security-Policy"', "", 1)
    bad = tmp_path / "bad.html"
    bad.write_text(
        free.replace("<main>", '<main><img src="http://127.0.0.1:9/x.png"><script>console.error(1)</script>', 1)
    )
    seen = opened(bad, tmp_path)
    assert seen.requests == ["http://127.0.0.1:9/x.png"]
    assert len(seen.console) == 1
    bad.write_text(page.replace("<main>", '<main><div style="width:700px">wide</div>', 1))
    assert width(bad, 390, tmp_path) > 390
    assert width(bad, 1280, tmp_path) <= 1280
    bad.write_text(page.replace("<main>", '<main><img src="http://127.0.0.1:9/x.png">', 1))
    blocked = opened(bad, tmp_path)
    assert blocked.requests == []
    assert blocked.console  # the policy stops it, and says so


@pytest.mark.parametrize("what", ["a figure", "an interval", "a number that nothing says"])
def test_a_number_that_is_not_the_runs_is_noticed(finished: Path, what: str) -> None:
    page = (finished / "report.html").read_text()
    row = re.search(r'<tr data-figure="test/accuracy">.*?</tr>', page)
    assert row is not None
    first, low = re.findall(r"0\.\d+", row[0])[:2]
    changed = {
        "a figure": page.replace(row[0], row[0].replace(first, f"{float(first) + 0.001:.4g}", 1)),
        "an interval": page.replace(row[0], row[0].replace(low, f"{float(low) - 0.001:.4g}")),
        "a number that nothing says": page.replace("<main>", "<main><p>better by 12.3456 points</p>"),
    }[what]
    assert problems(finished, page) == []
    assert len(problems(finished, changed)) == 1


# --- personal data --------------------------------------------------------------------------------------------------


def secrets(folder: Path) -> list[str]:
    """The planted values that a page's words hold once tags and spaces are gone, or that its bytes hold."""
    found = []
    for name in ("report.html", "MODEL_CARD.md", "CHANGELOG.md"):
        page = (folder / name).read_text(encoding="utf-8")
        words = re.sub(r"\s", "", html.unescape(re.sub(r"<[^>]*>", "", page)))
        found += [f"{secret} in {name}" for secret in SECRETS if secret in words or secret in page]
    return found


@pytest.mark.parametrize("masked", [True, False])
def test_no_planted_address_or_number_is_in_a_page(
    masked: bool, tiny: Callable[[str], Path], tiny_mean: Path, tmp_path: Path
) -> None:
    """The stack without `pii` is the mutant: there the explanations show what was planted."""
    privacy = [{"use": "pii", "replacement": "mask"}] if masked else []
    changes = {"privacy": privacy, "explain": {"use": "integrated-gradients", "samples": 40, "n_steps": 2}, "clean": []}
    run = execute(tiny_example(QUICKSTART, tmp_path, tiny_mean, tiny("llama"), **changes))
    assert bool(secrets(run.folder)) is not masked


def test_the_page_is_dark_where_the_reader_wants_it(finished: Path) -> None:
    style = (finished / "report.html").read_text()
    assert "prefers-color-scheme: dark" in style
    assert "@media print" in style
    assert shutil.which("chromium") is None or "details-content" in style
