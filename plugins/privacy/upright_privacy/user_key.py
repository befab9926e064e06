"""The user's key, from the environment or a file: 32 bytes that are written nowhere."""

from __future__ import annotations

import base64
import hmac
import os
from dataclasses import dataclass, field
from pathlib import Path

from upright.errors import NoKeyError


@dataclass(frozen=True)
class UserKey:
    """32 bytes, and where they are from, in words."""

    secret: bytes = field(repr=False)
    source: str


def user_key(key_env: str, key_file: Path | None, told: str) -> UserKey | None:
    """The key; None where there is none. ``told`` says where it was asked for.

    It is 32 bytes, in base64 or hex (a file may hold them as they are); what is in ``key_file`` counts before the variable
    ``key_env``. Raises NoKeyError, which never shows what was found, for something else.
    """
    source, given = f"the variable {key_env}", os.fsencode(os.environ.get(key_env, ""))
    if key_file is not None and key_file.is_file():
        try:
            source, given = f"the file {key_file}", key_file.read_bytes()
        except OSError as error:
            raise NoKeyError(f"{told}.key_file: {key_file} cannot be read ({error.strerror})") from error
    if not given:
        return None
    secret = parsed(given)
    if secret is None:
        raise NoKeyError(f"{told}: {source} holds no key; 32 bytes in base64 or hex are expected")
    return UserKey(secret, source)


def missing(key_env: str, key_file: Path | None) -> str:
    """Why there is no key, and how to make one."""
    gone = f"{key_file} is not there and " if key_file else ""
    return (
        f"{gone}the variable {key_env} is not set; it holds 32 bytes in base64, such as `openssl rand -base64 32` makes"
    )


def derived(key: bytes, purpose: str) -> bytes:
    """32 bytes for one purpose (HKDF-Expand of one block, RFC 5869), so that no two uses share a key."""
    return hmac.digest(key, f"upright-privacy pii {purpose}".encode() + b"\x01", "sha256")


def parsed(given: bytes) -> bytes | None:
    """The 32 bytes: raw, or as text in hex or base64; None where they are something else."""
    if len(given) == 32 and not given.isascii():  # 32 bytes of ASCII are a password or a shorter key in hex
        return given
    text = given.strip()
    try:
        key = bytes.fromhex(text.decode("ascii")) if len(text) == 64 else base64.b64decode(text, validate=True)
    except ValueError:
        return None
    return key if len(key) == 32 else None
