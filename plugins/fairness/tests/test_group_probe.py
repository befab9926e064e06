"""Probes of the group: what they tell is scikit-learn's figure, chance is told as chance, and nothing of them is shipped."""

from __future__ import annotations

from collections.abc import Callable
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from conftest import toy_rows, write_rows
from upright import Stack
from upright.engine.execute import execute
from upright.errors import ConfigError
from upright.evidence.verify import verify
from upright_fairness import probes

HOME = "run/fairness/group-probe/test"


@given(
    st.integers(2, 4).flatmap(
        lambda count: st.lists(
            st.tuples(st.integers(0, count - 1), st.tuples(*[st.integers(-3, 3)] * count)), min_size=6, max_size=30
        )
    )
)
def test_the_balanced_auc_is_scikit_learns(rows: list[tuple[int, tuple[int, ...]]]) -> None:
    codes, scores = np.array([code for code, _ in rows]), np.array([one for _, one in rows], dtype=float)
    count = scores.shape[1]
    if len(set(codes.tolist())) < count:
        return
    if count == 2:
        expected = roc_auc_score(codes, scores[:, 1] - scores[:, 0])
    else:
        expected = np.mean([roc_auc_score(codes == group, scores[:, group]) for group in range(count)])
    told = probes.balanced_auc(scores, codes)
    assert told.value == pytest.approx(expected, abs=1e-12)
    assert told.low <= told.value <= told.high


def test_the_null_is_that_of_all_ways_to_deal_the_groups() -> None:
    codes, scores = np.array([0, 1, 2, 0, 1, 2]), np.random.default_rng(0).normal(size=(6, 3))
    every = [probes.balanced_auc(scores, np.array(dealt)).value for dealt in permutations(codes)]
    drawn = probes.permuted(scores, codes, seed=0, permutations=4000)
    # 4,000 draws: the mean's standard error is .003, a quantile's about .006
    assert drawn.mean() == pytest.approx(np.mean(every), abs=0.01)
    assert np.percentile(drawn, [10, 90]) == pytest.approx(np.percentile(every, [10, 90]), abs=0.03)


def significant(permuted: Callable[..., np.ndarray]) -> float:
    """How often scores that know nothing of the group look as if they did, at the level of .05."""
    chance, found = np.random.default_rng(1), 0
    for seed in range(400):
        codes, scores = chance.integers(0, 3, 90), chance.normal(size=(90, 3))
        null = permuted(scores, codes, seed, 200)
        found += (1 + (null >= probes.balanced_auc(scores, codes).value).sum()) / 201 <= 0.05
    return found / 400


def without_spread(scores: np.ndarray, codes: np.ndarray, seed: int, count: int) -> np.ndarray:
    return np.full(count, 0.5)


def test_what_knows_nothing_is_significant_as_often_as_the_level_says() -> None:
    assert significant(probes.permuted) <= 0.083  # .05 and three standard deviations of 400 draws


def test_mutant_null_is_noticed() -> None:
    assert significant(without_spread) > 0.083


def covered(draws: int) -> float:
    """How often the interval of three groups' mean AUC holds the true one; each group's score is higher by 1 for its own."""
    from statistics import NormalDist

    true, chance, held = NormalDist().cdf(1 / 2**0.5), np.random.default_rng(2), 0
    for _ in range(draws):
        codes = chance.integers(0, 3, 120)
        told = probes.balanced_auc(chance.normal(size=(120, 3)) + np.eye(3)[codes], codes)
        held += told.low <= true <= told.high
    return held / draws


def test_the_interval_of_the_mean_covers_at_least_as_often_as_it_says() -> None:
    assert covered(1000) >= 0.95


def test_mutant_interval_of_one_standard_error_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probes, "bonferroni", lambda count: 0.5)
    assert covered(300) < 0.95


# --- what probes find -----------------------------------------------------------------------------------------------


Make = Callable[[np.random.Generator, int], tuple[np.ndarray, np.ndarray]]


def told(kind: str, make: Make, seed: int = 0, fit: int = 300) -> Any:
    """What a probe of ``fit`` rows tells of 1,000 others."""
    chance = np.random.default_rng(seed)
    probe = probes.fitted(kind, *make(chance, fit), seed)
    rows, codes = make(chance, 1000)
    return probes.balanced_auc(probe(rows), codes)


def along_a_line(chance: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
    codes = chance.integers(0, 2, count)
    rows = chance.normal(size=(count, 16))
    rows[:, 3] += codes
    return rows, codes


def by_two_signs(chance: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
    """No direction tells the group, as after linear erasure; two together do."""
    rows = chance.normal(size=(count, 8))
    return rows, (rows[:, 0] * rows[:, 1] > 0).astype(int)


def by_lot(chance: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
    return chance.normal(size=(count, 16)), chance.integers(0, 2, count)


def three_along_lines(chance: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
    codes = chance.integers(0, 3, count)
    return chance.normal(size=(count, 8)) + 1.5 * np.eye(8)[codes], codes


def test_both_find_a_group_along_a_line() -> None:
    assert told("linear", along_a_line).low > 0.65
    assert told("non_linear", along_a_line).low > 0.65
    assert told("linear", three_along_lines).low > 0.75
    assert told("non_linear", three_along_lines).low > 0.75


def test_only_the_non_linear_probe_finds_what_linear_erasure_leaves() -> None:
    linear = told("linear", by_two_signs)
    assert linear.low < 0.5 < linear.high
    assert told("non_linear", by_two_signs).low > 0.8


def test_mutant_linear_probe_in_both_places_is_noticed() -> None:
    assert told("linear", by_two_signs).low <= 0.8


@pytest.mark.parametrize("kind", probes.KINDS)
def test_neither_finds_a_group_that_is_not_there(kind: str) -> None:
    # of five intervals at .95, at most two miss: three or more have a chance of .001
    assert sum(not (one := told(kind, by_lot, seed, 100)).low <= 0.5 <= one.high for seed in range(5)) <= 2


# --- in a run -------------------------------------------------------------------------------------------------------


@pytest.fixture
def probed(toy: dict[str, Any], tiny_mean: Path, tmp_path: Path) -> dict[str, Any]:
    """Rows whose first word says the group, more or less; some of no group, three of a group too small to probe."""
    for seed, name in enumerate(("train", "validation", "test")):
        rows = toy_rows(90, seed + 40)
        for number, row in enumerate(rows):
            row["text"] = f"{'today' if row['sex'] == 'f' else 'mild'} {row['text']}"
            row["sex"] = None if number % 9 == 0 else "x" if number in (1, 2, 3) else row["sex"]
        toy["data"][name] = write_rows(tmp_path / f"{name}.jsonl", rows)
    toy["model"]["base"] = str(tiny_mean)
    return toy


def test_a_run_tells_both_probes_and_ships_neither(probed: dict[str, Any], tmp_path: Path) -> None:
    plain = execute(Stack.load({**probed, "output": str(tmp_path / "plain")}))
    run = execute(Stack.load({**probed, "fairness": {"use": "group-probe", "groups": ["sex"]}}))
    rows = pq.read_table(run.folder / "steps" / "group-probe" / "test.parquet").to_pylist()
    assert {row["group"] for row in rows} == {"f", "m"}
    known = dict(zip(run.data["test"]["row_id"][:], run.data["test"]["sex"][:], strict=True))
    assert all(known[row["row_id"]] == row["group"] for row in rows)
    assert len(rows) == sum(group in ("f", "m") for group in known.values())
    for kind in probes.KINDS:
        auc, null = run.metrics[f"{HOME}/{kind}_auc/sex"], run.metrics[f"{HOME}/{kind}_auc_null/sex"]
        assert auc.n == null.n == len(rows)
        assert auc.low is not None
        assert auc.low > 0.5
        assert run.metrics[f"{HOME}/{kind}_p_value/sex"].value < 0.05
    assert verify(run.folder).problems == []
    model, without = (
        {path.name: path.read_bytes() for path in (one.folder / "model").iterdir()} for one in (run, plain)
    )
    assert model == without
    assert [path.name for path in (run.folder / "steps" / "group-probe").iterdir()] == ["test.parquet"]
    assert "Can the group be told" in (run.folder / "report.html").read_text(encoding="utf-8")


def test_it_runs_beside_privacy_and_reads_no_train_row(probed: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    from upright import Run

    asked, features = [], Run.features
    monkeypatch.setattr(Run, "features", lambda run, rows: (asked.extend(rows["row_id"][:]), features(run, rows))[1])
    probed["privacy"] = {"use": "dp-sgd", "noise_multiplier": 1.0, "delta": 1e-3}
    run = execute(Stack.load({**probed, "fairness": {"use": "group-probe", "groups": ["sex"]}}))
    assert run.exit_code == 0
    assert not set(asked) & set(run.data["train"]["row_id"][:])
    assert set(asked) == {*run.data["validation"]["row_id"][:], *run.data["test"]["row_id"][:]}


def test_where_nothing_can_be_known_the_report_says_so(probed: dict[str, Any]) -> None:
    run = execute(Stack.load({**probed, "fairness": {"use": "group-probe", "groups": ["sex"], "min_rows": 80}}))
    assert not [key for key in run.metrics if key.startswith(HOME)]
    assert "Fewer than two groups have 80 rows" in (run.folder / "report.html").read_text(encoding="utf-8")


def test_what_cannot_be_probed_is_refused_before_training(probed: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"'age' is not in data\.sensitive"):
        execute(Stack.load({**probed, "fairness": {"use": "group-probe", "groups": ["age"]}}))
    probed["data"].pop("test")
    with pytest.raises(ConfigError, match=r"fairness\.group-probe: fits on validation and measures on a test split"):
        execute(Stack.load({**probed, "fairness": {"use": "group-probe", "groups": ["sex"]}}))
