"""``upright new``: what it writes is installed, passes its tests as it stands, and runs in its stack."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

KINDS = ("tune", "clean", "prompt", "fairness", "explain", "privacy")
LINES = 55
"""Of all that is written but the rows; a person reads them before changing one."""
LATER = "not beside-others"
"""The longest check is made for one kind, here and by tests/journey.py."""


@pytest.fixture(scope="module")
def venv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment of its own that sees the libraries that are installed here."""
    folder = tmp_path_factory.mktemp("venv")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    site = next(folder.glob("lib/python*/site-packages"))
    seen = [path for path in sys.path if path.endswith("site-packages")]
    # addsitedir rather than a plain path: editable installs are .pth files of their own
    (site / "shared.pth").write_text("".join(f"import site; site.addsitedir({path!r})\n" for path in seen))
    return folder / "bin" / "python"


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=() if kind == "clean" else pytest.mark.slow) for kind in KINDS]
)
def test_what_is_written_passes_its_tests_as_it_stands(
    kind: str, venv: Path, tmp_path: Path, upright: Callable[..., Any]
) -> None:
    name = f"my-{kind}-method"
    told = upright("new", name, "--kind", kind)
    assert told.returncode == 0, told.stderr
    folder = tmp_path / name
    written = [path for path in folder.iterdir() if path.name != "rows.jsonl"]
    assert len(written) == 5
    assert sum(len(path.read_text().splitlines()) for path in written) <= LINES

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(venv), *arguments], capture_output=True, text=True, cwd=folder, check=False, timeout=400
        )

    options = ["-q", "--disable-pip-version-check", "--no-deps", "--no-build-isolation", "--no-index"]
    installed = run("-m", "pip", "install", *options, "-e", ".")
    assert installed.returncode == 0, installed.stderr
    tested = run(
        "-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "ignore", *([] if kind == "tune" else ["-k", LATER])
    )
    assert tested.returncode == 0, tested.stdout
    assert " passed" in tested.stdout
    checked = run("-m", "upright", "check", ".")
    assert checked.returncode == 0, checked.stderr
    assert f"{kind}.{name}  ({name} 0.1.0)" in checked.stdout


def test_nothing_is_overwritten(tmp_path: Path, upright: Callable[..., Any]) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    told = upright("new", "mine", "--kind", "tune")
    assert (told.returncode, "is there already" in told.stderr) == (2, True)
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["notes.txt"]


@pytest.mark.parametrize("name", ["My-Method", "json", "class", "a b", "-x", "upright"])
def test_a_name_that_cannot_be_one_is_refused(name: str, tmp_path: Path, upright: Callable[..., Any]) -> None:
    told = upright("new", "--kind", "tune", "--", name)
    assert told.returncode == 2
    assert list(tmp_path.iterdir()) == []
