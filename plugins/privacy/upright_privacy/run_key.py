"""The key of one run, wrapped by the user's (AES key wrap, RFC 3394) in ``key.json``. Without that file nothing opens."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path

from upright.errors import IntegrityError

NAME = "key.json"
WRAPPED_BY = "AES-256 key wrap, RFC 3394"


@dataclass(frozen=True)
class RunKey:
    """``run``: the run's id, 16 bytes, public. ``secret``: 32 bytes that all files of the run are sealed with."""

    run: bytes
    secret: bytes = field(repr=False)


def make(path: Path, wrapping: bytes) -> RunKey:
    """A new key from the operating system; its wrapped form is on the disk, at ``path``, before anything is sealed."""
    from cryptography.hazmat.primitives.keywrap import aes_key_wrap

    key = RunKey(os.urandom(16), os.urandom(32))
    content = {"run": key.run.hex(), "wrapped_by": WRAPPED_BY, "key": aes_key_wrap(wrapping, key.secret).hex()}
    draft = path.with_name(f".{path.name}.part")
    with draft.open("w", encoding="utf-8") as out:
        out.write(json.dumps(content, indent=2) + "\n")
        out.flush()
        os.fsync(out.fileno())
    draft.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
    return key


def read(path: Path, wrapping: bytes, source: str) -> RunKey:
    """The key that ``path`` holds. Raises IntegrityError where it is gone, damaged or of another user's key.

    ``source`` says in words where the user's key is from.
    """
    from cryptography.hazmat.primitives.keywrap import InvalidUnwrap, aes_key_unwrap

    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        run, wrapped = bytes.fromhex(content["run"]), bytes.fromhex(content["key"])
    except FileNotFoundError as error:
        raise IntegrityError(f"{path}: is gone, and without it nobody can open what the run sealed") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise IntegrityError(f"{path}: is not the wrapped key that the run wrote ({error})") from error
    try:
        return RunKey(run, aes_key_unwrap(wrapping, wrapped))
    except InvalidUnwrap as error:
        raise IntegrityError(
            f"{path}: does not open with the key of {source}; that is another key, or the file was changed"
        ) from error
