"""A finished run can be checked, and every way of making it say something else is noticed."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from conftest import toy_rows, write_rows
from upright import Run, Section, Stack, Step, hook
from upright.engine.execute import execute
from upright.errors import ConfigError, IntegrityError
from upright.evidence.metrics import read_metrics
from upright.evidence.verify import verify
from upright.objects import Svg, Text
from upright.stack import Placed

FILES = """stack.yaml stack.resolved.yaml plan.json status.json lock.json events.jsonl data/ledger.parquet checkpoints
model steps/dp-sgd/accountant.jsonl predictions/test.parquet predictions/validation.parquet metrics.json
evidence/fairness.json evidence/privacy.json evidence/explain.json evidence/training.json evidence/gates.json
report.html MODEL_CARD.md CHANGELOG.md manifest.json""".split()


@pytest.fixture(scope="module")
def finished(tiny_mean: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with a step of every kind."""
    folder = tmp_path_factory.mktemp("finished")
    data = {
        name: write_rows(folder / f"{name}.jsonl", toy_rows(size, n))
        for n, (name, size) in enumerate({"train": 60, "validation": 40, "test": 80}.items())
    }
    (folder / "stack.yaml").write_text(
        json.dumps(
            {
                "name": "whole",
                "data": {**data, "sensitive": ["sex"]},
                "clean": ["exact-dup", "unicode", "length"],
                "model": {"base": str(tiny_mean)},
                "prompt": {"use": "template", "text": "note: {text}"},
                "tune": {"use": "lora", "rank": 2},
                "train": {"max_steps": 3, "batch_size": 12},
                "fairness": [
                    {"use": "equalized-odds", "groups": ["sex"]},
                    {"use": "group-audit", "groups": ["sex"], "max_gap": 0.9, "min_rows": 1},
                ],
                "privacy": ["pii", {"use": "dp-sgd", "noise_multiplier": 1.0, "delta": 1e-3}],
                "explain": {"use": "integrated-gradients", "samples": 4},
                "output": str(folder / "runs"),
            }
        )
    )
    return execute(Stack.load(folder / "stack.yaml")).folder


@pytest.fixture
def copied(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / finished.name))


def rehash(folder: Path, name: str) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    content = (folder / name).read_bytes()
    manifest["files"][name] = {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    (folder / "manifest.json").write_text(json.dumps(manifest))


def test_every_file_of_the_contract_is_there_and_verifies(finished: Path) -> None:
    assert not [name for name in FILES if not (finished / name).exists()]
    found = verify(finished)
    assert found.problems == []
    assert found.exit_code == 0
    assert found.figures > 40
    listed = set(json.loads((finished / "manifest.json").read_text())["files"])
    there = {p.relative_to(finished).as_posix() for p in finished.rglob("*") if p.is_file()}
    assert listed == there - {"manifest.json"}


def test_one_byte_of_any_file_is_noticed_and_the_file_named(copied: Path) -> None:
    for name in json.loads((copied / "manifest.json").read_text())["files"]:
        content = (copied / name).read_bytes()
        if not content:
            continue
        place = len(content) // 2
        (copied / name).write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        found = verify(copied)
        assert found.exit_code == 5, name
        assert any(name in problem for problem in found.problems)
        (copied / name).write_bytes(content)
    assert verify(copied).exit_code == 0


@pytest.mark.parametrize(
    "key", ["test/accuracy", "test/fairness/group-audit/equalized_odds_difference/sex", "run/privacy/dp-sgd/epsilon"]
)
@pytest.mark.parametrize("what", ["value", "from"])
def test_a_number_changed_with_its_hash_is_contradicted(copied: Path, key: str, what: str) -> None:
    metrics = json.loads((copied / "metrics.json").read_text())
    metrics[key][what] = metrics[key]["value"] + 0.01 if what == "value" else "attested"
    (copied / "metrics.json").write_text(json.dumps(metrics))
    rehash(copied, "metrics.json")
    found = verify(copied)
    assert found.exit_code == 5
    says = "its ledger says" if key.startswith("run/") else "the predictions say"
    assert any(key in problem and says in problem for problem in found.problems)


def test_a_number_left_out_or_made_up_is_noticed(copied: Path) -> None:
    metrics = json.loads((copied / "metrics.json").read_text())
    del metrics["test/accuracy"]
    metrics["test/fairness/group-audit/made_up"] = {"value": 1.0, "from": "predictions"}
    (copied / "metrics.json").write_text(json.dumps(metrics))
    rehash(copied, "metrics.json")
    told = "\n".join(verify(copied).problems)
    assert "'test/accuracy' is left out" in told
    assert "made_up' follows from nothing" in told


def test_a_softened_verdict_and_a_prettier_report_are_noticed(copied: Path) -> None:
    gates = copied / "evidence" / "gates.json"
    gates.write_text(gates.read_text().replace('"met"', '"violated"').replace('"insufficient evidence"', '"violated"'))
    rehash(copied, "evidence/gates.json")
    report = copied / "report.html"
    report.write_text(report.read_text().replace("insufficient", "sufficient").replace("accuracy", "excellence"))
    rehash(copied, "report.html")
    told = "\n".join(verify(copied).problems)
    assert "gates.json: is not what follows" in told
    assert "report.html: does not show" in told


def test_a_removed_and_an_added_file_and_a_lost_manifest_are_noticed(copied: Path) -> None:
    (copied / "CHANGELOG.md").unlink()
    (copied / "extra.txt").write_text("x")
    told = "\n".join(verify(copied).problems)
    assert "CHANGELOG.md: is missing" in told
    assert "extra.txt: was added" in told
    (copied / "manifest.json").write_text("{")
    with pytest.raises(IntegrityError, match=r"manifest\.json"):
        verify(copied)
    with pytest.raises(ConfigError, match="no such run folder"):
        verify(copied / "nothing")


def test_without_a_plugin_its_figures_are_said_to_be_unchecked(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from upright import catalog

    rest = tuple(entry for entry in catalog.installed() if entry.section != "fairness")
    monkeypatch.setattr(catalog, "installed", lambda: rest)
    found = verify(copied)
    assert found.exit_code == 3
    assert found.problems == []
    assert "group-audit" in found.unchecked[0] or "equalized-odds" in found.unchecked[0]


def test_mutant_verify_that_believes_metrics_is_noticed(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tamper tests rest on figures being derived again: without that they find nothing."""
    from upright.evidence import verify as module

    monkeypatch.setattr(module, "_figures", lambda found: None)
    metrics = json.loads((copied / "metrics.json").read_text())
    metrics["test/accuracy"]["value"] = 0.999
    (copied / "metrics.json").write_text(json.dumps(metrics))
    rehash(copied, "metrics.json")
    assert not any("test/accuracy" in problem for problem in verify(copied).problems)


def test_no_text_of_a_row_is_in_ledger_and_predictions(finished: Path) -> None:
    import pyarrow.parquet as pq

    words = {word for row in toy_rows(80, 2) for word in row["text"].split() if not word.isdigit()}
    for name in ("data/ledger.parquet", "predictions/test.parquet"):
        table = pq.read_table(finished / name)
        cells = {str(cell) for column in table.columns for cell in column.to_pylist()}
        assert not cells & words


def test_a_private_run_withholds_what_is_of_single_records(finished: Path) -> None:
    lines = [json.loads(line) for line in (finished / "events.jsonl").read_text().splitlines()]
    updates = [line for line in lines if line["event"] == "update"]
    assert updates
    assert not [line for line in updates if "train_loss" in line or "rows" in line]
    assert "Withheld, because training is private" in (finished / "report.html").read_text()


# --- reports --------------------------------------------------------------------------------------------------------


class Breaks(Step):
    """Fails when it is asked to report and draws a picture that runs something."""

    picture: str = ""

    @hook
    def report(self, run: Run) -> Section:
        if not self.picture:
            raise RuntimeError("<b>no & nothing</b>")
        return Section("<script>alert(1)</script>", [Text("<img src=x>"), Svg(self.picture)])


def run_with(toy: dict[str, Any], step: Step) -> Run:
    stack = Stack.load(toy)
    stack.steps.append(Placed("train", "breaks", "breaks", step, "test:1:1"))
    return execute(stack)


def test_a_step_that_fails_in_its_report_is_failed_never_absent(toy: dict[str, Any]) -> None:
    run = run_with(toy, Breaks())
    assert run.exit_code == 1
    page = (run.folder / "report.html").read_text()
    assert "failed – RuntimeError" in page.replace("breaks: ", "")
    assert "<b>no" not in page
    assert "&lt;b&gt;no &amp; nothing" in page
    assert json.loads((run.folder / "status.json").read_text())["state"] == "failed"
    assert (run.folder / "manifest.json").is_file()


@pytest.mark.parametrize(
    "picture",
    [
        '<svg xmlns="http://www.w3.org/2000/svg"><script>1</script></svg>',
        '<svg xmlns="http://www.w3.org/2000/svg" onload="x()"></svg>',
        '<svg xmlns="http://www.w3.org/2000/svg"><a href="http://x"><text>x</text></a></svg>',
        '<svg xmlns="http://www.w3.org/2000/svg"><rect fill="url(http://x)"/></svg>',
        "<!DOCTYPE x [<!ENTITY a 'b'>]><svg xmlns='http://www.w3.org/2000/svg'></svg>",
        "<svg",
    ],
)
def test_what_a_step_writes_cannot_act_in_the_page(toy: dict[str, Any], picture: str) -> None:
    from upright.report.pictures import checked

    assert checked(picture) is None


def test_text_of_steps_is_escaped_and_the_page_points_nowhere(toy: dict[str, Any]) -> None:
    run = run_with(toy, Breaks(picture='<svg xmlns="http://www.w3.org/2000/svg" onload="x()"></svg>'))
    page = (run.folder / "report.html").read_text()
    assert "<script" not in page
    assert "<img" not in page
    assert "a picture was refused" in page
    assert "http://" not in page.replace("http://www.w3.org/2000/svg", "")
    assert "src=" not in page.replace("&lt;img src=x&gt;", "")


def test_the_page_opens_in_a_browser(finished: Path, tmp_path: Path) -> None:
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        pytest.skip("chromium is not installed")
    done = subprocess.run(
        [
            chromium,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            f"--user-data-dir={tmp_path}",
            "--dump-dom",
            f"file://{finished / 'report.html'}",
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    for heading in ("Figures", "Gates", "Training", "Differential privacy", "Explanations", "Verify"):
        assert f">{heading}<" in done.stdout
    assert "Refused to" not in done.stderr


def test_a_second_run_tells_what_changed(toy: dict[str, Any]) -> None:
    first = execute(Stack.load(toy))
    assert "first finished run" in (first.folder / "CHANGELOG.md").read_text()
    toy["tune"]["rank"] = 4
    second = execute(Stack.load(toy))
    changes = (second.folder / "CHANGELOG.md").read_text()
    assert f"Against run {first.folder.name}" in changes
    assert "`tune[lora].rank`: 2 → 4" in changes
    card = (second.folder / "MODEL_CARD.md").read_text()
    assert card.startswith("---\n")
    assert f"{read_metrics(second.folder)['test/accuracy'].n}" in card


# --- the command line over a finished run -----------------------------------------------------------------------------


def test_reading_commands_and_their_exit_codes(
    finished: Path, copied: Path, upright: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    done = upright("verify", finished)
    assert done.returncode == 0, done.stderr
    assert ": ok (" in done.stdout
    (copied / "metrics.json").write_text("{}")
    broken = upright("verify", copied, "--json")
    assert broken.returncode == 5
    assert "metrics.json" in json.loads(broken.stdout)["problems"][0]
    told = json.loads(upright("report", finished, "--json").stdout)
    assert told["state"] in ("done", "gate-failed")
    assert "test/accuracy" in told["metrics"]
    assert str(finished / "report.html") in upright("report", finished).stdout
    assert "same settings and figures" in upright("compare", finished, finished).stdout
    assert json.loads(upright("compare", finished, finished, "--json").stdout) == {"settings": [], "figures": {}}
    assert upright("report", copied / "nothing").returncode == 2
    assert upright("compare", finished, copied / "nothing").returncode == 2
