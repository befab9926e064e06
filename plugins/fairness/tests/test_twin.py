"""The twin beside a run: each group's rates by a loop over the rows, differences of the same rows, other rows refused."""

from __future__ import annotations

import base64
import json
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from conftest import toy_rows, write_rows
from upright import Run, Stack
from upright.engine.execute import execute
from upright.errors import ConfigError
from upright.evidence.verify import verify
from upright_fairness import twin
from upright_fairness.intervals import sidak

HOME = "run/fairness/group-audit/twin/test"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """More rows than the toy task has, some of no group."""
    folder, found = tmp_path_factory.mktemp("rows"), {}
    for seed, name in enumerate(("train", "validation", "test")):
        rows = toy_rows(60, seed + 20)
        for row in rows[::9]:
            row["sex"] = None
        found[name] = write_rows(folder / f"{name}.jsonl", rows)
    return {**found, "sensitive": ["sex"]}


def private(toy: dict[str, Any], other: Run, **audit: Any) -> Run:
    """A run under differential privacy with its twin beside it."""
    step = {"use": "group-audit", "groups": ["sex"], "twin": str(other.folder), **audit}
    privacy = {"use": "dp-sgd", "noise_multiplier": 1.0, "delta": 1e-3}
    return execute(Stack.load({**toy, "name": "private", "fairness": step, "privacy": privacy}))


def test_each_groups_rates_stand_beside_the_twins_on_the_same_rows(
    toy: dict[str, Any], data: dict[str, Any], tmp_path: Path
) -> None:
    toy |= {"data": data, "train": {**toy["train"], "max_steps": 12, "learning_rate": 0.05}}
    other = execute(Stack.load(toy))
    run = private(toy, other)
    mine, its = ({row["row_id"]: row for row in one.predictions("test").table.to_pylist()} for one in (run, other))
    assert mine.keys() == its.keys()
    for sex in "fm":
        rows = [row for row in mine.values() if row["group/sex"] == sex]
        right = [its[row["row_id"]]["decision"] == row["label"] for row in rows]
        positives = [row for row in rows if row["label"] == 1]
        hits = [its[row["row_id"]]["decision"] == 1 for row in positives]
        found = run.metrics[f"{HOME}/accuracy/sex/{sex}"]
        assert (found.value, found.n) == (sum(right) / len(rows), len(rows))
        found = run.metrics[f"{HOME}/true_positive_rate/sex/{sex}"]
        assert (found.value, found.n) == (sum(hits) / len(positives), len(positives))
        less = sum((row["decision"] == row["label"]) - here for row, here in zip(rows, right, strict=True)) / len(rows)
        found = run.metrics[f"{HOME}/accuracy_difference/sex/{sex}"]
        assert found.value == pytest.approx(less, abs=1e-12)
        assert found.low is not None
        assert found.high is not None
        assert found.low <= found.value <= found.high
    assert "Beside the run toy/" in (run.folder / "report.html").read_text(encoding="utf-8")
    other.folder.rename(tmp_path / "elsewhere")  # what is told of a twin needs no twin
    assert verify(run.folder).problems == []


def test_a_twin_of_other_rows_or_classes_is_refused(toy: dict[str, Any], data: dict[str, Any], tmp_path: Path) -> None:
    other = execute(Stack.load(toy))
    with pytest.raises(
        ConfigError, match=r"fairness\.group-audit\.twin: .* decided other rows of test \(0 of this run's 60"
    ):
        private({**toy, "data": data}, other)
    rows = [json.loads(line) for line in Path(toy["data"]["test"]).read_text().splitlines()]
    third = {**rows[0], "text": "note", "label": "dead"}
    train = [json.loads(line) for line in Path(toy["data"]["train"]).read_text().splitlines()]
    toy["data"] = {**toy["data"], "train": write_rows(tmp_path / "train.jsonl", [*train, third])}
    with pytest.raises(ConfigError, match=r"tells other classes apart \(sick, well\)"):
        private(toy, other)
    with pytest.raises(ConfigError, match=r"holds no decisions of test .*name a finished run"):
        private(toy, other, twin=str(tmp_path / "nowhere"))


def test_sealed_runs_are_audited_beside_each_other(
    toy: dict[str, Any], data: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UPRIGHT_KEY", base64.b64encode(os.urandom(32)).decode())
    toy |= {"data": data, "privacy": "encrypt"}
    other = execute(Stack.load(toy))
    audit = {"use": "group-audit", "groups": ["sex"], "twin": str(other.folder)}
    toy["fairness"] = [audit, {"use": "group-probe", "groups": ["sex"]}, "counterfactual-flips"]
    run = execute(Stack.load({**toy, "name": "sealed"}))
    found = verify(run.folder)
    assert (found.problems, found.sealed) == ([], None)
    assert f"{HOME}/accuracy/sex/f" in run.metrics
    for path in (run.folder / "steps").rglob("*.parquet"):
        assert path.read_bytes()[:4] != b"PAR1"
    monkeypatch.delenv("UPRIGHT_KEY")
    with pytest.raises(ConfigError, match="UPRIGHT_KEY is not set"):
        execute(Stack.load({**toy, "name": "open", "privacy": []}))


# --- the interval ---------------------------------------------------------------------------------------------------


def newcombe(one: list[bool], other: list[bool], z: float) -> tuple[float, float]:
    """Method 10 as the paper writes it, with its own names: e, f, g, h are the cells, n their sum."""

    def score(x: int, n: int) -> tuple[float, float]:
        middle, half = 2 * x + z * z, z * (z * z + 4 * x * (n - x) / n) ** 0.5
        return (middle - half) / (2 * (n + z * z)), (middle + half) / (2 * (n + z * z))

    pairs = list(zip(one, other, strict=True))
    e, f, g, h = (pairs.count(cell) for cell in ((True, True), (True, False), (False, True), (False, False)))
    n = e + f + g + h
    l2, u2 = score(e + f, n)
    l3, u3 = score(e + g, n)
    bottom = (e + f) * (g + h) * (e + g) * (f + h)
    top = e * h - f * g
    if top > n / 2:
        top = top - n / 2
    elif top >= 0:
        top = 0
    phi = top / bottom**0.5 if bottom else 0.0
    p2, p3 = (e + f) / n, (e + g) / n
    dl2, du2, dl3, du3 = p2 - l2, u2 - p2, p3 - l3, u3 - p3
    delta = (dl2**2 - 2 * phi * dl2 * du3 + du3**2) ** 0.5
    epsilon = (du2**2 - 2 * phi * du2 * dl3 + dl3**2) ** 0.5
    return p2 - p3 - delta, p2 - p3 + epsilon


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=40), st.integers(1, 20))
def test_the_paired_interval_is_the_papers(pairs: list[tuple[bool, bool]], groups: int) -> None:
    one, other = ([pair[n] for pair in pairs] for n in (0, 1))
    value, *bounds = twin.paired(np.array(one), np.array(other), sidak(groups))
    assert value == pytest.approx(sum(one) / len(one) - sum(other) / len(other), abs=1e-12)
    np.testing.assert_allclose(bounds, newcombe(one, other, sidak(groups)), atol=1e-9)


def test_the_paired_interval_is_the_published_one() -> None:
    """Newcombe (1998): cells of 36, 12, 2 and 0 pairs give 0.2000, 0.0569 to 0.3404 by method 10."""
    cells = [(True, True)] * 36 + [(True, False)] * 12 + [(False, True)] * 2
    value, low, high = twin.paired(*(np.array([cell[n] for cell in cells]) for n in (0, 1)), 1.959964)
    assert (round(value, 3), round(low, 4), round(high, 4)) == (0.2, 0.0569, 0.3404)


def coverage(interval: Callable[..., tuple[float, float, float]]) -> float:
    """How often the interval of 80 rows, of which two runs agree on most, holds the true difference of .1."""
    chance, held, trials = np.random.default_rng(3), 0, 1000
    for _ in range(trials):
        other = chance.random(80) < 0.7
        one = np.where(chance.random(80) < 1 / 3, True, other)  # P(one) = .7 + .3 / 3
        _, low, high = interval(one, other, sidak(1))
        held += low <= 0.1 <= high
    return held / trials


def apart(one: np.ndarray, other: np.ndarray, quantile: float) -> tuple[float, float, float]:
    """As if the rows of the two were not the same: much too wide."""
    shuffled = np.array(random.Random(0).sample(other.tolist(), len(other)))
    return twin.paired(one, shuffled, quantile)


def of_one_error(one: np.ndarray, other: np.ndarray, quantile: float) -> tuple[float, float, float]:
    return twin.paired(one, other, 1.0)


def test_the_paired_interval_covers_as_often_as_it_says() -> None:
    assert 0.93 <= coverage(twin.paired) <= 0.985  # 1,000 draws of .95 +- three of .0069, and the method errs upwards


@pytest.mark.parametrize("mutant", [apart, of_one_error])
def test_mutant_intervals_are_noticed(mutant: Callable[..., tuple[float, float, float]]) -> None:
    assert not 0.93 <= coverage(mutant) <= 0.985
