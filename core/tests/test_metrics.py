"""Core's figures against scikit-learn and against loops written by hand."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from upright import Metric, Predictions
from upright.evidence import metrics as module
from upright.evidence.metrics import intervals, measure, spans


def classified(label: list[int], decision: list[int], classes: int) -> Predictions:
    table = pa.table({"label": pa.array(label, pa.int32()), "decision": pa.array(decision, pa.int32())})
    return Predictions("test", "text-classification", [f"c{k}" for k in range(classes)], table)


@settings(max_examples=40, deadline=None)
@given(st.data(), st.integers(2, 5))
def test_classification_figures_are_scikit_learns(data: st.DataObject, classes: int) -> None:
    from sklearn.metrics import accuracy_score, precision_recall_fscore_support

    rows = data.draw(
        st.lists(st.tuples(st.integers(0, classes - 1), st.integers(0, classes - 1)), min_size=1, max_size=40)
    )
    label, decision = map(list, zip(*rows, strict=True))
    found = measure(classified(label, decision, classes), 0, 0)
    assert found["accuracy"].value == pytest.approx(accuracy_score(label, decision), abs=1e-12)
    precision, recall, f1, _ = precision_recall_fscore_support(label, decision, labels=range(classes), zero_division=0)
    for k in range(classes):
        assert found[f"precision/c{k}"].value == pytest.approx(precision[k], abs=1e-12)
        assert found[f"recall/c{k}"].value == pytest.approx(recall[k], abs=1e-12)
        assert found[f"f1/c{k}"].value == pytest.approx(f1[k], abs=1e-12)
    present = sorted({*label, *decision})
    assert found["macro_f1"].value == pytest.approx(np.mean([f1[k] for k in present]), abs=1e-12)


def test_rows_without_a_label_count_in_no_figure() -> None:
    assert measure(classified([0, -1, 1], [0, 0, 0], 2), 0, 0)["accuracy"].value == 0.5
    assert measure(classified([-1], [0], 2), 0) == {}


def entities_by_hand(tags: list[str]) -> set[tuple[str, int, int]]:
    """seqeval's strict IOB2, read off its definition: every B- starts one; I- of the same type right after goes on."""
    found = set()
    for start, tag in enumerate(tags):
        if tag.startswith("B-"):
            end = start + 1
            while end < len(tags) and tags[end] == "I-" + tag[2:]:
                end += 1
            found.add((tag[2:], start, end))
    return found


@given(st.lists(st.sampled_from(["O", "B-a", "I-a", "B-b", "I-b"]), max_size=12))
def test_spans_are_strict(tags: list[str]) -> None:
    assert spans(tags) == entities_by_hand(tags)


def test_span_figures_by_hand() -> None:
    names = ["O", "B-d", "I-d"]
    table = pa.table({"label": [[1, 2, 0, 1], [0, 1]], "decision": [[1, 2, 0, 0], [1, 1]]})
    found = measure(Predictions("test", "token-classification", names, table), 0, 0)
    # two of three entities are found, and one is found where there is none
    assert found["span_precision"].value == pytest.approx(2 / 3)
    assert found["span_recall"].value == pytest.approx(2 / 3)
    assert found["span_f1/d"].value == pytest.approx(2 / 3)
    assert found["token_accuracy"].value == pytest.approx(4 / 6)


def test_perplexity_is_of_all_tokens_together() -> None:
    table = pa.table({"log_likelihood": [-6.0, -1.0], "tokens": pa.array([3, 4], pa.int32())})
    found = measure(Predictions("test", "text-generation", [], table), 0, 0)
    assert found["perplexity"].value == pytest.approx(np.exp(7 / 7))


def shares(sums: np.ndarray) -> np.ndarray:
    return sums[:, :1] / np.maximum(sums[:, 1:], 1)


def coverage(seed: int, resamples: int = 300) -> float:
    """How often the interval of a share of .3 among 80 rows holds .3."""
    chance = np.random.default_rng(seed)
    hits = 0
    for trial in range(200):
        right = chance.random(80) < 0.3
        _, low, high = intervals(np.stack([right, np.ones(80)], 1).astype(float), shares, trial, resamples)
        hits += bool(low[0] <= 0.3 <= high[0])
    return hits / 200


def test_intervals_hold_the_truth_about_as_often_as_they_say() -> None:
    # 200 trials of .95 have a standard deviation of .015; the percentile bootstrap is a little narrow at n = 80
    assert 0.89 <= coverage(0) <= 0.99


def test_mutant_intervals_of_half_the_rows_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = module._resampled

    def wrong(counts: np.ndarray, seed: int, resamples: int) -> object:
        for block in honest(np.concatenate([counts] * 4), seed, resamples):
            yield block / 4

    monkeypatch.setattr(module, "_resampled", wrong)
    assert coverage(0) < 0.89


def test_intervals_are_the_naive_bootstrap_by_percentiles() -> None:
    chance = np.random.default_rng(1)
    counts = np.stack([chance.random(30) < 0.6, np.ones(30)], 1).astype(float)
    _, low, high = intervals(counts, shares, 5, 4000)
    drawn = [counts[chance.integers(0, 30, 30), 0].mean() for _ in range(4000)]
    expected = np.percentile(drawn, [2.5, 97.5])
    # a resample's share moves in steps of 1/30
    assert low[0] == pytest.approx(expected[0], abs=1 / 30)
    assert high[0] == pytest.approx(expected[1], abs=1 / 30)


def test_a_metric_survives_its_json_form() -> None:
    for metric in (Metric(0.5, 0.4, 0.6, 10), Metric(3.0, source="ledger")):
        assert Metric.from_json(metric.to_json()) == metric
    assert Metric(1.0, source="attested").to_json() == {"value": 1.0, "from": "attested"}
