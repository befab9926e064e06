"""Plausibility: token F1 and IOU F1 against human rationales (DeYoung et al., 2020, ERASER, arXiv:1911.03429)."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from datasets import Dataset

    from upright import Attribution

OVERLAP = 0.5
"""Intersection over union at which a span counts as found."""


def marked(value: str | None) -> np.ndarray:
    """A rationale, ``Bool[words]``, from its cell (``[0, 1, 1]``); empty where there is none.

    Raises ValueError where the cell is no list of 0 and 1.
    """
    told: Any = json.loads(value) if value else []
    if not isinstance(told, list) or not all(one in (0, 1) for one in told):
        raise ValueError(f"{value!r} is no list of 0 and 1, one a word")
    return np.array(told, dtype=bool)


def share_marked(rows: Dataset, column: str) -> float:
    """Mean share of the words that people marked, over the rows in which they marked any; 0 where there is none."""
    shares = [words.mean() for words in map(marked, rows[column][:]) if words.any()]
    return float(np.mean(shares)) if shares else 0.0


def word_scores(one: Attribution, text: str) -> np.ndarray:
    """Each word's score: the sum of its tokens'; a word that the model did not read comes last."""
    spans = [match.span() for match in re.finditer(r"\S+", text)]
    scores = np.full(len(spans), -np.inf)
    word = 0
    for (start, end), score in zip(one.offsets, one.scores, strict=True):
        if end <= start:
            continue
        while word < len(spans) and spans[word][1] <= start:
            word += 1
        if word < len(spans):
            scores[word] = score + (0.0 if np.isneginf(scores[word]) else scores[word])
    return scores


def strongest_words(scores: np.ndarray, share: float, ties: np.ndarray) -> np.ndarray:
    """``Bool[words]``: the best ``share`` of the words, one at least; ``ties`` (a permutation) decides between equal ones."""
    count = max(1, round(share * len(scores)))
    chosen = np.zeros(len(scores), dtype=bool)
    chosen[np.lexsort((ties, -scores))[:count]] = True
    return chosen


def token_f1(true: np.ndarray, said: np.ndarray) -> float:
    """F1 of one row's words."""
    both, each = int((true & said).sum()), int(true.sum() + said.sum())
    return 2 * both / each if each else 0.0


def spans(words: np.ndarray) -> list[tuple[int, int]]:
    """Runs of marked words as ``(start, end)``."""
    edges = np.flatnonzero(np.diff([False, *words.tolist(), False]))
    return [(int(start), int(end)) for start, end in zip(edges[::2], edges[1::2], strict=True)]


def iou_matches(true: np.ndarray, said: np.ndarray) -> tuple[float, float]:
    """Precision and recall of one row's spans: one is found where its best overlap with a true one is large enough."""
    wanted, told = spans(true), spans(said)
    found = 0
    for start, end in told:
        best = 0.0
        for first, last in wanted:
            common = max(0, min(end, last) - max(start, first))
            best = max(best, common / (end - start + last - first - common))
        found += best >= OVERLAP
    return found / max(len(told), 1), found / max(len(wanted), 1)


def plausibility(
    found: list[Attribution], rows: Dataset, column: str, share: float, draws: int, chance: np.random.Generator
) -> list[dict[str, Any]]:
    """For each explained row what its strongest words have in common with the marked ones, and what random words have.

    Left out are rows in which nobody marked a word, rows whose marks are not one a word (a cleaner changed the text), and
    rows that were decided otherwise than people did: their marks speak for another class.
    """
    place = {row_id: number for number, row_id in enumerate(rows["row_id"][:])}
    told = []
    for one in found:
        row = rows[place[one.row_id]]
        true, scores = marked(row[column]), word_scores(one, row["text"])
        if not true.any() or len(true) != len(scores) or row["label"] != one.target:
            continue
        orders = [chance.permutation(len(scores)) for _ in range(draws)]
        said = strongest_words(scores, share, orders[0])
        by_chance = [strongest_words(np.zeros(len(scores)), share, order) for order in orders]
        told.append(
            {
                "row_id": one.row_id,
                "token_f1": token_f1(true, said),
                "iou": iou_matches(true, said),
                "random_token_f1": float(np.mean([token_f1(true, words) for words in by_chance])),
                "random_iou": np.mean([iou_matches(true, words) for words in by_chance], axis=0).tolist(),
            }
        )
    return told
