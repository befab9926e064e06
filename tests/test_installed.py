"""What installing means: budgets, each distribution alone, broken ones, and a core that knows none of them."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from conftest import ROOT
from upright import catalog

HEAVY = ("torch", "transformers", "datasets", "peft", "pyarrow", "captum", "opacus", "fairlearn", "pandas", "sklearn")
DISTS = ("clean", "prompt", "tune", "fairness", "explain", "privacy")
Call = Callable[..., subprocess.CompletedProcess[str]]


def heavy_after(code: str, cwd: Path) -> set[str]:
    """The heavy libraries in ``sys.modules`` after the code ran in a process of its own."""
    told = f"print('\\nMODULES', *[m for m in {HEAVY!r} if m in sys.modules])"
    wrapped = f"import sys\ntry:\n    exec({code!r})\nexcept SystemExit:\n    pass\n{told}"
    done = subprocess.run(
        [sys.executable, "-c", wrapped], capture_output=True, text=True, cwd=cwd, check=True, timeout=120
    )
    return set(done.stdout.rpartition("MODULES")[2].split())


@pytest.mark.parametrize(
    "command", [["--help"], ["plugins"], ["--version"], ["schema"], ["check", "stack.yaml"], ["run", "--help"]]
)
def test_light_commands_import_nothing_heavy(command: list[str], tmp_path: Path) -> None:
    (tmp_path / "t.jsonl").write_text("")
    (tmp_path / "stack.yaml").write_text(
        "data: {train: t.jsonl}\nclean: exact-dup\ntune: lora\nprivacy: {use: dp-sgd, epsilon: 1, delta: 1e-5}\n"
    )
    code = f"import sys; sys.argv = ['upright', *{command!r}]; from upright.cli import main; main()"
    assert heavy_after(code, tmp_path) == set()


def test_importing_a_step_imports_nothing_heavy(tmp_path: Path) -> None:
    assert heavy_after("from upright import catalog\nfor e in catalog.steps(): catalog.load(e)", tmp_path) == set()
    assert heavy_after("import upright; upright.Step; upright.hook; upright.Stack; upright.Run", tmp_path) == set()


def test_core_names_no_step_and_no_distribution() -> None:
    entries = [entry for entry in catalog.steps() if entry.dist.startswith("upright")]
    # words of the language that are names of steps as well, and would be found in any prose
    ordinary = {
        "adapter",
        "attention",
        "calibrate",
        "constraint",
        "erase",
        "faithfulness",
        "parity",
        "counterfactual",
        "full",
        "global",
        "head",
        "influence",
        "language",
        "length",
        "markup",
        "peft",
        "prefix",
        "template",
        "thresholds",
        "unicode",
    }
    names = (
        {entry.name for entry in entries} - ordinary
        | {entry.dist for entry in entries}
        | {entry.value.split(".")[0] for entry in entries}
    )
    assert len(names) > 20
    pattern = re.compile("|".join(rf"\b{re.escape(name)}\b" for name in sorted(names)))
    quoted = re.compile(r"use[\"']?\s*[:=]+\s*[\"']?(?:" + "|".join(sorted(ordinary)) + r")\b")
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in sorted((ROOT / "core" / "upright").rglob("*"))
        if path.suffix in (".py", ".j2", ".css")
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if pattern.search(line) or quoted.search(line)
    ]
    assert found == []


def test_plugins_use_the_names_that_a_third_party_would() -> None:
    inner = re.compile(r"^\s*(?:from|import) upright\.(?:engine|evidence|report|commands|calls)\b")
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for folder in (
            *(ROOT / "plugins").glob("*/upright_*"),
            ROOT / "registry",
            *(ROOT / "examples").glob("*/upright_*"),
        )
        for path in sorted(folder.rglob("*.py"))
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if inner.search(line)
    ]
    assert found == []


@pytest.fixture(scope="module")
def base_environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Everything that is installed here, less our own distributions."""
    base = tmp_path_factory.mktemp("base")
    for folder in {path for path in sys.path if path.endswith("site-packages")}:
        for path in Path(folder).iterdir():
            if not path.name.lower().startswith(("upright", "__editable__")) and not (base / path.name).exists():
                (base / path.name).symlink_to(path)
    return base


@pytest.mark.parametrize("name", DISTS)
def test_a_distribution_is_usable_beside_core_alone(name: str, base_environment: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    _copied(ROOT / "plugins" / name, source / name)
    _copied(ROOT / "core", source / "core")
    target = tmp_path / "target"
    for project in (source / "core", source / name):
        subprocess.run(
            [
                sys.executable,
                "-m",
                "pip",
                "install",
                "-qq",
                "--no-deps",
                "--no-build-isolation",
                "--no-index",
                "--target",
                str(target),
                str(project),
            ],
            check=True,
            capture_output=True,
            timeout=240,
        )
    environment = {**os.environ, "PYTHONPATH": f"{target}{os.pathsep}{base_environment}"}

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-S", *arguments],
            capture_output=True,
            text=True,
            env=environment,
            cwd=tmp_path,
            check=False,
            timeout=240,
        )

    listed = run("-m", "upright", "plugins", "--check", "--json")
    assert listed.returncode == 0, listed.stderr
    steps = json.loads(listed.stdout)
    assert {step["dist"] for step in steps} == {f"upright-{name}"}
    expected = {entry.name for entry in catalog.steps() if entry.dist == f"upright-{name}"}
    assert {step["name"] for step in steps} == expected
    schema = run("-m", "upright", "schema")
    assert all(f"{step['section']}.{step['name']}" in json.loads(schema.stdout)["$defs"] for step in steps)
    imported = run("-c", f"import upright_{name}, sys; print(upright_{name}.__file__)")
    assert imported.stdout.startswith(str(target))
    assert (target / "upright" / "report" / "report.html.j2").is_file()


def _copied(source: Path, target: Path) -> None:
    import shutil

    shutil.copytree(source, target, ignore=shutil.ignore_patterns("build", "*.egg-info", "__pycache__", "tests"))


@pytest.fixture
def broken(tmp_path: Path) -> dict[str, str]:
    """An environment with a distribution whose import raises, and one whose import never ends well."""
    for name, body in {"broken": "raise ImportError('libwhatever.so is missing')", "odd": "Step = 7"}.items():
        (tmp_path / f"upright_{name}.py").write_text(body + "\n")
        info = tmp_path / f"upright_{name}-0.3.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: upright-{name}\nVersion: 0.3\n")
        (info / "entry_points.txt").write_text(
            f"[upright.v1.tune]\n{name} = upright_{name}:Step\n[upright.v1.command]\nhello-{name} = upright_{name}:main\n"
        )
    return {"PYTHONPATH": str(tmp_path)}


def test_a_broken_distribution_harms_nobody_and_is_named(broken: dict[str, str], tmp_path: Path, upright: Call) -> None:
    listed = upright("plugins", env=broken)
    assert listed.returncode == 0
    assert "upright-broken" in listed.stdout
    checked = upright("plugins", "--check", "--json", env=broken)
    assert checked.returncode == 3
    states = {step["name"]: step["problem"] for step in json.loads(checked.stdout)}
    assert "libwhatever.so is missing" in states["broken"]
    assert "is no Step" in states["odd"]
    assert all(problem is None for name, problem in states.items() if name not in ("broken", "odd"))
    (tmp_path / "t.jsonl").write_text("")
    (tmp_path / "stack.yaml").write_text("data: {train: t.jsonl}\ntune: {use: broken}\n")
    for command in ("check", "run"):
        done = upright(command, "stack.yaml", env=broken)
        assert done.returncode == 3
        assert "upright-broken 0.3" in done.stderr
        assert "libwhatever.so is missing" in done.stderr
        assert "stack.yaml:2:8" in done.stderr
    (tmp_path / "stack.yaml").write_text("data: {train: t.jsonl}\ntune: {use: lora}\n")
    assert upright("check", "stack.yaml", env=broken).returncode == 0
    assert upright("hello-broken", env=broken).returncode == 3
    assert "From upright-broken 0.3" in upright("--help", env=broken).stdout


def test_a_command_of_another_distribution_is_called_with_the_rest(
    broken: dict[str, str], tmp_path: Path, upright: Call
) -> None:
    (tmp_path / "upright_odd.py").write_text("def main(arguments):\n    print('got', *arguments)\n    return 7\n")
    done = upright("hello-odd", "--flag", "x", env=broken)
    assert done.returncode == 7
    assert done.stdout.strip() == "got --flag x"


def test_a_name_that_two_distributions_offer_is_refused(tmp_path: Path, upright: Call) -> None:
    info = tmp_path / "other_lora-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: other-lora\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[upright.v1.tune]\nlora = other:Lora\n")
    (tmp_path / "t.jsonl").write_text("")
    (tmp_path / "stack.yaml").write_text("data: {train: t.jsonl}\ntune: {use: lora}\n")
    done = upright("check", "stack.yaml", env={"PYTHONPATH": str(tmp_path)})
    assert done.returncode == 3
    assert "other-lora 1.0 and upright-tune" in done.stderr


def test_every_setting_stands_in_its_distributions_readme() -> None:
    missing = []
    for entry in catalog.steps():
        if entry.dist not in {f"upright-{name}" for name in DISTS}:
            continue
        text = (ROOT / "plugins" / entry.dist.removeprefix("upright-") / "README.md").read_text()
        step = catalog.load(entry)
        missing += [f"{entry.name}.{field}" for field in step.model_fields if f"`{field}`" not in text]
        assert f"`{entry.name}`" in text
        assert step.__doc__
        assert all(field.description for field in step.model_fields.values())
    assert missing == []
