"""Wheels made by hand, keys, and a user's folder."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from registry_files import new_keys

STEP = "from upright import Step\n\n\nclass Thing(Step):\n    '''Nothing.'''\n"
Make = Callable[..., Path]


@pytest.fixture
def make_wheel(tmp_path: Path) -> Make:
    """``make_wheel("upright-thing", "0.1.0", steps=..., files=...)``: a real wheel in ``house``."""

    def make(
        dist: str = "upright-thing",
        version: str = "0.1.0",
        points: str = "[upright.v1.tune]\nthing = upright_thing:Thing\n",
        files: dict[str, str] | None = None,
        requires: str = "",
    ) -> Path:
        package = dist.replace("-", "_")
        info = f"{package}-{version}.dist-info"
        told = f"Metadata-Version: 2.1\nName: {dist}\nVersion: {version}\n"
        content = {
            f"{package}/__init__.py": STEP,
            **(files or {}),
            f"{info}/METADATA": told + (f"Requires-Dist: {requires}\n" if requires else ""),
            f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
            f"{info}/entry_points.txt": points,
        }
        content[f"{info}/RECORD"] = "".join(f"{name},,\n" for name in [*content, f"{info}/RECORD"])
        path = tmp_path / "house" / f"{package}-{version}-py3-none-any.whl"
        path.parent.mkdir(exist_ok=True)
        with zipfile.ZipFile(path, "w") as archive:
            for name, text in content.items():
                archive.writestr(zipfile.ZipInfo(name), text)
        return path

    return make


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
