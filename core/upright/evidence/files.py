"""Files that appear whole or not at all."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from upright.errors import UprightError


def write_atomic(path: Path, content: str | bytes) -> None:
    """Write to a temporary name beside ``path``, flush to the disk, rename.

    Raises UprightError (full disk, no permission); ``path`` is then as it was.
    """
    with replace_file(path) as draft:
        draft.write_bytes(content.encode() if isinstance(content, str) else content)


@contextmanager
def replace_file(path: Path) -> Iterator[Path]:
    """A draft beside ``path`` that takes its place when the block ends well and vanishes when it does not."""
    draft = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield draft
        _sync(draft)
        draft.replace(path)
        _sync_folder(path.parent)
    except OSError as error:
        draft.unlink(missing_ok=True)
        raise disk_error(path, error) from error
    except BaseException:
        draft.unlink(missing_ok=True)
        raise


@contextmanager
def replace_folder(path: Path) -> Iterator[Path]:
    """A draft folder beside ``path`` that takes its place when the block ends well and vanishes when it does not."""
    draft = path.with_name(f".{path.name}.{os.getpid()}.part")
    shutil.rmtree(draft, ignore_errors=True)
    try:
        draft.mkdir(parents=True)
        yield draft
        for file in sorted(draft.rglob("*")):
            _sync(file)
        _sync(draft)
        if path.exists():
            old = path.with_name(f".{path.name}.{os.getpid()}.old")
            path.rename(old)
            draft.rename(path)
            shutil.rmtree(old)
        else:
            draft.rename(path)
        _sync_folder(path.parent)
    except OSError as error:
        shutil.rmtree(draft, ignore_errors=True)
        raise disk_error(path, error) from error
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise


def sha256(path: Path) -> str:
    """The file's SHA-256 in hex."""
    with path.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def disk_error(path: Path, error: OSError) -> UprightError:
    """One sentence for what the operating system refused."""
    if error.errno == errno.ENOSPC:
        return UprightError(f"{path}: no space left on the disk; free some and go on with --resume")
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return UprightError(f"{path}: may not be written ({error.strerror}); choose an output folder that is yours")
    return UprightError(f"{path}: cannot be written ({error.strerror or error})")


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _sync_folder(path: Path) -> None:
    try:
        _sync(path)
    except OSError as error:  # some file systems cannot sync a folder; the rename is still atomic there
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
