"""Which index this user takes: signed by the trusted key, in date, and never older than the last one seen."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

from upright.errors import ConfigError, IntegrityError
from upright_registry.index import Index, now, opened, public_key

INDEX_ENV, KEY_ENV = "UPRIGHT_REGISTRY_INDEX", "UPRIGHT_REGISTRY_KEY"
LIMIT = 64 * 2**20
"""Bytes that an index may have."""


def trusted(index: str | None = None, key_file: Path | None = None) -> Index:
    """The index at a path or https URL; from UPRIGHT_REGISTRY_INDEX, and the key from UPRIGHT_REGISTRY_KEY, if not given.

    Without either, ``index.json`` and ``key.pem`` of the folder `settings`. What was seen is kept there, for each key, so
    that an older index is noticed later. Raises ConfigError where there is no index or key, IntegrityError for one that is
    not signed with the key, changed, expired, older than the last one seen, or another of the same version.
    """
    where = index or os.environ.get(INDEX_ENV) or str(settings() / "index.json")
    key_path = key_file or _key_path()
    key = public_key(key_path)
    raw = _fetched(where)
    found = opened(raw, key, now(), where)
    seen_file = settings() / "seen.json"
    seen = _seen(seen_file)
    name, digest = key.public_bytes_raw().hex(), hashlib.sha256(raw).hexdigest()
    last, last_digest = seen.get(name, (0, ""))
    if found.version < last:
        raise IntegrityError(
            f"{where}: is version {found.version}, older than {last} that was seen; get the newest one"
        )
    if found.version == last and digest != last_digest:
        raise IntegrityError(f"{where}: is another index of version {last} than the one seen; ask its publisher why")
    kept = copy(name)
    if not kept.is_file() or kept.read_bytes() != raw:
        _write(kept, raw)
    if found.version > last:
        _write(seen_file, json.dumps({**seen, name: (found.version, digest)}).encode())
    return found


def last_seen() -> Index | None:
    """The index that `trusted` took last with the key that is set up, from this user's folder; None where there is none.

    Asks no network. Raises as `trusted` does where it has expired or was changed.
    """
    key_path = _key_path()
    if not key_path.is_file():
        return None
    key, name = public_key(key_path), key_id()
    version, digest = _seen(settings() / "seen.json").get(name, (0, ""))
    if not version:
        return None
    path = copy(name)
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        return None
    if hashlib.sha256(raw).hexdigest() != digest:
        raise IntegrityError(f"{path}: is not the index that was seen; `upright registry search` fetches it again")
    return opened(raw, key, now(), path)


def key_id() -> str:
    """The trusted key's 32 bytes in hex."""
    return public_key(_key_path()).public_bytes_raw().hex()


def _key_path() -> Path:
    return Path(os.environ.get(KEY_ENV) or settings() / "key.pem").expanduser()


def copy(key: str) -> Path:
    """Where the index that was seen last is kept, for each key."""
    return settings() / f"seen-{key[:16]}.json"


def settings() -> Path:
    """The user's folder for the registry: below XDG_CONFIG_HOME or ~/.config."""
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "upright" / "registry"


def _fetched(where: str) -> bytes:
    import urllib.request

    try:
        if not where.startswith("https://"):
            return Path(where).expanduser().read_bytes()
        with urllib.request.urlopen(where, timeout=30) as answer:
            raw: bytes = answer.read(LIMIT + 1)
    except OSError as error:
        raise ConfigError(
            f"{where}: no index can be read there ({error}); name a file or https URL with --index or {INDEX_ENV}"
        ) from error
    if len(raw) > LIMIT:
        raise IntegrityError(f"{where}: is over {LIMIT >> 20} MiB, which no index is; look at what is served there")
    return raw


def _seen(path: Path) -> dict[str, tuple[int, str]]:
    try:
        return {name: (int(version), str(digest)) for name, (version, digest) in json.loads(path.read_bytes()).items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise IntegrityError(
            f"{path}: cannot be read, so an older index would not be noticed ({error}); remove the file if you know why"
        ) from error


def _write(path: Path, content: bytes) -> None:
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        draft.write_bytes(content)
        draft.replace(path)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written ({error.strerror}); make the folder yours") from error
