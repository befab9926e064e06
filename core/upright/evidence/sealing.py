"""Files that a step seals (encrypts) through the hooks ``seal`` and ``unseal``; where no step does, plain files.

Sealed are model/, checkpoints/, data/ and predictions/ as they are written, and steps/ when the run ends, since a ledger
there grows until then; the sealing step's own folder stays as it is. What is plain lies in a folder of mode 0700 under
``TMPDIR`` while it is needed, never in the run's folder.
"""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from upright.errors import IntegrityError, UprightError
from upright.evidence.files import disk_error, replace_file, replace_folder

if TYPE_CHECKING:
    from upright.run import Run


SEALED = ("model", "checkpoints", "data", "predictions", "steps")
"""The folders of a run that hold data or weights."""


def seals(run: Run | None) -> bool:
    """Whether a step of the run seals its files."""
    return run is not None and bool(run.calls.answers("seal"))


@contextmanager
def new_file(path: Path, run: Run) -> Iterator[Path]:
    """A path to write to; when the block ends well, the file is at ``path``, sealed where a step seals."""
    with replace_file(path) as draft:
        if not seals(run):
            yield draft
            return
        with _private() as folder:
            yield folder / path.name
            _seal(folder / path.name, draft, path, run)


@contextmanager
def new_folder(path: Path, run: Run) -> Iterator[Path]:
    """A folder to write to; when the block ends well, it is at ``path``, each file sealed where a step seals."""
    with replace_folder(path) as draft:
        if not seals(run):
            yield draft
            return
        with _private() as folder:
            yield folder
            for file in _files(folder):
                place = file.relative_to(folder)
                (draft / place).parent.mkdir(parents=True, exist_ok=True)
                _seal(file, draft / place, path / place, run)


@contextmanager
def opened(path: Path, run: Run | None) -> Iterator[Path]:
    """A file or folder of the run as it was before it was sealed: itself, or a copy that is gone after the block.

    Raises NoKeyError where it is sealed and there is no key, IntegrityError where it is not what was sealed.
    """
    if run is None or not seals(run) or _name(path, run).split("/")[0] not in SEALED:
        yield path
        return
    with _private() as folder:
        _open(path, folder / path.name, run)
        yield folder / path.name


def opened_model(folder: Path, run: Run) -> Path:
    """model/ of another run's ``folder``, or an opened copy of it that is there for as long as ``run`` is."""
    from upright.evidence.lock import read_lock

    if not read_lock(folder).get("sealed"):
        return folder / "model"
    if folder not in run.opened_models:
        stored = type(run).load(folder)
        copy = Path(tempfile.mkdtemp(prefix="upright-"))
        weakref.finalize(run, shutil.rmtree, copy, ignore_errors=True)
        _open(stored.folder / "model", copy / "model", stored)
        run.opened_models[folder] = copy / "model"
    return run.opened_models[folder]


def ask_for_key(run: Run) -> None:
    """Seal an empty file and forget it: a step without its key says so before any work is done."""
    if seals(run):
        with _private() as folder:
            (folder / "empty").touch()
            run.calls.seal(folder / "empty", folder / "sealed", "empty", run)


def seal_steps(run: Run) -> None:
    """Seal what is in steps/, file by file, each in one rename. The last thing that a run does with them."""
    if seals(run):
        for path in _step_files(run):
            with replace_file(path) as draft:
                _seal(path, draft, path, run)


def open_steps(run: Run) -> None:
    """Undo `seal_steps` as far as it came, for a run that goes on."""
    if not seals(run):
        return
    for path in (run.folder / "steps").rglob(".*.part"):  # what a killed process was writing
        path.unlink()
    for path in _step_files(run):
        with _private() as folder:
            if run.calls.unseal(path, folder / path.name, _name(path, run), run):
                with replace_file(path) as draft:
                    shutil.copyfile(folder / path.name, draft)


def _seal(plain: Path, into: Path, place: Path, run: Run) -> None:
    run.calls.seal(plain, into, _name(place, run), run)
    if not into.is_file():
        raise UprightError(f"{_sealing(run)} sealed {_name(place, run)} and wrote nothing; write the file `into`")


def _open(path: Path, copy: Path, run: Run) -> None:
    if path.is_dir():
        copy.mkdir()
        for file in _files(path):
            target = copy / file.relative_to(path)
            target.parent.mkdir(parents=True, exist_ok=True)
            if not _own(file, run):
                _open(file, target, run)
        return
    if not path.is_file():
        raise IntegrityError(f"{path}: is missing")
    try:
        was_sealed = run.calls.unseal(path, copy, _name(path, run), run)
    except OSError as error:
        raise disk_error(copy, error) from error
    if not was_sealed and _growing(path, run):
        shutil.copyfile(path, copy)
    elif not was_sealed:
        raise IntegrityError(f"{path}: is not sealed, and {_sealing(run)} seals every such file; it was replaced")


def _sealing(run: Run) -> str:
    return str(run.stack.placed(run.calls.answers("seal")[0].step))


def _own(path: Path, run: Run) -> bool:
    """Whether the file is the sealing step's own: what it needs to open the others."""
    return path.is_relative_to(run.folder / "steps" / run.key(run.calls.answers("seal")[0].step))


def _growing(path: Path, run: Run) -> bool:
    """Whether the file is in steps/ of a run that goes on, or never ended."""
    ended = run.events is None and (run.folder / "manifest.json").is_file()
    return path.is_relative_to(run.folder / "steps") and not ended


def _step_files(run: Run) -> list[Path]:
    return [path for path in _files(run.folder / "steps") if not _own(path, run)]


def _files(folder: Path) -> list[Path]:
    """The files under it, without drafts that a killed process left."""
    found = (path for path in folder.rglob("*") if path.is_file())
    return sorted(p for p in found if not any(_draft(part) for part in p.relative_to(folder).parts))


def _draft(name: str) -> bool:
    return name.startswith(".") and name.endswith(".part")


def _name(path: Path, run: Run) -> str:
    return path.relative_to(run.folder).as_posix()


@contextmanager
def _private() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="upright-") as name:  # of mode 0700
        yield Path(name)
