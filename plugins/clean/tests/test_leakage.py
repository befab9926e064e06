"""Every row that repeats an examined one is found, none that does not; beside a search of all pairs over Python sets."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import ROOT, write_rows
from upright import Stack
from upright.engine.execute import execute
from upright_clean import similarity_join
from upright_clean.leakage import Leakage
from upright_clean.shingles import shingles

DATA = Path(os.environ.get("UPRIGHT_DATA", ROOT.parent / "shared" / "data")) / "chnsenticorp"
TEXTS = st.lists(st.text("abc ", max_size=30), max_size=10)
THRESHOLDS = st.sampled_from([0.3, 0.5, 2 / 3, 0.8, 1.0])


def sets(texts: list[str], ngram: int) -> list[frozenset[tuple[str, ...]]]:
    """The oracle's shingles."""
    words = [re.findall(r"\w+", text.lower()) for text in texts]
    return [frozenset(tuple(w[i : i + ngram]) for i in range(max(1, len(w) - ngram + 1)) if w) for w in words]


def similarity(one: frozenset[Any], other: frozenset[Any]) -> float:
    return len(one & other) / len(one | other) if one and other else 0.0


def all_pairs(left: list[str], right: list[str], threshold: float, ngram: int) -> list[tuple[int, float]]:
    """The first most similar right text of each left one, by comparing all pairs."""
    right_sets, answers = sets(right, ngram), []
    for one in sets(left, ngram):
        scores = [similarity(one, other) for other in right_sets]
        best = max(scores, default=0.0)
        # 1e-9: a quotient of small whole numbers that equals the threshold may differ from it by rounding
        answers.append((scores.index(best), best) if best > 0 and best >= threshold - 1e-9 else (-1, 0.0))
    return answers


def joined(left: list[str], right: list[str], threshold: float, ngram: int) -> list[tuple[int, float]]:
    columns = [shingles(pa.array(texts, pa.large_string()), ngram) for texts in (left, right)]
    place, score = similarity_join.closest(columns[0], columns[1], threshold)
    return list(zip(place.tolist(), score.tolist(), strict=True))


@settings(max_examples=300, deadline=None)
@given(TEXTS, TEXTS, THRESHOLDS, st.integers(1, 3))
def test_the_most_similar_text_is_that_of_all_pairs(left: list[str], right: list[str], t: float, ngram: int) -> None:
    assert joined(left, right, t, ngram) == all_pairs(left, right, t, ngram)


def edited(seed: int) -> tuple[list[str], list[str]]:
    """300 texts of 40 words and as many that differ from them in a few words, or are others."""
    draw = np.random.default_rng(seed)
    words = [f"w{n}" for n in range(400)]
    left = [list(draw.choice(words, 40)) for _ in range(300)]
    right = [list(text) for text in left]
    for text in right:
        for place in draw.integers(0, 40, draw.integers(0, 6)):
            text[place] = draw.choice(words)
    return [" ".join(text) for text in left], [" ".join(text) for text in right]


@pytest.mark.parametrize("threshold", [0.6, 0.8])
def test_edited_texts_are_found_as_by_all_pairs_in_small_parts_too(
    threshold: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    left, right = edited(1)
    expected = all_pairs(left, right, threshold, 3)
    assert joined(left, right, threshold, 3) == expected
    monkeypatch.setattr(similarity_join, "PAIRS", 7)
    assert joined(left, right, threshold, 3) == expected
    assert 50 < sum(place >= 0 for place, _ in expected) < 300


def prefix_too_short(prefixes: Callable[..., Any]) -> Callable[..., Any]:
    """One element fewer than the theorem asks for."""

    def wrong(values: Any, starts: Any, known: Any, counts: Any, threshold: float) -> Any:
        place, text, size = prefixes(values, starts, known, counts, threshold)
        last = np.append(text[1:] != text[:-1], True)
        return place[~last], text[~last], size

    return wrong


def unverified(jaccard: Callable[..., Any]) -> Callable[..., Any]:
    """What shares a rare shingle is believed."""

    def wrong(values: Any, starts: Any, lengths: Any, left: Any, right: Any) -> Any:
        return np.ones(len(left))

    return wrong


@pytest.mark.parametrize(
    ("name", "mutant", "threshold"),
    [("_prefixes", prefix_too_short, 1.0), ("jaccard", unverified, 0.6)],  # at 1 the theorem asks for one element only
)
def test_mutant_search_that_misses_or_believes_is_noticed(
    name: str, mutant: Callable[..., Any], threshold: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    left, right = edited(1)
    expected = all_pairs(left, right, threshold, 3)
    assert joined(left, right, threshold, 3) == expected
    monkeypatch.setattr(similarity_join, name, mutant(getattr(similarity_join, name)))
    assert joined(left, right, threshold, 3) != expected


# --- the cleaner ------------------------------------------------------------------------------------------------------


class Looked:
    """A run of which the cleaner sees the splits alone."""

    def __init__(self, **splits: list[str]) -> None:
        self.data = {
            name: Dataset.from_dict({"row_id": [f"{name}-{n:05}" for n in range(len(texts))], "text": texts})
            for name, texts in splits.items()
        }

    def told(self, split: str, **settings: Any) -> dict[str, tuple[str, str, str | None]]:
        found = Leakage(**settings).clean(self.data[split], split, self).rows  # type: ignore[arg-type]
        assert len({one["row_id"] for one in found}) == len(found), "one decision a row"
        return {one["row_id"]: (one["action"], one["reason"], one["evidence"]) for one in found}


def test_rows_of_the_examination_stay_and_those_before_it_go() -> None:
    run = Looked(
        train=["one two", "seen", "Seen!", "tried", " "], validation=["tried", "seen"], test=["seen", "new", ""]
    )
    assert run.told("train") == {
        "train-00001": ("drop", "also-in-test", "test-00000"),
        "train-00002": ("drop", "nearly-in-test", "test-00000"),
        "train-00003": ("drop", "also-in-validation", "validation-00000"),
    }
    assert run.told("validation") == {
        "validation-00000": ("flag", "also-in-train", "train-00003"),
        "validation-00001": ("drop", "also-in-test", "test-00000"),
    }
    assert run.told("test") == {"test-00000": ("flag", "also-in-train", "train-00001")}
    assert run.told("train", near=False).keys() == {"train-00001", "train-00003"}
    assert {action for action, _, _ in run.told("train", action="flag").values()} == {"flag"}


@settings(max_examples=80, deadline=None)
@given(st.lists(st.text("ab ", max_size=8), min_size=1, max_size=8), TEXTS, st.randoms(use_true_random=False))
def test_other_train_rows_and_the_order_of_the_examination_change_nothing(
    train: list[str], test: list[str], chance: Any
) -> None:
    run = Looked(train=train, test=test)
    told = run.told("train", threshold=0.5, ngram=1)
    order = chance.sample(range(len(test)), len(test))
    run.data["test"] = run.data["test"].select(order)
    assert run.told("train", threshold=0.5, ngram=1) == told
    gone = chance.randrange(len(train))
    run.data["train"] = run.data["train"].select([n for n in range(len(train)) if n != gone])
    left = {row: why for row, why in told.items() if row != f"train-{gone:05}"}
    assert run.told("train", threshold=0.5, ngram=1) == left


def test_a_split_without_texts_and_an_empty_one_say_nothing() -> None:
    run = Looked(train=["a"], test=[])
    assert run.told("train") == {}
    assert run.told("test") == {}
    run.data = {name: rows.remove_columns("text") for name, rows in Looked(train=["a"], test=["a"]).data.items()}
    assert run.told("train") == {}


def test_in_a_stack_train_rows_go_and_both_sides_can_be_flagged(tmp_path: Path) -> None:
    rows = {
        "train": [{"text": text, "label": "a"} for text in ("one", "seen", "two")],
        "test": [{"text": text, "label": "a"} for text in ("seen", "other")],
    }
    data = {name: write_rows(tmp_path / f"{name}.jsonl", given) for name, given in rows.items()}

    def cleaned(clean: Any) -> Any:
        return execute(Stack.load({"data": data, "clean": clean, "output": str(tmp_path / "runs")}))

    assert cleaned({"use": "leakage"}).data["train"]["text"][:] == ["one", "two"]
    run = cleaned({"use": "leakage", "action": "flag"})
    assert len(run.data["train"]) == 3
    import pyarrow.parquet as pq

    ledger = pq.read_table(run.folder / "data" / "ledger.parquet").to_pylist()
    assert {(e["split"], e["action"], e["reason"]) for e in ledger} == {
        ("train", "flag", "also-in-test"),
        ("test", "flag", "also-in-train"),
    }


# --- real leaks -------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not DATA.exists(), reason=f"no {DATA}; set UPRIGHT_DATA")
@pytest.mark.parametrize("restored", [False, True])
def test_the_leaked_rows_of_chnsenticorp_are_found_and_no_others(restored: bool) -> None:
    """The folder holds 3,500 of 9,600 train rows. Restored, the leaked ones among the others stand in it again: each is
    equal to a row of dev or test that `in_full_train` names (SOURCE.md)."""
    rows = {
        name: [json.loads(line) for line in (DATA / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]
        for name in ("train", "dev", "test")
    }
    train = [row["text"] for row in rows["train"]]
    if restored:
        train += [row["text"] for name in ("dev", "test") for row in rows[name] if row["in_full_train"]]
    held = {" ".join(text.split()) for text in train}
    leaked = {
        f"test-{n:05}"
        for n, row in enumerate(rows["test"])
        if row["in_full_train"] and " ".join(row["text"].split()) in held
    }
    run = Looked(train=train, test=[row["text"] for row in rows["test"]])
    found = {row for row, (_, reason, _) in run.told("test").items() if reason == "also-in-train"}
    assert found == leaked
    assert len(found) == (331 if restored else 131)
