"""Sealing and opening a file beside copying it and beside AES-256-GCM in memory alone. CPU time, one process.

make bench-encrypt
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

from cryptography.fernet import Fernet
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from loop import interleave, ratio, repeated

from upright_privacy.run_key import RunKey
from upright_privacy.sealed_file import CHUNK, seal, unseal

SIZE = 256 << 20
BLOCKS = 11
BOUND = 1.1
"""Times the CPU seconds of encrypting in memory and copying the file, one after the other."""


def main() -> int:
    """Print one line per way; 1 where sealing or opening costs more than its parts and some."""
    shared = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=shared) as name:
        plain, sealed, target = (Path(name) / part for part in ("plain", "sealed", "target"))
        part = os.urandom(CHUNK)
        plain.write_bytes(part * (SIZE // CHUNK))
        key, cipher, fernet = (
            RunKey(os.urandom(16), os.urandom(32)),
            AESGCM(os.urandom(32)),
            Fernet(Fernet.generate_key()),
        )
        seal(plain, sealed, "model/model.safetensors", key)

        def in_memory() -> None:
            for number in range(SIZE // CHUNK):
                cipher.encrypt(number.to_bytes(12, "big"), part, None)

        def copy() -> None:
            with plain.open("rb") as source, target.open("wb") as out:
                while content := source.read(CHUNK):
                    out.write(content)

        ways = {
            "copy": copy,
            "AES-256-GCM in memory": in_memory,
            "seal": lambda: seal(plain, target, "model/model.safetensors", key),
            "unseal": lambda: unseal(sealed, target, "model/model.safetensors", key),
        }
        times = interleave({way: repeated(call) for way, call in ways.items()}, BLOCKS, 1)
        slow = interleave({"Fernet": repeated(lambda: fernet.encrypt(part * 64))}, 3, 1)["Fernet"]
    for way, seconds in times.items():
        print(f"{way}: {SIZE / sorted(seconds)[len(seconds) // 2] / 1e9:.2f} GB/s")
    print(f"Fernet in memory: {64 * CHUNK / sorted(slow)[1] / 1e9:.2f} GB/s")
    parts = [sum(pair) for pair in zip(times["copy"], times["AES-256-GCM in memory"], strict=True)]
    missed = False
    for way in ("seal", "unseal"):
        mid, low, high = ratio(times[way], parts)
        missed |= high > BOUND
        print(f"{way} over copying and encrypting: {mid:.2f} [{low:.2f}, {high:.2f}] (bound {BOUND})")
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
