"""Each tutorial is run as it stands: its file beside its stack, and its test by pytest."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from test_docs import blocks

from conftest import ROOT
from upright import Run, Stack
from upright.evidence.ledger import read_ledger
from upright.evidence.verify import verify

PAGES = sorted((ROOT / "docs" / "tutorials").glob("*.md"))


def written(page: Path, folder: Path) -> Path:
    """The page's three files in a folder."""
    (folder / "steps.py").write_text(blocks(page, "python")[0])
    (folder / "test_steps.py").write_text(blocks(page, "python")[1])
    (folder / "stack.yaml").write_text(blocks(page, "yaml")[0])
    return folder / "stack.yaml"


def folded(run: Run) -> None:
    assert not any("ssf" in name for name, _ in run.model.named_parameters())


def dropped(run: Run) -> None:
    [entry] = [entry for entry in read_ledger(run.folder).to_pylist() if entry["reason"] == "shouting"]
    assert entry["action"] == "drop"


def asked(run: Run) -> None:
    assert all(record["text"].endswith("Which one? sick, well") for record in run.encoded["train"].records)


def held(run: Run) -> None:
    assert run.kept["ScoreParity/distances"].abs().sum() > 0


def explained(run: Run) -> None:
    assert len(run.attributions["Saliency"]) == len(run.data["validation"])  # fewer than are asked for
    assert all((one.scores >= 0).all() for one in run.attributions["Saliency"])


def counted(run: Run) -> None:
    [verdict] = run.verdicts
    assert (verdict.gate, verdict.judgement) == ("k-anonymity", "met")
    assert run.metrics["run/privacy/KAnonymity/smallest_cell"].value >= 3


SHOWN: dict[str, Callable[[Run], None]] = {
    "tune": folded, "clean": dropped, "prompt": asked, "fairness": held, "explain": explained, "privacy": counted,
}  # fmt: skip


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_stack_of_the_page_runs_and_is_verified(page: Path, toy: dict[str, Any], tmp_path: Path) -> None:
    stack = written(page, tmp_path)
    rows = Path(toy["data"]["train"]).read_text()
    (tmp_path / "rows.jsonl").write_text(rows + json.dumps({"text": "WHY IS NOBODY HERE", "label": "sick", "sex": "f"}))
    sets = [f"output={tmp_path / 'runs'}"]
    sets += [f"model.base={toy['model']['base']}", "train.max_steps=4"] if page.stem != "clean" else []
    run = Stack.load(stack, sets).run()
    assert run.exit_code == 0
    SHOWN[page.stem](run)
    assert verify(run.folder, run_code=True).problems == []


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_method_of_the_page_conforms(page: Path, tmp_path: Path) -> None:
    written(page, tmp_path)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_steps.py"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:]


def test_there_is_a_page_for_every_kind() -> None:
    assert {page.stem for page in PAGES} == SHOWN.keys()
