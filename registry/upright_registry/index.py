"""The index: every plugin, in one signed file that has exactly one form."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from packaging.utils import canonicalize_name
from pydantic import AwareDatetime, Field, ValidationError

from upright.errors import ConfigError, IntegrityError
from upright_registry.plugin import Part, Plugin

if TYPE_CHECKING:
    from pathlib import Path

    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

PURPOSE = b"upright registry index 1\n"
"""Stands before what is signed, so that a signature made for something else is none of an index."""


class Index(Part):
    """What is signed. ``version`` grows by each build; nobody takes the index after ``expires``."""

    version: int = Field(ge=1)
    built: AwareDatetime
    expires: AwareDatetime
    plugins: tuple[Plugin, ...]

    def find(self, dist: str) -> Plugin | None:
        """The plugin of a distribution's name, however it is spelt."""
        return next((plugin for plugin in self.plugins if plugin.dist == canonicalize_name(dist)), None)


def signed(index: Index, key: Ed25519PrivateKey) -> bytes:
    """The file: JSON of the index and its Ed25519 signature (RFC 8032), sorted, without spaces, in ASCII."""
    content = index.model_dump(mode="json")
    return _encoded({"index": content, "signature": key.sign(PURPOSE + _encoded(content)).hex()})


def opened(raw: bytes, key: Ed25519PublicKey, now: datetime | None, told: object = "the index") -> Index:
    """The index of a file; ``now`` None asks for no expiry.

    Raises IntegrityError where one byte is another than was signed, or the index has expired.
    """
    from cryptography.exceptions import InvalidSignature

    try:
        envelope = json.loads(raw)
        content, signature = envelope["index"], bytes.fromhex(envelope["signature"])
        if _encoded({"index": content, "signature": signature.hex()}) != raw:
            raise ValueError("not in the one form that is signed")
        key.verify(signature, PURPOSE + _encoded(content))
        index = Index.model_validate(content)
    except InvalidSignature as error:
        raise IntegrityError(
            f"{told}: was not signed with the key that you trust, or was changed since; get it again from its publisher"
        ) from error
    except (ValidationError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise IntegrityError(
            f"{told}: is no signed index ({type(error).__name__}); get it again from its publisher"
        ) from error
    if now is not None and now >= index.expires:
        raise IntegrityError(f"{told}: expired on {index.expires:%Y-%m-%d %H:%M} UTC; get a newer one")
    return index


def private_key(path: Path) -> Ed25519PrivateKey:
    """The signing key of a PEM file. Raises ConfigError."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        key = load_pem_private_key(path.read_bytes(), None)
    except (OSError, ValueError, TypeError) as error:
        raise ConfigError(
            f"{path}: holds no private key; `openssl genpkey -algorithm ed25519 -out {path}` makes one"
        ) from error
    if not isinstance(key, Ed25519PrivateKey):
        raise ConfigError(f"{path}: is no Ed25519 key; `openssl genpkey -algorithm ed25519` makes one")
    return key


def public_key(path: Path) -> Ed25519PublicKey:
    """The trusted key of a PEM file. Raises ConfigError."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    try:
        key = load_pem_public_key(path.read_bytes())
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{path}: holds no public key; get the publisher's, or name one with --key or UPRIGHT_REGISTRY_KEY"
        ) from error
    if not isinstance(key, Ed25519PublicKey):
        raise ConfigError(f"{path}: is no Ed25519 key; ask the publisher of the index for the right one")
    return key


def now() -> datetime:
    """The time of this machine, in UTC."""
    return datetime.now(UTC)


def _encoded(content: Any) -> bytes:
    return json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False).encode("ascii")
