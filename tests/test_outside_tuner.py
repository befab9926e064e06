"""A tuning method from outside: installed as a distribution, it trains, saves, reloads and merges; core is not touched."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

Call = Callable[..., Any]


@pytest.fixture
def installed(tmp_path: Path) -> dict[str, str]:
    """The environment of a process that has it installed."""
    site = tmp_path / "site"
    info = site / "acme_gain-1.2.dist-info"
    info.mkdir(parents=True)
    shutil.copy(Path(__file__).parent / "outside" / "acme_gain.py", site)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: acme-gain\nVersion: 1.2\n")
    (info / "entry_points.txt").write_text("[upright.v1.tune]\ngain = acme_gain:Gain\n")
    return {"PYTHONPATH": str(site)}


@pytest.mark.parametrize("merge", [pytest.param(False, marks=pytest.mark.slow), True])
def test_a_method_from_outside_needs_no_core_edit(
    merge: bool,
    installed: dict[str, str],
    tiny: Callable[[str], Path],
    toy: dict[str, Any],
    tmp_path: Path,
    upright: Call,
) -> None:
    stack = {**toy, "tune": {"use": "gain", "merge": merge}, "train": {"max_steps": 60, "learning_rate": 0.02}}
    stack["model"] = {"base": str(tiny("roberta")), "dropout": 0.0}
    (tmp_path / "stack.yaml").write_text(json.dumps(stack))
    assert "tune.gain  (acme-gain 1.2)" in upright("check", "stack.yaml", env=installed).stdout
    done = upright("run", "stack.yaml", env=installed)
    assert done.returncode == 0, done.stderr
    run = (tmp_path / "runs" / "toy" / "latest").resolve()
    assert upright("verify", run, env=installed).returncode == 0
    training = json.loads((run / "evidence" / "training.json").read_text())
    losses = [point["train_loss"] for point in training["curve"] if point.get("train_loss")]
    assert sum(losses[-5:]) < 0.9 * sum(losses[:5])
    assert {check["status"] for check in training["checks"]} == {"ok"}
    assert (run / "model" / "gain.safetensors").is_file() is not merge

    space: dict[str, Any] = {"folder": str(run / "model")}
    exec(json.loads((run / "evidence" / "export.json").read_text())["how_to_load"], space)
    from datasets import Dataset

    rows = Dataset.from_json(toy["data"]["test"])
    inputs = space["tokenizer"](rows["text"][:], padding=True, truncation=True, max_length=32, return_tensors="pt")
    with torch.no_grad():
        found = torch.softmax(space["model"](**inputs).logits, -1)
    import pyarrow.parquet as pq

    table = pq.read_table(run / "predictions" / "test.parquet")
    expected = torch.tensor(table.column("scores").to_pylist(), dtype=torch.float32)
    assert torch.allclose(found, expected, atol=1e-6)
