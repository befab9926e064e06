"""Offsets against all that a single offset could do, all pairs of them for three classes, and a loop over rows."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, f1_score

from conftest import WORDS, write_rows
from upright import Stack
from upright.engine.evaluate import predict
from upright.engine.execute import execute
from upright.errors import ConfigError
from upright_fairness import offsets, rates
from upright_fairness.offsets import Criterion

KINDS = list(rates.GAPS)
EXACT = 1e-8
Fit = Callable[..., np.ndarray]


def drawn(seed: int, classes: int = 3, rows: int = 60, groups: int = 2) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Log scores, labels and groups that go together; group -1 is missing."""
    chance = np.random.default_rng(seed)
    group = chance.integers(-1, groups, rows)
    truth = chance.integers(0, classes, rows)
    truth[:classes] = np.arange(classes)
    raised = np.eye(classes)[truth] + 0.7 * np.eye(classes)[group % classes] + chance.normal(0, 1, (rows, classes))
    return raised - np.log(np.exp(raised).sum(1, keepdims=True)), truth, group


def worth(decision: Any, truth: Any, group: Any, kind: str, scoring: str, max_gap: float) -> float:
    """sklearn's score less the largest gap by a loop over classes, groups and rows."""
    if scoring == "accuracy":
        value = accuracy_score(truth, decision)
    else:
        value = f1_score(truth, decision, average="macro", labels=sorted(set(truth)), zero_division=0)
    largest = 0.0
    for number, rate in product(sorted(set(truth)), rates.GAPS[kind]):
        found = []
        for one in sorted(set(group) - {-1}):
            mine = [(t == number, d == number) for t, d, g in zip(truth, decision, group, strict=True) if g == one]
            of, hits = {
                "selection_rate": (mine, [d for _, d in mine]),
                "true_positive_rate": ([d for t, d in mine if t], [d for t, d in mine if t]),
                "false_positive_rate": ([d for t, d in mine if not t], [d for t, d in mine if not t]),
                "precision": ([t for t, d in mine if d], [t for t, d in mine if d]),
                "accuracy": (mine, [t == d for t, d in mine]),
            }[rate]
            if of:
                found.append(sum(hits) / len(of))
        largest = max(largest, max(found, default=0.0) - min(found, default=0.0))
    return float(value - max(largest - max_gap, 0.0))


def criterion(truth: Any, group: Any, kind: str, scoring: str, max_gap: float) -> Criterion:
    count = int(truth.max()) + 1
    return Criterion(truth, count, [group], kind, list(range(count)), max_gap, scoring)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from(KINDS), st.sampled_from(["accuracy", "f1_macro"]))
def test_what_decisions_are_worth_is_what_a_loop_says(seed: int, kind: str, scoring: str) -> None:
    logs, truth, group = drawn(seed, classes=4, groups=3)
    decision = logs.argmax(1)
    found = criterion(truth, group, kind, scoring, 0.05).value(decision)
    assert found == pytest.approx(worth(decision, truth, group, kind, scoring, 0.05), abs=1e-12)


def better_by_one_change(seed: int, kind: str, scoring: str, aware: bool, fit: Fit) -> float:
    """How much one offset alone could add to what was found, or what was lost against no offsets; all values tried."""
    logs, truth, group = drawn(seed)
    place = group + 1 if aware else np.zeros(len(logs), dtype=int)
    found = fit(logs, criterion(truth, group, kind, scoring, 0.05), group if aware else None)

    def value(lines: np.ndarray) -> float:
        return worth((logs + lines[place]).argmax(1), truth, group, kind, scoring, 0.05)

    reached, best = value(found), value(np.zeros_like(found))
    for line, number in product(range(1, 3) if aware else [0], range(3)):
        moved = logs + found[place]
        others = np.delete(moved, number, axis=1).max(1)
        edges = np.sort((others - logs[:, number])[place == line])
        for edge in [edges[0] - 1, *((edges[1:] + edges[:-1]) / 2), edges[-1] + 1]:
            changed = found.copy()
            changed[line, number] = edge
            best = max(best, value(changed))
    return best - reached


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from(KINDS), st.sampled_from(["accuracy", "f1_macro"]), st.booleans())
def test_no_change_of_one_offset_is_better(seed: int, kind: str, scoring: str, aware: bool) -> None:
    assert better_by_one_change(seed, kind, scoring, aware, offsets.fit) <= EXACT


def none_at_all(logs: Any, criterion: Criterion, group: Any = None) -> np.ndarray:
    return np.zeros((1 if group is None else 2 + group.max(), logs.shape[1]))


def without_the_gap(logs: Any, criterion: Criterion, group: Any = None) -> np.ndarray:
    loose = {**vars(criterion), "max_gap": 1.0}
    return offsets.fit(logs, Criterion(**loose), group)


def once(logs: Any, criterion: Criterion, group: Any = None) -> np.ndarray:
    """A mutant: one pass, as if the classes did not depend on one another."""
    passes, offsets.PASSES = offsets.PASSES, 1
    try:
        return offsets.fit(logs, criterion, group)
    finally:
        offsets.PASSES = passes


@pytest.mark.parametrize("mutant", [none_at_all, without_the_gap, once])
def test_mutant_fits_are_noticed(mutant: Fit) -> None:
    given = [(seed, kind, "accuracy", False) for seed in range(8) for kind in KINDS[:4]]
    assert any(better_by_one_change(*one, mutant) > 1e-3 for one in given)


def test_it_comes_near_the_best_of_all_offsets_of_three_classes() -> None:
    """Coordinate ascent may stop early: over these draws it reaches most of what a grid of all pairs does."""
    reached, best = [], []
    grid = np.linspace(-3, 3, 41)
    for seed in range(12):
        logs, truth, group = drawn(seed, rows=80)
        wanted = criterion(truth, group, "demographic_parity", "accuracy", 0.05)
        found = offsets.fit(logs, wanted)[0]
        start = wanted.value(logs.argmax(1))
        reached.append(wanted.value((logs + found).argmax(1)) - start)
        best.append(max(wanted.value((logs + np.array([0, a, b])).argmax(1)) for a, b in product(grid, grid)) - start)
    assert np.mean(reached) > 0.8 * np.mean(best) > 0


@pytest.fixture
def three(toy: dict[str, Any], tmp_path: Path) -> dict[str, Any]:
    """Three classes; some rows without a group."""
    for seed, name in enumerate(("train", "validation", "test")):
        chance, rows = random.Random(seed), []
        for n in range(90):
            label = chance.choice("abc")
            word = {"a": "fever", "b": "walk", "c": "rest"}[label] if chance.random() < 0.6 else "note"
            sex = chance.choice(["f", "m", None])
            rows.append({"text": f"{word} {chance.choice(WORDS['other'])} {n}", "label": label, "sex": sex})
        toy["data"][name] = write_rows(tmp_path / f"{name}.jsonl", rows)
    return toy


@pytest.mark.parametrize("aware", [False, True])
def test_rows_are_decided_by_score_and_offset(aware: bool, three: dict[str, Any]) -> None:
    spec = {"columns": ["sex"], "use": ["train", "inference"]}
    use = {"use": "multiclass-offsets", "groups": [spec], "group_aware": aware, "scoring": "f1_macro", "min_rows": 10}
    run = execute(Stack.load({**three, "fairness": use}))
    step = run.stack.steps[-1].step
    kept = dict(run.keep(step, "offsets", dict))
    predictions = predict(run, "test")
    scores, sexes = predictions.numpy("scores"), predictions.groups("sex")
    expected = []
    for row, sex in zip(scores, sexes, strict=True):
        own = kept["groups"][sex] if aware and sex else kept["all"]
        expected.append(max(range(3), key=lambda k: math.log(row[k]) + own[k]))
    assert predictions.numpy("decision").tolist() == expected
    run.encoded["test"].groups["sex"].fill_(-1)
    blind = [max(range(3), key=lambda k: math.log(row[k]) + kept["all"][k]) for row in scores]
    assert predict(run, "test").numpy("decision").tolist() == blind
    run.keep(step, "offsets", dict).clear()
    step.restore(run.step_folder(step), run)
    assert run.keep(step, "offsets", dict) == kept
    with pytest.raises(ConfigError, match="serves two classes, not 3; use multiclass-offsets"):
        execute(Stack.load({**three, "fairness": {"use": "thresholds", "groups": ["sex"]}}))


def test_what_offsets_cannot_do_is_refused(three: dict[str, Any]) -> None:
    plain = {"use": "multiclass-offsets", "groups": ["sex"]}
    with pytest.raises(ConfigError, match="not for inference"):
        execute(Stack.load({**three, "fairness": {**plain, "group_aware": True}}))
    with pytest.raises(ConfigError, match="group_aware needs one group spec"):
        Stack.load({**three, "fairness": {**plain, "groups": ["sex", "sex"], "group_aware": True}})
    with pytest.raises(ConfigError, match="would both move decisions, each as if alone: remove one of them"):
        execute(Stack.load({**three, "fairness": [plain, {**plain, "name": "again"}]}))
