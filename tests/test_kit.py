"""The conformance kit is itself tested: for each check a wrong step that fails exactly that check."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from wrong_steps import WRONG, Misspelt, Undescribed

from upright import Stack, Step, hooks, local
from upright.evidence import verify
from upright.testing.kit import CHECKS, outcome, subject_of
from upright.testing.untouched import untouched
from upright.testing.written import written

UNTESTED = {"imports-lightly", "cleaner-undoable", "cuda-bf16"}
"""The first has a test of its own below; what cannot be undone does not decide the same twice either; the last needs a GPU."""


def failures(step: Step, section: str, folder: Path, without: set[str]) -> list[str]:
    subject = subject_of(step, folder, section)
    return [check for check in CHECKS if check not in without and outcome(check, subject).status == "failed"]


@pytest.mark.parametrize(("check", "section", "step"), WRONG, ids=[f"{c}-{type(s).__name__}" for c, _, s in WRONG])
def test_a_wrong_step_fails_exactly_its_check(check: str, section: str, step: Step, tmp_path: Path) -> None:
    assert failures(step, section, tmp_path, {"beside-others"} - {check}) == [check]


def test_every_check_has_a_wrong_step() -> None:
    assert {check for check, *_ in WRONG} | UNTESTED == CHECKS.keys()


@pytest.mark.parametrize(
    "first", ["import torch", "import socket\ntry:\n    socket.getaddrinfo('example.org', 80)\nexcept OSError: ..."]
)
def test_a_module_that_imports_torch_or_asks_the_network_fails_exactly_that(first: str, tmp_path: Path) -> None:
    (tmp_path / "heavy.py").write_text(
        f"{first}\nfrom upright import Step, hook\n"
        "class Heavy(Step):\n    'Help.'\n    @hook\n    def watch(self): ...\n"
    )
    found, path = local.find("heavy.py:Heavy", tmp_path, "here")
    assert failures(local.load(found, path, "here")(), "train", tmp_path / "kit", {"beside-others"}) == [
        "imports-lightly"
    ]


def test_each_way_to_change_core_is_noticed_and_what_was_set_is_put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    changed: list[str] = []
    check = Stack.check
    with untouched(changed):
        verify.isclose = lambda one, other: True  # type: ignore[attr-defined]  # a name that was not there
        Stack.check = lambda self: None  # type: ignore[method-assign]
        monkeypatch.setitem(hooks.HOOKS, "harm", "all")
        monkeypatch.setattr(verify._same, "__code__", (lambda one, other: True).__code__)
    assert {*changed} == {
        "upright.evidence.verify.isclose",
        "upright.stack.Stack.check",
        "upright.hooks.HOOKS",
        "upright.evidence.verify._same",
    }
    assert Stack.check is check
    assert not hasattr(verify, "isclose")


def test_each_way_to_write_is_noticed_and_reading_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temp"))
    run, other = tmp_path / "run", tmp_path / "other"
    for folder in (run, other):
        folder.mkdir()
        (folder / "there").write_text("x")
    outside: list[str] = []
    with written(outside, run):
        for folder in (run, other):
            (folder / "there").read_text()
            (folder / "made").mkdir()
            (folder / "new").write_text("x")
            (folder / "link").symlink_to("there")
            (folder / "new").rename(folder / "moved")
            (folder / "there").unlink()
    assert {Path(path).name for path in outside} == {"made", "new", "link", "there", "moved"}
    assert {Path(path).parent for path in outside} == {other}


def test_an_expected_failure_is_told_with_its_reason_and_one_that_does_not_happen_fails(tmp_path: Path) -> None:
    expected = {"settings-described": "an old name that nobody reads", "frozen": "no reason"}
    subject = subject_of(Undescribed(), tmp_path)
    found = outcome("settings-described", subject, expected)
    assert (found.status, "an old name" in found.detail) == ("expected", True)
    assert outcome("frozen", subject_of(Misspelt(), tmp_path), expected).status == "failed"


def test_the_command_tells_a_line_a_check_and_ends_with_1_or_3(tmp_path: Path, upright: Callable[..., Any]) -> None:
    (tmp_path / "steps.py").write_text(
        "from upright import Step, hook\nclass Mine(Step):\n    @hook\n    def wtach(self): ...\n"
    )
    told = upright("conform", "./steps.py:Mine")
    assert told.returncode == 1
    assert "failed   joins-a-hook: `wtach` is marked @hook" in told.stdout
    reply = upright("conform", "./steps.py:Mine", "--json", "--expect", "joins-a-hook=to show it")
    assert reply.returncode == 1, "the class has no docstring"
    [one] = json.loads(reply.stdout)
    statuses = {check["check"]: check["status"] for check in one["checks"]}
    assert (statuses["joins-a-hook"], statuses["settings-described"]) == ("expected", "failed")
    assert upright("conform", "nothing-of-this-name").returncode == 3
    assert upright("conform", "./steps.py:Mine", "--expect", "nothing=x").returncode == 2
