"""In-house steps: a class of a plain Python file beside the stack, kept with the run that it was part of."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from upright import Stack
from upright.engine.execute import execute
from upright.errors import ConfigError, PluginError
from upright.evidence.verify import verify

STEPS = """\
from __future__ import annotations

from pydantic import Field
from upright import Run, Step, hook

class Ridge(Step):
    \"\"\"Pull trained weights towards zero.\"\"\"

    strength: float = Field(0.1, ge=0, description="Factor on half the squared norm.")

    @hook
    def penalty(self, model):
        return self.strength / 2 * sum(p.square().sum() for p in model.parameters() if p.requires_grad)

    @hook
    def measure(self, predictions, run: Run):
        return {"rows": float(len(predictions.table))}

CONSTANT = 3
"""


@pytest.fixture
def stack(toy: dict[str, Any], tmp_path: Path) -> Callable[..., Path]:
    """Writes a stack file whose training-time step is of ``steps.py``."""

    def write(use: Any = "./steps.py:Ridge", source: str = STEPS, **settings: Any) -> Path:
        (tmp_path / "steps.py").write_text(source)
        toy["train"] = {**toy["train"], "steps": [{"use": use, **settings}]}
        (tmp_path / "stack.yaml").write_text(json.dumps(toy, indent=1))
        return tmp_path / "stack.yaml"

    return write


def test_a_run_keeps_the_file_and_loads_again_from_its_folder(stack: Callable[..., Path], tmp_path: Path) -> None:
    run = execute(Stack.load(stack(strength=0.2)))
    assert run.exit_code == 0
    lock = json.loads((run.folder / "lock.json").read_text())
    [told] = [step for step in lock["steps"] if step["use"] == "steps.py:Ridge"]
    kept = run.folder / "code" / told["sha256"][:16] / "steps.py"
    assert kept.read_text() == STEPS
    assert told == {"section": "train", "use": "steps.py:Ridge", "key": "Ridge", "dist": None, "version": None,
                    "file": "steps.py", "sha256": told["sha256"]}  # fmt: skip
    assert [s["file"] for s in json.loads((run.folder / "plan.json").read_text())["steps"] if s.get("file")] == [
        "steps.py"
    ]
    (tmp_path / "steps.py").unlink()
    moved = tmp_path / "elsewhere" / run.folder.name
    shutil.copytree(run.folder, moved)
    again = Stack.load(moved / "stack.resolved.yaml")
    assert again.steps[-1].step.model_dump() == {"strength": 0.2}
    assert "steps.py, local" in (moved / "report.html").read_text()


def test_verify_runs_the_code_that_came_along_only_when_asked(stack: Callable[..., Path], tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    run = execute(Stack.load(stack(source=f"{STEPS}\nopen({str(trace)!r}, 'a').write('run')\n")))
    trace.unlink()
    unasked = verify(run.folder)
    assert unasked.exit_code == 3
    assert "read it, then use `--run-code`" in unasked.unchecked[0]
    assert not trace.exists()
    asked = verify(run.folder, run_code=True)
    assert (asked.exit_code, asked.unchecked, trace.exists()) == (0, [], True)
    trace.unlink()
    next((run.folder / "code").rglob("*.py")).write_text(f"{STEPS}\nopen({str(trace)!r}, 'a').write('other')\n")
    changed = verify(run.folder, run_code=True)
    assert changed.exit_code == 5
    assert "steps.py" in changed.problems[0]
    assert not trace.exists(), "a changed file is not run"


def test_a_resume_refuses_a_changed_file(stack: Callable[..., Path], tmp_path: Path) -> None:
    path = stack()
    run_stack = Stack.load(path)

    def stop(event: dict[str, Any]) -> None:
        if event["event"] == "update" and event["update"] == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        execute(run_stack, listen=stop)
    folder = (tmp_path / "runs" / "toy" / "latest").resolve()
    (tmp_path / "steps.py").write_text(STEPS.replace("0.1", "0.3"))
    with pytest.raises(ConfigError, match="other settings"):
        execute(Stack.load(path), resume=folder)
    assert execute(Stack.load(folder / "stack.resolved.yaml"), resume=folder).exit_code == 0


@pytest.mark.parametrize(
    ("use", "source", "error", "sentence"),
    [
        ("./gone.py:Ridge", STEPS, ConfigError, "train: there is no file ./gone.py; correct the path"),
        ("./steps.py:Rigde", STEPS, ConfigError, "no class 'Rigde' (did you mean 'Ridge'?)"),
        ("./steps.py:Other", "x = 1\n", ConfigError, "no class 'Other' (it has no step)"),
        ("./steps.py:CONSTANT", STEPS, PluginError, "steps.py:CONSTANT is no Step"),
        ("./steps.py:Ridge", "\nimport nothing_of_this_name\n", PluginError, "steps.py:2 cannot be imported (Module"),
        ("./steps.py:Ridge", "class Ridge(\n", PluginError, "steps.py:1 cannot be imported (SyntaxError"),
        ("./steps.py:Ridge", "raise SystemExit(0)\n", PluginError, "steps.py:1 cannot be imported (SystemExit"),
    ],
)
def test_what_is_wrong_is_told_with_its_place(
    use: str, source: str, error: type[Exception], sentence: str, stack: Callable[..., Path]
) -> None:
    path = stack(use, source)
    with pytest.raises(error) as found:
        Stack.load(path)
    line = next(n for n, text in enumerate(path.read_text().splitlines(), 1) if '"use": "./' in text)
    assert str(found.value).startswith(f"{path}:{line}:")
    assert sentence in str(found.value)
    assert "\n" not in str(found.value)


def test_a_setting_is_checked_as_any_other(stack: Callable[..., Path]) -> None:
    with pytest.raises(ConfigError, match=r"train.Ridge.strenght: unknown setting \(did you mean 'strength'\?\)"):
        Stack.load(stack(strenght=1))


def test_check_and_plan_name_the_file(stack: Callable[..., Path], upright: Callable[..., Any]) -> None:
    stack()
    assert "train.Ridge  (steps.py, local)" in upright("check").stdout
    assert "train.Ridge steps.py" in upright("plan").stdout
    assert upright("check", "--json").stdout.count('"file": "steps.py"') == 1
