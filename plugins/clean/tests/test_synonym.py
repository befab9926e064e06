"""Synonyms take the place of words, in their case; what is replaced follows from the row alone."""

from __future__ import annotations

import itertools
import random
from pathlib import Path
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
from upright_clean.lists import shipped
from upright_clean.synonym import Synonym

GROUPS = [*shipped("synonyms-en"), *shipped("synonyms-zh")]
GROUP_OF = {word: set(group) for group in GROUPS for word in group}
LATIN = sorted(word for word in GROUP_OF if word.isascii())


def asked(rows: Dataset, seed: int = 0, **settings: Any) -> list[dict[str, Any]]:
    run = type("R", (), {"seed": seed, "key": lambda self, step: "synonym"})()
    return Synonym(**settings).clean(rows, run).rows


def texts(*given: str) -> Dataset:
    return Dataset.from_dict({"row_id": [f"{n:02x}" for n in range(len(given))], "text": list(given)})


def test_a_word_stands_in_one_line_of_the_lists_and_every_line_has_two() -> None:
    words = [word for group in GROUPS for word in group]
    assert len(words) == len(set(words))
    assert all(len(group) > 1 and all(word and " " not in word for word in group) for group in GROUPS)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from([*LATIN, "xyz", "the"]), st.sampled_from([str.lower, str.title, str.upper]))),
    st.integers(1, 4),
    st.floats(0.01, 1),
)
def test_words_are_replaced_by_their_synonyms_as_many_as_asked_for(
    words: list[tuple[str, Any]], copies: int, share: float
) -> None:
    before = [case(word) for word, case in words]
    found = asked(texts(" ".join(before)), copies=copies, share=share)
    replaceable = [word for word in before if word.lower() in GROUP_OF]
    assert len(found) <= copies
    assert bool(found) == bool(replaceable)
    assert len({decision["values"]["text"] for decision in found}) == len(found)
    for decision in found:
        after = decision["values"]["text"].split(" ")
        changed = [(old, new) for old, new in zip(before, after, strict=True) if old != new]
        assert len(changed) == decision["score"] == max(1, round(share * len(replaceable)))
        for old, new in changed:
            assert new.lower() in GROUP_OF[old.lower()]
            assert (new.islower(), new.isupper()) == (old.islower(), old.isupper())


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.lists(st.sampled_from(LATIN[:40]), max_size=6), min_size=1, max_size=8),
    st.randoms(use_true_random=False),
)
def test_no_row_depends_on_another_and_their_order_is_nothing(listed: list[list[str]], chance: random.Random) -> None:
    rows = texts(*[" ".join(words) for words in listed])
    whole = {(d["row_id"], d["values"]["text"]) for d in asked(rows, copies=2)}
    order = list(range(len(rows)))
    chance.shuffle(order)
    assert {(d["row_id"], d["values"]["text"]) for d in asked(rows.select(order), copies=2)} == whole
    gone = rows["row_id"][order[0]]
    left = {(d["row_id"], d["values"]["text"]) for d in asked(rows.select(order[1:]), copies=2)} if order[1:] else set()
    assert left == {decision for decision in whole if decision[0] != gone}


def test_mutant_that_draws_from_one_stream_depends_on_the_other_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = texts(*["buy a big car or a quick answer for the entire house"] * 6)
    assert asked(rows)[1:] == asked(rows.select(range(1, 6)))

    def one_stream() -> None:
        stream = random.Random(0)
        monkeypatch.setattr("upright_clean.synonym.random", type("M", (), {"Random": lambda seed: stream}))

    one_stream()
    whole = asked(rows)[1:]
    one_stream()
    assert whole != asked(rows.select(range(1, 6)))


def test_articles_fit_and_other_seeds_give_other_copies() -> None:
    rows = texts(
        *[f"it is an error and a mistake of a {word} task {n}" for n in range(30) for word in ("big", "usual")]
    )
    for decision in asked(rows, share=1.0, copies=3):
        words = decision["values"]["text"].split()
        for article, word in itertools.pairwise(words):
            assert article not in ("a", "an") or (article == "an") == (word[0] in "aeio") or word == "usual"
    assert asked(rows, seed=1) != asked(rows, seed=2)


def test_chinese_and_words_of_token_tasks() -> None:
    (only,) = asked(texts("房间非常干净"), share=1.0)
    assert only["values"]["text"] == "房间十分整洁"
    rows = Dataset.from_list(
        [{"row_id": "0", "tokens": ["Big", "illness", "in", "a", "car"], "labels": ["O", "B", "O", "O", "O"]}]
    )
    (only,) = asked(rows, share=1.0)
    assert only["values"] == {"tokens": ["Large", "illness", "in", "a", "car"]}  # `an automobile` would be another word


def test_added_rows_keep_label_and_unit_and_are_never_on_test(tmp_path: Path) -> None:
    rows = [{"text": "a big car", "label": "a"}, {"text": "nothing here", "label": "b"}]
    data = {split: write_rows(tmp_path / f"{split}.jsonl", rows) for split in ("train", "validation", "test")}
    stack = {"data": data, "clean": {"use": "synonym", "copies": 3}, "output": str(tmp_path / "runs")}
    run = execute(Stack.load(stack))
    assert len(run.data["validation"]) == len(run.data["test"]) == 2
    train = {row["row_id"]: row for row in run.data["train"].to_list()}
    ledger = read_ledger(run.folder).to_pylist()
    assert {entry["split"] for entry in ledger} == {"train"}
    for entry in ledger:
        assert all(train[entry["row_id"]][name] == train[entry["parent"]][name] for name in ("label", "unit"))


def test_a_users_list_takes_the_place_of_the_shipped_ones(tmp_path: Path) -> None:
    data = {"train": write_rows(tmp_path / "t.jsonl", [{"text": "a big Fever"}])}
    own = tmp_path / "own.tsv"
    own.write_text("fever\tpyrexia\n", encoding="utf-8")
    stack = {"data": data, "clean": {"use": "synonym", "synonyms": str(own)}, "output": str(tmp_path / "runs")}
    assert execute(Stack.load(stack)).data["train"]["text"][:] == ["a big Fever", "a big Pyrexia"]
    own.write_text("fever\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"clean\.synonym\.synonyms: .*two or more single words"):
        execute(Stack.load(stack))
