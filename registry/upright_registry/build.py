"""``upright registry build``: from the plugins' files to a signed index and a page."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

from upright.errors import ConfigError
from upright_registry.index import Index, now, opened, private_key, signed
from upright_registry.page import page
from upright_registry.plugin import read_all


def build(folder: Path, key_file: Path, into: Path, days: int = 30, version: int | None = None) -> Index:
    """Write ``index.json`` and ``index.html`` into a folder; the version is one more than what is there.

    Raises ConfigError for a plugin's file with problems and a version that is not newer, IntegrityError where what is
    there is not of this key; nothing is written then.
    """
    if days < 1:
        raise ConfigError(f"--days {days}: an index must be good for at least one day")
    key = private_key(key_file)
    target = into / "index.json"
    last = opened(target.read_bytes(), key.public_key(), None, target).version if target.exists() else 0
    version = last + 1 if version is None else version
    if version <= last:
        raise ConfigError(f"{target}: is version {last} already; --version must be higher than that, not {version}")
    built = now().replace(microsecond=0)
    index = Index(version=version, built=built, expires=built + timedelta(days=days), plugins=tuple(read_all(folder)))
    into.mkdir(parents=True, exist_ok=True)
    for path, content in ((into / "index.html", page(index).encode()), (target, signed(index, key))):
        draft = path.with_name(f".{path.name}.draft")
        draft.write_bytes(content)
        draft.replace(path)
    return index
