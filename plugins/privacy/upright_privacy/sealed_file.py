"""A sealed file: a header, then chunks of AES-256-GCM (NIST SP 800-38D), each of which can be checked on its own.

====== ===== ================================================================================
offset bytes
====== ===== ================================================================================
0      8     ``UPRSEAL`` and the version of this format, 1
8      4     C, big-endian: plain bytes of every chunk but the last, which has 1 to C (0 in an empty file)
12     16    the run's id
28     16    salt, from the operating system, fresh for every file that is written
44           the chunks: each its ciphertext and a tag of 16 bytes
====== ===== ================================================================================

The file's key is HKDF-SHA256 (RFC 5869) of the run's key with the salt and the info ``upright sealed file``. The nonce of
chunk n (from 0) is n in 12 bytes, big-endian. Its associated data are the header, n in 8 bytes, a byte that is 1 in the
last chunk and else 0, and the file's place in the run's folder in UTF-8: a chunk fits one place of one file of one run.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from upright.errors import IntegrityError

if TYPE_CHECKING:
    from upright_privacy.run_key import RunKey

MAGIC = b"UPRSEAL"
VERSION = 1
CHUNK = 1 << 18
LARGEST = 1 << 26
"""Of chunks that are read: the header is not yet proven when its chunk size is believed."""
HEADER = 44
TAG = 16
INFO = b"upright sealed file"


def is_sealed(path: Path) -> bool:
    """Whether the file begins as a sealed one."""
    with path.open("rb") as file:
        return file.read(len(MAGIC)) == MAGIC


def seal(path: Path, into: Path, name: str, key: RunKey, chunk: int = CHUNK) -> None:
    """Write the sealed form of ``path`` to ``into``; ``name`` is its place in the run's folder."""
    header = MAGIC + bytes([VERSION]) + chunk.to_bytes(4, "big") + key.run + os.urandom(16)
    # A pair of key and nonce would come twice only if two of the run's n files drew the same salt of 128 bits: n^2 / 2^129,
    # which is 2^-65 for 2^32 files. Within a file every chunk has its own number.
    cipher = _cipher(key, header)
    with path.open("rb") as plain, into.open("wb") as out:
        out.write(header)
        number, content = 0, plain.read(chunk)
        while True:
            following = plain.read(chunk)
            out.write(cipher.encrypt(_nonce(number), content, _about(header, number, not following, name)))
            if not following:
                return
            number, content = number + 1, following


def unseal(path: Path, into: Path, name: str, key: RunKey) -> None:
    """Write what was sealed as ``path`` to ``into``. Raises IntegrityError, and leaves no ``into``, where it was changed."""
    try:
        with path.open("rb") as file, into.open("wb") as out:
            _unseal(path, file, out, name, key)
    except BaseException:
        into.unlink(missing_ok=True)
        raise


def _unseal(path: Path, file: BinaryIO, out: BinaryIO, name: str, key: RunKey) -> None:
    header = file.read(HEADER)
    size = _chunk_size(path, header, key)
    cipher = _cipher(key, header)
    number, content = 0, file.read(size + TAG)
    while True:
        following = file.read(size + TAG)
        plain = _decrypted(cipher, content, header, number, not following, name)
        if plain is None:
            raise IntegrityError(f"{path}: {_changed(cipher, content, header, number, not following, name)}")
        out.write(plain)
        if not following:
            return
        number, content = number + 1, following


def _chunk_size(path: Path, header: bytes, key: RunKey) -> int:
    if len(header) < HEADER or not header.startswith(MAGIC):
        raise IntegrityError(f"{path}: is no whole sealed file; it was cut short or replaced")
    if header[7] != VERSION:
        raise IntegrityError(f"{path}: is sealed in version {header[7]} of the format, and {VERSION} can be read here")
    size = int.from_bytes(header[8:12], "big")
    if not 1 <= size <= LARGEST:
        raise IntegrityError(f"{path}: its header is not what was sealed; the file was changed")
    if header[12:28] != key.run:
        raise IntegrityError(f"{path}: was sealed by another run; the file was swapped or its header changed")
    return size


def _decrypted(cipher: Any, content: bytes, header: bytes, number: int, last: bool, name: str) -> bytes | None:
    from cryptography.exceptions import InvalidTag

    if len(content) < TAG:
        return None
    try:
        plain: bytes = cipher.decrypt(_nonce(number), content, _about(header, number, last, name))
    except InvalidTag:
        return None
    return plain


def _changed(cipher: Any, content: bytes, header: bytes, number: int, last: bool, name: str) -> str:
    """What happened to a chunk that does not decrypt, in words."""
    if _decrypted(cipher, content, header, number, not last, name) is not None:
        return "was cut short after whole chunks" if last else f"goes on after its last chunk, number {number + 1}"
    return f"chunk {number + 1} is not what was sealed as {name}; the file was changed, cut short or swapped"


def _cipher(key: RunKey, header: bytes) -> Any:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF

    return AESGCM(HKDF(SHA256(), 32, salt=header[28:44], info=INFO).derive(key.secret))


def _nonce(number: int) -> bytes:
    return number.to_bytes(12, "big")


def _about(header: bytes, number: int, last: bool, name: str) -> bytes:
    return header + number.to_bytes(8, "big") + bytes([last]) + name.encode(errors="surrogateescape")
