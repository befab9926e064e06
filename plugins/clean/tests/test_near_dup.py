"""`near-dup` merges what an exact search over all pairs finds alike, nothing else, in whatever order the rows are."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from itertools import combinations, pairwise
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from all_pairs import shingle_set, similar
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import DATA
from upright import Stack
from upright_clean import minhash, minhash_torch, near_pairs
from upright_clean.near_dup import NearDup
from upright_clean.shingles import shingles

RUN: Any = SimpleNamespace(device=torch.device("cpu"), emit=lambda *a, **k: None, key=lambda step: "near-dup")
WORDS = st.sampled_from(
    ["a", "b", "c", "Straße", "interoperability", "x" * 70, "好", "の", "🙂", "naïve", "études", "don't"]
)
TEXT = st.lists(WORDS, max_size=9).map(" ".join)


def rows_of(texts: list[str], labels: list[Any] | None = None) -> Dataset:
    labels = labels if labels is not None else ["x"] * len(texts)
    table = [
        {"row_id": f"{n:04d}", "text": text, "label": label}
        for n, (text, label) in enumerate(zip(texts, labels, strict=True))
    ]
    return Dataset.from_list(table)


def decided(rows: Dataset, step: NearDup | None = None) -> dict[str, list[tuple[str, str, float]]]:
    """Reason -> (row, evidence, score) of every decision."""
    found: dict[str, list[tuple[str, str, float]]] = {}
    for decision in (step or NearDup()).clean(rows, "train", RUN).rows:
        found.setdefault(decision["reason"], []).append((decision["row_id"], decision["evidence"], decision["score"]))
    return found


def check_against_all_pairs(texts: list[str], ngram: int, threshold: float) -> None:
    """Every merge is a pair of the exact search, of rows that repeat each other one stays, and nothing is lost."""
    truth = similar(texts, ngram, threshold)
    found = decided(rows_of(texts), NearDup(ngram=ngram, threshold=threshold))
    dropped = {int(row) for row, _, _ in found.get("near-duplicate", [])}
    for reason in ("near-duplicate", "near-duplicate-chain"):
        for row, evidence, score in found.get(reason, []):
            pair = tuple(sorted((int(row), int(evidence))))
            assert score == pytest.approx(truth[pair])  # KeyError: merged without being alike
            assert (int(evidence) in dropped) == (reason == "near-duplicate-chain")
    stays = [place for place in range(len(texts)) if place not in dropped]
    assert [pair for pair in truth if truth[pair] == 1 and pair[0] in stays and pair[1] in stays] == []


@settings(max_examples=150, deadline=None)
@given(st.lists(TEXT, min_size=1, max_size=14), st.integers(1, 4), st.sampled_from([0.3, 0.5, 0.7, 1.0]))
def test_only_pairs_of_the_exact_search_are_merged_and_all_that_are_equal(
    texts: list[str], ngram: int, threshold: float
) -> None:
    check_against_all_pairs(texts, ngram, threshold)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.text("aZ9_ .-\n’éßЖ१\u0301कि好のไ🙂𝔸😀", max_size=12), max_size=4), st.integers(1, 3))
def test_shingles_are_those_of_the_words(texts: list[str], ngram: int) -> None:
    values, offsets = shingles(pa.array(texts, pa.large_string()), ngram)
    hashes = [frozenset(values[start:end].tolist()) for start, end in pairwise(offsets.tolist())]
    sets = [shingle_set(text, ngram) for text in texts]
    assert [len(found) for found in hashes] == [len(words) for words in sets]
    for one, other in combinations(range(len(texts)), 2):
        assert len(hashes[one] & hashes[other]) == len(sets[one] & sets[other])


def edited(count: int, seed: int) -> list[str]:
    """Texts of 40 words, two in three with a copy in which some words are others."""
    draw = random.Random(seed)
    texts = [[f"w{draw.randrange(500)}" for _ in range(40)] for _ in range(count)]
    for text in texts[: 2 * count // 3]:
        places = draw.sample(range(40), draw.randrange(5))
        texts.append([f"other{draw.randrange(9)}" if n in places else word for n, word in enumerate(text)])
    draw.shuffle(texts)
    return [" ".join(text) for text in texts]


def test_pairs_above_the_threshold_are_found_with_their_exact_similarity() -> None:
    texts = edited(600, 1)
    truth = similar(texts, 3, 0.5)
    values, offsets = shingles(pa.array(texts, pa.large_string()), 3)
    labels = np.zeros(len(texts), np.int64)
    left, right, score = near_pairs.near_pairs(values, offsets[:-1], np.diff(offsets), labels, 0.7, 128)
    found = dict(zip(zip(left.tolist(), right.tolist(), strict=True), score.tolist(), strict=True))
    assert found == {pair: pytest.approx(truth[pair]) for pair in found}
    for bound, recall in ((0.7, 0.94), (0.8, 0.98)):  # the recall that is asked for
        there = [pair for pair in truth if truth[pair] >= bound]
        assert len(there) > 100
        assert len(set(there) & set(found)) >= recall * len(there)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(TEXT, st.sampled_from("xy")), min_size=1, max_size=14), st.randoms())
def test_the_order_of_the_rows_changes_nothing(given: list[tuple[str, str]], draw: random.Random) -> None:
    order = list(range(len(given)))
    draw.shuffle(order)
    check_order(rows_of([text for text, _ in given], [label for _, label in given]), order)


def check_order(rows: Dataset, order: list[int]) -> None:
    step = NearDup(ngram=2, threshold=0.4)
    assert decided(rows.select(order), step) == decided(rows, step)


CHAIN = ["a b c d e f g h i j", "a b c d e f g h x y", "a b c d e f v w x y"]


def test_what_hangs_on_a_chain_is_flagged_not_dropped() -> None:
    check_order(rows_of(CHAIN), [2, 1, 0])
    assert set(similar(CHAIN, 1, 0.6)) == {(0, 1), (1, 2)}
    found = decided(rows_of(CHAIN), NearDup(ngram=1, threshold=0.6))
    assert [(row, evidence) for row, evidence, _ in found["near-duplicate"]] == [("0001", "0000")]
    assert [(row, evidence) for row, evidence, _ in found["near-duplicate-chain"]] == [("0002", "0001")]
    middle_first = decided(rows_of([CHAIN[1], CHAIN[0], CHAIN[2]]), NearDup(ngram=1, threshold=0.6))
    assert [row for row, _, _ in middle_first["near-duplicate"]] == ["0001", "0002"]
    assert "near-duplicate-chain" not in middle_first


def test_another_label_is_flagged_or_dropped_as_asked_for() -> None:
    rows = rows_of([CHAIN[0], CHAIN[0] + "!", CHAIN[1], CHAIN[0].upper()], ["x", "y", "x", "y"])
    found = decided(rows, NearDup(ngram=1, threshold=0.6))
    assert [(row, evidence) for row, evidence, _ in found["near-duplicate"]] == [("0002", "0000"), ("0003", "0001")]
    assert found["near-duplicate-other-label"] == [("0001", "0000", 1.0)]
    dropped = decided(rows, NearDup(ngram=1, threshold=0.6, other_label="drop"))
    assert [row for row, _, _ in dropped["near-duplicate"]] == ["0001", "0002", "0003"]


def test_chinese_is_compared_by_characters() -> None:
    texts = [
        "这家酒店的房间很大，服务员也很热情，早餐非常好。",
        "这家酒店的房间很大,服务员也很热情,早餐非常差!",
        "价格太贵了，下次不会再来。",
    ]
    truth = similar(texts, 3, 0.7)
    assert list(truth) == [(0, 1)]
    assert decided(rows_of(texts)) == {"near-duplicate": [("0001", "0000", pytest.approx(truth[0, 1]))]}


@pytest.mark.skipif(not (DATA / "chnsenticorp").is_dir(), reason="needs UPRIGHT_DATA")
def test_real_chinese_reviews_are_merged_as_by_the_exact_search() -> None:
    path = sorted((DATA / "chnsenticorp").glob("*.jsonl"))[0]
    texts = [json.loads(line)["text"] for line in path.read_text(encoding="utf-8").splitlines()[:300]]
    check_against_all_pairs([*texts, *(text[: int(len(text) * 0.9)] for text in texts[:40])], 3, 0.7)


def test_empty_and_one_word_texts() -> None:
    texts = ["", "  ", "!!", "…", "yes", "Yes.", "no", "yes no", None]
    assert decided(rows_of(texts)) == {"near-duplicate": [("0005", "0004", 1.0)]}
    assert decided(rows_of(["", "!"])) == {}
    assert decided(Dataset.from_dict({"row_id": ["0", "1"], "image": [b"a", b"a"]})) == {}


def test_words_and_pairs_of_texts_are_told_apart_by_column() -> None:
    tokens = [["the", "flu", "is", "here"], ["The", "flu", "is", "here", "."], ["a", "cold"]]
    table = {"row_id": ["0", "1", "2"], "tokens": tokens, "labels": [["O"] * 4, ["O"] * 4, ["O"] * 2]}
    assert list(decided(Dataset.from_dict(table))) == ["near-duplicate"]
    pairs = {"row_id": ["0", "1", "2"], "text": ["a b", "a", "a b"], "text_pair": ["c", "b c", "C"], "label": [1, 1, 1]}
    found = decided(Dataset.from_dict(pairs), NearDup(ngram=2))
    assert [row for row, _, _ in found["near-duplicate"]] == ["2"]


def test_many_copies_cost_no_square_and_all_but_one_go() -> None:
    draw = random.Random(5)
    text = [f"w{n}" for n in range(60)]
    texts = [" ".join(text)] * 3000
    texts += [" ".join([*text[:n], "other", *text[n + 1 :]]) for n in (draw.randrange(60) for _ in range(3000))]
    draw.shuffle(texts)
    rows = rows_of(texts)
    assert len(rows) - len(decided(rows)["near-duplicate"]) <= 3  # each pair is alike at .9 or more


def test_torch_gives_the_same_keys() -> None:
    values, offsets = shingles(pa.array([*edited(200, 2), "one", "two words"], pa.large_string()), 3)
    given = (values, offsets[:-1], np.diff(offsets), 128, 6)
    assert (minhash_torch.band_keys(*given, torch.device("cpu")) == minhash.band_keys(*given)).all()


@pytest.mark.gpu
def test_a_gpu_gives_the_same_decisions() -> None:
    rows = rows_of(edited(300, 3))
    on_gpu = SimpleNamespace(**vars(RUN) | {"device": torch.device("cuda")})
    assert NearDup().clean(rows, "train", on_gpu).columns == NearDup().clean(rows, "train", RUN).columns


def test_plan_tells_the_memory(tmp_path: Any) -> None:
    lines = [json.dumps({"text": text, "label": "x"}) for text in edited(50, 4)]
    (tmp_path / "train.jsonl").write_text("\n".join(lines))
    stack = {"data": {"train": str(tmp_path / "train.jsonl")}, "clean": "near-dup", "output": str(tmp_path / "runs")}
    (told,) = Stack.load(stack).plan()["announced"]
    assert told["event"] == "memory"
    assert told["bytes"] > 16 * 38 * len(lines)


# --- mutants: the tests above must notice them ----------------------------------------------------------------------------


def fails(test: Callable[[], None]) -> None:
    with pytest.raises((AssertionError, KeyError)):
        test()


ALIKE = [f"{'a b c d e f g h i j k l m n o p q r s t'} {n}" for n in range(40)] + [
    "a b c d e f g h i j k l m v w x y z"
]


def test_mutant_that_skips_verification_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(near_pairs, "jaccard", lambda values, starts, lengths, left, right: np.ones(len(left)))
    fails(lambda: check_against_all_pairs(edited(60, 6) + ALIKE, 3, 0.7))


def test_mutant_that_merges_chains_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    from upright_clean import links

    def first_of_component(count: int, left: np.ndarray, right: np.ndarray) -> np.ndarray:
        kept = np.ones(count, bool)
        kept[right] = False
        return kept

    monkeypatch.setattr(links, "first_kept", first_of_component)
    fails(test_what_hangs_on_a_chain_is_flagged_not_dropped)


def test_mutant_that_keeps_the_first_row_of_the_file_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    import pyarrow.compute as pc

    monkeypatch.setattr(pc, "sort_indices", lambda ids: pa.array(range(len(ids)), pa.uint64()))
    fails(lambda: check_order(rows_of(CHAIN), [2, 1, 0]))


def test_mutant_that_forgets_where_a_text_ends_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    from upright_clean import shingles as module

    def running_on(words: np.ndarray, starts: np.ndarray, ngram: int) -> tuple[np.ndarray, np.ndarray]:
        values, _ = whole(words, np.array([0, len(words)]), ngram)
        padded = np.concatenate([values, values[-1:].repeat(len(words) - len(values))])
        return padded, np.diff(starts)

    whole = module._ngrams
    monkeypatch.setattr(module, "_ngrams", running_on)
    fails(test_pairs_above_the_threshold_are_found_with_their_exact_similarity)


def test_mutant_that_takes_every_script_for_spaced_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    from upright_clean import shingles as module

    monkeypatch.setattr(module, "UNSPACED", ("NONE",))
    fails(test_chinese_is_compared_by_characters)
