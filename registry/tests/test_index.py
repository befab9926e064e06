"""What was signed is what is read: every byte counts, time passes, versions grow."""

from __future__ import annotations

import base64
import hashlib
import json
import random
import subprocess
import zipfile
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from registry_files import describe, new_keys

from conftest import ROOT
from upright.errors import ConfigError, IntegrityError, PluginError
from upright_registry.build import build
from upright_registry.index import PURPOSE, Index, opened, private_key, signed
from upright_registry.plugin import read_all
from upright_registry.trust import trusted
from upright_registry.wheel import hold_to, wheel

NOW = datetime(2026, 1, 1, tzinfo=UTC)
KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
BUNDLED = ROOT / "registry" / "plugins"


def index(version: int = 1, days: int = 30) -> Index:
    return Index(version=version, built=NOW, expires=NOW + timedelta(days=days), plugins=tuple(read_all(BUNDLED)))


def mutations(raw: bytes, count: int) -> list[bytes]:
    chance = random.Random(7)
    found = []
    for _ in range(count):
        place, flip = chance.randrange(len(raw)), chance.randrange(1, 256)
        found.append(raw[:place] + bytes([raw[place] ^ flip]) + raw[place + 1 :])
    return found


def cases(raw: bytes) -> list[bytes]:
    """Every letter in its other case: what lenient readers of JSON and hex overlook."""
    return [raw[:n] + bytes([b ^ 32]) + raw[n + 1 :] for n, b in enumerate(raw) if chr(b).isalpha()]


def missed(read: Callable[[bytes], Any], changed: list[bytes]) -> int:
    count = 0
    for raw in changed:
        try:
            read(raw)
        except (IntegrityError, PluginError):
            continue
        count += 1
    return count


def lenient(raw: bytes) -> None:
    """A wrong reader: it checks the signature of what the JSON means, not that the file is the one that was written."""
    try:
        envelope = json.loads(raw)
        content = json.dumps(envelope["index"], sort_keys=True, separators=(",", ":")).encode()
        KEY.public_key().verify(bytes.fromhex(envelope["signature"]), PURPOSE + content)
    except (ValueError, KeyError, TypeError, InvalidSignature) as error:
        raise IntegrityError("changed") from error


def test_no_changed_byte_of_an_index_is_missed() -> None:
    raw = signed(index(), KEY)
    assert opened(raw, KEY.public_key(), NOW) == index()
    changed = mutations(raw, 1000) + cases(raw)
    assert missed(lambda one: opened(one, KEY.public_key(), NOW), changed) == 0
    assert missed(lenient, changed) > 0  # the mutant


def test_no_changed_byte_of_a_wheel_is_missed(make_wheel: Any, tmp_path: Path) -> None:
    path = make_wheel()
    (plugin,) = read_all(describe(tmp_path / "plugins", path).parent)
    raw = path.read_bytes()

    def held(changed: bytes) -> None:
        path.write_bytes(changed)
        hold_to(plugin.releases[0], plugin, wheel(path))

    def by_content(changed: bytes) -> None:
        """A wrong check: the files in the wheel are right, so the wheel is."""
        path.write_bytes(changed)
        try:
            with zipfile.ZipFile(path) as archive:
                if archive.testzip() is None:
                    return
        except Exception as error:
            raise IntegrityError("changed") from error
        raise IntegrityError("changed")

    held(raw)
    assert missed(held, mutations(raw, 1000)) == 0
    assert missed(by_content, mutations(raw, 1000)) > 0  # the mutant


def test_cut_and_made_up_indices_are_refused() -> None:
    raw = signed(index(), KEY)
    unsigned = json.dumps({"index": json.loads(raw)["index"]}).encode()
    other = signed(index(), Ed25519PrivateKey.generate())
    nested = b"[" * 100_000
    for wrong in (b"", raw[:-1], raw + b"\n", unsigned, other, nested, b"\xff", b"[]", b'{"index":NaN,"signature":""}'):
        with pytest.raises(IntegrityError):
            opened(wrong, KEY.public_key(), NOW)


def test_an_index_expires() -> None:
    raw = signed(index(days=3), KEY)
    opened(raw, KEY.public_key(), NOW + timedelta(days=3, seconds=-1))
    with pytest.raises(IntegrityError, match="expired on 2026-01-04"):
        opened(raw, KEY.public_key(), NOW + timedelta(days=3))


def test_a_build_never_goes_back(keys: tuple[Path, Path], tmp_path: Path) -> None:
    site = tmp_path / "site"
    assert build(BUNDLED, keys[0], site).version == 1
    assert build(BUNDLED, keys[0], site).version == 2
    before = (site / "index.json").read_bytes()
    for version in (1, 2):
        with pytest.raises(ConfigError, match="is version 2 already"):
            build(BUNDLED, keys[0], site, version=version)
    new_keys(tmp_path / "other.pem", tmp_path / "other.pub")
    with pytest.raises(IntegrityError, match="was not signed with the key"):
        build(BUNDLED, tmp_path / "other.pem", site)
    assert (site / "index.json").read_bytes() == before
    assert build(BUNDLED, keys[0], site, version=9).version == 9


def test_an_older_index_than_the_last_one_seen_is_refused(keys: tuple[Path, Path], tmp_path: Path, home: Path) -> None:
    site, path = tmp_path / "site", tmp_path / "site" / "index.json"
    build(BUNDLED, keys[0], site)
    first = path.read_bytes()
    build(BUNDLED, keys[0], site)
    assert trusted(str(path), keys[1]).version == 2
    (tmp_path / "old.json").write_bytes(first)
    with pytest.raises(IntegrityError, match="older than 2"):
        trusted(str(tmp_path / "old.json"), keys[1])
    build(BUNDLED, keys[0], tmp_path / "twin", version=2, days=9)
    with pytest.raises(IntegrityError, match="another index of version 2"):
        trusted(str(tmp_path / "twin" / "index.json"), keys[1])
    (home / "seen.json").write_text("{")
    with pytest.raises(IntegrityError, match=r"seen\.json: cannot be read"):
        trusted(str(path), keys[1])


@pytest.mark.parametrize("seen", ["unsigned", "changed", "expired"])
def test_the_command_ends_with_5(seen: str, keys: tuple[Path, Path], tmp_path: Path, upright: Any) -> None:
    build(BUNDLED, keys[0], tmp_path)
    path = tmp_path / "index.json"
    raw = path.read_bytes()
    if seen == "unsigned":
        path.write_bytes(json.dumps(json.loads(raw)["index"]).encode())
    elif seen == "changed":
        path.write_bytes(raw.replace(b"upright-tune", b"upright-tuna", 1))
    else:
        path.write_bytes(signed(index(days=1).model_copy(update={"expires": NOW}), private_key(keys[0])))
    done = upright("registry", "search", "--index", path, "--key", keys[1])
    assert done.returncode == 5
    assert str(path) in done.stderr


def test_the_signature_is_one_that_openssl_takes(keys: tuple[Path, Path], tmp_path: Path) -> None:
    build(BUNDLED, keys[0], tmp_path)
    raw = (tmp_path / "index.json").read_bytes()
    middle = raw.removeprefix(b'{"index":').rpartition(b',"signature":"')
    (tmp_path / "message").write_bytes(PURPOSE + middle[0])
    (tmp_path / "signature").write_bytes(bytes.fromhex(middle[2].removesuffix(b'"}').decode()))
    command = "openssl pkeyutl -verify -pubin -rawin -inkey public.pem -in message -sigfile signature".split()
    assert subprocess.run(command, cwd=tmp_path, capture_output=True, check=False).returncode == 0


def test_the_page_is_one_file_with_every_plugin(keys: tuple[Path, Path], tmp_path: Path) -> None:
    describe(tmp_path / "plugins", summary="<script>alert(1)</script>", status="deprecated", reason="Use upright-tune.")
    build(tmp_path / "plugins", keys[0], tmp_path / "one")
    text = (tmp_path / "one" / "index.html").read_text()
    assert "<script>alert" not in text
    assert "deprecated" in text
    build(BUNDLED, keys[0], tmp_path)
    text = (tmp_path / "index.html").read_text()
    assert all(f"<h3>{plugin.dist}</h3>" in text for plugin in read_all(BUNDLED))
    assert all(word not in text for word in ("http:", "https:", "src=", "@import", "url("))
    script = text.partition("<script>")[2].partition("</script>")[0]
    assert f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'" in text


def test_a_key_that_is_none_is_told(tmp_path: Path) -> None:
    assert isinstance(KEY.public_key(), Ed25519PublicKey)
    with pytest.raises(ConfigError, match="holds no private key"):
        build(BUNDLED, tmp_path / "none.pem", tmp_path)
    with pytest.raises(ConfigError, match="holds no public key"):
        trusted(str(tmp_path / "index.json"), tmp_path / "none.pem")
