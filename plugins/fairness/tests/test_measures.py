"""Every measure of the audit: fairlearn's to 1e-12 for two classes, a float64 loop's for many groups and classes."""

from __future__ import annotations

import math
from collections import defaultdict
from typing import Any

import fairlearn.metrics as fairlearn
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, precision_score

from upright import Predictions
from upright_fairness import calibration, groups, measures, rates
from upright_fairness.groups import GroupSpec

EXACT = 1e-12
DRAWS = st.lists(st.tuples(st.booleans(), st.booleans(), st.sampled_from("abc")), min_size=30, max_size=90)
NAMED = {
    "selection_rate": fairlearn.selection_rate,
    "true_positive_rate": fairlearn.true_positive_rate,
    "false_positive_rate": fairlearn.false_positive_rate,
    "false_negative_rate": fairlearn.false_negative_rate,
    "precision": precision_score,
    "accuracy": accuracy_score,
}
GAPS = {
    "predictive_parity": "precision",
    "accuracy_parity": "accuracy",
    "false_positive_rate_parity": "false_positive_rate",
}


@settings(max_examples=25, deadline=None)
@given(DRAWS)
def test_rates_gaps_and_ratios_are_fairlearns(rows: list[Any]) -> None:
    truth, decision, group = map(np.array, zip(*rows, strict=True))
    names, codes = np.unique(group, return_inverse=True)
    counts = rates.cells(truth, decision, codes, len(names))
    if len(names) < 2 or (counts.sum(-1) == 0).any() or (counts.sum(-2) == 0).any():
        return  # fairlearn counts an undefined rate as 0; ours is undefined, which another test holds
    frame = fairlearn.MetricFrame(
        metrics=NAMED, y_true=truth.astype(float), y_pred=decision.astype(float), sensitive_features=group
    )
    for rate in rates.RATES:
        expected = frame.by_group[rate].loc[names].to_numpy(float)
        np.testing.assert_allclose(rates.value(counts, rate), expected, atol=EXACT, rtol=0)
    drawn = rates.resample(counts, 0)
    for kind in ("demographic_parity", "equal_opportunity", "equalized_odds"):
        for ours, what in ((rates.gap, "difference"), (rates.ratio, "ratio")):
            expected = getattr(fairlearn, f"{kind}_{what}")(truth, decision, sensitive_features=group)
            found = ours(counts, kind, drawn).value
            assert math.isnan(found) or found == pytest.approx(expected, abs=EXACT)
    for kind, rate in GAPS.items():
        assert rates.gap(counts, kind, drawn).value == pytest.approx(frame.difference()[rate], abs=EXACT)
        found = rates.ratio(counts, kind, drawn).value
        assert math.isnan(found) or found == pytest.approx(frame.ratio()[rate], abs=EXACT)


def looped(rows: list[dict[str, Any]], positive: int) -> dict[str, float]:
    """Each measure of one class against the rest, by its definition, one row at a time."""
    by_group = defaultdict(list)
    for row in rows:
        if row["group"] is not None:
            by_group[row["group"]].append(row)
    found: dict[str, float] = {}

    def share(part: list[Any], whole: list[Any]) -> float:
        return math.fsum(map(bool, part)) / len(whole) if whole else math.nan

    for name, mine in by_group.items():
        yes = [row for row in mine if row["label"] == positive]
        no = [row for row in mine if row["label"] != positive]
        said = [row for row in mine if row["decision"] == positive]
        found[f"selection_rate {name}"] = len(said) / len(mine)
        found[f"true_positive_rate {name}"] = share([r["decision"] == positive for r in yes], yes)
        found[f"false_negative_rate {name}"] = share([r["decision"] != positive for r in yes], yes)
        found[f"false_positive_rate {name}"] = share([r["decision"] == positive for r in no], no)
        found[f"precision {name}"] = share([r["label"] == positive for r in said], said)
        right = [(r["label"] == positive) == (r["decision"] == positive) for r in mine]
        found[f"accuracy {name}"] = share(right, mine)
        apart = [(r["scores"][positive] - (r["label"] == positive)) ** 2 for r in mine]
        found[f"brier_score {name}"] = math.fsum(apart) / len(mine)
        error = 0.0
        for place in range(15):
            inside = [r for r in mine if min(int(r["scores"][positive] * 15), 14) == place]
            if inside:
                mean = math.fsum(r["scores"][positive] for r in inside) / len(inside)
                hit = sum(r["label"] == positive for r in inside) / len(inside)
                error += len(inside) / len(mine) * abs(mean - hit)
        found[f"expected_calibration_error {name}"] = error
        rest = [row for other, them in by_group.items() if other != name for row in them]
        for kind, (above, below) in {"subgroup": (mine, mine), "bpsn": (rest, mine), "bnsp": (mine, rest)}.items():
            high = [r["scores"][positive] for r in above if r["label"] == positive]
            low = [r["scores"][positive] for r in below if r["label"] != positive]
            wins = math.fsum((a > b) + (a == b) / 2 for a in high for b in low)
            found[f"{kind}_auc {name}"] = wins / (len(high) * len(low)) if high and low else math.nan
    return found


def many(seed: int) -> tuple[list[dict[str, Any]], Predictions]:
    """Predictions with 4 classes, 6 groups, missing groups, and scores with ties."""
    chance = np.random.default_rng(seed)
    size, classes = 400, 4
    scores = np.round(chance.dirichlet(np.ones(classes), size), 2)
    rows = [
        {
            "group": None if chance.random() < 0.1 else "uvwxyz"[int(chance.integers(6))],
            "label": int(chance.integers(classes)),
            "scores": [float(score) for score in one],
            "decision": int(np.argmax(one)),
        }
        for one in scores
    ]
    table = pa.table(
        {
            "label": pa.array([row["label"] for row in rows], pa.int32()),
            "decision": pa.array([row["decision"] for row in rows], pa.int32()),
            "scores": [row["scores"] for row in rows],
            "group/g": pa.array([row["group"] for row in rows], pa.string()),
        }
    )
    return rows, Predictions("test", "text-classification", list("klmn"), table)


@pytest.mark.parametrize("seed", range(3))
def test_many_groups_and_classes_are_those_of_a_loop(seed: int) -> None:
    rows, predictions = many(seed)
    codes, names = groups.codes(GroupSpec(columns=["g"]), predictions)
    for positive in range(4):
        expected = looped(rows, positive)
        found = {
            f"{what} {name}": estimate
            for what, name, estimate in measures.everything(predictions, positive, codes, names, "equalized_odds", 0)
        }
        for key, value in expected.items():
            np.testing.assert_allclose(found[key].value, value, atol=EXACT, rtol=0, err_msg=key)
            assert math.isnan(value) or found[key].low <= value <= found[key].high, key
        for kind, tested in rates.GAPS.items():
            gaps = [max(v) - min(v) for rate in tested if (v := [expected[f"{rate} {n}"] for n in names])]
            np.testing.assert_allclose(found[f"{kind}_difference "].value, max(gaps), atol=EXACT, rtol=0)
        accuracies = [expected[f"accuracy {name}"] for name in names]
        np.testing.assert_allclose(found["worst_group_accuracy "].value, min(accuracies), atol=EXACT, rtol=0)


def test_mutant_that_bins_scores_from_above_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    rows, predictions = many(0)
    monkeypatch.setattr(calibration, "BINS", 14)
    codes, names = groups.codes(GroupSpec(columns=["g"]), predictions)
    truth = predictions.numpy("label") == 1
    found = calibration.expected_calibration_error(predictions.numpy("scores")[:, 1], truth, codes, len(names), 0)
    assert abs(found[0].value - looped(rows, 1)["expected_calibration_error u"]) > 1e-3


def test_mutant_that_takes_the_gap_to_the_mean_is_noticed() -> None:
    counts = np.array([[[40, 10], [10, 40]], [[30, 20], [20, 30]], [[10, 40], [40, 10]]])
    value = rates.value(counts, "true_positive_rate")
    gap = rates.gap(counts, "equal_opportunity", rates.resample(counts, 0)).value
    assert abs((np.abs(value - value.mean()).max()) - gap) > 0.1


def test_an_empty_cell_is_undefined_and_never_zero() -> None:
    counts = np.array([[[5, 5], [0, 0]], [[5, 5], [3, 2]]])
    drawn = rates.resample(counts, 0)
    assert math.isnan(rates.value(counts, "true_positive_rate")[0])
    assert math.isnan(rates.gap(counts, "equal_opportunity", drawn).value)
    assert math.isnan(rates.ratio(counts, "equal_opportunity", drawn).value)
    assert math.isnan(rates.worst(rates.group_rates(counts)["true_positive_rate"]).value)


def test_groups_are_crossed_binned_and_counted_where_missing() -> None:
    table = pa.table({"group/sex": ["f", "m", None, "m", "f"], "group/age": ["29", "30", "50", None, "71.5"]})
    predictions = Predictions("test", "text-classification", ["a", "b"], table)
    spec = GroupSpec(columns=["sex", "age"], bins={"age": [30, 50]})
    codes, names = groups.codes(spec, predictions)
    assert names == ["f & below 30", "f & 50 and over", "m & 30 to 50"]
    assert codes.tolist() == [0, 2, -1, -1, 1]
    assert groups.codes(GroupSpec(columns=["sex"]), predictions)[0].tolist() == [0, 1, -1, 1, 0]
