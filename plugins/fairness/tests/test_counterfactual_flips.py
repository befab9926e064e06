"""The flip rate: the exported model asked again in a loop over texts that are swapped by hand gives the same figures."""

from __future__ import annotations

import contextlib
import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from conftest import toy_rows, write_rows
from upright import Predictions, Stack
from upright.engine.execute import execute
from upright.errors import ConfigError
from upright.evidence.verify import verify
from upright_fairness.counterfactual_flips import CounterfactualFlips, with_swapped

PAIRS = {"fever": "walk", "cough": "smile", "note": "patient"}
HOME = "run/fairness/counterfactual-flips/test"


def wilson(hits: int, rows: int, groups: int) -> tuple[float, float]:
    """scipy's, at the level at which as many independent ones hold at once."""
    from scipy.stats import binomtest

    found = binomtest(hits, rows).proportion_ci(0.95 ** (1 / groups), method="wilson")
    return float(found.low), float(found.high)


@pytest.fixture
def swapping(toy: dict[str, Any], tiny_mean: Path, tmp_path: Path) -> dict[str, Any]:
    """A model that has learned the words that are swapped; a third of the test rows hold none of them."""
    terms = tmp_path / "terms.tsv"
    terms.write_text("# pairs\n" + "".join(f"{one}\t{other}\n" for one, other in PAIRS.items()))
    rows = toy_rows(60, 7)
    for row in rows[::3]:
        row["sex"] = None
    toy["data"]["test"] = write_rows(tmp_path / "test.jsonl", rows)
    toy["model"]["base"] = str(tiny_mean)
    toy["prompt"] = {"use": "template", "text": "note: {text}"}
    toy["train"] = {"max_steps": 30, "batch_size": 16, "learning_rate": 0.05, "head_learning_rate": 0.1}
    toy["fairness"] = {"use": "counterfactual-flips", "terms": str(terms), "groups": ["sex"], "max_flip_rate": 0.05}
    return toy


def test_figures_are_those_of_the_exported_model_asked_in_a_loop(swapping: dict[str, Any]) -> None:
    import torch

    run = execute(Stack.load(swapping))
    space: dict[str, Any] = {"folder": str(run.folder / "model")}
    exec(json.loads((run.folder / "evidence" / "export.json").read_text())["how_to_load"], space)
    table = {**PAIRS, **{other: one for one, other in PAIRS.items()}}

    def scores(text: str) -> list[float]:
        with torch.no_grad():
            found: list[float] = torch.softmax(space["logits"](["note: " + text]).double(), -1)[0].tolist()
        return found

    flips: dict[str, list[bool]] = {"": [], "/sex/f": [], "/sex/m": []}
    changes: dict[str, list[float]] = {"": [], "/sex/f": [], "/sex/m": []}
    for line in Path(swapping["data"]["test"]).read_text().splitlines():
        row = json.loads(line)
        words = re.split(r"\b", row["text"])
        if any(word in table for word in words):
            one, other = scores(row["text"]), scores("".join(table.get(word, word) for word in words))
            for key in ["", *([f"/sex/{row['sex']}"] if row["sex"] else [])]:
                flips[key].append(one.index(max(one)) != other.index(max(other)))
                changes[key].append(sum(abs(a - b) for a, b in zip(one, other, strict=True)) / 2)
    assert 0 < sum(flips[""]) < len(flips[""]) < 60
    assert run.metrics[f"{HOME}/rows_with_a_term"].value == len(flips[""])
    for key in flips:
        rate, change = run.metrics[f"{HOME}/flip_rate{key}"], run.metrics[f"{HOME}/mean_absolute_score_change{key}"]
        assert rate.n == change.n == len(flips[key])
        assert rate.value == sum(flips[key]) / len(flips[key])
        bounds = wilson(sum(flips[key]), len(flips[key]), 2 if key else 1)
        np.testing.assert_allclose([rate.low, rate.high], bounds, atol=1e-12)
        assert math.isclose(change.value, sum(changes[key]) / len(changes[key]), abs_tol=1e-5)  # float32, other padding
    assert run.verdicts[0].judgement == "violated"
    assert verify(run.folder).problems == []
    held = {path.name for path in (run.folder / "steps" / "counterfactual-flips").iterdir()}
    assert held == {"terms.tsv", "test.parquet"}
    page = (run.folder / "report.html").read_text(encoding="utf-8")
    assert "Decisions with identity terms swapped" in page
    assert f"{len(flips[''])} of 60 rows of test hold a term" in page


def test_figures_that_were_changed_are_found(swapping: dict[str, Any]) -> None:
    run = execute(Stack.load(swapping))
    path = run.folder / "metrics.json"
    told = json.loads(path.read_text())
    told[f"{HOME}/flip_rate"]["value"] = 0.0
    path.write_text(json.dumps(told))
    assert any("flip_rate" in problem for problem in verify(run.folder).problems)


def test_without_a_term_in_the_rows_nothing_is_known(swapping: dict[str, Any]) -> None:
    swapping["fairness"].pop("terms")  # the shipped list: no toy row holds one of its terms
    run = execute(Stack.load(swapping))
    assert not [key for key in run.metrics if key.startswith(HOME)]
    assert run.verdicts[0].judgement == "insufficient evidence"
    assert "No row holds a term" in (run.folder / "report.html").read_text(encoding="utf-8")


def test_what_cannot_be_swapped_is_refused_before_training(swapping: dict[str, Any], tmp_path: Path) -> None:
    swapping["fairness"]["terms"] = str(tmp_path / "none.tsv")
    with pytest.raises(ConfigError, match="cannot be read"):
        execute(Stack.load(swapping))
    swapping["fairness"] |= {"terms": None, "groups": ["age"]}
    with pytest.raises(ConfigError, match=r"'age' is not in data\.sensitive"):
        execute(Stack.load(swapping))


def test_a_row_without_a_second_text_keeps_none() -> None:
    from datasets import Dataset

    rows = Dataset.from_list(
        [
            {"text": "the cough", "text_pair": None, "row_id": "a"},
            {"text": "rest", "text_pair": "Fever!", "row_id": "b"},
            {"text": "rest", "text_pair": None, "row_id": "c"},
        ]
    )
    found = with_swapped(rows, list(PAIRS.items())).to_list()
    assert [(row["row_id"], row["text"], row["text_pair"]) for row in found] == [
        ("a", "the smile", None),
        ("b", "rest", "Walk!"),
    ]
    first = with_swapped(rows.select([0]), list(PAIRS.items()))
    assert first.features == rows.features
    assert first["text_pair"][:] == [None]


# --- the figures alone ----------------------------------------------------------------------------------------------


def table_of(ids: list[int], decisions: list[int], scores: list[list[float]], sex: list[str | None]) -> pa.Table:
    return pa.table(
        {
            "row_id": pa.array([f"r{n}" for n in ids]),
            "decision": pa.array(decisions, pa.int32()),
            "scores": pa.array(scores, pa.list_(pa.float64())),
            "group/sex": pa.array(sex, pa.string()),
        }
    )


@st.composite
def decided(draw: st.DrawFn) -> tuple[pa.Table, pa.Table]:
    """What was decided of up to 12 rows, and of some of them, in another order, with terms swapped."""
    count = draw(st.integers(1, 12))
    shares = st.floats(0, 1)
    codes = st.integers(0, 1)
    sex = draw(st.lists(st.sampled_from(["f", "m", None]), min_size=count, max_size=count))
    some = draw(st.permutations(range(count)))[: draw(st.integers(1, count))]
    tables = []
    for rows in (list(range(count)), list(some)):
        scores = [[1 - s, s] for s in draw(st.lists(shares, min_size=len(rows), max_size=len(rows)))]
        decisions = draw(st.lists(codes, min_size=len(rows), max_size=len(rows)))
        tables.append(table_of(rows, decisions, scores, [sex[n] for n in rows]))
    return tables[0], tables[1]


def figures(recorded: pa.Table, swapped: pa.Table) -> dict[str, tuple[float, int]]:
    predictions = Predictions("test", "text-classification", ["no", "yes"], recorded)
    step = CounterfactualFlips(groups=["sex"])
    return {key: (one.value, one.n or 0) for key, one in step._figures(predictions, swapped)}


def looped(recorded: pa.Table, swapped: pa.Table) -> dict[str, tuple[float, int]]:
    """Row by row, by row id."""
    before = {row["row_id"]: row for row in recorded.to_pylist()}
    found: dict[str, tuple[float, int]] = {"rows_with_a_term": (len(swapped), len(recorded))}
    for group in (None, "f", "m"):
        rows = [row for row in swapped.to_pylist() if group is None or row["group/sex"] == group]
        if rows:
            pairs = [(before[row["row_id"]], row) for row in rows]
            end = "" if group is None else f"/sex/{group}"
            flips = sum(one["decision"] != other["decision"] for one, other in pairs)
            change = sum(abs(one["scores"][1] - other["scores"][1]) for one, other in pairs)
            found[f"flip_rate{end}"] = (flips / len(rows), len(rows))
            found[f"mean_absolute_score_change{end}"] = (change / len(rows), len(rows))
    return found


def same(one: dict[str, tuple[float, int]], other: dict[str, tuple[float, int]]) -> bool:
    return one.keys() == other.keys() and all(
        one[key][1] == other[key][1] and math.isclose(one[key][0], other[key][0], abs_tol=1e-12) for key in one
    )


@given(decided())
def test_flips_are_those_of_a_loop(tables: tuple[pa.Table, pa.Table]) -> None:
    assert same(figures(*tables), looped(*tables))


def by_place(recorded: pa.Table, swapped: pa.Table) -> dict[str, tuple[float, int]]:
    return looped(recorded.set_column(0, "row_id", pa.array([f"r{n}" for n in range(len(recorded))])), swapped)


def of_all_rows(recorded: pa.Table, swapped: pa.Table) -> dict[str, tuple[float, int]]:
    found = looped(recorded, swapped)
    rate, rows = found["flip_rate"]
    return {**found, "flip_rate": (rate * rows / len(recorded), len(recorded))}


def signed(recorded: pa.Table, swapped: pa.Table) -> dict[str, tuple[float, int]]:
    before = dict(zip(recorded["row_id"].to_pylist(), recorded["scores"].to_pylist(), strict=True))
    moved = [row["scores"][1] - before[row["row_id"]][1] for row in swapped.to_pylist()]
    return {**looped(recorded, swapped), "mean_absolute_score_change": (sum(moved) / len(moved), len(moved))}


@pytest.mark.parametrize("mutant", [by_place, of_all_rows, signed])
def test_mutant_flips_are_noticed(mutant: Callable[..., dict[str, tuple[float, int]]]) -> None:
    recorded = table_of([3, 1, 2], [1, 0, 0], [[0.2, 0.8], [0.9, 0.1], [0.6, 0.4]], ["f", "m", None])
    swapped = table_of([1, 3], [1, 1], [[0.1, 0.9], [0.3, 0.7]], ["m", "f"])
    assert same(figures(recorded, swapped), looped(recorded, swapped))
    with contextlib.suppress(KeyError):  # a row that is not where the mutant looks
        assert not same(mutant(recorded, swapped), looped(recorded, swapped))
