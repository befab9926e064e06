"""Cleaning at any size: shards, processes, kills, orders of rows; undoing; a row's story."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from upright import Decisions, Run, Scope, Stack, Step, hook
from upright.engine import cleaning, store
from upright.engine.execute import execute
from upright.engine.history import history
from upright.engine.identities import Identities, fingerprint, row_ids
from upright.engine.undo import named, undo
from upright.errors import ConfigError, IntegrityError, UprightError
from upright.evidence.files import sha256
from upright.evidence.ledger import count, read_counts, read_ledger

Row = dict[str, Any]
Decision = tuple[str, Row]
"""An action and new values."""


# --- small cleaners, and the same as plain functions --------------------------------------------------------------------


def swaps(row: Row) -> list[Decision]:
    """Put b for a; may make a row that `drops` drops or `grows` grows."""
    return [("edit", {"text": row["text"].replace("a", "b")})] if "a" in row["text"] else []


def drops(row: Row) -> list[Decision]:
    return [("drop", {})] if row["text"].count("b") > 2 else []


def grows(row: Row) -> list[Decision]:
    return (
        [("add", {"text": row["text"] + "d"}), ("add", {"text": "d" + row["text"]})] if "c" in row["text"][:2] else []
    )


def relabels(row: Row) -> list[Decision]:
    return [("relabel", {"label": "y"}), ("flag", {})] if row["text"].endswith("d") else []


RULES = {"swaps": swaps, "drops": drops, "grows": grows, "relabels": relabels}


class ByRule(Step):
    """A row-local cleaner that follows one of the rules."""

    scope: ClassVar[Scope] = Scope(row_local=True)
    rule: str

    @hook
    def clean(self, rows: Any) -> Decisions:
        decisions = Decisions()
        for row in rows:
            for action, values in RULES[self.rule](row):
                decisions.add(row["row_id"], action, self.rule, values=values)  # type: ignore[arg-type]
        return decisions


class Seldom(Step):
    """A cleaner that looks at all rows: drop rows whose text is the text of a row of a smaller id."""

    @hook
    def clean(self, rows: Any) -> Decisions:
        decisions = Decisions()
        first: dict[str, str] = {}
        for row_id, text in sorted(zip(rows["row_id"][:], rows["text"][:], strict=True)):
            if text in first:
                decisions.add(row_id, "drop", "seldom", evidence=first[text])
            first.setdefault(text, row_id)
        return decisions


def written(path: Path, rows: list[Row]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def made(texts: list[str]) -> list[Row]:
    return [{"text": text, "label": "xy"[n % 2]} for n, text in enumerate(texts)]


def with_rules(folder: Path, rules: list[str], **data: Any) -> Stack:
    """A cleaning-only stack of the named rules, ``seldom`` among them, in order."""
    stack = Stack.load({"data": data, "clean": "unicode", "output": str(folder / "runs")})
    for number, rule in enumerate(rules):
        step = Seldom() if rule == "seldom" else ByRule(rule=rule)
        stack = stack.with_step("clean", f"{rule}-{number}", step)
    stack.steps.pop(0)
    return stack


def rows_of(run: Run, split: str = "train") -> list[tuple[str, str, str]]:
    table = run.data[split]
    return list(zip(table["row_id"][:], table["text"][:], table["label"][:], strict=True))


# --- one result, whatever the way ---------------------------------------------------------------------------------------

RULED = ["swaps", "grows", "drops", "seldom", "relabels"]


@pytest.fixture
def texts() -> list[str]:
    pick = random.Random(5)
    return ["".join(pick.choices("abcd ", k=pick.randint(1, 6))) for _ in range(400)]


def test_order_shards_and_processes_do_not_change_the_ledger(
    tmp_path: Path, texts: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = made(texts)
    hashes, results = set(), []
    for number, (order, shard, workers) in enumerate(
        [(rows, 10_000, 1), (rows, 37, 1), (rows, 50, 3), (random.Random(1).sample(rows, 400), 41, 2)]
    ):
        monkeypatch.setattr(store, "SHARD", shard)
        monkeypatch.setattr("upright.engine.data.CHUNK", 29 if number else 5000)
        folder = tmp_path / str(number)
        folder.mkdir()
        run = execute(with_rules(folder, RULED, train=written(folder / "t.jsonl", order), clean_workers=workers))
        hashes.add(sha256(run.folder / "data" / "ledger.parquet"))
        results.append(rows_of(run))
        assert sorted(path.name for path in (run.folder / "data").iterdir()) == ["ledger.parquet", "train.parquet"]
    assert len(hashes) == 1
    assert results[0] == results[1] == results[2]
    assert sorted(results[0]) == sorted(results[3])


def test_a_killed_run_goes_on_with_the_shards_that_it_had_finished(tmp_path: Path) -> None:
    rows = made([f"text number {n} caf\u00c3\u00a9" if n % 3 else f"text {n}" for n in range(3000)])
    (tmp_path / "stack.yaml").write_text("name: k\ndata: {train: t.jsonl}\nclean: [unicode]\n")
    written(tmp_path / "t.jsonl", rows)
    script = (
        "import sys, time; from upright import Stack; from upright.engine import store, shards, execute\n"
        "store.SHARD = 100\n"
        "do = shards._Work.do\n"
        "def slow(self, number):\n    time.sleep(0.05)\n    return do(self, number)\n"
        "shards._Work.do = slow\n"
        "execute.execute(Stack.load('stack.yaml'))\n"
    )
    process = subprocess.Popen([sys.executable, "-c", script], cwd=tmp_path, env={**os.environ, "HF_HUB_OFFLINE": "1"})
    deadline = time.monotonic() + 60
    while len(list(tmp_path.glob("runs/k/2*/data/.shards/*.json"))) < 8 and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    [folder] = [path for path in (tmp_path / "runs" / "k").iterdir() if not path.is_symlink()]
    finished = {path: path.stat().st_mtime_ns for path in (folder / "data" / ".shards").glob("*.json")}
    assert 8 <= len(finished) < 30
    assert (folder / "data" / ".shards").stat().st_mode & 0o777 == 0o700
    spoilt = next(iter(sorted(finished))).with_suffix(".arrow")
    spoilt.write_bytes(spoilt.read_bytes()[:-9] + b"\0" * 9)
    done: list[int] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store, "SHARD", 100)
        patch.setattr(cleaning, "clean_shard", _counted(done, cleaning.clean_shard))
        run = execute(Stack.load(folder / "stack.resolved.yaml"), resume=folder)
    assert len(done) == 30 - len(finished) + 1
    fresh = execute(Stack.load(tmp_path / "stack.yaml", [f"output={tmp_path / 'other'}"]))
    assert sha256(run.folder / "data" / "ledger.parquet") == sha256(fresh.folder / "data" / "ledger.parquet")
    assert rows_of(run) == rows_of(fresh)


def _counted(done: list[int], function: Callable[..., Any]) -> Callable[..., Any]:
    def call(*given: Any) -> Any:
        done.append(1)
        return function(*given)

    return call


@settings(max_examples=50, deadline=None)
@given(st.lists(st.sampled_from(["a", "b", "ab", "c"]), min_size=1, max_size=40), st.integers(1, 9), st.randoms())
def test_identities_in_parts_are_those_of_the_whole_in_any_order(texts: list[str], part: int, pick: Any) -> None:
    rows = [{"text": text} for text in texts]
    whole, parts = row_ids("train", rows), Identities("train")
    found = [identity for start in range(0, len(rows), part) for identity in parts.of(rows[start : start + part])]
    assert found == whole
    assert len(set(whole)) == len(rows)
    mixed = pick.sample(rows, len(rows))
    assert sorted(row_ids("train", mixed)) == sorted(whole)


def test_a_ledger_takes_few_bytes_and_holds_no_text(tmp_path: Path) -> None:
    pick = random.Random(0)
    rows = made([f"secretword {pick.random()} a" for _ in range(5000)])
    run = execute(with_rules(tmp_path, ["swaps"], train=written(tmp_path / "t.jsonl", rows)))
    ledger = run.folder / "data" / "ledger.parquet"
    assert len(read_ledger(run.folder)) == 5000
    assert ledger.stat().st_size <= 64 * 5000
    assert b"secretword" not in ledger.read_bytes()
    assert read_counts(run.folder) == count(read_ledger(run.folder))


class Chatty(Step):
    """A cleaner that would put a text into the ledger."""

    @hook
    def clean(self, rows: Any) -> Decisions:
        decisions = Decisions()
        decisions.add(rows[0]["row_id"], "flag", "because it says: hello you")
        return decisions


class Greedy(Step):
    """A cleaner that reads test without declaring it."""

    @hook
    def clean(self, rows: Any, split: str, run: Run) -> Decisions:
        assert split == "test" or "test" in run.data, "test is not to be seen"
        return Decisions()


@pytest.mark.parametrize(("step", "told"), [(Chatty(), "is no reason code"), (Greedy(), "test is not to be seen")])
def test_what_a_cleaner_may_not_do_is_refused(tmp_path: Path, step: Step, told: str) -> None:
    data = {name: written(tmp_path / f"{name}.jsonl", made(["a", "b"])) for name in ("train", "test")}
    stack = Stack.load({"data": data, "clean": "unicode", "output": str(tmp_path / "runs")})
    with pytest.raises(UprightError, match=told):
        execute(stack.with_step("clean", "odd", step))


def test_a_row_local_cleaner_that_reads_others_is_a_contradiction() -> None:
    with pytest.raises(ValueError, match="reads no other rows"):
        Scope(row_local=True, reads=frozenset({"test"}))
    assert Scope(row_local=True).dp_stability == 1
    assert Scope().dp_stability is None


# --- undoing ------------------------------------------------------------------------------------------------------------


def by_hand(
    rows: list[Row], rules: list[str], skip: Callable[[str, str, str, int], bool]
) -> list[tuple[str, str, str]]:
    """The rows after the rules, without what ``skip(cleaner, row, action, number)`` names: a loop over single rows that
    knows nothing of tables. Children's ids are given by hand: parent, cleaner, ordinal."""
    from upright.engine.identities import child_id

    for number, rule in enumerate(rules):
        key, after = f"{rule}-{number}", []
        for row in rows:
            new, gone, children, seen = dict(row), False, [], dict[str, int]()
            for action, values in RULES[rule](row):
                ordinal = seen.get(action, 0)
                seen[action] = ordinal + 1
                target = child_id(row["row_id"], key, ordinal) if action == "add" else row["row_id"]
                if skip(key, target, action, 0 if action == "add" else ordinal):
                    continue
                if action == "drop":
                    gone = True
                elif action == "add":
                    children.append({**row, **values, "row_id": target})
                else:
                    new.update(values)
            after += ([] if gone else [new]) + children
        rows = after
    return [(row["row_id"], row["text"], row["label"]) for row in rows]


def undone_equals_by_hand(folder: Path, rows: list[Row], rules: list[str], share: Callable[[Row], bool]) -> None:
    old = execute(with_rules(folder, rules, train=written(folder / "t.jsonl", rows)))
    lines = read_ledger(old.folder).to_pylist()
    assert rows_of(old) == by_hand(_identified(rows), rules, lambda *_: False)
    chosen = {_place(line, lines) for line in lines if share(line)}
    if not chosen:
        return
    new = undo(old, lambda line: _place(line, lines) in chosen)
    assert rows_of(new) == by_hand(_identified(rows), rules, lambda *place: place in chosen)
    assert pq.read_table(new.folder / "data" / "train.parquet")["text"].to_pylist() == [r[1] for r in rows_of(new)]
    facts = json.loads((new.folder / "evidence" / "undo.json").read_text())
    assert facts["stale"] == 0
    assert facts["run"] == old.folder.name


@settings(max_examples=40, deadline=None)
@given(
    texts=st.lists(st.text("abcd", min_size=1, max_size=6), min_size=4, max_size=25, unique=True),
    rules=st.lists(st.sampled_from(sorted(RULES)), min_size=1, max_size=4),
    pick=st.randoms(use_true_random=False),
)
def test_undoing_any_subset_is_running_without_it(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str], rules: list[str], pick: Any
) -> None:
    """Byte for byte, over random stacks of row-local cleaners."""
    rows = [*made(texts), {"text": "e", "label": "x"}]  # one that no rule drops
    undone_equals_by_hand(tmp_path_factory.mktemp("undo"), rows, rules, lambda line: pick.random() < 0.5)


def held(run: Any, placed: Any, split: str, before: Any, then: Any, now: Any) -> Any:
    """A wrong `_now`: row-local cleaners do not decide anew."""
    there = set(now[split]["row_id"][:])
    kept = Decisions()
    for row in before.rows:
        if row["row_id"] in there:
            kept.add(row.pop("row_id"), row.pop("action"), row.pop("reason"), **row)
    return kept, set(), 0


def test_a_wrong_undo_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`aabb` is dropped because its a's became b's; without that it stays."""
    monkeypatch.setattr("upright.engine.undo._now", held)
    with pytest.raises(AssertionError):
        undone_equals_by_hand(tmp_path, made(["aabb", "e"]), ["swaps", "drops"], lambda line: line["action"] == "edit")


def _identified(rows: list[Row]) -> list[Row]:
    return [{**row, "row_id": identity} for row, identity in zip(rows, row_ids("train", rows), strict=True)]


def _place(line: Row, lines: list[Row]) -> tuple[str, str, str, int]:
    twins = [other for other in lines if all(other[n] == line[n] for n in ("cleaner", "split", "row_id", "action"))]
    return line["cleaner"].partition("@")[0], line["row_id"], line["action"], twins.index(line)


def test_the_rows_of_a_cleaner_that_looks_at_others_are_held_and_what_is_stale_is_said(tmp_path: Path) -> None:
    rows = [{"text": text, "label": "x"} for text in ("ac", "bc", "z", "q", "q")]
    old = execute(with_rules(tmp_path, ["swaps", "seldom"], train=written(tmp_path / "t.jsonl", rows)))
    assert sorted(text for _, text, _ in rows_of(old)) == ["bc", "q", "z"]
    new = undo(old, lambda line: line["action"] == "edit")
    dropped = {line["row_id"] for line in read_ledger(old.folder).to_pylist() if line["action"] == "drop"}
    given = {row["row_id"]: row["text"] for row in _identified(rows)}
    kept = sorted(given[row] for row in given if row not in dropped)
    assert sorted(text for _, text, _ in rows_of(new)) == kept
    statuses = {(line["action"], line["status"]) for line in read_ledger(new.folder).to_pylist()}
    assert statuses == {("edit", "undone"), ("drop", "stale"), ("drop", "applied")}


def test_everything_undone_is_the_rows_as_they_were_given(tmp_path: Path, texts: list[str]) -> None:
    rows = made(texts)
    old = execute(with_rules(tmp_path, RULED, train=written(tmp_path / "t.jsonl", rows)))
    before = {path: path.read_bytes() for path in old.folder.rglob("*") if path.is_file()}
    new = undo(old, lambda line: True)
    assert [text for _, text, _ in rows_of(new)] == texts
    assert {path: path.read_bytes() for path in old.folder.rglob("*") if path.is_file()} == before
    with pytest.raises(ConfigError, match="is itself a run with decisions undone"):
        undo(new.folder, lambda line: True)


def test_undo_says_what_stands_in_its_way(tmp_path: Path) -> None:
    source = tmp_path / "t.jsonl"
    stack = {"data": {"train": written(source, made(["caf\u00c3\u00a9", "x"]))}, "clean": "unicode"}
    old = execute(Stack.load({**stack, "output": str(tmp_path / "runs")}))
    with pytest.raises(ConfigError, match="nothing to undo"):
        undo(old.folder, lambda line: False)
    with pytest.raises(ConfigError, match=r"'foo' names no cleaner and no row .* one of unicode"):
        named(("foo",), read_ledger(old.folder).to_pylist(), old.folder)
    written(source, made(["caf\u00c3\u00a9", "changed"]))
    runs = list((tmp_path / "runs" / "run").iterdir())
    with pytest.raises(IntegrityError, match="its rows of train are not those that the stack's file holds now"):
        undo(old.folder, lambda line: True)
    assert (old.folder / "data" / "train.parquet").is_file()
    assert len(list((tmp_path / "runs" / "run").iterdir())) == len(runs) + 1
    other = execute(Stack.load({**stack, "output": str(tmp_path / "runs")}))
    ledger = old.folder / "data" / "ledger.parquet"
    ledger.write_bytes((other.folder / "data" / "ledger.parquet").read_bytes())
    with pytest.raises(IntegrityError, match=r"ledger.parquet: is not what the run wrote"):
        undo(old.folder, lambda line: True)
    with pytest.raises(ConfigError, match="is no run folder"):
        undo(tmp_path, lambda line: True)


# --- a row's story ------------------------------------------------------------------------------------------------------


def test_a_rows_story(tmp_path: Path) -> None:
    rows = [{"text": text, "label": "x"} for text in ("caf\u00c3\u00a9", "caf\u00e9", "plain", "caf\u00c3\u00a9")]
    stack = {"data": {"train": written(tmp_path / "t.jsonl", rows)}, "clean": ["unicode", "exact-dup"]}
    run = execute(Stack.load({**stack, "output": str(tmp_path / "runs")}))
    stories = [history(run.folder, f"train:{n}") for n in (1, 2, 3, 4)]
    assert [len(story["decisions"]) for story in stories if story["outcome"].startswith("kept as it was")] == [0] * sum(
        story["outcome"] == "kept as it was" for story in stories
    )
    assert stories[2]["outcome"] == "kept as it was"
    assert sum(story["outcome"].startswith("dropped by exact-dup@") for story in stories) == 2
    assert stories[0]["decisions"][0]["reason"] == "mojibake"
    again = history(run.folder, stories[0]["row_id"][:12])
    assert again == stories[0]
    (tmp_path / "t.jsonl").unlink()
    lost = history(run.folder, stories[0]["row_id"])
    assert lost["number"] is None
    assert "there is no file" in lost["source_missing"]
    assert lost["decisions"] == stories[0]["decisions"]
    with pytest.raises(ConfigError, match="there is no row whose id begins with 'zz'"):
        history(run.folder, "zz")


def test_fingerprints_tell_rows_and_not_their_order(tmp_path: Path) -> None:
    from datasets import Dataset

    ids = [f"{n:016x}" for n in range(50)]
    one = fingerprint(Dataset.from_dict({"row_id": ids}))
    assert one == fingerprint(Dataset.from_dict({"row_id": ids[::-1]}))
    assert one != fingerprint(Dataset.from_dict({"row_id": ids[1:]}))
    assert fingerprint(Dataset.from_dict({"row_id": ids}).select(range(1, 50))) == fingerprint(
        Dataset.from_dict({"row_id": ids[1:]})
    )


# --- the command line ---------------------------------------------------------------------------------------------------


def upright(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "upright", *words],
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "NO_COLOR": "1"},
    )


def test_clean_and_why_as_a_user_types_them(tmp_path: Path) -> None:
    rows = [{"text": text, "label": "x"} for text in ("caf\u00c3\u00a9", "plain words", "plain words", "z")]
    written(tmp_path / "t.jsonl", rows)
    written(tmp_path / "v.jsonl", [{"text": "other", "label": "x"}])
    (tmp_path / "stack.yaml").write_text(
        "name: c\ndata: {train: t.jsonl, validation: v.jsonl}\nclean: [unicode, exact-dup]\nmodel: {base: minilm}\ntune: head\n"
    )
    dry = upright("clean", "--dry-run", cwd=tmp_path)
    assert dry.returncode == 0, dry.stderr
    assert "before: text: caf\u00c3\u00a9" in dry.stdout
    assert "after:  text: caf\u00e9" in dry.stdout
    assert not (tmp_path / "runs").exists()
    told = json.loads(upright("clean", "--json", cwd=tmp_path).stdout)
    run = tmp_path / told["folder"]
    assert told["rows"] == {"train": 3, "validation": 1}
    assert pq.read_table(run / "data" / "train.parquet").num_rows == 3
    why = upright("why", str(run), "train:1", "--text", cwd=tmp_path).stdout
    assert "given as row 1 of train" in why
    assert "unicode@" in why
    assert "mojibake" in why
    undone = upright("clean", str(run), "--undo", "--only", "exact-dup", cwd=tmp_path)
    assert "rows: train 4, validation 1" in undone.stdout
    new = tmp_path / Path(undone.stdout.strip().split("\n")[-1]).parent
    assert upright("verify", str(new), cwd=tmp_path).returncode == 0
    assert "without 1 of its decisions" in (new / "report.html").read_text()
    for words, code, sentence in (
        (("clean", "--only", "x"), 2, "--only goes with --undo"),
        (("clean", str(run), "--undo", "--dry-run"), 2, "leave --dry-run, --resume and --set out"),
        (("clean", str(tmp_path), "--undo"), 2, "is no run folder"),
        (("why", str(run), "train:9"), 2, "there is no row train:9 (train has 4 rows, validation has 1 rows)"),
    ):
        done = upright(*words, cwd=tmp_path)
        assert (done.returncode, sentence in done.stderr) == (code, True), done.stderr
