"""A step's module imported in a process of its own: what it loads, whom it asks, and what of core it changes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from upright.step import Step
from upright.testing.outcome import Failed, Skipped

HEAVY = ("torch", "transformers", "datasets", "peft", "pyarrow", "captum", "opacus", "fairlearn", "pandas", "sklearn")
LIMIT = 60
"""Seconds that one import may take."""
LOOK = """
import importlib, json, sys
for name in {core!r}:
    importlib.import_module(name)
from upright.testing.network import closed
from upright.testing.untouched import untouched
called, changed = [], []
with closed(called), untouched(changed):
    {look}
print("FOUND", json.dumps([called, changed, [name for name in {heavy!r} if name in sys.modules]]))
"""
CORE = (
    "calls",
    "catalog",
    "cli",
    "config",
    "evidence.verify",
    "evidence.environment",
    "hooks",
    "objects",
    "run",
    "testing.kit",
)
"""What of core is there before the step's module comes; it imports nothing heavy."""


@dataclass(frozen=True)
class Imported:
    """The module's name, the heavy libraries that it loads, who was called on the network, which of core's names it set."""

    name: str
    called: list[str]
    changed: list[str]
    heavy: list[str]


def imported(step: Step) -> Imported:
    """Import the module of a step. Raises Skipped where it is a test's, Failed where it cannot be imported on its own."""
    name = type(step).__module__
    file = getattr(sys.modules.get(name), "__file__", None)
    if file is None or Path(file).name.startswith(("test_", "conftest")):
        raise Skipped("the class stands in a test; what is shipped is imported from a module of its own")
    ours = name.startswith("upright_local_")  # a file beside a stack is no module that could be found by its name
    look = f"import runpy; runpy.run_path({file!r})" if ours else f"import {name}"
    told = LOOK.format(core=[f"upright.{module}" for module in CORE], look=look, heavy=HEAVY)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    try:
        done = subprocess.run(
            [sys.executable, "-c", told], capture_output=True, text=True, env=environment, timeout=LIMIT, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise Failed(f"importing {name} took over {LIMIT} s") from error
    if done.returncode:
        raise Failed(f"{name} cannot be imported on its own: {done.stderr.strip().splitlines()[-1:]}")
    return Imported(name, *json.loads(done.stdout.rpartition("FOUND")[2]))
