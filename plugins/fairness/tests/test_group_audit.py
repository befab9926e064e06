"""The audit's verdicts, its utility floor, and its controls: a planted gap is found, random labels say nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from conftest import toy_rows, write_rows
from upright import Metric, Predictions, Run, Stack, Verdict
from upright.engine.execute import execute
from upright.errors import ConfigError
from upright_fairness import measures, rates, verdicts
from upright_fairness.group_audit import GroupAudit


@pytest.mark.parametrize(
    ("value", "low", "high", "rows", "judgement"),
    [
        (0.01, 0.0, 0.04, 100, "met"),
        (0.20, 0.1, 0.30, 100, "violated"),
        (0.04, 0.0, 0.10, 100, "insufficient evidence"),
        (0.20, 0.1, 0.30, 5, "insufficient evidence"),
        (0.20, None, None, 100, "insufficient evidence"),
    ],
)
def test_the_three_verdicts(value: float, low: Any, high: Any, rows: int, judgement: str) -> None:
    verdict = verdicts.at_most("test gap sex", Metric(value, low, high, rows), 0.05, 30, "warn")
    assert verdict.judgement == judgement
    assert "test gap sex" in verdict.sentence
    if low is not None:  # the mirror image, of a ratio
        mirrored = verdicts.at_least("test ratio", Metric(1 - value, 1 - high, 1 - low, rows), 0.95, 30, "warn")
        assert mirrored.judgement == judgement


def judged(truth: np.ndarray, said: np.ndarray, group: np.ndarray, **settings: Any) -> list[Verdict]:
    """What the audit says of predictions: measured and judged as in a run."""
    table = pa.table(
        {
            "label": pa.array(truth.astype(int), pa.int32()),
            "decision": pa.array(said.astype(int), pa.int32()),
            "scores": [[1 - s, s] for s in np.where(said, 0.9, 0.1).tolist()],
            "group/sex": pa.array(np.where(group, "f", "m").tolist()),
        }
    )
    predictions = Predictions("test", "text-classification", ["no", "yes"], table)
    step = GroupAudit(groups=["sex"], **settings)
    told = {"data": {"test": "nowhere"}, "fairness": {"use": "group-audit", "groups": ["sex"]}}
    stack = Stack.load({**told, "data": {"test": "nowhere", "sensitive": ["sex"]}})
    stack = Stack(stack.settings, [], stack.root, stack.source, stack.raw).with_step("fairness", "group-audit", step)
    run = Run(stack, Path("nowhere"), None)  # type: ignore[arg-type]
    run.labels = predictions.labels
    metrics = {f"test/fairness/group-audit/{key}": value for key, value in step.measure(predictions, run).items()}
    return step.judge(metrics, run)


def sample(chance: np.random.Generator, size: int = 1000) -> tuple[np.ndarray, np.ndarray]:
    return chance.random(size) < 0.5, chance.random(size) < 0.5


def test_a_constant_predictor_never_passes() -> None:
    truth, group = sample(np.random.default_rng(0), 20_000)
    for said in (np.zeros_like(truth), np.ones_like(truth)):
        gap, floor = judged(truth, said, group, max_gap=0.05)
        assert floor.judgement == "insufficient evidence"
        assert gap.judgement == "insufficient evidence"
        assert "useless" in gap.sentence
    gap, floor = judged(truth, truth, group, max_gap=0.05)
    assert (floor.judgement, gap.judgement) == ("met", "met")


def test_mutant_without_the_floor_lets_a_constant_predictor_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verdicts, "provided", lambda verdict, condition: verdict)
    truth, group = sample(np.random.default_rng(0), 20_000)
    assert judged(truth, np.zeros_like(truth), group, max_gap=0.05)[0].judgement == "met"


def planted(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Truth, decisions and groups: one group's decisions are coins, the other's are wrong once in ten."""
    chance = np.random.default_rng(seed)
    truth, group = sample(chance)
    return truth, np.where(chance.random(1000) < np.where(group, 0.5, 0.1), ~truth, truth), group


def test_a_planted_gap_is_found() -> None:
    for seed in range(20):
        gap, ratio, _ = judged(*planted(seed), max_gap=0.1, min_ratio=0.8)
        assert (gap.judgement, ratio.judgement) == ("violated", "violated")


def test_a_permuted_group_column_has_no_gap_to_find() -> None:
    for seed in range(20):
        truth, said, group = planted(seed)
        shuffled = np.random.default_rng(seed).permutation(group)
        assert all(one.judgement != "violated" for one in judged(truth, said, shuffled, max_gap=0.1, min_ratio=0.8))


def floors_undecided() -> float:
    """How often decisions that have nothing to do with the labels leave the utility floor undecided, by their counts."""
    found, trials, chance = 0, 1000, np.random.default_rng(0)
    for _ in range(trials):
        truth, said = sample(chance, 400)
        one = measures.balanced_accuracy(rates.cells(truth, said, np.zeros(400, dtype=int), 1)[0])
        metric = Metric(one.value, one.low, one.high, one.rows)
        found += verdicts.useful("floor", metric, 0.5, 30, "warn").judgement == "insufficient evidence"
    return found / trials


def test_random_labels_are_insufficient_evidence_at_the_nominal_rate() -> None:
    # 1,000 draws of .95 have a standard deviation of .0069: three of them on each side
    assert 0.93 <= floors_undecided() <= 0.97


def test_mutant_with_the_interval_of_one_standard_error_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measures, "sidak", lambda count: 1.0)
    assert floors_undecided() < 0.8


def test_random_labels_never_pass_where_the_floor_does_not() -> None:
    for seed in range(40):
        chance = np.random.default_rng(seed)
        truth, group = sample(chance, 400)
        gap, floor = judged(truth, chance.random(400) < 0.5, group, max_gap=0.05)
        assert gap.judgement != "met" or floor.judgement == "met"


def equal_rates_shown() -> int:
    """Of 40 worthless predictors without any true gap, how many pass."""
    met = 0
    for seed in range(40):
        chance = np.random.default_rng(seed)
        truth, group = sample(chance, 10_000)
        met += judged(truth, chance.random(10_000) < 0.5, group, max_gap=0.06)[0].judgement == "met"
    return met


def test_random_labels_never_show_equal_rates() -> None:
    assert equal_rates_shown() <= 5  # as often as the floor errs upwards: 1 expected; 6 or more have a chance of .0006


def test_mutant_without_the_floor_lets_random_labels_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verdicts, "provided", lambda verdict, condition: verdict)
    assert equal_rates_shown() > 10


def test_groups_are_specified_in_the_stack_and_reported(toy: dict[str, Any], tmp_path: Path) -> None:
    rows = [
        {**row, "age": n % 90, "race": None if n % 7 == 0 else "ab"[n % 2]} for n, row in enumerate(toy_rows(60, 3))
    ]
    toy["data"] |= {name: write_rows(tmp_path / f"{name}.jsonl", rows) for name in ("train", "validation", "test")}
    toy["data"]["sensitive"] = ["sex", "race", "age"]
    crossed = {"columns": ["sex", "race"], "provenance": "self-reported"}
    binned = {"columns": ["age"], "bins": {"age": [30, 60]}, "provenance": "inferred"}
    toy["fairness"] = {"use": "group-audit", "groups": ["sex", crossed, binned], "max_gap": 0.9}
    run = execute(Stack.load(toy))
    home = "test/fairness/group-audit"
    assert run.metrics[f"{home}/missing/sex & race"].value == sum(row["race"] is None for row in rows)
    assert f"{home}/selection_rate/sex & race/f & b" in run.metrics
    assert f"{home}/selection_rate/age/30 to 60" in run.metrics
    page = (run.folder / "report.html").read_text(encoding="utf-8")
    for told in (
        "Group fairness by sex &amp; race",
        "self-reported",
        "inferred, not what people said",
        "may be used for",
    ):
        assert told in page
    from upright.evidence.verify import verify

    assert verify(run.folder).problems == []


@pytest.mark.parametrize(
    ("groups", "told"),
    [
        (["age"], "'age' is not in data.sensitive"),
        ([{"columns": ["sex"], "use": ["train"]}], "'sex' may be used for train, not for audit"),
        ([{"columns": ["sex"], "bins": {"sex": [1, 2]}}], "is no number, so it is in no bin"),
        ([{"columns": ["sex"], "bins": {"age": [1]}}], "bins of 'age' need one of the spec's columns"),
        ([{"columns": ["sex"], "colour": 1}], r"groups\[0\].colour: unknown setting"),
    ],
)
def test_groups_that_cannot_be_told_apart_are_refused(toy: dict[str, Any], groups: list[Any], told: str) -> None:
    toy["fairness"] = {"use": "group-audit", "groups": groups}
    with pytest.raises(ConfigError, match=told):
        execute(Stack.load(toy))
