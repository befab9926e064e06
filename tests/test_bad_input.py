"""What goes wrong ends in one sentence, the right exit code, a truthful status, and nothing lost. Real processes."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from safetensors.torch import load_file

from conftest import toy_rows, write_rows
from upright import Stack
from upright.engine.execute import execute
from upright.errors import ConfigError, UprightError
from upright.evidence.status import read_status

Call = Callable[..., subprocess.CompletedProcess[str]]


def stack_file(folder: Path, toy: dict[str, Any], **changes: Any) -> Path:
    path = folder / "stack.yaml"
    path.write_text(yaml.safe_dump({**toy, **changes}))
    return path


def one_sentence(text: str) -> str:
    lines = [line for line in text.strip().splitlines() if not line.endswith("…")]
    assert len(lines) == 1, text
    return lines[0]


def test_a_wrong_row_ends_with_2_names_it_and_the_status_says_so(
    toy: dict[str, Any], tmp_path: Path, upright: Call
) -> None:
    rows = [*toy_rows(30, 0), {"text": "no label here", "sex": "f"}]
    data = {"train": write_rows(tmp_path / "t.jsonl", rows)}
    done = upright("run", stack_file(tmp_path, toy, data=data))
    assert done.returncode == 2
    assert "t.jsonl:31: has no label" in one_sentence(done.stderr)
    status = json.loads((tmp_path / "runs" / "toy" / "latest" / "status.json").read_text())
    assert status["state"] == "failed"
    assert status["exit_code"] == 2
    assert "t.jsonl:31" in status["error"]


def test_a_wrong_setting_ends_with_2_before_anything_is_made(
    toy: dict[str, Any], tmp_path: Path, upright: Call
) -> None:
    path = stack_file(tmp_path, toy, tune={"use": "lora", "rnak": 2})
    for command in ("check", "run", "plan"):
        done = upright(command, path)
        assert done.returncode == 2
        assert "did you mean 'rank'?" in one_sentence(done.stderr)
    told = json.loads(upright("check", path, "--json").stdout)
    assert told["ok"] is False
    assert "rnak" in told["problems"][0]
    assert not (tmp_path / "runs").exists()


def test_check_names_files_that_are_not_there(toy: dict[str, Any], tmp_path: Path, upright: Call) -> None:
    done = upright("check", stack_file(tmp_path, toy, data={"train": "nothing.jsonl"}))
    assert done.returncode == 2
    assert "stack.yaml:2:3  data.train: there is no file nothing.jsonl" in one_sentence(done.stderr).replace(
        str(tmp_path) + "/", ""
    )


def test_an_output_that_cannot_be_written(toy: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    toy["output"] = str(tmp_path / "file")
    with pytest.raises(ConfigError, match="output: cannot write to"):
        execute(Stack.load(toy))
    assert (tmp_path / "file").read_text() == "mine"


def test_no_disk_space_is_told_and_the_run_goes_on_after_it(
    toy: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    toy["train"] |= {"save_steps": 1}
    whole = execute(Stack.load({**toy, "output": str(tmp_path / "whole")}))
    honest, calls = os.fsync, {"left": 14}

    def full(handle: int) -> None:
        calls["left"] -= 1
        if calls["left"] < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        honest(handle)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UprightError, match="no space left on the disk"):
        execute(Stack.load(toy))
    monkeypatch.setattr(os, "fsync", honest)
    folder = (tmp_path / "runs" / "toy" / "latest").resolve()
    assert not list(folder.rglob(".*.part")), "no half a file is left"
    resumed = execute(Stack.load(toy), resume=folder)
    assert same_weights(resumed.folder, whole.folder)


def same_weights(one: Path, other: Path) -> bool:
    for path in sorted((one / "model").glob("*.safetensors")):
        mine, theirs = load_file(path), load_file(other / "model" / path.name)
        if mine.keys() != theirs.keys() or any((mine[name] != theirs[name]).any() for name in mine):
            return False
    return (one / "metrics.json").read_text() == (other / "metrics.json").read_text()


def killed_at(point: int, toy: dict[str, Any], output: Path) -> bool:
    """Run in a forked child that dies without a word at the n-th write to the disk; True where it died."""
    child = os.fork()
    if child == 0:
        honest, count = os.fsync, 0

        def fsync(handle: int) -> None:
            nonlocal count
            count += 1
            if count == point:
                os._exit(9)
            honest(handle)

        os.fsync = fsync
        try:
            execute(Stack.load({**toy, "output": str(output)}))
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9


@pytest.mark.parametrize("first", [pytest.param(5), pytest.param(1, marks=pytest.mark.slow)])
def test_killed_at_any_write_the_run_resumes_bit_identical(toy: dict[str, Any], tmp_path: Path, first: int) -> None:
    """Every 13th of the writes, and with the slow tests each one."""
    toy["train"] |= {"save_steps": 1}
    whole = execute(Stack.load({**toy, "output": str(tmp_path / "whole")})).folder
    stack, died, point = Stack.load(toy), 0, first
    while killed_at(point, toy, tmp_path / "runs"):
        folder = (tmp_path / "runs" / "toy" / "latest").resolve()
        died += 1
        assert read_status(folder)["state"] in ("failed", "unknown", "done")
        if (folder / "stack.resolved.yaml").is_file() and read_status(folder)["state"] != "done":
            resumed = execute(stack, resume=folder)
            assert same_weights(resumed.folder, whole), point
        point += 13 if first == 5 else 1
    assert died > 3


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_ctrl_c_ends_with_130_and_the_run_goes_on(toy: dict[str, Any], tmp_path: Path, upright: Call) -> None:
    toy["train"] |= {"max_steps": 4000, "save_steps": 5, "eval_strategy": "no"}
    path = stack_file(tmp_path, toy)
    process = subprocess.Popen(
        [sys.executable, "-m", "upright", "run", str(path)],
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        # a shell's background job ignores ctrl-C, and so would every process under it
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    assert process.stderr is not None
    folder = tmp_path / "runs" / "toy" / "latest"
    for line in process.stderr:
        if line.startswith("training"):
            break
    deadline = time.monotonic() + 60
    while not list(folder.glob("checkpoints/update-*")) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=60)
    assert process.returncode == 130, told
    assert "Traceback" not in told
    assert "--resume" in told
    status = json.loads((folder / "status.json").read_text())
    assert status["state"] == "interrupted"
    assert status["exit_code"] == 130


def test_a_run_is_resumed_by_its_folder_alone_and_never_twice(
    toy: dict[str, Any], tmp_path: Path, upright: Call
) -> None:
    from outside_steps import StopAt

    from upright.stack import Placed

    path = stack_file(tmp_path, toy)
    stack = Stack.load(path)
    StopAt.at = 2
    stack.steps.append(Placed("train", "stop", "stop", StopAt(), "test"))
    with pytest.raises(KeyboardInterrupt):
        execute(stack)
    folder = tmp_path / "runs" / "toy" / "latest"
    resolved = folder / "stack.resolved.yaml"
    content = yaml.safe_load(resolved.read_text())
    resolved.write_text("{" + resolved.read_text())
    torn = upright("run", path, "--resume", folder)
    assert torn.returncode == 5
    assert "is no YAML any more" in one_sentence(torn.stderr)
    content["train"]["steps"] = []
    resolved.write_text(yaml.safe_dump(content, sort_keys=False))
    done = upright("run", "--resume", folder)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().splitlines()[-1].endswith("report.html")
    again = upright("run", "--resume", folder)
    assert again.returncode == 2
    assert "finished" in one_sentence(again.stderr)
    other = upright("run", path, "--set", "seed=9", "--resume", folder)
    assert other.returncode == 2
    assert upright("run", "--resume", tmp_path).returncode == 2


def test_a_gate_that_blocks_ends_with_4(toy: dict[str, Any], tmp_path: Path) -> None:
    rows = [
        {"text": f"fever {n}", "label": "sick" if n % 2 else "well", "sex": "f" if n % 2 else "m"} for n in range(200)
    ]
    toy["data"] = {
        "train": write_rows(tmp_path / "t.jsonl", rows),
        "test": write_rows(tmp_path / "e.jsonl", rows),
        "sensitive": ["sex"],
    }
    toy["train"] = {"max_steps": 1, "batch_size": 8}
    toy["fairness"] = {
        "use": "group-audit",
        "groups": ["sex"],
        "constraint": "demographic_parity",
        "max_gap": 0.0,
        "on_fail": "block",
        "min_rows": 1,
    }
    toy["train"] |= {"steps": []}
    from upright import Run, Step, hook
    from upright.stack import Placed

    class BySex(Step):
        """Decides by sex alone: as unfair as can be."""

        @hook
        def decide(self, scores: Any, batch: Any, run: Run) -> Any:
            import torch

            return torch.nn.functional.one_hot(batch.groups["sex"], 2).to(scores.dtype)

    stack = Stack.load(toy)
    stack.steps.append(Placed("train", "by-sex", "by-sex", BySex(), "test"))
    run = execute(stack)
    assert run.exit_code == 4
    assert read_status(run.folder)["state"] == "gate-failed"
    assert run.verdicts[0].judgement == "violated"
    assert (run.folder / "report.html").is_file()


def test_init_writes_a_stack_that_runs_and_overwrites_nothing(tmp_path: Path, upright: Call) -> None:
    assert upright("init", tmp_path / "new").returncode == 0
    assert upright("check", tmp_path / "new").returncode == 0
    schema = json.loads((tmp_path / "new" / "stack.schema.json").read_text())
    assert schema["properties"]["tune"]
    (tmp_path / "new" / "stack.yaml").write_text("mine")
    done = upright("init", tmp_path / "new")
    assert done.returncode == 2
    assert (tmp_path / "new" / "stack.yaml").read_text() == "mine"


def test_plan_shows_what_a_run_would_do_and_makes_nothing(toy: dict[str, Any], tmp_path: Path, upright: Call) -> None:
    toy["privacy"] = {"use": "dp-sgd", "epsilon": 8.0, "delta": 1e-3}
    toy["clean"] = "exact-dup"
    path = stack_file(tmp_path, toy)
    done = upright("plan", path, "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["updates"] == 4
    assert next(e for e in told["announced"] if "noise_multiplier" in e)["noise_multiplier"] > 0.3
    assert any(e["event"] == "memory" and e["step"] == "exact-dup" for e in told["announced"])
    assert told["groups"]["sex"]["train"]["rows"] > 0
    assert any("exact-dup reads private data outside the epsilon" in warning for warning in told["warnings"])
    assert told["network"] == []
    shown = upright("plan", path).stdout
    assert "noise_multiplier" in shown
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("private", [False, True])
def test_weights_or_scores_that_are_not_finite_are_no_good_run(
    private: bool, toy: dict[str, Any], tmp_path: Path, upright: Call
) -> None:
    """A private gradient is finite whatever the records' are, and after the last update no gradient is looked at."""
    train = {"max_steps": 6 if private else 1, "batch_size": 8, "learning_rate": 1e30, "warmup_ratio": 0.0}
    more = {"privacy": {"use": "dp-sgd", "epsilon": 8.0, "delta": 1e-3}} if private else {"tune": "full"}
    train |= {} if private else {"optimizer": "sgd", "lr_scheduler_type": "constant", "max_grad_norm": None}
    done = upright("run", stack_file(tmp_path, toy, train=train, **more))
    assert done.returncode == 1
    told = one_sentence("\n".join(line for line in done.stderr.splitlines() if "finite" in line))
    assert "train.learning_rate" in told
    run = tmp_path / "runs" / "toy" / "latest"
    assert read_status(run)["state"] == "failed"
    assert not (run / "model").exists()
    assert not (run / "metrics.json").exists()


def test_a_run_that_is_still_going_on_is_not_resumed(toy: dict[str, Any], tmp_path: Path, upright: Call) -> None:
    path = stack_file(
        tmp_path, toy, train={"max_steps": 100_000, "batch_size": 8, "save_steps": 1, "eval_strategy": "no"}
    )
    first = subprocess.Popen(
        [sys.executable, "-m", "upright", "run", str(path)],
        cwd=tmp_path,
        stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )
    try:
        run = tmp_path / "runs" / "toy" / "latest"
        deadline = time.monotonic() + 120
        while not list(run.glob("checkpoints/update-*")) and time.monotonic() < deadline:
            time.sleep(0.1)
        done = upright("run", "--resume", run)
        assert done.returncode == 2
        assert "this run is still going on in another process" in one_sentence(done.stderr)
        assert first.poll() is None
    finally:
        first.kill()
        first.wait()


def test_half_a_weights_file_and_a_single_class_are_told(toy: dict[str, Any], tiny_bert: Path, tmp_path: Path) -> None:
    base = tmp_path / "half"
    base.mkdir()
    for path in tiny_bert.iterdir():
        (base / path.name).write_bytes(path.read_bytes())
    weights = base / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(ConfigError, match=r"model.base: .*half' cannot be loaded"):
        execute(Stack.load({**toy, "model": {"base": str(base)}}))
    rows = [{"text": f"fever {n}", "label": "sick"} for n in range(30)]
    with pytest.raises(ConfigError, match=r"data\.train: every row has the one label 'sick'"):
        execute(Stack.load({**toy, "data": {"train": write_rows(tmp_path / "one.jsonl", rows)}}))


def test_a_full_disk_while_weights_are_written_is_told_as_such(
    toy: dict[str, Any], tmp_path: Path, monkeypatch: Any
) -> None:
    """safetensors says it in words of its own."""
    import safetensors
    from safetensors import torch as writer

    def full(*_: Any, **__: Any) -> None:
        raise safetensors.SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(writer, "save_file", full)
    with pytest.raises(UprightError, match="no space left on the disk; free some and go on with --resume"):
        execute(Stack.load(toy))
