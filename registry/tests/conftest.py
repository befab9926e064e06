"""Wheels made by hand, and a registry of the one plugin ``upright-thing``."""

from __future__ import annotations

import hashlib
import json
import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

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


def new_keys(private: Path, public: Path) -> None:
    subprocess.run(["openssl", "genpkey", "-algorithm", "ed25519", "-out", private], check=True, capture_output=True)
    subprocess.run(["openssl", "pkey", "-in", private, "-pubout", "-out", public], check=True, capture_output=True)


def describe(folder: Path, *wheels: Path, dist: str = "upright-thing", **changes: Any) -> Path:
    """Write the TOML file of a plugin with these wheels as its releases; ``contract`` is of all of them."""
    contract = changes.pop("contract", "v1")
    values = {"dist": dist, "summary": "A thing.", "licence": "MIT", "maintainers": ["A. Author"], **changes}
    lines = [f"{key} = {json.dumps(value)}" for key, value in values.items()]
    lines += ["", "[steps]", f'tune = ["{dist.removeprefix("upright-")}"]']
    for path in wheels:
        lines += [
            "",
            "[[releases]]",
            f'version = "{path.name.split("-")[1]}"',
            f'sha256 = "{hashlib.sha256(path.read_bytes()).hexdigest()}"',
            f'contract = "{contract}"',
        ]
    folder.mkdir(exist_ok=True)
    file = folder / f"{dist}.toml"
    file.write_text("\n".join(lines) + "\n")
    return file


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's folder of this test only."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.delenv("UPRIGHT_REGISTRY_INDEX", raising=False)
    monkeypatch.delenv("UPRIGHT_REGISTRY_KEY", raising=False)
    return tmp_path / "config" / "upright" / "registry"
