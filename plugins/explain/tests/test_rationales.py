"""Token F1 and IOU F1 against human rationales: by ERASER's definitions, in loops."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from upright_explain import checks, rationales
from upright_explain.estimates import mean_of_known, of_means


def eraser(pairs: list[tuple[list[int], list[int]]]) -> tuple[float, float]:
    """Token F1 and IOU F1 of (true, said) 0/1 lists by ERASER's definitions, in loops."""

    def runs(words: list[int]) -> list[set[int]]:
        found: list[set[int]] = []
        for place, word in enumerate(words):
            if word and place and words[place - 1]:
                found[-1].add(place)
            elif word:
                found.append({place})
        return found

    f1s, precisions, recalls = [], [], []
    for true, said in pairs:
        both = sum(a and b for a, b in zip(true, said, strict=True))
        precision, recall = both / max(sum(said), 1), both / max(sum(true), 1)
        f1s.append(2 * precision * recall / (precision + recall) if both else 0.0)
        hits = 0
        for span in runs(said):
            overlaps = [len(span & other) / len(span | other) for other in runs(true)]
            hits += max(overlaps, default=0.0) >= 0.5
        precisions.append(hits / max(len(runs(said)), 1))
        recalls.append(hits / max(len(runs(true)), 1))
    p, r = sum(precisions) / len(pairs), sum(recalls) / len(pairs)
    return sum(f1s) / len(pairs), 2 * p * r / (p + r) if p + r else 0.0


def of_pairs(pairs: list[tuple[list[int], list[int]]]) -> tuple[float, float]:
    rows = [tuple(np.array(words, dtype=bool) for words in pair) for pair in pairs]
    spans = np.array([rationales.iou_matches(*row) for row in rows])
    tokens = mean_of_known([rationales.token_f1(*row) for row in rows])
    iou = of_means(spans, checks._f1, 0)
    assert tokens is not None
    assert iou is not None
    return tokens.value, iou.value


ONE_ROW = st.integers(1, 12).flatmap(
    lambda size: st.tuples(*[st.lists(st.integers(0, 1), min_size=size, max_size=size) for _ in range(2)])
)


@settings(max_examples=60, deadline=None)
@given(st.lists(ONE_ROW, min_size=1, max_size=6))
def test_plausibility_is_erasers(pairs: list[tuple[list[int], list[int]]]) -> None:
    assert of_pairs(pairs) == pytest.approx(eraser(pairs), abs=1e-12)


def _any_overlap(true: np.ndarray, said: np.ndarray) -> tuple[float, float]:
    wanted, told = rationales.spans(true), rationales.spans(said)
    hits = sum(any(a < last and first < b for first, last in wanted) for a, b in told)
    return hits / max(len(told), 1), hits / max(len(wanted), 1)


def _jaccard(true: np.ndarray, said: np.ndarray) -> float:
    return float((true & said).sum() / max((true | said).sum(), 1))


@pytest.mark.parametrize(("name", "mutant"), [("iou_matches", _any_overlap), ("token_f1", _jaccard)])
def test_mutant_of_plausibility_is_noticed(
    monkeypatch: pytest.MonkeyPatch, name: str, mutant: Callable[..., Any]
) -> None:
    monkeypatch.setattr(rationales, name, mutant)
    pairs = [([1, 1, 1, 1, 0, 0], [1, 0, 0, 0, 0, 1]), ([0, 1, 1, 0, 0, 0], [0, 1, 1, 1, 0, 0])]
    assert of_pairs(pairs) != pytest.approx(eraser(pairs), abs=1e-3)


def test_a_words_score_is_the_sum_of_its_tokens() -> None:
    said = SimpleNamespace(
        offsets=[(0, 0), (0, 2), (2, 5), (7, 9), (0, 0)], scores=np.array([9.0, 1.0, 2.0, -1.0, 9.0])
    )
    assert rationales.word_scores(said, "fever  ok unread").tolist() == [3.0, -1.0, -np.inf]  # type: ignore[arg-type]


def test_marks_that_are_no_marks_are_refused() -> None:
    assert rationales.marked("[0, 1]").tolist() == [False, True]
    assert rationales.marked(None).tolist() == []
    with pytest.raises(ValueError, match="one a word"):
        rationales.marked("[0, 2]")
