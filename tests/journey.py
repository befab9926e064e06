"""A new author's way, from nothing to a plugin that somebody else has installed from a signed index and runs.

    python tests/journey.py [FOLDER]

Each command is the one that docs/plugin-authors.md and docs/registry.md name. Prints how long each took and how many lines a
person had to write.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

METHOD = '''\
"""Scale the outputs of normalisation layers (Qi et al., 2022, arXiv:2211.00330): their gains alone are trained."""

from pydantic import Field

from upright import Step, hook


class MyMethod(Step):
    """Train the gains of normalisation layers, and their offsets where that is wanted."""

    offsets: bool = Field(True, description="Whether the layers' offsets are trained as well.")

    @hook
    def tune(self, model):
        for name, module in model.named_modules():
            if type(module).__name__.endswith(("LayerNorm", "RMSNorm")):
                module.weight.requires_grad_(True)
                if self.offsets and getattr(module, "bias", None) is not None:
                    module.bias.requires_grad_(True)
        return model
'''
TEST = """\
from my_method import MyMethod
from upright.testing import StepChecks


class TestWithoutOffsets(StepChecks):
    step = MyMethod(offsets=False)
"""
ENTRY = """\
dist = "my-method"
summary = "Trains the gains of normalisation layers."
licence = "Apache-2.0"
maintainers = ["A. Author"]
tier = "tested"

[steps]
tune = ["my-method"]

[[releases]]
version = "0.1.0"
sha256 = "{sha256}"
contract = "v1"
conformance = {{passed = {passed}, failed = {failed}, skipped = {skipped}}}
"""


class Journey:
    """Calls commands one after the other in a folder, and keeps the time of each."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.seconds: dict[str, float] = {}
        self.env = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}

    def call(self, told: str, *command: str | Path) -> str:
        """Run one command; its output. Raises RuntimeError where it fails."""
        started = time.perf_counter()
        done = subprocess.run(command, cwd=self.folder, env=self.env, capture_output=True, text=True, check=False)
        self.seconds[told] = time.perf_counter() - started
        if done.returncode:
            raise RuntimeError(f"{told}: ended with {done.returncode}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}")
        return done.stdout

    def environment(self, name: str) -> Path:
        """The Python of an environment of its own in which Upright and what it needs are installed."""
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", self.folder / name], check=True)
        (packages,) = (self.folder / name).glob("lib/python*/site-packages")
        here = [path for path in sys.path if path.endswith("site-packages")]
        (packages / "here.pth").write_text("".join(f"import site; site.addsitedir({path!r})\n" for path in here))
        return self.folder / name / "bin" / "python"


def written(before: str, after: str) -> int:
    """Lines of ``after`` that are not in ``before``: those that somebody typed."""
    changes = difflib.unified_diff(before.splitlines(), after.splitlines(), lineterm="", n=0)
    return sum(line.startswith("+") and not line.startswith("+++") and line.strip() != "+" for line in changes)


def travel(folder: Path) -> tuple[int, dict[str, float]]:
    """Do it all; lines that a person wrote, and seconds by command."""
    way = Journey(folder)
    author, project = way.environment("author"), folder / "my-method"
    pip = ("-m", "pip", "--quiet", "--disable-pip-version-check")

    way.call("upright new", author, "-m", "upright", "new", "my-method", "--kind", "tune")
    lines = 0
    for name, content in (("my_method.py", METHOD), ("test_my_method.py", TEST)):
        path = project / name
        lines += written(path.read_text() if path.exists() else "", content)
        path.write_text(content)
    way.call("pip install -e", author, *pip, "install", "--no-deps", "--no-build-isolation", "-e", project)
    way.call("pytest", author, "-m", "pytest", "-q", "-p", "no:cacheprovider", project)
    told = json.loads(way.call("upright conform", author, "-m", "upright", "conform", "my-method", "--json"))
    way.call("upright run", author, "-m", "upright", "run", project)

    house = folder / "house"
    way.call("pip wheel", author, *pip, "wheel", "--no-deps", "--no-build-isolation", "-w", house, project)
    (wheel,) = house.iterdir()
    statuses = [check["status"] for step in told for check in step["checks"]]
    counts = {name: statuses.count(name) for name in ("passed", "failed", "skipped")}
    entry = ENTRY.format(sha256=hashlib.sha256(wheel.read_bytes()).hexdigest(), **counts)
    (folder / "plugins").mkdir()
    (folder / "plugins" / "my-method.toml").write_text(entry)
    lines += written("", entry)
    private, public = folder / "private.pem", folder / "public.pem"
    way.call("openssl genpkey", "openssl", "genpkey", "-algorithm", "ed25519", "-out", private)
    way.call("openssl pkey", "openssl", "pkey", "-in", private, "-pubout", "-out", public)
    build = ("registry", "build", folder / "plugins", "--key", private, "--into", folder / "index")
    way.call("upright registry build", author, "-m", "upright", *build)

    user = way.environment("user")
    way.env |= {"XDG_CONFIG_HOME": str(folder / "config")}
    way.env |= {"UPRIGHT_REGISTRY_INDEX": str(folder / "index" / "index.json"), "UPRIGHT_REGISTRY_KEY": str(public)}
    install = ("registry", "install", "my-method", "--find-links", house, "--no-index", "--yes")
    way.call("upright registry install", user, "-m", "upright", *install)
    (project / "stack.yaml").rename(folder / "stack.yaml")
    (project / "rows.jsonl").rename(folder / "rows.jsonl")
    way.call("upright run, elsewhere", user, "-m", "upright", "run", folder / "stack.yaml")
    return lines, way.seconds


def main() -> int:
    with tempfile.TemporaryDirectory(prefix="upright-journey-") as name:
        lines, seconds = travel(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(name))
    for told, took in seconds.items():
        print(f"{took:6.1f} s  {told}")
    print(f"{sum(seconds.values()):6.1f} s  in all; {lines} lines were written by a person")
    return 0


if __name__ == "__main__":
    sys.exit(main())
