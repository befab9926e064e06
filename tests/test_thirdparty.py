"""Plugins from outside, built as wheels and installed beside Upright: each runs, is verified, and conforms; core knows none."""

from __future__ import annotations

import ast
import json
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from conftest import ROOT

PLUGINS = sorted(path for path in (ROOT / "tests" / "thirdparty").iterdir() if path.is_dir())
Call = Callable[..., Any]
WORDS = {"sick": "fever", "well": "walk"}
STACKS: dict[str, dict[str, Any]] = {
    "acme-readability": {"clean": {"use": "readability", "min_ease": 30.0}},
    "acme-self-consistency": {"prompt": {"use": "self-consistency", "label_words": WORDS, "max_new_tokens": 2}},
    "acme-neftune": {"tune": [{"use": "lora", "rank": 2}, "neftune"]},
    "acme-focal-prior": {"fairness": "focal-prior"},
    "acme-smoothgrad": {"explain": {"use": "smoothgrad", "samples": 4, "nt_samples": 4}},
    "acme-output-perturbation": {
        "tune": "head",
        "privacy": {"use": "output-perturbation", "l2": 0.5, "max_gradient": 0.3},
        "train": {"max_steps": 40, "batch_size": 48, "learning_rate": 0.1, "lr_scheduler_type": "constant"},
    },
}
"""What each is run in, beside a tiny model and rows."""
MADE = {
    "acme-self-consistency": f"SelfConsistency(label_words={WORDS!r}, max_new_tokens=2)",
    "acme-neftune": "Neftune()",
    "acme-focal-prior": "FocalPrior()",
    "acme-smoothgrad": "SmoothGrad(samples=4, nt_samples=4)",
    "acme-readability": "Readability(min_ease=60.0)",
    "acme-output-perturbation": "OutputPerturbation(max_gradient=100.0)",
}
BESIDE: dict[str, dict[str, Any]] = {
    "acme-self-consistency": {"model": {"base": "tiny-gpt2"}},
    "acme-output-perturbation": {"tune": "head"},
}
"""What of the kit's stack is to be otherwise."""


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder into which pip has installed the wheels of all six."""
    folder = tmp_path_factory.mktemp("thirdparty")
    sources = [shutil.copytree(path, folder / "src" / path.name) for path in PLUGINS]
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    build = [*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder / "wheels")]
    subprocess.run([*build, *map(str, sources)], check=True, capture_output=True)
    wheels = sorted(map(str, (folder / "wheels").iterdir()))
    subprocess.run(
        [*pip, "install", "--no-deps", "--target", str(folder / "site"), *wheels], check=True, capture_output=True
    )
    return folder / "site"


@pytest.mark.parametrize("name", [path.name for path in PLUGINS])
def test_a_plugin_from_outside_runs_and_its_run_is_verified(
    name: str, site: Path, toy: dict[str, Any], tiny: Callable[[str], Path], tmp_path: Path, upright: Call
) -> None:
    stack = {**toy, **STACKS[name]}
    if name == "acme-self-consistency":
        stack = {key: value for key, value in stack.items() if key not in ("tune", "train")}
        stack["model"] = {"base": str(tiny("gpt2")), "task": "text-classification"}
    (tmp_path / "stack.yaml").write_text(json.dumps(stack))
    env = {"PYTHONPATH": str(site)}
    assert f"({name} 0.1.0)" in upright("check", "stack.yaml", env=env).stdout
    done = upright("run", "stack.yaml", env=env)
    assert done.returncode == 0, done.stderr
    run = (tmp_path / "runs" / "toy" / "latest").resolve()
    assert upright("verify", run, env=env).returncode == 0
    lock = json.loads((run / "lock.json").read_text())
    assert lock["distributions"][name].keys() == {"version", "record_sha256"}


@pytest.mark.slow
@pytest.mark.parametrize("name", [path.name for path in PLUGINS])
def test_a_plugin_from_outside_conforms(name: str, site: Path, tmp_path: Path) -> None:
    made = MADE[name]
    (tmp_path / "test_it.py").write_text(
        f"from {name.replace('-', '_')} import {made.partition('(')[0]}\n"
        "from upright.testing import StepChecks\n\n\n"
        f"class TestIt(StepChecks):\n    step = {made}\n    stack = {BESIDE.get(name, {})!r}\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_it.py"],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(site)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-4000:]


def test_they_import_nothing_of_ours_but_the_public_names() -> None:
    for path in sorted((ROOT / "tests" / "thirdparty").glob("*/*.py")):
        tree = ast.walk(ast.parse(path.read_text()))
        ours = [
            node.module for node in tree if isinstance(node, ast.ImportFrom) and str(node.module).startswith("upright")
        ]
        assert set(ours) <= {"upright", "upright.errors"}, path


def test_core_and_plugins_know_none_of_them() -> None:
    words = [path.name.removeprefix("acme-") for path in PLUGINS] + ["acme"]
    places = [
        "core/upright",
        *(str(path) for path in (ROOT / "plugins").glob("*/upright_*") if path.suffix != ".egg-info"),
    ]
    done = subprocess.run(
        ["grep", "-rlwE", "--include=*.py", "|".join(words), *places],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.stdout == ""


# --- oracles: what each method says, computed by itself ---------------------------------------------------------------


def loaded(name: str) -> dict[str, Any]:
    path = next((ROOT / "tests" / "thirdparty" / name).glob("*.py"))
    space: dict[str, Any] = {"__name__": path.stem}
    exec(compile(path.read_text(), str(path), "exec"), space)
    return space


def test_reading_ease_is_fleschs() -> None:
    ease = loaded("acme-readability")["reading_ease"]
    # 6 words, 1 sentence, 7 syllables (the, pa-tient, has, a, mild, cough).
    assert ease("The patient has a mild cough.") == pytest.approx(206.835 - 1.015 * 6 - 84.6 * 7 / 6)
    assert ease("123 !!") is None


def test_focal_with_priors_is_the_formula() -> None:
    import torch

    from upright.objects import Output

    chance = torch.Generator().manual_seed(1)
    logits, labels = torch.randn(9, 3, generator=chance, dtype=torch.float64), torch.arange(9) % 3
    prior = torch.tensor([0.5, 0.3, 0.2]).log()
    step = loaded("acme-focal-prior")["FocalPrior"](gamma=1.5, tau=0.7)
    run = type("R", (), {"keep": lambda self, step, name, make: prior})()
    found = step.objective(type("B", (), {"labels": labels})(), Output(logits), run)
    for row in range(9):
        adjusted = [math.exp(float(logits[row, k]) + 0.7 * float(prior[k])) for k in range(3)]
        own = adjusted[int(labels[row])] / sum(adjusted)
        assert float(found[row]) == pytest.approx(-((1 - own) ** 1.5) * math.log(own), rel=1e-5)  # float32 logits
