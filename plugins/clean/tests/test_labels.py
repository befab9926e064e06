"""`label-issues` and `outliers`: prior correction against exact Bayes, small classes that are not eaten, distances."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import write_rows
from upright import Stack
from upright.engine.execute import execute
from upright.errors import ConfigError
from upright.evidence.ledger import read_ledger
from upright_clean import label_odds
from upright_clean.label_issues import LabelIssues
from upright_clean.outliers import Outliers, distance, robust_score


def run_of(features: dict[str, np.ndarray], seed: int = 0) -> Any:
    """What the cleaners ask of a run: embeddings by text, the seed, and places for their errors."""
    return SimpleNamespace(
        emit=lambda *_, **__: None,
        key=lambda step: "step",
        embed=lambda rows: np.stack([features[text] for text in rows["text"][:]]),
        seed=seed,
        stack=SimpleNamespace(placed=lambda step: SimpleNamespace(where="f:1:1"), where=lambda *path: "f:1:1"),
    )


# --- prior correction -----------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_corrected_posteriors_are_likelihoods_whatever_the_shares(seed: int) -> None:
    """Oracle: Bayes' rule by hand. The posterior over the prior is the likelihood, up to a factor of the row."""
    chance = np.random.default_rng(seed)
    counts = chance.integers(1, 60, 4)
    labels = chance.permutation(np.repeat(np.arange(4), counts))
    likelihood = chance.uniform(0.01, 1, (len(labels), 4))
    posterior = np.zeros_like(likelihood)
    for row in range(len(labels)):
        joint = [counts[k] / len(labels) * likelihood[row, k] for k in range(4)]
        posterior[row] = [one / math.fsum(joint) for one in joint]
    corrected = label_odds.prior_corrected(posterior, labels)
    for row in range(len(labels)):
        for k in range(4):
            expected = math.log(likelihood[row, k]) - math.log(likelihood[row, 0])
            assert corrected[row, k] - corrected[row, 0] == pytest.approx(expected, abs=1e-9)


def noisy_clusters(seed: int) -> tuple[Dataset, Any, np.ndarray, np.ndarray]:
    """Ten overlapping classes on a sphere, four with 12 % of the others' rows; a tenth of the labels, drawn by share, wrong."""
    chance = np.random.default_rng(seed)
    centres = chance.normal(size=(10, 16))
    true = np.repeat(np.arange(10), [200] * 6 + [24] * 4)
    points = centres[true] + 1.1 * chance.normal(size=(len(true), 16))
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    given_ = true.copy()
    for row in chance.choice(len(true), len(true) // 10, replace=False):
        given_[row] = chance.choice(true[true != true[row]])
    texts = [f"t{n}" for n in range(len(true))]
    rows = Dataset.from_dict(
        {"row_id": [f"{n:05d}" for n in range(len(true))], "text": texts, "label": [f"c{n}" for n in given_]}
    )
    return rows, run_of(dict(zip(texts, points, strict=True)), seed), given_ != true, true >= 6


def removed_ratio(seeds: range) -> tuple[float, float, float]:
    """Share of clean rows of small classes that is found over the others'; precision and recall of the wrong ones."""
    counts = np.zeros(7)
    for seed in seeds:
        rows, run, wrong, rare = noisy_clusters(seed)
        chosen = set(LabelIssues().clean(rows, run).columns["row_id"])
        found = np.array([row in chosen for row in rows["row_id"][:]])
        masks = [
            found & ~wrong & rare,
            ~wrong & rare,
            found & ~wrong & ~rare,
            ~wrong & ~rare,
            found & wrong,
            found,
            wrong,
        ]
        counts += [mask.sum() for mask in masks]
    return counts[0] / counts[1] / (counts[2] / counts[3]), counts[4] / counts[5], counts[4] / counts[6]


def test_small_classes_are_not_eaten(monkeypatch: pytest.MonkeyPatch) -> None:
    ratio, precision, recall = removed_ratio(range(5))
    monkeypatch.setattr(label_odds, "prior_corrected", lambda p, labels: np.log(np.maximum(p, label_odds.LEAST)))
    eaten, _, _ = removed_ratio(range(5))
    assert precision > 0.75
    assert recall > 0.75
    assert ratio < 2.5
    assert eaten > 2.5, "mutant: no correction for the share of the class"
    assert eaten > 2 * ratio


def test_mutant_that_multiplies_by_the_prior_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    right = label_odds.prior_corrected

    def wrong(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
        plain = np.log(np.maximum(probabilities, label_odds.LEAST))
        return 2 * plain - right(probabilities, labels)

    monkeypatch.setattr(label_odds, "prior_corrected", wrong)
    with pytest.raises(AssertionError):
        test_corrected_posteriors_are_likelihoods_whatever_the_shares()


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 4))
def test_similarity_is_the_mean_of_the_nearest_of_each_class(seed: int, neighbours: int) -> None:
    chance = np.random.default_rng(seed)
    labels = chance.permutation(np.repeat(np.arange(3), chance.integers(2, 9, 3)))
    points = chance.normal(size=(len(labels), 5))
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    found = label_odds.similarity(points, labels, neighbours)
    for row in range(len(labels)):
        for number in range(3):
            others = [points[row] @ points[n] for n in range(len(labels)) if n != row and labels[n] == number]
            most = min(neighbours, int((labels == number).sum()) - 1)
            assert found[row, number] == pytest.approx(np.mean(sorted(others)[-most:]), abs=1e-12)


def small_class_odds(labels: list[str], name: str) -> float:
    """What the README says of the threshold, with the defaults, by hand."""
    classes = set(labels)
    smaller = len(labels) / len(classes) / labels.count(name)
    return 3 * math.sqrt(len(classes) - 1) * max(1.0, smaller) ** 0.75


def test_the_order_of_rows_decides_nothing_and_rare_classes_are_left_alone() -> None:
    rows, run, _, _ = noisy_clusters(3)
    rows = rows.add_column("unit", list(range(len(rows))))
    single = rows.to_list()[0] | {"row_id": "zzzzz", "label": "only-one"}
    missing = rows.to_list()[1] | {"row_id": "zzzzy", "label": None}
    listed = [*rows.to_list(), single, missing]
    first = LabelIssues().clean(Dataset.from_list(listed), run).rows
    again = LabelIssues().clean(Dataset.from_list(listed[::-1]), run).rows
    assert first == again
    assert first
    assert not {"zzzzz", "zzzzy"} & {entry["row_id"] for entry in first}
    asked = {name: small_class_odds(rows["label"][:], name) for name in set(rows["label"][:])}
    labels = dict(zip(rows["row_id"][:], rows["label"][:], strict=True))
    for entry in first:
        assert entry["threshold"] == pytest.approx(math.log(asked[labels[entry["row_id"]]]), abs=1e-6)
        assert entry["score"] > entry["threshold"]


def test_relabel_gives_the_class_of_the_evidence() -> None:
    rows, run, _, _ = noisy_clusters(4)
    label = dict(zip(rows["row_id"][:], rows["label"][:], strict=True))
    decisions = LabelIssues(action="relabel").clean(rows, run).rows
    assert decisions
    for entry in decisions:
        assert entry["values"]["label"] == label[entry["evidence"]] != label[entry["row_id"]]


def test_without_labels_it_says_what_to_do() -> None:
    rows = Dataset.from_dict({"row_id": ["a"], "text": ["x"]})
    with pytest.raises(ConfigError, match="needs a label for each row"):
        LabelIssues().clean(rows, run_of({}))
    with pytest.raises(ConfigError, match="by_class needs a label"):
        Outliers(by_class=True).clean(rows, "train", run_of({}))
    one = Dataset.from_dict({"row_id": list("abcdef"), "text": ["x"] * 6, "label": ["y"] * 6})
    assert len(LabelIssues().clean(one, run_of({}))) == 0


# --- outliers -------------------------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 5))
def test_distance_is_that_of_all_pairs(seed: int, neighbours: int) -> None:
    chance = np.random.default_rng(seed)
    points = chance.normal(size=(int(chance.integers(7, 30)), 4))
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    found = distance(points, neighbours)
    for row in range(len(points)):
        others = sorted(1 - float(points[row] @ points[n]) for n in range(len(points)) if n != row)
        assert found[row] == pytest.approx(others[neighbours - 1], abs=1e-12)


def test_the_threshold_does_not_move_with_the_outliers() -> None:
    values = np.array([*np.linspace(0.1, 0.3, 90), *[5.0] * 10])
    assert (robust_score(values) > 3.5).sum() == 10
    plain = (values - values.mean()) / values.std()
    assert (plain > 3.5).sum() == 0, "mutant: mean and standard deviation, which ten outliers hide behind"
    assert not robust_score(np.ones(5)).any()


def test_a_row_far_from_its_class_is_found_by_class_alone() -> None:
    chance = np.random.default_rng(0)
    points = np.concatenate([np.eye(8)[[k]] + 0.2 * chance.normal(size=(60, 8)) for k in (0, 1)])
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    labels = ["a"] * 60 + ["b"] * 60
    labels[7] = "b"
    texts = [f"t{n}" for n in range(120)]
    rows = Dataset.from_dict({"row_id": [f"{n:03d}" for n in range(120)], "text": texts, "label": labels})
    run = run_of(dict(zip(texts, points, strict=True)))
    assert "007" not in Outliers(threshold=6).clean(rows, "train", run).columns["row_id"]
    assert "007" in Outliers(threshold=6, by_class=True).clean(rows, "train", run).columns["row_id"]
    shuffled = rows.select(chance.permutation(120).tolist())
    assert (
        Outliers(by_class=True).clean(shuffled, "train", run).rows
        == Outliers(by_class=True).clean(rows, "train", run).rows
    )


# --- with the base --------------------------------------------------------------------------------------------------


def test_real_embeddings_find_planted_errors_in_a_stack_that_only_cleans(tmp_path: Path) -> None:
    subjects = {
        "card": ["my bank card was stolen", "the card machine swallowed my card", "please block my lost credit card"],
        "weather": ["it will rain in the north", "the storm brings snow tonight", "a sunny and warm day is forecast"],
    }
    ways = ["{}", "hello, {}", "{} today", "I heard that {}", "{} again", "well, {}", "{}, they say", "so {}"]
    rows = [
        {"text": way.format(text), "label": label}
        for label, texts in subjects.items()
        for text in texts
        for way in ways
    ]
    rows[5]["label"], rows[30]["label"] = "weather", "card"
    rows.append({"text": "def main(): return [x ** 2 for x in range(10)]", "label": "card"})
    files = {"train": write_rows(tmp_path / "t.jsonl", rows), "test": write_rows(tmp_path / "e.jsonl", rows)}
    stack = {"data": files, "clean": ["label-issues", "outliers", "parity"], "output": str(tmp_path / "runs")}
    run = execute(Stack.load(stack))
    ledger = read_ledger(run.folder).to_pylist()
    text = dict(zip(run.data["train"]["row_id"][:], run.data["train"]["text"][:], strict=True))
    issues = [entry for entry in ledger if entry["reason"] == "label-issue"]
    assert {text[entry["row_id"]] for entry in issues} >= {rows[5]["text"], rows[30]["text"]}
    assert {(entry["split"], entry["action"]) for entry in issues} == {("train", "flag")}
    assert rows[-1]["text"] in {text.get(entry["row_id"]) for entry in ledger if entry["reason"] == "outlier"}
    assert [verdict.judgement for verdict in run.verdicts] == ["met"]
    assert len(run.data["train"]) == len(rows)
