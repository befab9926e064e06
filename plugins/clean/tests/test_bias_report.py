"""What the report says of groups and terms, counted again by loops, and what it withholds."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest

from conftest import DATA, toy_rows, write_rows
from upright import Stack
from upright.engine.execute import execute
from upright.errors import ConfigError
from upright.evidence.ledger import read_ledger
from upright.evidence.verify import verify
from upright_clean import association
from upright_clean.association import npmi, wilson, withheld

WORDS = ("a woman", "A man,", "women", "muslim", "Old dog", "manly", "他们", "佛教徒", "她说", "so", "@woman")
TERMS = {"woman", "man", "women", "muslim", "old", "佛教徒", "佛教", "她"}


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 5000).flatmap(lambda rows: st.tuples(st.integers(0, rows), st.just(rows))))
def test_intervals_are_scipys(pair: tuple[int, int]) -> None:
    rate, low, high = wilson(*pair)
    expected = binomtest(*pair).proportion_ci(0.95, method="wilson")
    assert rate == pair[0] / pair[1]
    assert (low, high) == pytest.approx((expected.low, expected.high), abs=1e-9)


@given(st.integers(0, 50), st.integers(0, 50), st.integers(0, 50), st.integers(0, 50))
def test_npmi_is_its_definition_from_counts_of_texts(both: int, term: int, label: int, neither: int) -> None:
    texts, rows, total = both + term, both + label, both + term + label + neither
    if texts and rows and both < total:
        found = npmi(both / texts, texts / total, rows / total)
        if not both:
            assert found == -1
        else:
            joint = both / total
            expected = math.log(joint / ((texts / total) * (rows / total))) / -math.log(joint)
            assert found == pytest.approx(expected, abs=1e-9)
        assert -1 <= found <= 1


@given(st.floats(0.01, 0.98), st.floats(0.001, 0.01), st.floats(0.01, 0.5), st.floats(0.01, 0.99))
def test_npmi_grows_with_the_labels_share(share: float, more: float, term: float, label: float) -> None:
    assert npmi(share, term, label) <= npmi(share + more, term, label)


COUNTS = st.lists(st.integers(0, 30), min_size=1, max_size=8)


def given_away(counts: list[int], floor: int) -> bool:
    """Whether the total and what is shown tell a small count, or that few rows are behind all that is withheld."""
    shown = [count for count, gone in zip(counts, withheld(counts, floor), strict=True) if not gone]
    hidden = len(counts) - len(shown)
    left = sum(counts) - sum(shown)
    small = any(0 < count < floor for count in shown)
    enough = sum(counts) >= floor and len(counts) > 1  # else all of it is withheld, and the total alone is known
    return small or (hidden == 1 and enough) or (hidden > 0 and left < floor and enough)


@given(COUNTS, st.integers(1, 12))
def test_small_counts_are_withheld_and_not_given_away_by_the_total(counts: list[int], floor: int) -> None:
    assert not given_away(counts, floor)
    if all(count >= floor for count in counts):
        assert not any(withheld(counts, floor))


def test_mutant_that_withholds_the_small_ones_alone_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    alone = lambda counts, floor: [0 < count < floor for count in counts]  # noqa: E731
    assert not given_away([40, 3, 20], 10)
    monkeypatch.setitem(globals(), "withheld", alone)
    assert given_away([40, 3, 20], 10)
    assert association.withheld([40, 3, 20], 10) == [False, True, True]


def reported(folder: Path, rows: list[dict[str, Any]], **settings: Any) -> Any:
    data = {"train": write_rows(folder / "train.jsonl", rows), "sensitive": ["sex"]}
    step = {"use": "bias-report", **settings}
    return execute(Stack.load({"data": data, "clean": step, "output": str(folder / "runs")}))


ROWS = st.lists(
    st.tuples(st.lists(st.sampled_from(WORDS), max_size=3), st.sampled_from("xy"), st.sampled_from(["f", "m", None])),
    min_size=1,
    max_size=25,
)


@settings(max_examples=15, deadline=None)
@given(ROWS)
def test_every_figure_is_counted_again_by_a_loop(
    tmp_path_factory: pytest.TempPathFactory, listed: list[tuple[list[str], str, str | None]]
) -> None:
    listed = [*listed, (["so"], "x", "f"), (["so"], "y", "m")]
    rows = [{"text": " ".join(words) or "-", "label": label, "sex": sex} for words, label, sex in listed]
    run = reported(tmp_path_factory.mktemp("r"), rows, min_rows=1, shown=1000)
    found = {key.removeprefix("run/clean/bias-report/train/"): metric for key, metric in run.metrics.items()}
    expected: dict[str, float] = {"missing/sex": sum(row["sex"] is None for row in rows) / len(rows)}
    for sex in "fm":
        group = [row for row in rows if row["sex"] == sex]
        expected[f"representation/sex/{sex}"] = len(group) / len(rows)
        for label in {str(row["label"]) for row in group}:
            expected[f"base_rate/sex/{sex}/{label}"] = sum(row["label"] == label for row in group) / len(group)
    holds = {"woman": "a woman", "man": "A man,", "women": "women", "muslim": "muslim", "old": "Old dog"}
    holds |= {"佛教徒": "佛教徒", "她": "她说"}
    holds["佛教"] = "佛教徒"
    for term in TERMS:
        texts = [row for row, (words, _, _) in zip(rows, listed, strict=True) if holds[term] in words]
        for label in "xy" if texts else "":
            both = sum(row["label"] == label for row in texts) / len(rows)
            share = sum(row["label"] == label for row in rows) / len(rows)
            alone = math.log(both / (len(texts) / len(rows)) / share) / -math.log(both) if both else -1.0
            expected[f"npmi/{term}/{label}"] = alone
    assert {key: metric.value for key, metric in found.items()} == pytest.approx(expected, abs=1e-9)
    assert all(metric.low <= metric.value <= metric.high for metric in found.values())


def test_it_changes_nothing_is_verified_again_and_tells_every_split(toy: dict[str, Any]) -> None:
    without = execute(Stack.load(toy))
    run = execute(Stack.load({**toy, "clean": "bias-report"}))
    assert len(read_ledger(run.folder)) == 0
    assert run.data["train"].to_list() == without.data["train"].to_list()
    for split in ("train", "validation", "test"):
        assert f"run/clean/bias-report/{split}/base_rate/sex/f/sick" in run.metrics
    assert verify(run.folder).problems == []
    assert "Representation and association in train" in (run.folder / "report.html").read_text()
    path = run.folder / "steps" / "bias-report" / "train.json"
    told = json.loads(path.read_text())
    told["columns"]["sex"]["rows"]["f"] += 5
    path.write_text(json.dumps(told))
    assert verify(run.folder).problems != []


def test_small_groups_are_in_no_file_of_the_report(tmp_path: Path) -> None:
    rows = [{**row, "sex": "rare" if n < 3 else row["sex"]} for n, row in enumerate(toy_rows(80, 3))]
    rows[0]["text"] = "one wheelchair"
    run = reported(tmp_path, rows)
    told = (run.folder / "steps" / "bias-report" / "train.json").read_text()
    counts = json.loads(told)["columns"]["sex"]["rows"]
    assert counts["rare"] is None
    assert sum(count is None for count in counts.values()) == 2
    assert "wheelchair" not in told
    assert not any("rare" in key for key in run.metrics)
    assert "2 of 3 values of sex" in (run.folder / "report.html").read_text()


def test_a_private_run_names_it_outside_its_epsilon(toy: dict[str, Any]) -> None:
    private = {"use": "dp-sgd", "noise_multiplier": 1.0, "delta": 1e-3}
    stack = Stack.load({**toy, "clean": "bias-report", "privacy": private})
    assert [placed.key for placed in stack.steps if placed.reads_private] == ["bias-report"]


def test_a_users_terms_and_tasks_without_a_class(tiny_bert: Path, tmp_path: Path) -> None:
    own = tmp_path / "own.tsv"
    own.write_text("illness\tfever\n", encoding="utf-8")
    run = reported(tmp_path, toy_rows(80, 4), terms=str(own), min_rows=2)
    assert any("/npmi/fever/sick" in key for key in run.metrics)
    own.write_text("fever\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"clean\.bias-report\.terms: .*give a kind and a term"):
        reported(tmp_path, toy_rows(80, 4), terms=str(own))
    rows = [{"tokens": ["a", "woman"], "labels": ["O", "B"], "sex": sex} for sex in "fm" * 20]
    data = {"train": write_rows(tmp_path / "t.jsonl", rows), "sensitive": ["sex"]}
    model = {"base": str(tiny_bert), "task": "token-classification"}
    stack = {"data": data, "clean": "bias-report", "model": model, "tune": {"use": "lora", "rank": 2}}
    run = execute(Stack.load({**stack, "train": {"max_steps": 1}, "output": str(tmp_path / "runs")}))
    assert run.exit_code == 0
    assert "run/clean/bias-report/train/representation/sex/f" in run.metrics


@pytest.mark.skipif(not DATA.is_dir(), reason="real data is not there; set UPRIGHT_DATA")
def test_terms_of_targeted_groups_go_with_hate_in_hatexplain(tmp_path: Path) -> None:
    source = DATA / "hatexplain" / "train.jsonl"
    stack = {"data": {"train": str(source), "columns": {"text": "text", "label": "label"}}, "clean": "bias-report"}
    run = execute(Stack.load({**stack, "output": str(tmp_path / "runs")}))
    found = {key.split("/npmi/")[1]: metric for key, metric in run.metrics.items() if "/npmi/" in key}
    assert (found["jew/hate"].low or 0) > 0
    assert (found["jews/normal"].high or 0) < 0
