"""The hooks `seal` and `unseal`, answered by a step from outside: what core seals, where it opens, what it refuses."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import pytest
from outside_steps import StopAt, with_steps

from upright import Run, Stack, Step, catalog, hook
from upright.engine.execute import execute
from upright.errors import ConfigError, IntegrityError, NoKeyError
from upright.evidence.verify import verify

MARK = b"masked\n"


class Mask(Step):
    """Seals by flipping every bit; whether there is a key is a switch, and every call is written down."""

    @hook
    def seal(self, path: Path, into: Path, name: str, run: Run) -> None:
        if not KEY["there"]:
            raise NoKeyError("mask: there is no key")
        SEEN.append((path, into, name))
        into.write_bytes(MARK + bytes(255 - byte for byte in path.read_bytes()))

    @hook
    def unseal(self, path: Path, into: Path, name: str, run: Run) -> bool:
        content = path.read_bytes()
        if not content.startswith(MARK):
            return False
        if not KEY["there"]:
            raise NoKeyError("mask: there is no key")
        into.write_bytes(bytes(255 - byte for byte in content[len(MARK) :]))
        return True

    @hook
    def save(self, folder: Path, run: Run) -> None:
        (folder / "own.txt").write_text("what the step needs to open the rest")


class Notes(Step):
    """Saves a file, and derives a figure from it."""

    @hook
    def save(self, folder: Path, run: Run) -> None:
        (folder / "deep").mkdir()
        (folder / "deep" / "notes.txt").write_text("41.5")

    @hook
    def report(self, run: Run) -> None:
        with run.opened(f"steps/{run.key(self)}") as folder, run.opened("metrics.json") as metrics:
            assert (folder / "deep" / "notes.txt").read_text() == "41.5"
            assert "noted" in metrics.read_text()

    @hook
    def account(self, folder: Path, run: Run) -> dict[str, float]:
        return {"noted": float((folder / "deep" / "notes.txt").read_text())}


KEY = {"there": True}
SEEN: list[tuple[Path, Path, str]] = []


@pytest.fixture(autouse=True)
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of plain copies; nothing is left in it."""
    KEY["there"] = True
    SEEN.clear()
    folder = tmp_path / "scratch"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.fixture
def loaded(toy: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> Stack:
    """The toy stack with the two steps, offered as another distribution would offer them."""
    ours = catalog.installed()
    theirs = [catalog.Entry("privacy", name, "acme", "1.0", f"{__name__}:{name.title()}") for name in ("mask", "notes")]
    monkeypatch.setattr(catalog, "installed", lambda: (*ours, *theirs))
    return Stack.load({**toy, "clean": "exact-dup", "privacy": ["mask", "notes"]})


def sealed_files(folder: Path) -> set[str]:
    there = {p.relative_to(folder).as_posix(): p for p in folder.rglob("*") if p.is_file()}
    return {name for name, path in there.items() if path.read_bytes().startswith(MARK)}


def test_every_file_that_holds_data_or_weights_is_sealed_on_its_way_in(loaded: Stack, scratch: Path) -> None:
    run = execute(loaded)
    assert run.exit_code == 0
    there = {p.relative_to(run.folder).as_posix() for p in run.folder.rglob("*") if p.is_file()}
    held = {name for name in there if name.split("/")[0] in ("model", "checkpoints", "data", "predictions", "steps")}
    assert held - sealed_files(run.folder) == {"steps/mask/own.txt"}
    assert (
        held - {"steps/mask/own.txt"} == sealed_files(run.folder) >= {"steps/notes/deep/notes.txt", "model/config.json"}
    )
    for path, into, name in SEEN:
        where = into.relative_to(run.folder).as_posix() if into.is_relative_to(run.folder) else None
        assert path.is_relative_to(scratch) or name.startswith("steps/")
        assert where is None or into != run.folder / name, "sealed before the rename, not after it"
    assert {name for *_, name in SEEN} == {*sealed_files(run.folder), "empty", *_removed(SEEN, run)}
    assert list(scratch.iterdir()) == []
    with run.opened("model") as folder, run.opened("steps/notes/deep/notes.txt") as notes:
        assert json.loads((folder / "config.json").read_text())["model_type"] == "bert"
        assert folder.parent.stat().st_mode & 0o777 == 0o700
        assert notes.read_text() == "41.5"
    assert list(scratch.iterdir()) == []


def _removed(seen: list[tuple[Path, Path, str]], run: Run) -> set[str]:
    """Checkpoints that newer ones replaced."""
    return {name for *_, name in seen if name.startswith("checkpoints/") and not (run.folder / name).exists()}


def test_where_nobody_seals_files_are_what_they_were(toy: dict[str, Any], scratch: Path) -> None:
    run = execute(Stack.load(toy))
    with run.opened("model") as folder:
        assert folder == run.folder / "model"
    assert json.loads((run.folder / "lock.json").read_text())["sealed"] is None
    assert list(scratch.iterdir()) == []


def test_verify_opens_what_it_reads_and_without_a_key_says_what_it_did_not(loaded: Stack, tmp_path: Path) -> None:
    folder = execute(loaded).folder
    found = verify(folder)
    assert (found.problems, found.sealed) == ([], None)
    assert "run/privacy/notes/noted" in json.loads((folder / "metrics.json").read_text())
    assert found.figures == len(json.loads((folder / "metrics.json").read_text()))
    KEY["there"] = False
    found = verify(folder)
    assert (found.problems, found.unchecked, found.exit_code, found.figures) == ([], [], 0, 0)
    assert found.sealed == "mask: there is no key"
    KEY["there"] = True
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    (copy / "steps" / "notes" / "deep" / "notes.txt").write_bytes(MARK + bytes(255 - byte for byte in b"40.5"))
    assert any("run/privacy/notes/noted" in problem for problem in verify(copy).problems)
    (copy / "steps" / "notes" / "deep" / "notes.txt").write_text("41.5")
    assert any("is not sealed" in problem for problem in verify(copy).problems)
    (copy / "evidence" / "cleaning.json").write_text('{"decisions": [{}]}')
    assert any("does not count what data/ledger.parquet holds" in problem for problem in verify(copy).problems)


def test_without_the_plugin_a_sealed_run_is_incomplete_and_not_contradicted(
    loaded: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = execute(loaded).folder
    rest = tuple(entry for entry in catalog.installed() if entry.dist != "acme")
    monkeypatch.setattr(catalog, "installed", lambda: rest)
    found = verify(folder)
    assert (found.problems, found.exit_code) == ([], 3)
    assert found.sealed is not None
    assert "sealed by privacy/mask" in found.sealed


def test_a_run_is_resumed_from_sealed_checkpoints_bit_for_bit(loaded: Stack, tmp_path: Path) -> None:
    from dataclasses import replace

    whole = execute(loaded)
    stopping = with_steps(loaded, ("train", "stop", StopAt()))
    StopAt.at = 3
    with pytest.raises(KeyboardInterrupt):
        execute(stopping)
    StopAt.at = -1
    folder = next(
        path for path in whole.folder.parent.iterdir() if path not in (whole.folder, whole.folder.parent / "latest")
    )
    KEY["there"] = False
    with pytest.raises(NoKeyError):
        execute(replace(stopping), resume=folder)
    KEY["there"] = True
    resumed = execute(replace(stopping), resume=folder)
    for name in sorted(sealed_files(whole.folder)):
        if name.startswith("model/"):
            assert (resumed.folder / name).read_bytes() == (whole.folder / name).read_bytes()


@pytest.mark.usefixtures("loaded")
def test_a_sealed_run_is_a_base_and_its_copy_lives_as_long_as_the_run_that_reads_it(
    toy: dict[str, Any], scratch: Path
) -> None:
    import gc

    folder = execute(Stack.load({**toy, "tune": "head", "privacy": ["mask", "notes"]})).folder
    toy |= {"name": "next", "model": {"base": str(folder), "task": "text-classification"}, "tune": "head"}
    run = execute(Stack.load(toy))
    assert run.exit_code == 0
    assert len(list(scratch.iterdir())) == 1
    assert run.embed(["fever"]).shape == (1, 16)
    del run
    gc.collect()
    assert list(scratch.iterdir()) == []


def test_two_that_seal_and_one_that_only_seals_are_refused(toy: dict[str, Any]) -> None:
    class Half(Step):
        """Seals what nobody opens."""

        @hook
        def seal(self, path: Path, into: Path) -> None: ...

    stack = Stack.load(toy)
    with pytest.raises(ConfigError, match="both answer `seal`"):
        with_steps(stack, ("privacy", "mask", Mask()), ("privacy", "other", Mask()))
    with pytest.raises(ConfigError, match="answers only one of `seal` and `unseal`"):
        with_steps(stack, ("privacy", "half", Half()))


def test_no_key_is_said_before_any_work_and_a_failed_seal_loses_nothing(loaded: Stack) -> None:
    KEY["there"] = False
    with pytest.raises(NoKeyError):
        execute(loaded)
    [folder] = [path for path in Path(loaded.settings.output, "toy").iterdir() if not path.is_symlink()]
    assert not (folder / "data").exists()
    KEY["there"] = True
    run = execute(loaded)
    before = (run.folder / "predictions" / "test.parquet").read_bytes()
    KEY["there"] = False
    from upright.evidence.sealing import new_file, new_folder

    with pytest.raises(NoKeyError), new_file(run.folder / "predictions" / "test.parquet", run) as draft:
        draft.write_text("new")
    with pytest.raises(NoKeyError), new_folder(run.folder / "model", run) as drafts:
        (drafts / "config.json").write_text("new")
    assert (run.folder / "predictions" / "test.parquet").read_bytes() == before
    assert "model/config.json" in sealed_files(run.folder)
    assert not list(run.folder.rglob(".*.part"))


def test_a_step_that_writes_nothing_or_loses_a_file_is_told_so(loaded: Stack) -> None:
    from upright.errors import UprightError
    from upright.evidence.sealing import new_file

    run = execute(loaded)
    (run.folder / "predictions" / "test.parquet").unlink()
    with pytest.raises(IntegrityError, match=r"test\.parquet: is missing"), run.opened("predictions/test.parquet"):
        pass

    def nothing(path: Path, into: Path, name: str, run: Run) -> None: ...

    run.calls.seal = nothing  # type: ignore[method-assign]
    with pytest.raises(UprightError, match="wrote nothing"), new_file(run.folder / "data" / "x", run) as draft:
        draft.write_text("x")
