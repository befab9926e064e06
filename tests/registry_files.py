"""What tests of the registry write: keys as docs/registry.md makes them, and a plugin's TOML file."""

from __future__ import annotations

import hashlib
import json
import subprocess
from pathlib import Path
from typing import Any


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
