"""Wheels made by hand, keys, and a user's folder."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from registry_files import make_wheel, new_keys

Make = Callable[..., Path]


@pytest.fixture(name="make_wheel")
def _make_wheel(tmp_path: Path) -> Make:
    """``make_wheel("upright-thing", "0.1.0", points=..., files=...)``: a real wheel in ``house``."""
    return partial(make_wheel, tmp_path / "house")


@pytest.fixture
def keys(tmp_path: Path) -> tuple[Path, Path]:
    """A private and a public key as openssl writes them, as docs/registry.md says."""
    private, public = tmp_path / "private.pem", tmp_path / "public.pem"
    new_keys(private, public)
    return private, public


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's folder of this test only."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.delenv("UPRIGHT_REGISTRY_INDEX", raising=False)
    monkeypatch.delenv("UPRIGHT_REGISTRY_KEY", raising=False)
    return tmp_path / "config" / "upright" / "registry"
