"""A finished run can be checked, and every way of making it say something else is noticed."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from conftest import toy_rows
from upright.errors import ConfigError, IntegrityError
from upright.evidence.verify import verify

FILES = """stack.yaml stack.resolved.yaml plan.json status.json lock.json events.jsonl data/ledger.parquet checkpoints
model steps/dp-sgd/accountant.jsonl predictions/test.parquet predictions/validation.parquet metrics.json
evidence/fairness.json evidence/privacy.json evidence/explain.json evidence/training.json evidence/gates.json
report.html MODEL_CARD.md CHANGELOG.md manifest.json""".split()


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


def test_a_resolved_stack_that_is_no_yaml_is_said_in_one_sentence(copied: Path) -> None:
    path = copied / "stack.resolved.yaml"
    path.write_text(path.read_text() + "}\n")
    found = verify(copied)
    assert found.exit_code == 5
    assert any("is no YAML any more" in problem for problem in found.problems)


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


def test_a_size_a_link_and_the_card_are_looked_at_and_a_copy_may_have_another_name(
    copied: Path, tmp_path: Path
) -> None:
    renamed = Path(shutil.copytree(copied, tmp_path / "evidence-for-the-auditor"))
    assert verify(renamed).problems == []
    manifest = json.loads((copied / "manifest.json").read_text())
    manifest["files"]["stack.yaml"]["bytes"] += 1
    (copied / "manifest.json").write_text(json.dumps(manifest))
    assert any("stack.yaml" in problem for problem in verify(copied).problems)
    (renamed / "model" / "more").symlink_to("config.json")
    assert any("model/more: a link was added" in problem for problem in verify(renamed).problems)
    (renamed / "model" / "more").unlink()
    card = (renamed / "MODEL_CARD.md").read_text()
    (renamed / "MODEL_CARD.md").write_text(card.replace("whole", "holy", 1) + "It is very fair.\n")
    rehash(renamed, "MODEL_CARD.md")
    assert any("MODEL_CARD.md: does not show" in problem for problem in verify(renamed).problems)


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
