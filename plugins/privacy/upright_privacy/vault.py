"""vault.jsonl: what each token of a text stood for, sealed with AES-256-GCM (NIST SP 800-38D) under the user's key.

from upright_privacy.vault import Vault, user_key

vault = Vault(Path("runs/clinic/latest/steps/pii/vault.jsonl"), user_key("UPRIGHT_KEY", None, "restore").secret)
vault.restore("Call <PHONE:5be1f0a29c3d7b64> back.")
"""

from __future__ import annotations

import base64
import hmac
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from upright.errors import IntegrityError
from upright_privacy.user_key import derived, user_key

__all__ = ["TOKEN", "Vault", "digest", "user_key"]

TOKEN = re.compile(r"<[A-Z-]+:[0-9a-f]{16}>")


class Vault:
    """The vault in a file, under the user's 32 bytes. It never holds a value in clear, nor a key.

    A token is the first 64 bits of HMAC-SHA256 of the value; each value is sealed once, with a nonce of its own and the
    token as associated data, so that two lines cannot change places.
    """

    def __init__(self, path: Path, key: bytes) -> None:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        self.path = path
        self._tokens = derived(key, "vault tokens")
        self._cipher = AESGCM(derived(key, "vault values"))
        self._sealed: dict[str, str] = self._read()

    def _read(self) -> dict[str, str]:
        found: dict[str, str] = {}
        lines = self.path.read_text(encoding="utf-8").splitlines() if self.path.is_file() else []
        for number, line in enumerate(lines, 1):
            try:
                entry = json.loads(line)
                found[entry["token"]] = entry["sealed"]
            except (ValueError, KeyError, TypeError) as error:
                raise IntegrityError(f"{self.path}:{number}: is no entry of a vault; the file was damaged") from error
        return found

    def __len__(self) -> int:
        return len(self._sealed)

    def token(self, tag: str, kind: str, value: str) -> str:
        """The token that stands for a value, which is sealed now; `save` writes it."""
        token = f"<{tag}:{digest(self._tokens, kind, value)}>"
        if token not in self._sealed:
            nonce = os.urandom(12)
            sealed = nonce + self._cipher.encrypt(nonce, value.encode(), token.encode())
            self._sealed[token] = base64.b64encode(sealed).decode()
        return token

    def value(self, token: str) -> str:
        """What a token stood for. Raises KeyError where it is not of this vault, IntegrityError for another key or a
        changed entry."""
        from cryptography.exceptions import InvalidTag

        try:
            sealed = base64.b64decode(self._sealed[token], validate=True)
            return self._cipher.decrypt(sealed[:12], sealed[12:], token.encode()).decode()
        except (InvalidTag, ValueError) as error:
            raise IntegrityError(
                f"{self.path}: the entry of {token} does not open; the key is another, or the file was changed"
            ) from error

    def restore(self, text: str) -> str:
        """The text with every token of this vault replaced by what it stood for; other tokens stay."""
        return TOKEN.sub(lambda match: self.value(match[0]) if match[0] in self._sealed else match[0], text)

    def save(self) -> None:
        """Write the whole vault, with what other processes saved meanwhile, under a temporary name; flush and rename it."""
        draft = self.path.with_name(f".{self.path.name}.{os.getpid()}.part")
        with _alone(self.path.parent):
            self._sealed = self._read() | self._sealed
            with draft.open("w", encoding="utf-8") as out:
                for token, sealed in self._sealed.items():
                    out.write(json.dumps({"token": token, "sealed": sealed}) + "\n")
                out.flush()
                os.fsync(out.fileno())
            draft.replace(self.path)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """One process at a time; cleaning may go on in several."""
    try:
        from fcntl import LOCK_EX, flock
    except ImportError:  # not a POSIX system, where cleaning has one process
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        flock(handle, LOCK_EX)
        yield
    finally:
        os.close(handle)


def digest(key: bytes, kind: str, value: str) -> str:
    """Sixteen hex digits of HMAC-SHA256 of kind and value, at least one of them a letter, so that no pattern takes
    them for a number."""
    for attempt in range(256):
        found = hmac.digest(key, f"{kind}\0{value}\0{attempt}".encode(), "sha256").hex()[:16]
        if not found.isdigit():
            return found
    raise AssertionError("sixteen hex digits without a letter, 256 times")
