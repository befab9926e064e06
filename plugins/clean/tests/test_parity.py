"""The parity gate: intervals that keep their coverage, drops over the cap that go to review, verdicts that verify."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from outside_steps import with_steps
from scipy.optimize import brentq, minimize_scalar

from conftest import write_rows
from upright import Decisions, Scope, Stack, Step, hook
from upright.engine.execute import execute
from upright.evidence.ledger import read_ledger
from upright.evidence.verify import verify
from upright_clean import removals, risk_ratio
from upright_clean.parity import Parity

CRITICAL = 1.959963984540054**2


# --- the interval ---------------------------------------------------------------------------------------------------


def pearson(ratio: float, x1: int, n1: int, x2: int, n2: int) -> float:
    """Oracle: Koopman's statistic as Pearson's chi-square of the four cells, the likeliest rates found by search."""

    def deviance(p2: float) -> float:
        p1 = ratio * p2
        cells = ((x1, p1), (n1 - x1, 1 - p1), (x2, p2), (n2 - x2, 1 - p2))
        return -sum(count * np.log(max(p, 1e-300)) for count, p in cells if count)

    best = minimize_scalar(
        deviance, bounds=(1e-12, min(1, 1 / ratio) - 1e-12), method="bounded", options={"xatol": 1e-13}
    )
    p2 = float(best.x)
    expected = ((x1, n1 * ratio * p2), (n1 - x1, n1 * (1 - ratio * p2)), (x2, n2 * p2), (n2 - x2, n2 * (1 - p2)))
    return float(sum((count - mean) ** 2 / mean for count, mean in expected))


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_the_interval_is_where_pearsons_chi_square_begins_to_reject(data: Any) -> None:
    n1, n2 = data.draw(st.integers(30, 300)), data.draw(st.integers(30, 3000))
    x1, x2 = data.draw(st.integers(1, n1 - 1)), data.draw(st.integers(1, n2 - 1))
    value, low, high = (float(part[0]) for part in risk_ratio.risk_ratio(*(np.array([n]) for n in (x1, n1, x2, n2))))
    assert value == pytest.approx((x1 / n1) / (x2 / n2), rel=1e-12)
    edge = [
        brentq(lambda r: pearson(r, x1, n1, x2, n2) - CRITICAL, *sorted((value, end)), rtol=1e-10)
        for end in (value / 500, value * 500)
        if pearson(end, x1, n1, x2, n2) > CRITICAL
    ]
    # The oracle's search for the likeliest rate is good to about 1e-8 in the rate, hence in the ends.
    assert [low, high] == pytest.approx(edge, rel=1e-4)


def covered(interval: Callable[..., Any], seed: int) -> np.ndarray:
    """The share of 3000 draws whose interval holds the true ratio, for each of 60 random pairs of rates."""
    chance = np.random.default_rng(seed)
    shares = []
    for _ in range(60):
        n1, n2 = (np.full(3000, chance.integers(30, most)) for most in (400, 4000))
        p2 = np.exp(chance.uniform(np.log(0.01), np.log(0.5)))
        p1 = min(p2 * np.exp(chance.uniform(-1.4, 1.4)), 0.95)
        x1, x2 = chance.binomial(n1, p1), chance.binomial(n2, p2)
        _, low, high = interval(x1, n1, x2, n2)
        shares.append(np.mean((low <= p1 / p2) & (p1 / p2 <= high)))
    return np.array(shares)


def test_the_interval_keeps_its_coverage_where_counts_are_small() -> None:
    shares = covered(risk_ratio.risk_ratio, 7)
    # A score interval is exact on average and not for each rate (Koopman, 1984, table 1): the worst measured is .935, and
    # 3000 draws have a standard error of .004.
    assert shares.mean() > 0.945
    assert shares.min() > 0.92


def test_mutant_intervals_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The variance of equal rates (that of a test of no difference); the others' rate taken as known; Katz's interval."""

    def equal_rates(x1: Any, n1: Any, x2: Any, n2: Any, ratio: Any) -> Any:
        p = (x1 + x2) / (n1 + n2)
        return (x1 / n1 - ratio * x2 / n2) ** 2 / np.maximum(p * (1 - p) * (1 / n1 + 1 / n2), 1e-300)

    def others_known(x1: Any, n1: Any, x2: Any, n2: Any, ratio: Any) -> Any:
        p1 = np.minimum(ratio * x2 / n2, 1)
        return (x1 / n1 - p1) ** 2 / np.maximum(p1 * (1 - p1) / n1, 1e-300)

    def katz(x1: Any, n1: Any, x2: Any, n2: Any) -> Any:
        with np.errstate(all="ignore"):
            middle, half = np.log(x1 / n1 / (x2 / n2)), 1.96 * np.sqrt(1 / x1 - 1 / n1 + 1 / x2 - 1 / n2)
            return None, np.exp(middle - half), np.exp(middle + half)

    for mutant in (equal_rates, others_known):
        monkeypatch.setattr(risk_ratio, "_statistic", mutant)
        shares = covered(risk_ratio.risk_ratio, 7)
        assert shares.mean() < 0.945 or shares.min() < 0.92, mutant.__name__
    assert covered(katz, 7).min() < 0.92


def any_off() -> float:
    """How often one of 40 groups seems to differ, where none does."""
    chance = np.random.default_rng(3)
    rows = chance.integers(40, 200, 40)
    names = [str(n) for n in range(40)]
    return float(
        np.mean(
            [
                any(
                    one.low > 1 or one.high < 1
                    for one in removals.compared(names, rows, chance.binomial(rows, 0.1), 30)
                )
                for _ in range(200)
            ]
        )
    )


def test_intervals_of_all_groups_hold_together(monkeypatch: pytest.MonkeyPatch) -> None:
    # 95 % together: 5 % of 200 is 10, with a standard deviation of 3
    assert any_off() < 0.1
    plain = risk_ratio.risk_ratio
    monkeypatch.setattr(risk_ratio, "risk_ratio", lambda x1, n1, x2, n2, level: plain(x1, n1, x2, n2, 0.95))
    assert any_off() > 0.5, "mutant: forty intervals of 95 % each"


def test_where_nothing_is_removed_nothing_is_said() -> None:
    zero, hundred = np.array([0, 5, 0]), np.array([100, 100, 100])
    value, low, high = risk_ratio.risk_ratio(zero, hundred, np.array([0, 0, 5]), hundred)
    assert (value[0], low[0], high[0]) == (1, 0, np.inf)
    assert value[1] > low[1] > 1
    assert high[1] == np.inf
    assert low[2] == 0
    assert value[2] == 0
    assert high[2] < 1


# --- what goes to review --------------------------------------------------------------------------------------------


def oracle_low(x1: int, n1: int, x2: int, n2: int, tests: int) -> float:
    """The lower end by stepping down from the point in steps of 2 %, so up to 2 % too low."""
    from scipy.stats import chi2

    critical = float(chi2.isf(0.05 / tests, 1))
    if not x1:
        return 0.0
    ratio = (x1 / n1) / (x2 / n2) if x2 else 1e6
    while ratio > 1e-3 and (ratio * x2 / n2 > 1 or pearson(ratio, x1, n1, x2, n2) <= critical):
        ratio /= 1.02
    return ratio


Columns = list[tuple[list[str], np.ndarray, np.ndarray]]


@st.composite
def drops(draw: Any) -> tuple[Columns, np.ndarray]:
    """Two columns of 2 to 4 groups over 400 rows, with drops of different rates, and each drop's strength."""
    chance = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    codes = [
        chance.choice(k, 400, p=chance.dirichlet(np.full(k, 2.0))) for k in draw(st.tuples(*[st.integers(2, 4)] * 2))
    ]
    rate = chance.uniform(0.02, 0.5, 4)[codes[0]] * chance.uniform(0.3, 1, 4)[codes[1]]
    dropped = chance.random(400) < rate
    columns = [
        (
            [str(n) for n in range(code.max() + 1)],
            np.bincount(code),
            np.where(chance.random(400) < 0.05, -1, code)[dropped],
        )
        for code in codes
    ]
    return columns, chance.permutation(int(dropped.sum())).astype(np.float64)


def check_review(columns: Columns, strength: np.ndarray, spared: np.ndarray) -> None:
    """Nobody is left over the cap; who is spared scores below each row of all the same groups that is not."""
    for names, rows, codes in columns:
        kept = codes[~spared]
        removed = np.bincount(kept[kept >= 0], minlength=len(names))
        judged = [n for n in range(len(names)) if min(rows[n], rows.sum() - rows[n]) >= 30]
        for n in judged:
            low = oracle_low(
                int(removed[n]),
                int(rows[n]),
                int(removed.sum() - removed[n]),
                int(rows.sum() - rows[n]),
                1 if len(names) == 2 else len(judged) + 1,  # the small groups together may be one more
            )
            assert low <= 1.25 * 1.01
    for one in np.flatnonzero(spared):
        alike = np.all([codes == codes[one] for _, _, codes in columns], axis=0)
        assert not np.any(strength[alike & ~spared] < strength[one])


@settings(max_examples=15, deadline=None)
@given(drops())
def test_after_review_no_group_is_over_the_cap_and_the_weakest_went(given_: tuple[Columns, np.ndarray]) -> None:
    columns, strength = given_
    spared = removals.over_cap(columns, strength, 1.25, 30)
    check_review(columns, strength, spared)


def test_mutant_reviews_are_noticed() -> None:
    """One that spares the strongest, one that reviews nothing."""
    chance = np.random.default_rng(0)
    codes = np.array([0] * 40 + [1] * 20)
    columns = [(["a", "b"], np.array([100, 300]), codes)]
    strength = chance.permutation(60).astype(np.float64)
    check_review(columns, strength, removals.over_cap(columns, strength, 1.25, 30))
    with pytest.raises(AssertionError):
        check_review(columns, strength, removals.over_cap(columns, -strength, 1.25, 30))
    with pytest.raises(AssertionError):
        check_review(columns, strength, np.zeros(60, dtype=bool))


def test_a_reviewed_group_keeps_what_the_cap_allows() -> None:
    columns = [(["a", "b"], np.array([100, 300]), np.array([0] * 40 + [1] * 30))]
    spared = removals.over_cap(columns, np.arange(70.0), 1.25, 30)
    assert int((~spared[:40]).sum()) == 12  # floor(1.25 * 30 / 300 * 100)
    assert not spared[40:].any()


def test_small_groups_are_judged_together() -> None:
    names = ["big", *"abcdefgh"]
    rows = np.array([400, *[20] * 8])
    found = {one.name: one for one in removals.compared(names, rows, np.array([20, *[8] * 8]), 30)}
    assert not any(found[name].judged for name in "abcdefgh")
    assert found[removals.SMALL].judged
    assert found[removals.SMALL].low > 1.25
    assert found[removals.SMALL].value == pytest.approx(8)


# --- the step -------------------------------------------------------------------------------------------------------


class Dropper(Step):
    """Drop the rows whose `score` (the text's last word) is under a threshold, as an outside cleaner would."""

    scope: ClassVar[Scope] = Scope()
    threshold: float = 0.3

    @hook
    def clean(self, rows: Dataset) -> Decisions:
        decisions = Decisions()
        for row in rows:
            score = float(row["text"].split()[-1])
            if score < self.threshold:
                decisions.add(row["row_id"], "drop", "low-score", score=score, threshold=self.threshold)
        return decisions


def like_cleanlab(seed: int = 0, rare: float = 0.346, common: float = 0.037) -> list[dict[str, Any]]:
    """Rows of one large and five small classes; 34.6 % of the small ones' and 3.7 % of the large one's score low."""
    chance = np.random.default_rng(seed)
    classes = ["common"] * 500 + [f"rare/{n % 5}" for n in range(110)]
    rows = []
    for number, label in enumerate(classes):
        low = chance.random() < (rare if label != "common" else common)
        score = chance.uniform(0, 0.3) if low else chance.uniform(0.3, 1)
        rows.append({"text": f"row {number} {score:.6f}", "label": label, "sex": str(chance.choice(["f", "m"]))})
    return rows


def cleaned(folder: Path, rows: list[dict[str, Any]], steps: list[Any], *outside: Step, **data: Any) -> Any:
    folder.mkdir(exist_ok=True)
    files = {"train": write_rows(folder / "train.jsonl", rows), "test": write_rows(folder / "test.jsonl", rows[::2])}
    stack = Stack.load(
        {"data": {**files, "sensitive": ["sex"], **data}, "clean": steps, "output": str(folder / "runs")}
    )
    assert stack.cleans_only
    return execute(with_steps(stack, *[("clean", f"outside-{n}", step) for n, step in enumerate(outside)]))


def test_the_gate_fires_on_a_cleaner_that_eats_small_classes(tmp_path: Path) -> None:
    rows = like_cleanlab()
    run = cleaned(tmp_path, rows, ["parity"], Dropper())
    by_column = {verdict.gate.split()[-1]: verdict for verdict in run.verdicts}
    assert by_column["label"].judgement == "violated"
    assert removals.SMALL in by_column["label"].sentence
    assert by_column["sex"].judgement != "violated"
    assert run.exit_code == 0
    ledger = read_ledger(run.folder).to_pylist()
    reviewed = [entry for entry in ledger if entry["reason"] == "review:low-score"]
    wanted = [entry for entry in ledger if entry["split"] == "train"]
    assert {entry["action"] for entry in reviewed} == {"flag"}
    assert all(entry["score"] is not None for entry in reviewed)
    home = "run/clean/parity"
    assert run.metrics[f"{home}/drops_wanted/outside-0/train"].value == len(wanted)
    assert (
        run.metrics[f"{home}/drops_done/outside-0/train"].value
        == len(wanted) - len(reviewed)
        == 610 - len(run.data["train"])
    )
    told = run.metrics[f"{home}/removal_ratio_wanted/outside-0/train/label/{removals.SMALL}"]
    assert told.source == "ledger"
    assert told.low is not None
    assert told.low > 1.25
    assert run.metrics[f"{home}/removal_ratio_done/outside-0/train/label/{removals.SMALL}"].low <= 1.25
    assert "rare_3" in str(run.metrics.keys())
    assert all(entry["reason"] == "low-score" for entry in ledger if entry["split"] == "test")
    assert "Removal parity" in (run.folder / "report.html").read_text()


def test_the_gate_passes_what_removes_evenly_or_nothing(tmp_path: Path) -> None:
    run = cleaned(tmp_path, like_cleanlab(rare=0.05, common=0.05), ["parity"], Dropper())
    assert {verdict.judgement for verdict in run.verdicts} <= {"met", "insufficient evidence"}
    assert not any(entry["reason"].startswith("review") for entry in read_ledger(run.folder).to_pylist())
    nothing = cleaned(tmp_path / "second", like_cleanlab(), ["parity", "unicode"])
    assert [verdict.judgement for verdict in nothing.verdicts] == ["met"]


def test_few_rows_are_insufficient_evidence(tmp_path: Path) -> None:
    rows = [{"text": f"row {n} {n % 2}.0", "label": "ab"[n % 2], "sex": "fm"[n % 2]} for n in range(40)]
    run = cleaned(tmp_path, rows, ["parity"], Dropper())
    assert {verdict.judgement for verdict in run.verdicts} == {"insufficient evidence"}
    assert len(run.data["train"]) == 20


def test_a_gate_that_blocks_ends_with_four_after_the_review(tmp_path: Path) -> None:
    run = cleaned(tmp_path, like_cleanlab(), [{"use": "parity", "on_fail": "block"}], Dropper())
    assert run.exit_code == 4
    assert any(entry["reason"] == "review:low-score" for entry in read_ledger(run.folder).to_pylist())


def test_verify_derives_the_figures_from_the_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{**row, "text": row["text"] if float(row["text"].split()[-1]) > 0.3 else "x"} for row in like_cleanlab()]
    run = cleaned(tmp_path, rows, ["parity", {"use": "length", "min_words": 2}])
    assert "violated" in {verdict.judgement for verdict in run.verdicts}
    assert verify(run.folder).problems == []
    path = run.folder / "steps" / "parity" / "length.train.json"
    record = json.loads(path.read_text())
    record["columns"]["label"]["wanted"][0] += 20
    path.write_text(json.dumps(record))
    problems = " ".join(verify(run.folder).problems)
    assert "removal_ratio_wanted/length/train" in problems
    path.unlink()
    assert "follows from nothing" in " ".join(verify(run.folder).problems)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**32 - 1), st.booleans())
def test_the_order_of_rows_decides_nothing(tmp_path_factory: pytest.TempPathFactory, seed: int, scored: bool) -> None:
    rows = like_cleanlab(seed % 100)
    data = [{"row_id": f"{n:04x}", **row} for n, row in enumerate(rows)]
    folder = tmp_path_factory.mktemp("order")
    run: Any = SimpleNamespace(
        key=lambda step: "outside",
        step_folder=lambda step: folder,
        config=SimpleNamespace(data=SimpleNamespace(sensitive=["sex"])),
    )

    def reviewed(order: np.ndarray) -> tuple[dict[str, str], str]:
        given_ = Dataset.from_list([data[n] for n in order])
        decisions = Dropper().clean(given_)
        if not scored:
            decisions.columns["score"] = [None] * len(decisions)
        around: Any = Parity().clean(given_, "train", Dropper(), run)
        next(around)
        try:
            around.send(decisions)
        except StopIteration as stop:
            told = dict(zip(stop.value.columns["row_id"], stop.value.columns["action"], strict=True))
        return told, (folder / "outside.train.json").read_text()

    chance = np.random.default_rng(seed)
    first = reviewed(np.arange(len(data)))
    assert set(first[0].values()) == {"drop", "flag"}
    assert reviewed(chance.permutation(len(data))) == first


def test_missing_groups_and_labels_that_are_numbers(tmp_path: Path) -> None:
    rows = [{**row, "sex": None if n % 7 == 0 else row["sex"]} for n, row in enumerate(like_cleanlab())]
    run = cleaned(tmp_path, rows, ["parity"], Dropper())
    record = json.loads((run.folder / "steps" / "parity" / "outside-0.train.json").read_text())
    assert sum(record["columns"]["sex"]["rows"]) == sum(row["sex"] is not None for row in rows)
    numbers = Dataset.from_dict({"label": [2, 0, 2]})
    assert removals.group_columns(numbers, []) == ["label"]
    assert removals.grouped(numbers, "label")[1].tolist() == [1, 0, 1]
    assert removals.group_columns(Dataset.from_dict({"labels": [["O"]]}), ["sex"]) == []
