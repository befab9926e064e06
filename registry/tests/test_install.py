"""Each refusal with a real wheel, and an install without a network into an environment of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from registry_files import describe

from upright.errors import ConfigError, IntegrityError, PluginError, UprightError
from upright_registry.build import build
from upright_registry.index import Index
from upright_registry.install import install
from upright_registry.plugin import read_all
from upright_registry.wheel import Wheel, wheel

Make = Callable[..., Path]
SCRIPT = "[upright.v1.tune]\nthing = upright_thing:Thing\n[console_scripts]\n{} = upright_thing:main\n"


def asked(folder: Path, wanted: str = "upright-thing", **options: Any) -> list[list[Wheel]]:
    """What would have been installed; nothing is."""
    now = datetime.now(UTC)
    plugins = tuple(read_all(folder / "plugins"))
    shown: list[list[Wheel]] = []
    install(
        Index(version=1, built=now, expires=now + timedelta(days=1), plugins=plugins),
        wanted,
        lambda wheels: bool(shown.append(wheels)),
        [str(folder / "house")],
        no_index=True,
        **options,
    )
    return shown


def refused(folder: Path, kind: type[UprightError], words: str, wanted: str = "upright-thing", **options: Any) -> None:
    with pytest.raises(kind, match=words):
        asked(folder, wanted, **options)


def test_a_right_wheel_is_shown_with_what_it_needs(make_wheel: Make, tmp_path: Path) -> None:
    make_wheel("small-library", points="")
    old = make_wheel(version="0.9.0", requires="small-library>=0.1")
    new = make_wheel(version="0.10.0", requires="small-library>=0.1")
    describe(tmp_path / "plugins", old, new)
    (shown,) = asked(tmp_path)
    assert [(one.dist, one.version) for one in shown] == [("upright-thing", "0.10.0"), ("small-library", "0.1.0")]
    (shown,) = asked(tmp_path, "upright_thing==0.9.0")
    assert shown[0].version == "0.9.0"
    refused(tmp_path, PluginError, r"no such release \(it has 0\.9\.0, 0\.10\.0\)", "upright-thing==7")
    refused(tmp_path, PluginError, "upright-thing offers a step of that name", "thing")
    refused(tmp_path, ConfigError, "is no name of a plugin", "upright-thing @ https://example.org/x.whl")
    refused(tmp_path, ConfigError, "is no name of a plugin", "--help")


def test_another_hash(make_wheel: Make, tmp_path: Path) -> None:
    describe(tmp_path / "plugins", make_wheel())
    make_wheel(files={"upright_thing/more.py": ""})
    refused(tmp_path, IntegrityError, "its sha256 is .*, the registry says")


def test_another_contract(make_wheel: Make, tmp_path: Path) -> None:
    describe(tmp_path / "plugins", make_wheel(), contract="v2")
    refused(tmp_path, PluginError, "contract v2, this Upright keeps v1")
    describe(tmp_path / "plugins", make_wheel(points="[upright.v2.tune]\nthing = upright_thing:Thing\n"))
    refused(tmp_path, PluginError, r"tune\.thing is of contract v2, this Upright keeps v1")


def test_quarantine_of_a_plugin_and_of_what_it_needs(make_wheel: Make, tmp_path: Path) -> None:
    bad = make_wheel("upright-bad", points="[upright.v1.tune]\nbad = upright_bad:Thing\n")
    good = make_wheel(requires="upright-bad")
    describe(tmp_path / "plugins", good)
    refused(tmp_path, PluginError, "upright_bad.*offers steps to Upright but is not in the index")
    describe(tmp_path / "plugins", bad, dist="upright-bad", status="quarantined", reason="It sends rows away.")
    refused(tmp_path, PluginError, r"is quarantined \(It sends rows away\.\)", "upright-bad")
    refused(tmp_path, PluginError, r"upright-bad: is quarantined \(It sends rows away\.\)")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"files": {"upright_thing.pth": "import os"}}, "would run at every start"),
        ({"files": {"upright_thing-0.1.0.data/purelib/a.PTH": "import os"}}, "would run at every start"),
        ({"files": {"sitecustomize.py": ""}}, "would run at every start"),
        ({"files": {"../evil.py": ""}}, "outside the environment"),
        ({"files": {"/evil.py": ""}}, "outside the environment"),
        ({"files": {"upright/hooks.py": ""}}, "outside its package upright_thing"),
        ({"files": {"upright_thing-0.1.0.data/data/etc/x": ""}}, "outside its package upright_thing"),
        ({"requires": "small-library @ file:///nowhere"}, "which pip would build from there"),
        ({"points": SCRIPT.format("upright")}, "command 'upright' is one of upright already"),
        ({"points": SCRIPT.format("python")}, "command 'python' is one of this environment already"),
        ({"points": "[upright.v1.tune]\nlora = upright_thing:Thing\n"}, "which the registry does not tell"),
    ],
)
def test_a_wheel_that_does_not_keep_to_itself(
    content: dict[str, Any], words: str, make_wheel: Make, tmp_path: Path
) -> None:
    describe(tmp_path / "plugins", make_wheel(**content))
    refused(tmp_path, PluginError, words)


def test_a_step_that_is_installed_already(make_wheel: Make, tmp_path: Path) -> None:
    path = make_wheel(points="[upright.v1.tune]\nlora = upright_thing:Thing\n")
    file = describe(tmp_path / "plugins", path)
    file.write_text(file.read_text().replace('tune = ["thing"]', 'tune = ["lora"]'))
    refused(tmp_path, PluginError, r"tune\.lora is one of upright-tune already")


def test_two_that_come_with_one_command(make_wheel: Make, tmp_path: Path) -> None:
    make_wheel("small-library", points="[console_scripts]\ndo-it = small_library:main\n")
    describe(tmp_path / "plugins", make_wheel(points=SCRIPT.format("do-it"), requires="small-library"))
    refused(tmp_path, PluginError, "small_library.*its command 'do-it' is one of upright-thing already")


def test_weights_in_a_package_are_no_pth_file(make_wheel: Make) -> None:
    assert wheel(make_wheel(files={"upright_thing/weights.pth": ""})).dist == "upright-thing"


def test_a_wheel_that_says_it_is_another(make_wheel: Make, tmp_path: Path) -> None:
    path = make_wheel()
    other = path.rename(path.with_name("upright_thing-0.2.0-py3-none-any.whl"))
    with pytest.raises(IntegrityError, match=r"says inside that it is upright-thing 0\.1\.0"):
        wheel(other)
    with zipfile.ZipFile(other, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("upright_thing/__init__.py", "")
    twice = other.rename(path)
    with pytest.raises(PluginError, match="two files of one name"):
        wheel(twice)
    twice.write_bytes(b"no archive")
    with pytest.raises(IntegrityError, match="is no wheel that can be read"):
        wheel(twice)


def test_an_sdist_is_built_only_where_allowed(
    make_wheel: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    describe(tmp_path / "plugins", make_wheel(requires="small-library"))
    source = tmp_path / "small_library-0.1.0"
    source.mkdir()
    (source / "setup.py").write_text(
        f"from pathlib import Path\nPath({str(tmp_path / 'ran')!r}).touch()\nfrom setuptools import setup\n"
        "setup(name='small-library', version='0.1.0', py_modules=[])\n"
    )
    with tarfile.open(tmp_path / "house" / "small_library-0.1.0.tar.gz", "w:gz") as archive:
        archive.add(source, source.name)
    refused(tmp_path, PluginError, "sdists count with --allow-sdist only")
    assert not (tmp_path / "ran").exists()
    monkeypatch.setenv("PIP_NO_BUILD_ISOLATION", "0")  # setuptools is not in the wheelhouse
    (shown,) = asked(tmp_path, allow_sdist=True)
    assert [one.dist for one in shown] == ["upright-thing", "small-library"]
    assert (tmp_path / "ran").exists()


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    """The Python of an environment of its own that sees what is installed here."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv"], check=True, timeout=120)
    (packages,) = (tmp_path / "venv").glob("lib/python*/site-packages")
    here = [path for path in sys.path if path.endswith("site-packages")]
    (packages / "here.pth").write_text("".join(f"import site; site.addsitedir({path!r})\n" for path in here))
    return tmp_path / "venv" / "bin" / "python"


def test_an_install_from_a_wheelhouse(
    elsewhere: Path, make_wheel: Make, keys: tuple[Path, Path], tmp_path: Path
) -> None:
    make_wheel("small-library", points="")
    path = make_wheel(requires="small-library")
    describe(tmp_path / "plugins", path)
    build(tmp_path / "plugins", keys[0], tmp_path / "site")
    environment = {
        **os.environ,
        "UPRIGHT_REGISTRY_INDEX": str(tmp_path / "site" / "index.json"),
        "UPRIGHT_REGISTRY_KEY": str(keys[1]),
    }

    def call(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [elsewhere, "-m", "upright", *arguments],
            capture_output=True,
            text=True,
            env=environment,
            cwd=tmp_path,
            stdin=subprocess.DEVNULL,
            check=False,
            timeout=240,
        )

    get = ("registry", "install", "upright-thing", "--find-links", "house", "--no-index")
    unanswered = call(*get)
    assert unanswered.returncode == 2
    assert "--yes" in unanswered.stderr
    shown = call(*get, "--dry-run", "--yes")
    assert shown.returncode == 0, shown.stderr
    assert "small-library  0.1.0  not in the index  sha256 " in shown.stdout
    assert "installed" not in shown.stdout
    raw = path.read_bytes()
    path.write_bytes(raw.replace(b"Nothing.", b"Harm....", 1))
    assert call(*get, "--yes").returncode == 5
    assert "upright-thing" not in call("plugins").stdout
    path.write_bytes(raw)
    done = call(*get, "--yes")
    assert done.returncode == 0, done.stderr
    assert "installed upright-thing 0.1.0, small-library 0.1.0" in done.stdout
    listed = {(step["name"], step["dist"]) for step in json.loads(call("plugins", "--json").stdout)}
    assert ("thing", "upright-thing") in listed
    assert "is installed already" in call(*get, "--yes").stdout
    assert json.loads(call("registry", "outdated", "--json").stdout) == []
    describe(tmp_path / "plugins", path, make_wheel(version="0.2.0", requires="small-library"))
    build(tmp_path / "plugins", keys[0], tmp_path / "site")
    assert call("registry", "outdated").stdout.split() == ["upright-thing", "0.1.0", "0.2.0", "ok"]
    assert call(*get, "--yes").returncode == 0
    assert call("registry", "outdated").stdout == ""
