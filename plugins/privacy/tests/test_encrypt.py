"""A sealed run: what can be read without the key, what is refused, and that nothing is lost on the way."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from outside_steps import StopAt
from safetensors.torch import load_file

from conftest import toy_rows, write_rows
from upright import Run, Stack, catalog
from upright.engine.execute import execute
from upright.errors import ConfigError, IntegrityError, NoKeyError
from upright.evidence.status import read_status
from upright.evidence.verify import verify
from upright_privacy import run_key, user_key
from upright_privacy.ledger import read_ledger
from upright_privacy.sealed_file import is_sealed
from upright_privacy.unseal import unseal

KEY = base64.b64encode(os.urandom(32)).decode()
OTHER = os.urandom(32).hex()
READABLE = set(
    "stack.yaml stack.resolved.yaml plan.json lock.json status.json events.jsonl metrics.json report.html MODEL_CARD.md "
    "CHANGELOG.md manifest.json steps/encrypt/key.json".split()
)
SHORT = {"train": {"max_steps": 1, "batch_size": 8}, "privacy": "encrypt"}
"""Sections of a run that is over soon."""
Call = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """The key is set; what is written to the folder of plain copies is gone afterwards. A step that stops is installed."""
    monkeypatch.setenv("UPRIGHT_KEY", KEY)
    stop = catalog.Entry("train", "stop", "outside", "1.0", "outside_steps:StopAt")
    there = (*catalog.installed(), stop)
    monkeypatch.setattr(catalog, "installed", lambda: there)
    plain = tmp_path / "scratch"
    plain.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(plain))
    yield plain
    import gc

    gc.collect()  # a base that was opened for a run is there for as long as the run is
    assert [path.name for path in plain.iterdir() if path.name.startswith("upright-")] == []


def stack(tiny_bert: Path, folder: Path, **sections: Any) -> dict[str, Any]:
    data = {
        split: write_rows(folder / f"{split}.jsonl", toy_rows(size, seed))
        for seed, (split, size) in enumerate({"train": 48, "validation": 20, "test": 24}.items())
    }
    whole = {
        "name": "sealed",
        "data": {**data, "sensitive": ["sex"]},
        "clean": "exact-dup",
        "model": {"base": str(tiny_bert), "task": "text-classification"},
        "tune": {"use": "lora", "rank": 2},
        "train": {"max_steps": 4, "batch_size": 8, "learning_rate": 0.01, "save_steps": 1},
        "privacy": ["encrypt", {"use": "dp-sgd", "noise_multiplier": 1.0, "delta": 1e-3}],
        "output": str(folder / "runs"),
    }
    return {name: content for name, content in {**whole, **sections}.items() if content is not None}


@pytest.fixture(scope="module")
def whole(tiny_bert: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run that was sealed."""
    folder = tmp_path_factory.mktemp("whole")
    os.environ["UPRIGHT_KEY"] = KEY
    try:
        return execute(Stack.load(stack(tiny_bert, folder))).folder
    finally:
        del os.environ["UPRIGHT_KEY"]


@pytest.fixture
def copied(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "copied" / whole.name))


def files(folder: Path) -> dict[str, Path]:
    return {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}


def weights_of(run: Run | Path) -> dict[str, Any]:
    loaded = run if isinstance(run, Run) else Run.load(run)
    with loaded.opened("model") as folder:
        return {f"{path.name}/{k}": t for path in folder.glob("*.safetensors") for k, t in load_file(path).items()}


# --- what is sealed ---------------------------------------------------------------------------------------------------


def test_every_file_with_data_or_weights_is_sealed_and_the_rest_is_readable(whole: Path) -> None:
    there = files(whole)
    plain = {name for name, path in there.items() if not is_sealed(path)}
    assert {name for name in plain if not name.startswith("evidence/")} == READABLE
    folders = {name.split("/")[0] for name in there.keys() - plain}
    assert folders == {"model", "checkpoints", "data", "predictions", "steps"}
    assert is_sealed(whole / "steps" / "dp-sgd" / "accountant.jsonl")


def test_no_text_and_no_weight_can_be_found_in_the_folder(whole: Path) -> None:
    content = {name: path.read_bytes() for name, path in files(whole).items()}
    for row in toy_rows(48, 0):
        assert not [name for name, found in content.items() if row["text"].encode() in found]
    tensors = {name: t for name, t in weights_of(whole).items() if t.is_floating_point() and t.unique().numel() > 4}
    assert len(tensors) > 20
    for tensor in tensors.values():
        some = np.ascontiguousarray(tensor.numpy()).tobytes()[:32]
        assert not [name for name, found in content.items() if some in found]
    ids = set(_row_ids(whole))
    assert not [name for name, found in content.items() if any(row_id.encode() in found for row_id in ids)]


def _row_ids(folder: Path) -> list[str]:
    import pyarrow.parquet as pq

    with Run.load(folder).opened("predictions/test.parquet") as path:
        ids: list[str] = pq.read_table(path).column("row_id").to_pylist()
    return ids


def test_the_key_is_nowhere_in_the_run(whole: Path) -> None:
    raw = base64.b64decode(KEY)
    secret = run_key.read(whole / "steps" / "encrypt" / "key.json", raw, "").secret
    for path in files(whole).values():
        found = path.read_bytes()
        for hidden in (raw, secret):
            told = (hidden, hidden.hex().encode(), base64.b64encode(hidden))
            assert not any(form in found for form in told), path
    assert secret.hex() not in repr(run_key.RunKey(bytes(16), secret))


def test_two_runs_have_two_keys(whole: Path, tiny_bert: Path, tmp_path: Path) -> None:
    other = execute(Stack.load(stack(tiny_bert, tmp_path, **SHORT))).folder
    one, two = (json.loads((f / "steps" / "encrypt" / "key.json").read_text()) for f in (whole, other))
    assert one["key"] != two["key"]
    assert one["run"] != two["run"]


def test_a_stack_that_only_cleans_is_sealed(tiny_bert: Path, tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    run = execute(Stack.load(stack(tiny_bert, tmp_path, model=None, tune=None, train=None, privacy="encrypt")))
    assert is_sealed(run.folder / "data" / "train.parquet")
    with run.opened("data/train.parquet") as path:
        assert pq.read_table(path).num_rows == 48
    assert verify(run.folder).problems == []
    assert verify(run.folder).sealed is None


# --- verify -----------------------------------------------------------------------------------------------------------


def test_verify_with_the_key_derives_every_figure_again(whole: Path) -> None:
    found = verify(whole)
    assert (found.problems, found.unchecked, found.sealed, found.exit_code) == ([], [], None, 0)
    metrics = json.loads((whole / "metrics.json").read_text())
    assert found.figures == len(metrics)
    assert "run/privacy/dp-sgd/epsilon" in metrics


def test_verify_without_the_key_hashes_and_says_that_figures_were_not_derived_again(
    whole: Path, copied: Path, monkeypatch: pytest.MonkeyPatch, upright: Call
) -> None:
    monkeypatch.delenv("UPRIGHT_KEY")
    found = verify(whole)
    assert found.problems == []
    assert found.exit_code == 0
    assert found.figures == 0
    assert found.files == len(files(whole)) - 1
    assert found.sealed is not None
    assert "UPRIGHT_KEY is not set" in found.sealed
    done = upright("verify", whole)
    assert done.returncode == 0
    assert "figures were not derived again" in done.stderr
    assert "no figure derived again (sealed)" in done.stdout
    told = json.loads(upright("verify", whole, "--json").stdout)
    assert told["ok"]
    assert "UPRIGHT_KEY" in told["sealed"]
    assert upright("report", whole).returncode == 0
    assert upright("compare", whole, whole).returncode == 0
    # figures cannot be looked at, hashes and the page can
    flip(copied / "model" / "model.safetensors")
    (copied / "metrics.json").write_text((copied / "metrics.json").read_text().replace("0.", "0.9", 1))
    broken = verify(copied)
    assert broken.exit_code == 5
    assert {name for name in ("model/model.safetensors", "metrics.json") for p in broken.problems if name in p} == {
        "model/model.safetensors",
        "metrics.json",
    }


@pytest.mark.parametrize("other", [OTHER, base64.b64encode(os.urandom(32)).decode()], ids=["hex", "base64"])
def test_verify_with_another_key_says_so_in_one_sentence(
    whole: Path, monkeypatch: pytest.MonkeyPatch, other: str
) -> None:
    monkeypatch.setenv("UPRIGHT_KEY", other)
    found = verify(whole)
    assert found.exit_code == 5
    [problem] = found.problems
    assert "key.json: does not open with the key of the variable UPRIGHT_KEY" in problem
    assert other not in problem


def flip(path: Path, place: int = -1) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


def rehash(folder: Path) -> None:
    """The manifest as somebody would write it who changes files and hides it."""
    listed = {
        name: {"sha256": hashlib.sha256(path.read_bytes()).hexdigest(), "bytes": path.stat().st_size}
        for name, path in files(folder).items()
        if name != "manifest.json"
    }
    (folder / "manifest.json").write_text(json.dumps({"files": listed}))


@pytest.mark.parametrize("how", ["changed", "cut", "swapped", "plain", "gone", "of another run"])
def test_verify_notices_a_changed_file_though_its_hash_was_changed_too(
    copied: Path, tiny_bert: Path, tmp_path: Path, how: str
) -> None:
    one, two = copied / "predictions" / "test.parquet", copied / "predictions" / "validation.parquet"
    if how == "changed":
        flip(one)
    elif how == "cut":
        one.write_bytes(one.read_bytes()[:-20])
    elif how == "swapped":
        shutil.copyfile(two, one)
    elif how == "plain":
        with Run.load(copied).opened("predictions/test.parquet") as path:
            shutil.copyfile(path, one)
    elif how == "gone":
        (copied / "steps" / "encrypt" / "key.json").unlink()
    else:
        other = execute(Stack.load(stack(tiny_bert, tmp_path, **SHORT))).folder
        shutil.copyfile(other / "predictions" / "test.parquet", one)
    rehash(copied)
    found = verify(copied)
    assert found.exit_code == 5
    [problem] = found.problems
    says = {
        "changed": "test.parquet: chunk 1 is not what was sealed as predictions/test.parquet",
        "cut": "test.parquet: chunk 1 is not what was sealed",
        "swapped": "test.parquet: chunk 1 is not what was sealed",
        "plain": "test.parquet: is not sealed",
        "gone": "key.json: is gone",
        "of another run": "test.parquet: was sealed by another run",
    }
    assert says[how] in problem


def test_a_figure_changed_with_its_hash_is_contradicted_by_the_sealed_predictions(copied: Path) -> None:
    metrics = json.loads((copied / "metrics.json").read_text())
    metrics["test/accuracy"]["value"] += 0.01
    metrics["run/privacy/dp-sgd/epsilon"]["value"] /= 2
    (copied / "metrics.json").write_text(json.dumps(metrics))
    rehash(copied)
    told = "\n".join(verify(copied).problems)
    assert "'test/accuracy'" in told
    assert "epsilon' is" in told


# --- opening ----------------------------------------------------------------------------------------------------------


def test_a_sealed_run_is_a_base_with_its_key_alone(
    whole: Path, copied: Path, tiny_bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: Path
) -> None:
    link = tmp_path / "latest"
    link.symlink_to(whole)
    base = {"base": str(link), "task": "text-classification"}
    run = execute(Stack.load(stack(tiny_bert, tmp_path, model=base, tune=None, train=None, clean=None, privacy=None)))
    assert run.exit_code == 0
    metrics = [json.loads((folder / "metrics.json").read_text())["test/accuracy"] for folder in (run.folder, whole)]
    assert metrics[0] == metrics[1]
    [opened] = key.glob("upright-*")
    assert opened.stat().st_mode & 0o777 == 0o700
    del run
    flip(copied / "model" / "model.safetensors", 1000)
    base = {"base": str(copied), "task": "text-classification"}
    asked = Stack.load(stack(tiny_bert, tmp_path, model=base, tune="head", privacy=None))
    with pytest.raises(IntegrityError, match=r"model\.safetensors: chunk 1 is not what was sealed"):
        execute(asked)
    monkeypatch.setenv("UPRIGHT_KEY", OTHER)
    with pytest.raises(IntegrityError, match="that is another key"):
        execute(asked)
    monkeypatch.delenv("UPRIGHT_KEY")
    with pytest.raises(NoKeyError, match="UPRIGHT_KEY is not set"):
        execute(asked)


def test_the_command_writes_plain_copies_outside_the_run(whole: Path, tmp_path: Path, upright: Call) -> None:
    from transformers import AutoModelForSequenceClassification

    before = {name: path.read_bytes() for name, path in files(whole).items()}
    done = upright("unseal", whole, "--into", tmp_path / "plain")
    assert done.returncode == 0, done.stderr
    assert str(tmp_path / "plain" / "model") in done.stdout
    assert not [path for path in files(tmp_path / "plain").values() if is_sealed(path)]
    assert AutoModelForSequenceClassification.from_pretrained(tmp_path / "plain" / "model")
    assert len(read_ledger(tmp_path / "plain" / "steps" / "dp-sgd" / "accountant.jsonl")) == 4
    assert {name: path.read_bytes() for name, path in files(whole).items()} == before
    assert "sealed" in upright("unseal", "--help").stdout
    assert unseal([str(whole), "model/config.json", "--into", str(tmp_path / "one")]) == 0
    assert list(files(tmp_path / "one")) == ["model/config.json"]


def test_what_cannot_be_unsealed_is_refused_and_nothing_is_written(
    whole: Path, copied: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    into = tmp_path / "plain"

    def refused(error: type[Exception], match: str, *arguments: str | Path) -> None:
        with pytest.raises(error, match=match):
            unseal([str(argument) for argument in arguments])
        assert not [path for path in tmp_path.iterdir() if path.name.startswith((".plain", "plain"))]

    refused(ConfigError, "is no run folder", tmp_path, "--into", into)
    refused(ConfigError, "is inside the run's folder", whole, "--into", whole / "plain")
    refused(ConfigError, "is there already", whole, "--into", copied)
    for part in ("metrics.json", "model/../..", "nothing"):
        refused(ConfigError, "is nothing that a run seals", whole, part, "--into", into)
    flip(copied / "predictions" / "test.parquet")
    refused(IntegrityError, "chunk 1 is not what was sealed", copied, "--into", into)
    monkeypatch.setenv("UPRIGHT_KEY", OTHER)
    refused(IntegrityError, "that is another key", whole, "--into", into)
    monkeypatch.delenv("UPRIGHT_KEY")
    refused(NoKeyError, "there is no key", whole, "--into", into)


def test_destroying_the_wrapped_key_erases_the_run(copied: Path) -> None:
    (copied / "steps" / "encrypt" / "key.json").unlink()
    with pytest.raises(IntegrityError, match="without it nobody can open"), Run.load(copied).opened("model"):
        pass
    assert any("key.json: is missing" in problem for problem in verify(copied).problems)


# --- the key ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "given",
    [b"password", b"p" * 32, b"0" * 63, os.urandom(16).hex().encode(), base64.b64encode(os.urandom(31)), b"\xff" * 31],
    ids=["word", "32 letters", "63 digits", "16 bytes", "31 bytes", "31 raw bytes"],
)
def test_what_is_no_key_is_refused_and_not_shown(given: bytes) -> None:
    assert user_key.parsed(given) is None


def test_a_key_is_read_as_base64_hex_or_raw() -> None:
    raw = bytes(range(128, 160))
    for given in (raw, raw.hex().encode(), raw.hex().upper().encode() + b"\n", base64.b64encode(raw) + b"\r\n"):
        assert user_key.parsed(given) == raw


def test_without_a_key_or_with_none_the_run_is_refused_before_any_work(
    tiny_bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, upright: Call
) -> None:
    asked = stack(tiny_bert, tmp_path, privacy={"use": "encrypt", "key_file": "my.key"})
    (tmp_path / "stack.yaml").write_text(json.dumps(asked))
    monkeypatch.delenv("UPRIGHT_KEY")
    assert upright("check", tmp_path).returncode == 0
    for command in ("plan", "run"):
        done = upright(command, tmp_path)
        assert done.returncode == 2
        [line] = [line for line in done.stderr.splitlines() if "there is no key" in line]
        assert "stack.yaml:1" in line
        assert "my.key is not there and the variable UPRIGHT_KEY is not set" in line
        assert "Traceback" not in done.stderr
    folder = (tmp_path / "runs" / "sealed" / "latest").resolve()
    assert not (folder / "data").exists()
    (tmp_path / "my.key").write_text("swordfish")
    done = upright("run", tmp_path)
    assert done.returncode == 2
    assert "my.key holds no key" in done.stderr
    assert "swordfish" not in done.stderr
    folder = (tmp_path / "runs" / "sealed" / "latest").resolve()
    assert not [path for path in files(folder).values() if b"swordfish" in path.read_bytes()]


def test_a_key_file_counts_from_the_stack_and_the_variable_serves_where_it_is_not(
    tiny_bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = os.urandom(31) + b"\xff"
    (tmp_path / "my.key").write_bytes(raw)
    asked = stack(tiny_bert, tmp_path, **{**SHORT, "privacy": {"use": "encrypt", "key_file": "my.key"}})
    (tmp_path / "stack.yaml").write_text(json.dumps(asked))
    folder = execute(Stack.load(tmp_path / "stack.yaml")).folder
    monkeypatch.delenv("UPRIGHT_KEY")
    assert verify(folder).sealed is None
    (tmp_path / "my.key").unlink()
    assert verify(folder).sealed is not None
    monkeypatch.setenv("UPRIGHT_KEY", raw.hex())
    assert verify(folder).sealed is None


# --- resuming ---------------------------------------------------------------------------------------------------------


def stopped(asked: dict[str, Any]) -> tuple[dict[str, Any], Path]:
    """The stack of a sealed run that was interrupted in the third of four updates, and its folder."""
    asked["train"] |= {"steps": ["stop"]}
    StopAt.at = 3
    with pytest.raises(KeyboardInterrupt):
        execute(Stack.load(asked))
    StopAt.at = -1
    return asked, Path(asked["output"], "sealed", "latest").resolve()


def test_a_sealed_run_goes_on_with_its_key_and_is_refused_without(
    tiny_bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, folder = stopped(stack(tiny_bert, tmp_path))
    before = {name: path.read_bytes() for name, path in files(folder / "checkpoints").items()}
    assert before
    ledger = folder / "steps" / "dp-sgd" / "accountant.jsonl"
    assert len(read_ledger(ledger)) == 3
    assert unseal([str(folder), "--into", str(tmp_path / "plain")]) == 0
    assert (tmp_path / "plain" / "steps" / "dp-sgd" / "accountant.jsonl").read_bytes() == ledger.read_bytes()
    assert not [path for path in files(tmp_path / "plain").values() if is_sealed(path)]
    for value, error, match in (
        (None, NoKeyError, "there is no key"),
        (OTHER, IntegrityError, "that is another key"),
    ):
        monkeypatch.setenv("UPRIGHT_KEY", value) if value else monkeypatch.delenv("UPRIGHT_KEY")
        with pytest.raises(error, match=match):
            execute(Stack.load(asked), resume=folder)
        assert {name: path.read_bytes() for name, path in files(folder / "checkpoints").items()} == before
        assert len(read_ledger(ledger)) == 3
    monkeypatch.setenv("UPRIGHT_KEY", KEY)
    run = execute(Stack.load(asked), resume=folder)
    assert run.update == 4
    assert is_sealed(ledger)
    with run.opened("steps/dp-sgd/accountant.jsonl") as path:
        assert [entry["attempt"] for entry in read_ledger(path)] == [1, 1, 1, 2, 2]


def test_a_run_whose_key_is_gone_does_not_go_on_under_a_new_one(tiny_bert: Path, tmp_path: Path) -> None:
    asked, folder = stopped(stack(tiny_bert, tmp_path))
    (folder / "steps" / "encrypt" / "key.json").unlink()
    with pytest.raises(IntegrityError, match=r"key\.json: is gone"):
        execute(Stack.load(asked), resume=folder)
    assert not (folder / "steps" / "encrypt" / "key.json").exists()


def test_a_damaged_sealed_checkpoint_is_passed_over(tiny_bert: Path, tmp_path: Path) -> None:
    plain = {"privacy": "encrypt"}
    unstopped = weights_of(execute(Stack.load(stack(tiny_bert, tmp_path, **plain, output=str(tmp_path / "unstopped")))))
    asked, folder = stopped(stack(tiny_bert, tmp_path, **plain))
    older, newer = sorted((folder / "checkpoints").glob("update-*"))
    flip(newer / "tensors.safetensors", 300)
    run = execute(Stack.load(asked), resume=folder)
    assert {name: t.tolist() for name, t in weights_of(run).items()} == {n: t.tolist() for n, t in unstopped.items()}
    assert older.name < newer.name


# --- killed -----------------------------------------------------------------------------------------------------------


def flushes(asked: dict[str, Any], last: int | None = None) -> int:
    """Run in a forked child that dies without a word at flush number ``last``; return how many there were."""
    told, tell = os.pipe()
    child = os.fork()
    if child == 0:
        honest, count = os.fsync, 0

        def fsync(handle: int) -> None:
            nonlocal count
            count += 1
            if count == last:
                os._exit(9)
            honest(handle)

        os.fsync = fsync
        try:
            execute(Stack.load(asked))
        finally:
            os.write(tell, str(count).encode())
            os._exit(0)
    os.close(tell)
    with os.fdopen(told) as counted:
        count = int(counted.read() or last or 0)
    os.waitpid(child, 0)
    return count


@pytest.mark.parametrize("step", [pytest.param(61), pytest.param(1, marks=pytest.mark.slow)])
def test_killed_at_any_flush_nothing_is_lost_and_nothing_lies_open(
    tiny_bert: Path, tmp_path: Path, step: int, key: Path
) -> None:
    """Every 61st of the flushes and those about when steps/ is sealed; with the slow tests each one."""
    asked = stack(tiny_bert, tmp_path)
    asked["train"] |= {"max_steps": 2}
    last, sealing = flushes(asked), 0
    for point in sorted({*range(step, last, step), *range(last - 12, last - 9)}):
        assert flushes(asked, point) == point
        for left in key.glob("upright-*"):  # who is killed cannot tidy up; the folders are private
            assert left.stat().st_mode & 0o077 == 0
            shutil.rmtree(left)
        folder = (tmp_path / "runs" / "sealed" / "latest").resolve()
        state = read_status(folder)["state"] if (folder / "status.json").is_file() else "unknown"
        if state in ("done", "unknown"):
            continue
        for name, path in files(folder).items():
            if name.startswith(("model/", ".model.", "checkpoints/", "data/", "predictions/")):
                assert is_sealed(path) or not path.stat().st_size, name
        ledger = folder / "steps" / "dp-sgd" / "accountant.jsonl"
        charged = _charged(ledger, folder)
        sealing += ledger.is_file() and is_sealed(ledger)
        run = execute(Stack.load(asked), resume=folder)
        assert run.exit_code == 0
        assert _charged(ledger, folder) >= max(charged, 2)
        assert verify(folder).problems == []
    assert sealing


def _charged(ledger: Path, folder: Path) -> int:
    """How many draws the ledger holds, sealed or not."""
    if not ledger.is_file():
        return 0
    if not is_sealed(ledger):
        return len(read_ledger(ledger))
    with Run.load(folder).opened(ledger.relative_to(folder).as_posix()) as path:
        return len(read_ledger(path))
