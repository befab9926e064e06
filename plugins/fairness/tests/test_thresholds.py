"""Thresholds against all combinations of thresholds, and fairlearn's mixtures against fairlearn."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from upright import Batch, Predictions, Stack
from upright.engine.evaluate import predict
from upright.engine.execute import execute
from upright.errors import ConfigError
from upright_fairness import group_thresholds, rates, threshold, threshold_optimizer
from upright_fairness.threshold_optimizer import CONSTRAINTS
from upright_fairness.thresholds import Thresholds

KINDS = list(rates.GAPS)
EXACT = 1e-9
Choose = Callable[..., tuple[float, np.ndarray]]


def drawn(seed: int, count: int = 80, groups: int = 2) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores of six levels, truths and groups that go together; group -1 is missing."""
    chance = np.random.default_rng(seed)
    group = chance.integers(-1, groups, count)
    truth = chance.random(count) < 0.3 + 0.2 * (group == 1)
    scores = (chance.integers(0, 6, count) + 2 * truth + (group == 0)) / 10
    return scores, truth, group


def worth(
    decision: list[bool], truth: list[bool], group: list[int], max_gap: float, kind: str, balanced: bool
) -> float:
    """A loop over rows: the objective less what the gap is over ``max_gap``."""

    def share(hit: list[bool], of: list[bool]) -> float:
        return sum(h for h, o in zip(hit, of, strict=True) if o) / sum(of) if any(of) else math.nan

    right = [d == t for d, t in zip(decision, truth, strict=True)]
    wrong = [not t for t in truth]
    value = (share(right, truth) + share(right, wrong)) / 2 if balanced else sum(right) / len(right)
    gaps = [0.0]
    for rate in rates.GAPS[kind]:
        found = []
        for one in sorted(set(group) - {-1}):
            mine = [g == one for g in group]
            hits, rows = {
                "selection_rate": (decision, mine),
                "true_positive_rate": (decision, [m and t for m, t in zip(mine, truth, strict=True)]),
                "false_positive_rate": (decision, [m and not t for m, t in zip(mine, truth, strict=True)]),
                "precision": (truth, [m and d for m, d in zip(mine, decision, strict=True)]),
                "accuracy": (right, mine),
            }[rate]
            found.append(share(hits, rows))
        known = [f for f in found if not math.isnan(f)]
        gaps.append(max(known) - min(known) if known else 0.0)
    return value - max(max(gaps) - max_gap, 0.0)


def short_of_the_best(seed: int, kind: str, objective: Any, max_gap: float, choose: Choose) -> float:
    """How much less worth the chosen thresholds are than the best of all combinations of levels."""
    scores, truth, group = drawn(seed)
    common, own = choose(scores, truth, group, max_gap, kind, objective)

    def value(each: tuple[float, ...]) -> float:
        said = [bool(s >= (common if g < 0 else each[g])) for s, g in zip(scores, group, strict=True)]
        return worth(said, truth.tolist(), group.tolist(), max_gap, kind, objective == "balanced_accuracy")

    levels = [sorted({*scores[group == one], common}) for one in range(2)]
    return max(value(each) for each in product(*levels)) - value(tuple(own))


@settings(max_examples=25, deadline=None)
@given(
    st.integers(0, 10_000),
    st.sampled_from(KINDS),
    st.sampled_from(["accuracy", "balanced_accuracy"]),
    st.sampled_from([0.0, 0.05, 0.3]),
)
def test_no_combination_of_thresholds_is_better(seed: int, kind: str, objective: str, max_gap: float) -> None:
    assert short_of_the_best(seed, kind, objective, max_gap, group_thresholds.choose_by_group) <= EXACT


def one_for_all(*given: Any) -> tuple[float, np.ndarray]:
    common, own = group_thresholds.choose_by_group(*given)
    return common, np.full_like(own, common)


def without_the_gap(scores: Any, truth: Any, group: Any, max_gap: float, *rest: Any) -> tuple[float, np.ndarray]:
    return group_thresholds.choose_by_group(scores, truth, group, 1.0, *rest)


def equal_at_any_price(scores: Any, truth: Any, group: Any, max_gap: float, *rest: Any) -> tuple[float, np.ndarray]:
    return group_thresholds.choose_by_group(scores, truth, group, 0.0, *rest)


@pytest.mark.parametrize("mutant", [one_for_all, without_the_gap, equal_at_any_price])
def test_mutant_choices_are_noticed(mutant: Choose) -> None:
    given = [(seed, kind, "accuracy", 0.05, mutant) for seed in range(6) for kind in KINDS]
    assert max(short_of_the_best(*one) for one in given) > 1e-3


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from(KINDS), st.integers(1, 40))
def test_many_groups_are_never_worse_off_than_by_one_threshold(seed: int, kind: str, min_rows: int) -> None:
    chance = np.random.default_rng(seed)
    group, truth = chance.integers(-1, 6, 200), chance.random(200) < 0.4
    scores = np.clip(truth * 0.3 + chance.random(200) * 0.7, 0, 1)
    common, own = group_thresholds.choose_by_group(scores, truth, group, 0.02, kind, "accuracy", min_rows)
    shares = threshold.row_shares(truth, "accuracy")

    def value(each: np.ndarray) -> float:
        return threshold.value(scores >= each, truth, [group], 0.02, kind, shares)

    assert value(np.append(own, common)[group]) >= value(np.full(200, common))
    assert all(own[one] == common for one in range(6) if (group == one).sum() < min_rows)


@settings(max_examples=8, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from(sorted(CONSTRAINTS)), st.sampled_from(["accuracy", "balanced_accuracy"]))
def test_the_chances_are_those_of_fairlearn(seed: int, kind: str, objective: str) -> None:
    chance = np.random.default_rng(seed)
    truth = np.arange(120) % 3 == 0
    group = np.array(["f", "m", "x"], dtype=object)[chance.integers(0, 3, 120)]
    scores = np.clip(truth * 0.2 + chance.random(120) * 0.8, 0, 1)
    if any(truth[group == name].all() or not truth[group == name].any() for name in "fmx"):
        return  # fairlearn refuses a group of one class
    from fairlearn.postprocessing import ThresholdOptimizer
    from sklearn.linear_model import LinearRegression

    given = LinearRegression(fit_intercept=False).fit(np.eye(1), np.ones(1))  # the scores themselves
    theirs = ThresholdOptimizer(
        estimator=given,
        constraints=CONSTRAINTS[kind],
        objective=f"{objective}_score",
        prefit=True,
        predict_method="predict",
    ).fit(scores[:, None], truth.astype(int), sensitive_features=group)
    expected = theirs._pmf_predict(scores[:, None], sensitive_features=group)[:, 1]
    found = threshold_optimizer.fit(scores, truth, group, kind, objective)
    assert set(found) == {"f", "m", "x"}
    for name, mixture in found.items():
        mine = group == name
        np.testing.assert_allclose(threshold_optimizer.chance(scores[mine], mixture), expected[mine], atol=1e-12)


def tokens(texts: list[list[int]], width: int) -> Batch:
    ids = torch.tensor([text + [0] * (width - len(text)) for text in texts])
    rows = torch.arange(len(texts))
    return Batch({"input_ids": ids, "attention_mask": (ids > 0).long()}, rows, rows, rows)


def test_a_lot_follows_from_the_text_alone_and_is_even() -> None:
    texts = [[n % 7 + 1, n // 7 + 1, 3] for n in range(2000)]
    lots = threshold_optimizer.lots(tokens(texts, 3), 11)
    assert lots[7] == threshold_optimizer.lots(tokens([texts[7]], 9), 11)[0]
    assert lots[7] != threshold_optimizer.lots(tokens([texts[7]], 9), 12)[0]
    # Kolmogorov's bound at one in a million: 2 exp(-2 n d^2)
    assert np.abs(np.sort(lots) - np.arange(2000) / 2000).max() < (math.log(2e6) / 4000) ** 0.5


@pytest.mark.parametrize("number", [0, 1])
def test_a_score_at_the_threshold_is_at_it(number: int) -> None:
    scores = torch.tensor([[0.3, 0.7], [0.7, 0.3], [0.30000001, 0.69999999]], dtype=torch.float64)
    found = threshold.moved(scores, float(scores[0, number]), number).argmax(1) == number
    assert found.tolist() == (scores[:, number] >= scores[0, number]).tolist()


def test_without_any_group_there_is_the_threshold_for_all() -> None:
    given = np.array([0.2, 0.8]), np.array([False, True]), np.array([-1, -1])
    common, own = group_thresholds.choose_by_group(*given, 0.02, "equalized_odds")
    assert 0.2 < common <= 0.8
    assert len(own) == 0


def test_a_group_without_positives_leaves_the_gap_of_the_others() -> None:
    counts = np.array([[[10, 0], [5, 5]], [[10, 0], [9, 1]], [[10, 0], [0, 0]]])
    assert threshold.gap(counts, "equal_opportunity") == pytest.approx(0.4)


def test_rows_without_a_label_choose_nothing() -> None:
    table = pa.table(
        {"label": [1, -1, 0], "scores": [[0.2, 0.8], [0.1, 0.9], [0.6, 0.4]], "group/sex": ["f", "m", None]}
    )
    predictions = Predictions("validation", "text-classification", ["a", "b"], table)
    step = Thresholds(groups=["sex"])
    scores, truth, [(codes, names)] = threshold.known_rows(step, predictions, 1)
    assert (scores.tolist(), truth.tolist(), codes.tolist(), names) == ([0.8, 0.4], [True, False], [0, -1], ["f", "m"])


AWARE = {
    "use": "thresholds",
    "groups": [{"columns": ["sex"], "use": ["train", "inference"]}],
    "group_aware": True,
    "min_rows": 1,
}


@pytest.mark.parametrize("method", ["deterministic", "threshold_optimizer"])
def test_rows_are_decided_by_their_groups_rule(method: str, toy: dict[str, Any], tmp_path: Path) -> None:
    run = execute(Stack.load({**toy, "fairness": {**AWARE, "method": method, "constraint": "demographic_parity"}}))
    step = run.stack.steps[-1].step
    kept = dict(run.keep(step, "threshold", dict))
    predictions = predict(run, "test")
    scores, decision, sex = predictions.numpy("scores")[:, 1], predictions.numpy("decision"), predictions.groups("sex")
    again = predict(run, "test").numpy("decision")
    assert (again == decision).all(), "a decision is the same whenever it is asked for"
    if method == "deterministic":
        own = np.array([kept["groups"][name] for name in sex])
        assert decision.tolist() == (scores >= own).astype(int).tolist()
    else:
        for name, mixture in kept["mixtures"].items():
            sure = threshold_optimizer.chance(scores[sex == name], mixture)
            assert (decision[sex == name][sure == 1] == 1).all()
            assert (decision[sex == name][sure == 0] == 0).all()
    run.encoded["test"].groups["sex"].fill_(-1)
    blind = predict(run, "test").numpy("decision")
    assert blind.tolist() == (scores >= kept["threshold"]).astype(int).tolist()
    run.keep(step, "threshold", dict).clear()
    step.restore(run.step_folder(step), run)
    assert run.keep(step, "threshold", dict) == kept


def test_one_threshold_reads_no_group(toy: dict[str, Any]) -> None:
    run = execute(
        Stack.load({**toy, "fairness": {"use": "thresholds", "groups": ["sex"], "scoring": "balanced_accuracy"}})
    )
    before = predict(run, "test").numpy("decision")
    run.encoded["test"].groups["sex"].fill_(-1)
    assert (predict(run, "test").numpy("decision") == before).all()


def test_what_thresholds_cannot_do_is_refused(toy: dict[str, Any]) -> None:
    def refused(match: str, *steps: dict[str, Any]) -> None:
        with pytest.raises(ConfigError, match=match) as error:
            execute(Stack.load({**toy, "fairness": list(steps)}))
        assert "\n" not in str(error.value)

    plain = {"use": "thresholds", "groups": ["sex"]}
    refused("'sex' may be used for train, audit, not for inference", {**AWARE, "groups": ["sex"]})
    refused("group_aware needs one group spec", {**AWARE, "groups": ["sex", "sex"]})
    refused("set group_aware: true", {**plain, "method": "threshold_optimizer"})
    refused("knows no accuracy_parity", {**AWARE, "method": "threshold_optimizer", "constraint": "accuracy_parity"})
    odds = {"use": "equalized-odds", "groups": ["sex"]}
    refused(r"equalized-odds and fairness.thresholds .* would both move decisions.*remove one", odds, plain)
    bound = {"use": "constraint", "groups": ["sex"], "constraint": "worst_group_floor", "bound": 0.5}
    assert execute(Stack.load({**toy, "fairness": [{**odds, "refit_threshold": False}, bound, plain]})).exit_code == 0
