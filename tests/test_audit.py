"""What the report tells an auditor follows from the run: rows apart, base rates, who reads a group, before and after,
and which headings the run holds evidence for."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import toy_rows, write_rows
from upright import Metric, Run, Stack, Step, hook
from upright.engine.execute import execute
from upright.evidence import groups
from upright.evidence.beside import compare
from upright.evidence.groups import base_rates, read_groups
from upright.evidence.rows import read_rows
from upright.evidence.verify import verify
from upright.objects import Predictions
from upright.report.coverage import EVIDENCE, coverage, held, read_headings
from upright.report.view import View, view
from upright.settings import AboutSettings
from upright.stack import Placed


def with_step(toy: dict[str, Any], step: Step) -> Stack:
    stack = Stack.load(toy)
    stack.steps.append(Placed("fairness", "decider", "decider", step, "test:1:1"))
    return stack


# --- rows -----------------------------------------------------------------------------------------------------------


def test_rows_apart_are_told_and_a_planted_repeat_is_counted(toy: dict[str, Any], tmp_path: Path) -> None:
    train, test = toy_rows(48, 0), toy_rows(24, 2)
    for place in range(3):
        test[place] = {**test[place], "text": train[place]["text"]}
    toy["data"] |= {"train": write_rows(tmp_path / "a.jsonl", train), "test": write_rows(tmp_path / "b.jsonl", test)}
    run = execute(Stack.load(toy))
    told = read_rows(run.folder)
    pairs = {tuple(pair["splits"]): pair for pair in told["common"]}
    # The oracle counts equal texts in the files.
    texts = {row["text"] for row in train}
    assert pairs["train", "test"]["inputs"] == sum(row["text"] in texts for row in test) >= 3
    assert view(run.folder).apart is False
    assert pairs["train", "test"]["units"] is None  # the data names no owners


def test_each_choice_is_told_with_its_rows(finished: Path) -> None:
    told = read_rows(finished)
    rows = {choice["what"]: (choice["split"], choice["by"]) for choice in told["choices"]}
    assert rows["weights"] == ("train", "tune.lora")
    assert rows["thresholds"] == ("validation", "fairness.equalized-odds")
    assert rows["nothing: figures, verdicts, explanations"][0] == "test"
    private = {tuple(pair["splits"]): pair["inputs"] for pair in told["common"]}
    assert private["train", "test"] is None  # how many training records are like a test row is theirs
    assert private["validation", "test"] == 0
    assert view(finished).apart is None


# --- base rates -----------------------------------------------------------------------------------------------------


def predictions(rows: list[tuple[int, str | None, str | None]]) -> Predictions:
    columns = {
        "label": pa.array([label for label, _, _ in rows], pa.int32()),
        "group/sex": pa.array([one for _, one, _ in rows], pa.string()),
        "group/race": pa.array([other for _, _, other in rows], pa.string()),
    }
    return Predictions("test", "text-classification", ["no", "yes"], pa.table(columns))


def counted(rows: list[tuple[int, str | None, str | None]]) -> dict[str, dict[str, list[int]]]:
    """The oracle: a loop over rows; group -> rows, no, yes."""
    found: dict[str, dict[str, list[int]]] = {"sex": {}, "race": {}, "sex & race": {}}
    for label, one, other in rows:
        a, b = one or "missing", other or "missing"
        for way, group in (("sex", a), ("race", b), ("sex & race", f"{a} & {b}")):
            cell = found[way].setdefault(group, [0, 0, 0])
            cell[0] += 1
            if label >= 0:
                cell[1 + label] += 1
    return found


def agrees(rows: list[tuple[int, str | None, str | None]]) -> bool:
    told = base_rates(predictions(rows))
    return counted(rows) == {
        way: {g: [c["rows"], c["labels"].get("no", 0), c["labels"].get("yes", 0)] for g, c in cells.items()}
        for way, cells in told.items()
    }


values = st.sampled_from(["f", "m", None])


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(-1, 1), values, values), min_size=1, max_size=30))
def test_base_rates_are_those_of_a_loop_over_rows(rows: list[tuple[int, str | None, str | None]]) -> None:
    assert agrees(rows)


def test_mutant_rates_that_drop_missing_values_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [(1, "f", None), (0, None, "a"), (-1, "m", "a")]
    assert agrees(rows)
    honest = groups._counted
    monkeypatch.setattr(
        groups, "_counted", lambda held, labels: {g: c for g, c in honest(held, labels).items() if "missing" not in g}
    )
    assert not agrees(rows)


def test_verify_counts_the_groups_again(finished: Path, tmp_path: Path) -> None:
    import hashlib
    import shutil

    copied = Path(shutil.copytree(finished, tmp_path / finished.name))
    path = copied / "evidence" / "groups.json"
    content = json.loads(path.read_text())
    content["base_rates"]["test"]["sex"]["f"]["rows"] += 5
    path.write_text(json.dumps(content))
    manifest = json.loads((copied / "manifest.json").read_text())
    manifest["files"]["evidence/groups.json"] = {
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "bytes": path.stat().st_size,
    }
    (copied / "manifest.json").write_text(json.dumps(manifest))
    assert any("does not count the groups" in problem for problem in verify(copied).problems)


# --- group use at inference -----------------------------------------------------------------------------------------


class ReadsBatch(Step):
    """A threshold for each group, from the batch."""

    @hook
    def decide(self, scores: Any, batch: Any, run: Run) -> Any:
        return scores + 0.1 * (batch.groups["sex"] == 1).double().unsqueeze(1) * scores.new_tensor([1.0, -1.0])


class ReadsData(Step):
    """The same, from the rows of the split."""

    @hook
    def decide(self, scores: Any, batch: Any, run: Run) -> Any:
        held = run.data[batch.split]["sex"]
        mine = scores.new_tensor([float(held[row] == "m") for row in batch.rows.tolist()])
        return scores + 0.1 * mine.unsqueeze(1) * scores.new_tensor([1.0, -1.0])


class FailsWithout(Step):
    """Cannot decide about a row whose group is missing."""

    @hook
    def decide(self, scores: Any, batch: Any) -> Any:
        if (batch.groups["sex"] < 0).any():
            raise ValueError("no group")
        return scores


class Blind(Step):
    """One threshold for everybody."""

    @hook
    def decide(self, scores: Any) -> Any:
        return scores + scores.new_tensor([0.1, -0.1])


class Wraps(Step):
    """Reads the group around the others' answers."""

    @hook(wrapper=True)
    def decide(self, scores: Any, batch: Any, run: Run) -> Iterator[None]:
        answer = yield
        return answer * (1 + 0.1 * (batch.groups["sex"] == 1).double().unsqueeze(1))


class ReadsForward(Step):
    """Moves the logits of one group."""

    tasks: ClassVar[frozenset[str] | None] = frozenset({"text-classification"})

    @hook
    def forward(self, batch: Any, run: Run) -> Any:
        from upright import Output

        logits = run.model(**batch.inputs).logits
        return Output(logits + (batch.groups["sex"] == 1).float().unsqueeze(1) * logits.new_tensor([1.0, 0.0]))


@pytest.mark.parametrize(
    ("step", "reads"),
    [
        (ReadsBatch(), ["fairness.decider"]),
        (ReadsData(), ["fairness.decider"]),
        (ReadsForward(), ["fairness.decider"]),
        (FailsWithout(), ["fairness.decider"]),
        (Wraps(), ["a wrapper of decide"]),
        (Blind(), []),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Step) else "",
)
def test_a_step_that_reads_a_group_when_it_decides_is_named(toy: dict[str, Any], step: Step, reads: list[str]) -> None:
    run = execute(with_step(toy, step))
    told = read_groups(run.folder)["inference"]
    assert told["reads"] == reads
    assert 0 < told["rows"] <= 24
    page = (run.folder / "report.html").read_text()
    assert ("Read by no step" in page) is (not reads)


def test_mutant_that_withholds_nothing_finds_no_reader(toy: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """The test above rests on the groups being gone."""
    from upright.engine import blindness

    monkeypatch.setattr(blindness, "_hidden", lambda batch: batch)
    assert read_groups(execute(with_step(toy, ReadsBatch())).folder)["inference"]["reads"] == []


# --- before and after -----------------------------------------------------------------------------------------------


def decided(ids: list[str], right: list[bool], sex: list[str]) -> Predictions:
    columns = {
        "row_id": pa.array(ids),
        "label": pa.array([1] * len(ids), pa.int32()),
        "decision": pa.array([int(hit) for hit in right], pa.int32()),
        "group/sex": pa.array(sex),
    }
    return Predictions("test", "text-classification", ["no", "yes"], pa.table(columns))


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_differences_are_those_of_a_loop_over_the_rows_that_both_have(data: st.DataObject) -> None:
    """Whatever the order of the rows; the oracle looks each row up by its id."""
    ids = [str(number) for number in range(data.draw(st.integers(2, 20)))]
    sex = {row: data.draw(st.sampled_from("fm")) for row in ids}
    hits = [{row: data.draw(st.booleans()) for row in ids} for _ in range(2)]
    orders = [data.draw(st.permutations(ids)), data.draw(st.permutations(ids))[: len(ids) - 1]]
    tables = [
        decided(order, [hit[row] for row in order], [sex[row] for row in order])
        for order, hit in zip(orders, hits, strict=True)
    ]
    told = {line["group"]: line for line in compare(*tables, seed=0)}
    common = [row for row in ids if row in orders[1]]
    for group, rows in {"": common, **{f"sex {s}": [r for r in common if sex[r] == s] for s in "fm"}}.items():
        if not rows:
            assert group not in told
            continue
        before, after = (sum(hit[row] for row in rows) / len(rows) for hit in hits)
        line = told[group]
        assert (line["rows"], line["before"], line["after"]) == (len(rows), pytest.approx(before), pytest.approx(after))
        assert line["difference"] == pytest.approx(after - before)
        assert line["low"] - 1e-12 <= line["difference"] <= line["high"] + 1e-12 or len(rows) < 5


def test_mutant_that_pairs_rows_by_their_place_is_noticed() -> None:
    before = decided(["a", "b", "c", "d"], [True, True, False, False], ["f", "f", "m", "m"])
    after = decided(["d", "c", "b", "a"], [False, False, True, True], ["m", "m", "f", "f"])
    told = {line["group"]: line for line in compare(before, after, 0)}
    assert told["sex f"]["before"] == told["sex f"]["after"] == 1.0
    by_place = after.table.set_column(0, "row_id", before.table.column("row_id"))
    wrong = {
        line["group"]: line for line in compare(before, Predictions("test", after.task, after.labels, by_place), 0)
    }
    assert wrong["sex f"]["before"] != told["sex f"]["before"]


def test_a_run_stands_beside_its_twin_and_one_that_is_not_there_is_told(toy: dict[str, Any]) -> None:
    audit = {"use": "group-audit", "groups": ["sex"]}
    twin = execute(Stack.load({**toy, "name": "twin", "fairness": audit}))
    toy |= {"fairness": [{"use": "equalized-odds", "groups": ["sex"], "positive": "sick"}, audit]}
    run = execute(Stack.load({**toy, "about": {"compare_with": ["twin", "nobody"]}}))
    first, second = view(run.folder).beside
    assert first["run"] == twin.folder.name
    assert first["splits"]["test"][0]["rows"] == 24
    assert first["splits"]["test"][0]["before"] == pytest.approx(twin.metrics["test/accuracy"].value)
    assert second["error"] == "there is no such finished run"
    page = (run.folder / "report.html").read_text()
    assert "Before and after" in page
    assert "test equalized odds difference sex (to the right)" in page  # the trade-off picture
    assert "Not compared: there is no such finished run" in page
    assert verify(run.folder).problems == []


# --- purpose, lineage -----------------------------------------------------------------------------------------------


def test_what_people_say_is_in_the_page_and_the_card_and_what_they_leave_out_too(finished: Path) -> None:
    page, card = ((finished / name).read_text() for name in ("report.html", "MODEL_CARD.md"))
    for text in (page, card):
        assert "Notes of the unwell are read first." in text
    assert re.search(r'<dt>Contact</dt><dd class="soft">not stated', page)
    assert "Equalized odds, because both errors cost the patient." in page


def test_a_base_that_is_a_run_is_named_with_its_digest(toy: dict[str, Any]) -> None:
    from upright.evidence.files import sha256

    parent = execute(Stack.load({**toy, "tune": "full"}))
    child = execute(Stack.load({**toy, "name": "child", "model": {"base": str(parent.folder)}}))
    lock = json.loads((child.folder / "lock.json").read_text())
    assert lock["model"]["run"] == {
        "run": parent.folder.name,
        "manifest_sha256": sha256(parent.folder / "manifest.json"),
    }
    assert f"It was made by run <code>{parent.folder.name}</code>" in (child.folder / "report.html").read_text()


# --- headings -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def full(finished: Path) -> View:
    """A view in which everything is there that a heading may ask for."""
    seen = copy.deepcopy(view(finished))
    one = Metric(0.5, 0.4, 0.6, 80)
    home = "test/fairness/group-audit"
    rates = {way: {"a": {"rows": 40, "labels": {}}} for way in ("sex", "race", "sex & race")}
    seen.groups["base_rates"] = {"train": rates, "test": rates}
    seen.rows["common"] = [{**pair, "inputs": 0} for pair in seen.rows["common"]]  # a private run withholds train's
    seen.metrics |= {f"{home}/selection_rate/{way}/a": one for way in rates}
    seen.metrics |= {f"{home}/demographic_parity_ratio/{way}": one for way in rates}
    seen.metrics["run/explain/faithfulness/comprehensiveness/integrated-gradients"] = one
    seen.metrics["run/explain/other/completeness_error"] = one  # which tests no explanation
    seen.settings["about"] = dict.fromkeys(seen.settings["about"], "said")
    seen.ledger.append(
        {"cleaner": "x", "split": "train", "action": "drop", "reason": "y", "status": "applied", "rows": 1}
    )
    return seen


def without(seen: View, name: str) -> View:
    """The same run without one kind of evidence."""
    run = copy.deepcopy(seen)
    if name.startswith("about."):
        run.settings["about"][name.removeprefix("about.")] = " "
        return run

    def drop(*words: str) -> View:
        return replace(run, metrics={k: m for k, m in run.metrics.items() if not any(word in k for word in words)})

    removed: dict[str, Callable[[], View]] = {
        "steps": lambda: replace(run, lock={**run.lock, "steps": []}),
        "settings": lambda: replace(run, settings={}),
        "base": lambda: replace(run, lock={**run.lock, "model": {"base": "x"}}),
        "data": lambda: replace(run, lock={**run.lock, "data": {"train": {"source": "hf:x", "sha256": {}, "rows": 1}}}),
        "cleaning": lambda: replace(run, ledger=[]),
        "splits": lambda: replace(run, rows={"common": [{"splits": ["train", "test"], "inputs": 1}]}),
        "training": lambda: replace(run, training={}),
        "figures": lambda: drop("test/accuracy", "test/macro_f1"),
        "base-rates": lambda: replace(run, groups={**run.groups, "base_rates": {"validation": {"sex": {}}}}),
        "base-rates.train": lambda: replace(run, groups={**run.groups, "base_rates": {"test": {"sex": {}}}}),
        "criteria": lambda: replace(run, groups={**run.groups, "criteria": []}),
        "group-figures": lambda: drop("/group-audit/"),
        "selection-rates": lambda: drop("/selection_rate/"),
        "impact-ratio": lambda: drop("/demographic_parity_ratio/"),
        "intersections": lambda: drop("/sex & race"),
        "gates": lambda: replace(run, verdicts=[]),
        "privacy": lambda: drop("/epsilon"),
        "explanations": lambda: replace(run, attributions={"x": {"status": "failed", "rows": [], "error": "no"}}),
        "faithfulness": lambda: drop("/comprehensiveness/"),
        "versions": lambda: replace(run, lock={**run.lock, "distributions": {}}),
        "command": lambda: replace(run, settings={}),
    }
    return removed[name]()


NAMES = sorted(
    {name for framework in read_headings()["frameworks"] for row in framework["rows"] for name in row["evidence"]}
)


def test_a_run_with_everything_covers_every_row_that_evidence_can_cover(full: View) -> None:
    for framework in coverage(full):
        for row in framework["rows"]:
            assert row["covered"] is bool(row["evidence"]), row


@pytest.mark.parametrize("name", NAMES)
def test_a_row_is_covered_only_while_its_evidence_is_there(full: View, name: str) -> None:
    left = without(full, name)
    assert held(name, full)
    assert not held(name, left)
    for framework in coverage(left):
        for row in framework["rows"]:
            if name in row["evidence"]:
                assert not row["covered"]
                assert name in row["missing"]


def test_a_column_of_another_name_covers_no_bias_audit(full: View) -> None:
    """Rates by dialect are none by sex."""
    renamed = copy.deepcopy(full)
    text = json.dumps({key: metric.to_json() for key, metric in full.metrics.items()}).replace("sex", "dialect")
    renamed.metrics = {key: Metric.from_json(told) for key, told in json.loads(text).items()}
    renamed.groups = json.loads(json.dumps(full.groups).replace("sex", "dialect"))
    rows = {row["asks"]: row["covered"] for row in coverage(renamed)[2]["rows"]}
    assert not rows["Selection rates by sex"]
    assert not rows["Smallest impact ratio by sex"]
    assert not rows["Selection rates and impact ratio of intersections"]
    assert rows["Selection rates by race or ethnicity"]


def test_every_name_means_something_and_is_used() -> None:
    known = {f"about.{name}" for name in AboutSettings.model_fields} | EVIDENCE.keys()
    assert set(NAMES) <= known
    assert EVIDENCE.keys() <= set(NAMES)
    assert read_headings()["version"] >= 1


def test_a_plain_run_needs_a_person_for_nearly_everything_and_says_so(toy: dict[str, Any]) -> None:
    run = execute(Stack.load({**toy, "data": {k: v for k, v in toy["data"].items() if k != "sensitive"}}))
    page = (run.folder / "report.html").read_text()
    told = {
        part["name"]: [row["asks"] for row in part["rows"] if row["covered"]] for part in coverage(view(run.folder))
    }
    assert told["NYC Local Law 144, bias audit"] == []
    assert "Fairness and bias" not in told["NIST AI RMF 1.0"]
    assert "Privacy risk" not in told["NIST AI RMF 1.0"]
    covered, rows = sum(map(len, told.values())), sum(len(part["rows"]) for part in read_headings()["frameworks"])
    index = page.partition('<div class="index">')[2]
    assert index.count(">covered<") == covered
    assert index.count(">needs a person<") == rows - covered
