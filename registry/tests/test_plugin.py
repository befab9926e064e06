"""A plugin's file is read, or each problem is told with its line; a tier is what the file shows."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from conftest import ROOT
from upright.errors import ConfigError
from upright_registry.plugin import read, read_all

RIGHT = """dist = "upright-x"
summary = "A thing."
licence = "MIT"
maintainers = ["A"]
tier = "{tier}"

[steps]
tune = ["x"]

[[releases]]
version = "0.9.0"
sha256 = "{sha}"
contract = "v1"

[[releases]]
version = "0.10.0"
sha256 = "{sha}"
contract = "v1"
"""
TESTED = "conformance = {passed = 3, failed = 0}\n"
MEASURED = '\n[[measurements]]\nfigure = "accuracy 0.9"\ncommand = "make results"\n'
REVIEWED = '\n[[reviews]]\nby = "B"\nversion = "0.10.0"\non = 2026-01-01\n'


def text(tier: str = "listed") -> str:
    return RIGHT.format(tier=tier, sha="ab" * 32)


def written(folder: Path, content: str) -> Path:
    path = folder / "upright-x.toml"
    path.write_text(content)
    return path


def test_the_bundled_files_say_what_the_distributions_offer() -> None:
    told = {plugin.dist: plugin.steps for plugin in read_all(ROOT / "registry" / "plugins")}
    offered = {}
    for path in sorted((ROOT / "plugins").glob("*/pyproject.toml")):
        project = tomllib.loads(path.read_text())["project"]
        groups = {group.removeprefix("upright.v1."): tuple(sorted(n)) for group, n in project["entry-points"].items()}
        groups.pop("command", None)
        offered[project["name"]] = groups
    assert told == offered


@pytest.mark.parametrize(
    ("change", "line", "word"),
    [
        (('licence = "MIT"', ""), 1, "licence"),
        (('licence = "MIT"', "licence = 3"), 3, "licence"),
        (('version = "0.10.0"', 'version = "0.10"\nx = 1'), 17, "releases.1.x"),
        (('version = "0.10.0"', 'version = "new"'), 16, "releases.1.version"),
        (('tune = ["x"]', 'tune = ["X y"]'), 8, "steps.tune"),
        (('tier = "listed"', 'tier = "tested"'), 5, "0.10.0 has no conformance result"),
        (('tier = "listed"', 'status = "quarantined"'), 5, "needs a reason"),
        (('tier = "listed"', "tier = listed"), 5, "no TOML"),
        (('dist = "upright-x"', 'dist = "upright-y"'), 1, "name the file upright-y.toml"),
        (('maintainers = ["A"]', 'maintainers = ["A"]\nrepository = "javascript:alert(1)"'), 5, "repository"),
    ],
)
def test_a_problem_is_told_with_its_line(change: tuple[str, str], line: int, word: str, tmp_path: Path) -> None:
    path = written(tmp_path, text().replace(*change))
    with pytest.raises(ConfigError) as caught:
        read(path)
    assert f"{path}:{line}  " in str(caught.value)
    assert word in str(caught.value)


def test_each_tier_needs_the_one_before(tmp_path: Path) -> None:
    assert read(written(tmp_path, text() + MEASURED)).tier == "listed"
    for tier, content in {
        "tested": TESTED,
        "measured": TESTED + MEASURED,
        "reviewed": TESTED + MEASURED + REVIEWED,
    }.items():
        assert read(written(tmp_path, text(tier) + content)).tier == tier
    for tier, content in {
        "tested": TESTED.replace("failed = 0", "failed = 1"),
        "measured": MEASURED,
        "reviewed": TESTED + MEASURED + REVIEWED.replace('"B"', '"A"'),
    }.items():
        with pytest.raises(ConfigError, match="tier: is not"):
            read(written(tmp_path, text(tier) + content))
    exempt = '\n[exempt]\nmeasured = "it computes nothing that could be measured"\n'
    assert read(written(tmp_path, text("measured") + TESTED + exempt)).exempt


def test_a_step_that_two_plugins_offer_is_refused(tmp_path: Path) -> None:
    written(tmp_path, text())
    (tmp_path / "upright-z.toml").write_text(text().replace("upright-x", "upright-z"))
    with pytest.raises(ConfigError, match=r"upright-z\.toml:8  steps\.tune: upright-x offers 'x' already"):
        read_all(tmp_path)
