"""Cleaners decide row by row what they say; core applies it, less on test splits."""

from __future__ import annotations

import unicodedata
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import write_rows
from upright import Stack
from upright.engine.execute import execute
from upright.errors import ConfigError
from upright.evidence.ledger import read_ledger
from upright_clean.exact_dup import ExactDup
from upright_clean.length import Length
from upright_clean.unicode import Unicode


def cleaned(folder: Path, splits: dict[str, list[dict[str, Any]]], *steps: Any) -> tuple[Any, list[dict[str, Any]]]:
    data = {name: write_rows(folder / f"{name}.jsonl", rows) for name, rows in splits.items()}
    run = execute(Stack.load({"data": data, "clean": list(steps), "output": str(folder / "runs")}))
    return run, read_ledger(run.folder).to_pylist()


def brute_force(texts: list[str]) -> list[int]:
    """Places of texts that repeat an earlier one, by comparing all pairs."""
    return [n for n, text in enumerate(texts) if any(text.split() == earlier.split() for earlier in texts[:n])]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text("ab \t", min_size=1, max_size=4), min_size=1, max_size=12))
def test_exact_duplicates_are_those_of_all_pairs(texts: list[str]) -> None:
    rows = Dataset.from_list([{"row_id": f"{n:02}", "text": text, "label": "x"} for n, text in enumerate(texts)])
    run: Any = SimpleNamespace(emit=lambda *_, **__: None, key=lambda step: "exact-dup")
    found = ExactDup().clean(rows, "train", run).rows
    assert [int(decision["row_id"]) for decision in found] == brute_force(texts)
    assert all(texts[int(d["evidence"])].split() == texts[int(d["row_id"])].split() for d in found)


def test_train_rows_of_the_examination_go_and_test_rows_are_only_flagged(tmp_path: Path) -> None:
    splits = {
        "train": [{"text": t, "label": "a"} for t in ("one", "two", "two", "seen", "three")],
        "validation": [{"text": t, "label": "a"} for t in ("four", "five", "seen")],
        "test": [{"text": t, "label": "a"} for t in ("seen", "six", "six")],
    }
    run, ledger = cleaned(tmp_path, splits, "leakage", "exact-dup")
    assert run.data["train"]["text"][:] == ["one", "two", "three"]
    assert run.data["validation"]["text"][:] == ["four", "five"]
    assert run.data["test"]["text"][:] == ["seen", "six", "six"]
    told = {(entry["split"], entry["action"], entry["reason"]) for entry in ledger}
    assert ("train", "drop", "exact-duplicate") in told
    assert ("train", "drop", "also-in-test") in told
    assert ("validation", "drop", "also-in-test") in told
    assert ("test", "flag", "exact-duplicate") in told


def test_equal_texts_with_different_labels_are_flagged_or_dropped(tmp_path: Path) -> None:
    rows = [{"text": "same", "label": "a"}, {"text": "same", "label": "b"}, {"text": "Same", "label": "a"}]
    run, ledger = cleaned(tmp_path, {"train": rows}, {"use": "exact-dup", "other_label": "drop", "ignore_case": True})
    assert len(run.data["train"]) == 1
    assert sorted(entry["reason"] for entry in ledger) == ["exact-duplicate", "same-input-other-label"]
    (tmp_path / "second").mkdir()
    assert len(cleaned(tmp_path / "second", {"train": rows}, "exact-dup")[0].data["train"]) == 3


def test_mojibake_is_mended_everywhere_and_the_ledger_holds_no_text(tmp_path: Path) -> None:
    wrong = {"text": "the cafÃ© was naÃ¯ve", "label": "a"}
    run, ledger = cleaned(tmp_path, {"train": [wrong] * 2, "test": [wrong]}, "unicode")
    assert set(run.data["train"]["text"]) == set(run.data["test"]["text"]) == {"the café was naïve"}
    assert {entry["reason"] for entry in ledger} == {"mojibake"}
    assert "caf" not in str(ledger)


@given(st.text(max_size=30))
def test_unicode_gives_its_normal_form_and_is_done_after_one_pass(text: str) -> None:
    step = Unicode()
    once, reasons = step._mend(text)
    assert unicodedata.is_normalized("NFC", once) or text.isascii()
    assert (once != text) == bool(reasons)
    assert step._mend(once)[0] == once or "mojibake" in step._mend(once)[1]


def test_words_keep_their_number_and_compatibility_is_asked_for() -> None:
    rows = Dataset.from_list([{"row_id": "0", "tokens": ["e\u0301", "x²", "ok"], "labels": ["O"] * 3}])
    assert Unicode().clean(rows).rows[0]["values"]["tokens"] == ["é", "x²", "ok"]
    assert Unicode(form="NFKC").clean(rows).rows[0]["values"]["tokens"] == ["é", "x2", "ok"]


@given(st.lists(st.text("a b", max_size=8), min_size=1, max_size=8), st.integers(0, 3), st.integers(1, 5))
def test_length_drops_what_is_outside(texts: list[str], low: int, more: int) -> None:
    rows = Dataset.from_list([{"row_id": str(n), "text": text} for n, text in enumerate(texts)])
    step = Length(min_words=low, max_words=low + more, max_characters=6)
    dropped = {int(decision["row_id"]) for decision in step.clean(rows).rows}
    assert dropped == {n for n, t in enumerate(texts) if not low <= len(t.split()) <= low + more or len(t) > 6}


def test_bounds_that_leave_nothing_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"min_words \(5\) is over max_words \(2\)"):
        Stack.load({"data": {"train": "x"}, "clean": {"use": "length", "min_words": 5, "max_words": 2}})
    with pytest.raises(ConfigError, match="drops every row of train"):
        cleaned(tmp_path, {"train": [{"text": "x", "label": "a"}]}, {"use": "length", "min_words": 5})
