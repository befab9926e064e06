"""Terms are swapped once, in their case and form; the added rows are their parents' but for that."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset
from hypothesis import example, given, settings
from hypothesis import strategies as st

from conftest import write_rows
from upright import Stack
from upright.engine.execute import execute
from upright.errors import ConfigError
from upright.evidence.ledger import read_ledger
from upright_clean.counterfactual_augment import CounterfactualAugment
from upright_clean.lists import shipped
from upright_clean.swaps import Swaps, swapped
from upright_clean.words import is_han, pattern, places

LISTS = [*shipped("swaps-en"), *shipped("swaps-zh"), *shipped("names-en")]
KINDS = sorted({kind for kind, _, _ in LISTS} - {"keep", "names"})
ALL = Swaps([(kind, one, other) for kind, one, other in LISTS])
GENDER = Swaps([(kind, one, other) for kind, one, other in LISTS if kind in ("gender", "keep")])
UNAMBIGUOUS = sorted(
    term
    for kind, one, other in LISTS
    for term, back in ((one, other), (other, one))
    if kind == "gender" and ALL.table[back.lower()] == term.lower() and term not in ("her", "him", "his", "hers")
)
CASES = (str.lower, str.capitalize, str.upper)


def swap(text: str, swaps: Swaps = GENDER) -> str:
    return str(swapped(text, swaps)[0])


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.sampled_from([*UNAMBIGUOUS, "saw", "的是", "Café", "x1"]), st.sampled_from(CASES))))
def test_swapping_twice_gives_back_the_text_where_nothing_is_ambiguous(words: list[tuple[str, Any]]) -> None:
    text = " ".join(case(word) for word, case in words)
    assert swap(swap(text)) == text


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(UNAMBIGUOUS), st.sampled_from(CASES)), min_size=1))
def test_every_term_is_swapped_and_none_twice(words: list[tuple[str, Any]]) -> None:
    """The oracle looks the words up one by one, in the list as it is shipped."""
    partner: dict[str, str] = {}
    for _, one, other in LISTS:
        partner.setdefault(one, other)
        partner.setdefault(other, one)
    given_text = " , ".join(case(word) for word, case in words)
    assert swap(given_text) == " , ".join(case(partner[word]) for word, case in words)


def test_mutant_that_swaps_one_pair_after_the_other_is_noticed() -> None:
    """He becomes she and then he again."""
    text = "the king saw the queen , and he saw her"
    mutant = text
    for kind, one, other in LISTS:
        for source, target in ((one, other), (other, one)) if kind == "gender" else ():
            mutant = re.sub(rf"\b{re.escape(source)}\b", target, mutant)
    assert swap(text) == "the queen saw the king , and she saw him"
    assert mutant != swap(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Her book is hers, and he saw HER.", "His book is his, and she saw HIM."),
        ("He gave her the book of his.", "She gave him the book of hers."),
        ("I told her (and his wife) that she'd won.", "I told him (and her husband) that he'd won."),
        ("her in-laws; his is red", "his in-laws; hers is red"),
        ("Mrs. Smith and Mr. Smith", "Mr. Smith and Ms. Smith"),
        ("he/she, s/he, the heroes; @her #him herd", "she/he, s/she, the heroines; @her #him herd"),
        ("他们和其他人弹吉他", "她们和其他人弹吉他"),
        ("男朋友的儿子和女儿", "女朋友的女儿和儿子"),
        ("父母和子女,妇女", "父母和子女,妇女"),
    ],
)
def test_examples(text: str, expected: str) -> None:
    assert swap(text) == expected


def test_other_kinds_are_asked_for_and_a_phrase_follows_all_of_them() -> None:
    text = "A Black man and his homosexual friend, a Christian"
    assert swap(text) == "A Black woman and her homosexual friend, a Christian"
    assert swap(text, ALL) == "A White woman and her heterosexual friend, a Muslim"
    assert swap("james and James met mary", ALL) == "james and Mary met mary"


def test_the_lists_are_such_that_words_and_characters_keep_their_number() -> None:
    for kind, one, other in LISTS:
        assert one
        assert other
        assert kind in (*KINDS, "keep", "names")
        assert len(one.split(" ")) == len(other.split(" "))
        assert not is_han(one) or len(one) == len(other)
    assert len({tuple(line) for line in LISTS}) == len(LISTS)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.sampled_from([*sorted(ALL.table), "he said", "dog", "、", "男", "朋", "友", ".", "x y"]), max_size=12)
)
def test_words_keep_their_number(words: list[str]) -> None:
    new, count, _ = swapped(words, ALL)
    assert len(new) == len(words)
    assert count >= sum(one != other for one, other in zip(words, new, strict=True))


@settings(max_examples=100, deadline=None)
@given(st.lists(st.text("he sHEİımanß他其女朋友K-,", max_size=12), min_size=1, max_size=8))
@example(["Hİm"])
@example(["ſhe"])
def test_the_look_by_arrow_misses_no_row(texts: list[str]) -> None:
    rows = Dataset.from_dict({"text": texts, "tokens": [list(text) or ["x"] for text in texts]})
    finds = pattern(GENDER.table)
    assert {n for n, text in enumerate(texts) if finds.search(text)} <= set(places(rows, GENDER.table, ["text"]))
    assert {n for n, text in enumerate(texts) if swapped(list(text), GENDER)[1]} <= set(
        places(rows, GENDER.table, ["tokens"])
    )


def test_added_rows_have_their_parents_label_and_unit_and_are_never_on_test(tmp_path: Path) -> None:
    rows = [{"text": "he is tall", "label": "a", "sex": "m"}, {"text": "so it goes", "label": "b", "sex": "f"}] * 2
    rows = [{**row, "who": str(n // 2)} for n, row in enumerate(rows)]
    data: dict[str, Any] = {s: write_rows(tmp_path / f"{s}.jsonl", rows) for s in ("train", "validation", "test")}
    stack = {"data": {**data, "unit": "who", "sensitive": ["sex"]}, "clean": "counterfactual-augment"}
    run = execute(Stack.load({**stack, "output": str(tmp_path / "runs")}))
    assert len(run.data["validation"]) == len(run.data["test"]) == 4
    train = run.data["train"].to_list()
    parents = {row["row_id"]: row for row in train}
    ledger = read_ledger(run.folder).to_pylist()
    assert [(entry["action"], entry["split"], entry["reason"]) for entry in ledger] == [
        ("add", "train", "swap-gender")
    ] * 2
    for entry in ledger:
        new, parent = parents[entry["row_id"]], parents[entry["parent"]]
        assert new["text"] == "she is tall"
        assert all(new[name] == parent[name] for name in ("label", "unit", "sex"))


def test_a_users_pairs_win_and_a_line_that_is_no_pair_is_refused(tmp_path: Path) -> None:
    data = {"train": write_rows(tmp_path / "t.jsonl", [{"text": "the king met Ann in IBM"}])}
    own = tmp_path / "own.tsv"
    own.write_text("# mine\nking\tjester\nann\tbob\n", encoding="utf-8")
    stack = {
        "data": data,
        "clean": {"use": "counterfactual-augment", "pairs": str(own)},
        "output": str(tmp_path / "runs"),
    }
    assert "the jester met Bob in IBM" in execute(Stack.load(stack)).data["train"]["text"][:]
    for line, message in (("king", "no pair"), ("old king\tqueen", "no pair"), ("男朋友\t女友", "no pair")):
        own.write_text(line + "\n", encoding="utf-8")
        with pytest.raises(ConfigError, match=rf"clean\.counterfactual-augment\.pairs: .*{message}"):
            execute(Stack.load(stack))
    own.unlink()
    with pytest.raises(ConfigError, match="cannot be read"):
        execute(Stack.load(stack))


def test_one_row_less_changes_no_other_rows_copy() -> None:
    texts = ["he saw her", "nothing", "她们", "Mr. King"]
    rows = Dataset.from_dict({"row_id": list("abcd"), "text": texts})
    run = type("R", (), {"seed": 0})()
    step = CounterfactualAugment(kinds=["gender", "age"])
    whole = step.clean(rows, run).rows
    for gone in range(4):
        left = step.clean(rows.select([n for n in range(4) if n != gone]), run).rows
        assert left == [decision for decision in whole if decision["row_id"] != "abcd"[gone]]


def test_winobias_pronouns_are_those_of_its_other_half(shared_data: Path) -> None:
    """Both halves were written by people; they differ in more than pronouns in some pairs, so 1 is out of reach."""
    lines = (shared_data / "winobias" / "pairs.jsonl").read_text(encoding="utf-8").splitlines()
    pairs = [tuple(re.sub(r"[\[\]]", "", json.loads(line)[half]) for half in ("pro", "anti")) for line in lines]
    right = sum((swap(pro) == anti) + (swap(anti) == pro) for pro, anti in pairs)
    assert right / (2 * len(pairs)) > 0.95
