"""The format of a sealed file, against an oracle that knows the documented bytes and `cryptography` alone."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from hypothesis import given, settings
from hypothesis import strategies as st

from upright.errors import IntegrityError
from upright_privacy import sealed_file
from upright_privacy.run_key import RunKey
from upright_privacy.sealed_file import seal, unseal

NAME = "model/model.safetensors"
CHUNK = 32
WHOLE = CHUNK + 16
"""A chunk and its tag."""


# --- the oracle: as the docstring of sealed_file.py describes it ------------------------------------------------------


def oracle_key(secret: bytes, salt: bytes) -> AESGCM:
    return AESGCM(HKDF(SHA256(), 32, salt=salt, info=b"upright sealed file").derive(secret))


def oracle_opened(sealed: bytes, secret: bytes, name: str) -> bytes:
    header, body = sealed[:44], sealed[44:]
    assert header[:8] == b"UPRSEAL\x01"
    whole = int.from_bytes(header[8:12], "big") + 16
    cipher, plain = oracle_key(secret, header[28:44]), b""
    chunks = [body[start : start + whole] for start in range(0, len(body), whole)]
    for n, chunk in enumerate(chunks):
        about = header + n.to_bytes(8, "big") + (b"\1" if n == len(chunks) - 1 else b"\0") + name.encode()
        plain += cipher.decrypt(n.to_bytes(12, "big"), chunk, about)
    return plain


def oracle_sealed(plain: bytes, run: bytes, secret: bytes, name: str, chunk: int) -> bytes:
    header = b"UPRSEAL\x01" + chunk.to_bytes(4, "big") + run + os.urandom(16)
    cipher, sealed = oracle_key(secret, header[28:44]), header
    chunks = [plain[start : start + chunk] for start in range(0, len(plain), chunk)] or [b""]
    for n, part in enumerate(chunks):
        about = header + n.to_bytes(8, "big") + (b"\1" if n == len(chunks) - 1 else b"\0") + name.encode()
        sealed += cipher.encrypt(n.to_bytes(12, "big"), part, about)
    return sealed


# --- there and back ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("sealed")


names = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=60)


@settings(max_examples=200, deadline=None)
@given(plain=st.binary(max_size=200), name=names, chunk=st.integers(1, 70), data=st.data())
def test_what_is_sealed_opens_again_and_the_oracle_agrees_both_ways(
    folder: Path, plain: bytes, name: str, chunk: int, data: st.DataObject
) -> None:
    key = RunKey(data.draw(st.binary(min_size=16, max_size=16)), data.draw(st.binary(min_size=32, max_size=32)))
    source, sealed, opened = (folder / part for part in ("plain", "sealed", "opened"))
    source.write_bytes(plain)
    seal(source, sealed, name, key, chunk)
    assert source.read_bytes() == plain
    assert oracle_opened(sealed.read_bytes(), key.secret, name) == plain
    assert len(sealed.read_bytes()) == 44 + len(plain) + 16 * max(1, -(-len(plain) // chunk))
    unseal(sealed, opened, name, key)
    assert opened.read_bytes() == plain
    sealed.write_bytes(oracle_sealed(plain, key.run, key.secret, name, chunk))
    unseal(sealed, opened, name, key)
    assert opened.read_bytes() == plain


def test_the_same_file_sealed_twice_shares_no_byte_of_key_stream(folder: Path) -> None:
    """Under a repeated key and nonce the ciphertexts of zeros would be equal."""
    key = RunKey(os.urandom(16), os.urandom(32))
    (folder / "zeros").write_bytes(bytes(4 * CHUNK))
    chunks: set[bytes] = set()
    for place in range(50):
        seal(folder / "zeros", folder / "out", f"{place}", key, CHUNK)
        body = (folder / "out").read_bytes()[44:]
        chunks |= {body[start : start + CHUNK] for start in range(0, len(body), WHOLE)}
    assert len(chunks) == 50 * 4


# --- what was changed -------------------------------------------------------------------------------------------------

Sealed = tuple[Path, RunKey, bytes]


@pytest.fixture
def sealed(tmp_path: Path) -> Sealed:
    """A sealed file of three whole chunks and a piece, its key, and its bytes."""
    key = RunKey(os.urandom(16), os.urandom(32))
    (tmp_path / "plain").write_bytes(os.urandom(3 * CHUNK + 5))
    seal(tmp_path / "plain", tmp_path / "sealed", NAME, key, CHUNK)
    return tmp_path / "sealed", key, (tmp_path / "sealed").read_bytes()


def refused(path: Path, content: bytes, key: RunKey, name: str = NAME) -> str:
    """The sentence with which ``content`` is refused, empty where it is opened; nothing is left of what was opened."""
    path.write_bytes(content)
    into = path.with_name("opened")
    try:
        unseal(path, into, name, key)
    except IntegrityError as error:
        assert not into.exists()
        sentence = str(error)
        assert str(path) in sentence
        assert "\n" not in sentence
        return sentence
    return ""


def test_one_changed_bit_anywhere_is_noticed(sealed: Sealed) -> None:
    path, key, content = sealed
    for place in range(len(content)):
        changed = content[:place] + bytes([content[place] ^ (1 << place % 8)]) + content[place + 1 :]
        assert refused(path, changed, key), place
    assert not refused(path, content, key)


def test_a_file_cut_short_anywhere_or_made_longer_is_noticed(sealed: Sealed) -> None:
    path, key, content = sealed
    for end in range(len(content)):
        assert refused(path, content[:end], key), end
    assert "was cut short after whole chunks" in refused(path, content[: 44 + 2 * WHOLE], key)
    for more in (b"\0", bytes(16), bytes(WHOLE), content[44:], content[44 : 44 + WHOLE]):
        assert refused(path, content + more, key), more
    # a whole last chunk, so that what is added begins a chunk of its own
    (path.with_name("plain")).write_bytes(bytes(2 * CHUNK))
    seal(path.with_name("plain"), path, NAME, key, CHUNK)
    assert "goes on after its last chunk" in refused(path, path.read_bytes() + bytes(WHOLE), key)


def test_chunks_in_another_order_left_out_or_twice_are_noticed(sealed: Sealed) -> None:
    path, key, content = sealed
    header, chunks = content[:44], [content[start : start + WHOLE] for start in range(44, len(content), WHOLE)]
    for order in ([1, 0, 2, 3], [0, 2, 1, 3], [0, 1, 3], [0, 1, 1, 2, 3], [3], [0, 3], [1, 2, 3]):
        assert refused(path, header + b"".join(chunks[n] for n in order), key), order
    assert not refused(path, header + b"".join(chunks), key)


def test_files_swapped_within_a_run_or_between_runs_are_noticed(sealed: Sealed, tmp_path: Path) -> None:
    path, key, content = sealed
    assert "is not what was sealed as model/config.json" in refused(path, content, key, "model/config.json")
    other = RunKey(os.urandom(16), os.urandom(32))
    assert "another run" in refused(path, content, other)
    assert refused(path, content, RunKey(key.run, other.secret)), "the same id with another key"
    assert refused(path, content, RunKey(other.run, key.secret)), "the same key under another id"
    # chunks of another file of the same run, and of the same file as it was written before
    for name in ("model/config.json", NAME):
        seal(tmp_path / "plain", tmp_path / "twin", name, key, CHUNK)
        twin = (tmp_path / "twin").read_bytes()
        assert refused(path, content[: 44 + WHOLE] + twin[44 + WHOLE :], key)
        assert refused(path, twin[:44] + content[44:], key)


def test_what_is_no_sealed_file_is_said_to_be_none(tmp_path: Path) -> None:
    key = RunKey(os.urandom(16), os.urandom(32))
    path = tmp_path / "odd"
    assert "no whole sealed file" in refused(path, b"", key)
    assert "no whole sealed file" in refused(path, b"PAR1" + bytes(100), key)
    assert "version 9" in refused(path, b"UPRSEAL\x09" + bytes(100), key)
    huge = b"UPRSEAL\x01" + (2**32 - 1).to_bytes(4, "big") + key.run + bytes(200)
    assert "header is not what was sealed" in refused(path, huge, key)


# --- mutants: a format that binds less is noticed by the tests above ------------------------------------------------------


def binding(leave_out: str) -> Callable[..., bytes]:
    """The associated data without one of its parts."""

    def about(header: bytes, number: int, last: bool, name: str) -> bytes:
        parts = {"header": header, "number": number.to_bytes(8, "big"), "last": bytes([last]), "name": name.encode()}
        return b"".join(part for key, part in parts.items() if key != leave_out)

    return about


@pytest.fixture
def mutant(monkeypatch: pytest.MonkeyPatch, sealed: Sealed) -> Callable[[str], Sealed]:
    def make(leave_out: str) -> Sealed:
        path, key, _ = sealed
        monkeypatch.setattr(sealed_file, "_about", binding(leave_out))
        seal(path.with_name("plain"), path, NAME, key, CHUNK)
        return path, key, path.read_bytes()

    return make


def test_mutant_a_format_that_does_not_bind_the_path_opens_a_swapped_file(mutant: Callable[[str], Sealed]) -> None:
    path, key, content = mutant("name")
    assert not refused(path, content, key, "model/config.json")


def test_mutant_a_format_that_does_not_bind_the_last_chunk_opens_a_file_cut_short(
    mutant: Callable[[str], Sealed],
) -> None:
    path, key, content = mutant("last")
    assert not refused(path, content[: 44 + 2 * WHOLE], key)


def test_mutant_a_format_that_does_not_bind_its_header_opens_under_another_run(mutant: Callable[[str], Sealed]) -> None:
    path, key, content = mutant("header")
    other = RunKey(os.urandom(16), key.secret)
    assert not refused(path, content[:12] + other.run + content[28:], other)


def test_mutant_numbers_left_out_of_nonce_and_data_open_in_any_order(
    mutant: Callable[[str], Sealed], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The number is bound twice, by the nonce and by the associated data: either alone notices another order."""
    path, key, content = mutant("number")
    swapped = content[:44] + content[44 + WHOLE : 44 + 2 * WHOLE] + content[44 : 44 + WHOLE] + content[44 + 2 * WHOLE :]
    assert refused(path, swapped, key)
    monkeypatch.setattr(sealed_file, "_nonce", lambda number: bytes(12))
    _, key, content = mutant("number")
    swapped = content[:44] + content[44 + WHOLE : 44 + 2 * WHOLE] + content[44 : 44 + WHOLE] + content[44 + 2 * WHOLE :]
    assert not refused(path, swapped, key)


def test_mutant_a_salt_that_repeats_repeats_the_key_stream(sealed: Sealed, monkeypatch: pytest.MonkeyPatch) -> None:
    path, key, _ = sealed
    monkeypatch.setattr(sealed_file.os, "urandom", lambda size: bytes(size))
    bodies = []
    for name in ("one", "other"):
        seal(path.with_name("plain"), path, name, key, CHUNK)
        bodies.append(path.read_bytes()[44 : 44 + CHUNK])
    assert bodies[0] == bodies[1]


def test_the_oracle_itself_refuses_what_was_changed(sealed: Sealed) -> None:
    _, key, content = sealed
    with pytest.raises(InvalidTag):
        oracle_opened(content[:-1] + bytes([content[-1] ^ 1]), key.secret, NAME)
    assert oracle_opened(content, key.secret, NAME)
