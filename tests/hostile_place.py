"""A place at which a hostile plugin is tried: each method tries one in a way, and returns where it ended."""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from registry_files import describe, make_wheel, new_keys
from typer.testing import CliRunner
from wrong_steps import WRONG

from upright import Step, catalog
from upright.cli import make_app
from upright.errors import IntegrityError, PluginError, UprightError
from upright.evidence import environment
from upright.evidence.lock import write_lock
from upright.testing.kit import outcome, subject_of
from upright.testing.network import closed
from upright.testing.untouched import untouched
from upright_registry.index import Index, private_key, signed
from upright_registry.install import install
from upright_registry.plugin import read_all
from upright_registry.trust import trusted

NOW = datetime.now(UTC)
STEP = "from upright import Step, hook\nclass Mine(Step):\n    'Help.'\n    @hook\n    def watch(self): ...\n"


@dataclass
class There:
    """A machine on which a plugin is tried: a folder that modules are imported from, and one for the rest."""

    folder: Path
    monkeypatch: pytest.MonkeyPatch

    def site(self, code: str) -> catalog.Entry:
        """The entry of a plugin ``acme-x`` that is installed with this code."""
        site, info = self.folder / "site", self.folder / "site" / "acme_x-1.0.dist-info"
        files = {
            "acme_x/__init__.py": code,
            f"{info.name}/METADATA": "Metadata-Version: 2.1\nName: acme-x\nVersion: 1.0\n",
            f"{info.name}/entry_points.txt": "[upright.v1.train]\nx = acme_x:Mine\n",
        }
        for name, text in files.items():
            (site / name).parent.mkdir(parents=True, exist_ok=True)
            (site / name).write_text(text)
        digests = {name: hashlib.sha256(text.encode()).digest() for name, text in files.items()}
        told = {name: base64.urlsafe_b64encode(digest).rstrip(b"=").decode() for name, digest in digests.items()}
        (info / "RECORD").write_text("".join(f"{name},sha256={told[name]},\n" for name in files))
        self.monkeypatch.syspath_prepend(str(site))
        self.monkeypatch.setenv("PYTHONPATH", str(site))
        catalog.installed.cache_clear()
        return catalog.find("train", "x")

    def refused(self, code: str, words: str) -> str:
        with pytest.raises(PluginError, match=words):
            catalog.load(self.site(code))
        return "refused at load"

    def not_installed(self, kind: type[UprightError], words: str, *wheels: Path, **described: Any) -> str:
        """What pip has in its house is not installed."""
        if wheels or described:
            describe(self.folder / "plugins", *wheels, **described)
        index = Index(
            version=1, built=NOW, expires=NOW + timedelta(1), plugins=tuple(read_all(self.folder / "plugins"))
        )
        with pytest.raises(kind, match=words):
            install(index, "upright-thing", lambda wheels: False, [str(self.folder / "house")], no_index=True)
        return "refused at install"

    def wheel(self, dist: str = "upright-thing", **content: Any) -> Path:
        return make_wheel(self.folder / "house", dist, **content)

    def index(self, words: str, *, changed: bool = False, version: int = 3, days: float = 1) -> str:
        """An index of version 2 is taken, and the next one is not."""
        private, public, path = (self.folder / name for name in ("private.pem", "public.pem", "index.json"))
        new_keys(private, public)
        for number, until in ((2, NOW + timedelta(1)), (version, NOW + timedelta(days))):
            content = Index(version=number, built=NOW - timedelta(9), expires=until, plugins=())
            path.write_bytes(signed(content, private_key(private)))
            if number == 2:
                trusted(str(path), public)
        if changed:
            path.write_bytes(path.read_bytes().replace(b'"version":3', b'"version":4'))
        with pytest.raises(IntegrityError, match=words):
            trusted(str(path), public)
        return "refused at install"

    def conform(self, check: str, step: Step, section: str, words: str) -> str:
        folder = self.folder / "kit"
        folder.mkdir()
        found = outcome(check, subject_of(step, folder, section))
        assert found.status == "failed", found.detail
        assert words in found.detail
        return "exposed by conform"

    def imported(self, check: str, first: str, words: str) -> str:
        """The kit on a plugin whose module begins so. What that does in this process is undone."""
        entry = self.site(first + STEP)
        with closed([]), untouched([]):
            kind = catalog.load(entry)
        return self.conform(check, kind(), "train", words)

    def wrong(self, check: str, name: str, words: str) -> str:
        """A step of the kit's own tests fails a check of the kit."""
        section, step = next((section, step) for _, section, step in WRONG if type(step).__name__ == name)
        return self.conform(check, step, section, words)

    def environment(self) -> tuple[int, str]:
        """``upright verify FOLDER --env`` of a lock of the plugin."""
        (self.folder / "locked").mkdir(exist_ok=True)
        write_lock(self.folder / "locked", {"distributions": {"acme-x": environment.fingerprint("acme-x")}})
        done = CliRunner().invoke(make_app(), ["verify", str(self.folder / "locked"), "--env"])
        return done.exit_code, done.output
