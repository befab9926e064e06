"""Balance: the weights of each row and the rows that are repeated, against oracles that know nothing of the step."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.utils.class_weight import compute_class_weight

from conftest import toy_rows, write_rows
from upright import Stack
from upright.engine.execute import execute, prepare_run
from upright.errors import ConfigError
from upright.evidence.ledger import read_ledger
from upright_clean import cells
from upright_clean.balance import Balance

COUNTS = st.lists(st.integers(1, 400), min_size=1, max_size=12)
CAPS = st.floats(1, 50)


def water_level(counts: list[int], cap: float) -> list[float]:
    """The oracle: min(s / n, cap) with the s, found by bisection, for which the mean over rows is 1."""
    size = np.array(counts, dtype=np.float64)
    low, high = 0.0, cap * float(size.max())
    for _ in range(200):
        middle = (low + high) / 2
        if (size * np.minimum(middle / size, cap)).sum() < size.sum():
            low = middle
        else:
            high = middle
    return [float(factor) for factor in np.minimum(high / size, cap)]


def disagreement(counts: list[int], cap: float) -> float:
    return float(np.abs(np.array(cells.factors(counts, cap)) - water_level(counts, cap)).max())


@settings(max_examples=200, deadline=None)
@given(COUNTS, CAPS)
def test_factors_have_mean_one_stay_under_the_cap_and_even_the_cells_out(counts: list[int], cap: float) -> None:
    found = np.array(cells.factors(counts, cap))
    assert (found * counts).sum() == pytest.approx(sum(counts))
    assert found.max() <= cap * (1 + 1e-12)  # one rounding of a division
    assert disagreement(counts, cap) < 1e-9  # bisection ends within a few roundings of numbers below 400 x 50


@given(COUNTS)
def test_without_a_cap_they_are_scikit_learns(counts: list[int]) -> None:
    rows = np.repeat(np.arange(len(counts)), counts)
    expected = compute_class_weight("balanced", classes=np.arange(len(counts)), y=rows)
    assert np.allclose(cells.factors(counts, float("inf")), expected)


def test_mutants_that_only_cut_or_only_rescale_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    def cut(counts: Any, cap: float) -> list[float]:
        return [min(sum(counts) / len(counts) / count, cap) for count in counts]

    def rescaled(counts: Any, cap: float) -> list[float]:
        mean = sum(n * w for n, w in zip(counts, cut(counts, cap), strict=True)) / sum(counts)
        return [w / mean for w in cut(counts, cap)]

    assert disagreement([5, 50, 945], 3.0) < 1e-9
    for mutant in (cut, rescaled):
        monkeypatch.setattr(cells, "factors", mutant)
        assert disagreement([5, 50, 945], 3.0) > 0.01


ROWS = st.lists(st.tuples(st.sampled_from(["x", "y", "z"]), st.sampled_from(["f", "m", None])), min_size=1, max_size=40)


def fake(sensitive: list[str], folder: Path) -> Any:
    data = type("D", (), {"sensitive": sensitive})
    config = type("C", (), {"data": data})
    key, home = (lambda self, step: "balance"), (lambda self, step: folder)
    told = {"key": key, "step_folder": home, "emit": lambda self, event, **figures: None}
    return type("R", (), {"seed": 1, "config": config, **told})()


@settings(max_examples=60, deadline=None)
@given(ROWS, st.floats(1, 6), st.randoms(use_true_random=False))
def test_repeated_rows_fill_the_cells_evenly_whatever_their_order(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str | None]], cap: float, chance: random.Random
) -> None:
    folder = tmp_path_factory.mktemp("b")
    listed = [{"row_id": f"{n:04x}", "label": label, "sex": sex} for n, (label, sex) in enumerate(rows)]
    schema = Dataset.from_list([{"row_id": "", "label": "", "sex": ""}]).features
    step = Balance(by=["label", "sex"], how="add", max_factor=cap)
    found = step.clean(Dataset.from_list(listed, features=schema), "train", fake(["sex"], folder)).rows
    added = Counter(decision["row_id"] for decision in found)
    assert {decision["action"] for decision in found} <= {"add"}
    members: dict[Any, list[str]] = {}
    for row in listed:
        if row["sex"] is not None:
            members.setdefault((row["label"], row["sex"]), []).append(str(row["row_id"]))
    largest = max((len(ids) for ids in members.values()), default=0)
    for ids in members.values():
        copies = [added.pop(row_id, 0) for row_id in ids]
        assert len(ids) + sum(copies) == min(largest, int(cap * len(ids)))
        assert max(copies) - min(copies) <= 1
    assert not added  # rows without a group are in no cell
    chance.shuffle(listed)
    again = step.clean(Dataset.from_list(listed, features=schema), "train", fake(["sex"], folder)).rows
    assert sorted(d["row_id"] for d in again) == sorted(d["row_id"] for d in found)


def skewed(folder: Path, **more: Any) -> dict[str, Any]:
    """A stack whose train split has three sick women and many others; a tenth has no group; every person has several."""
    rows = [{**row, "person": str(n % 20)} for n, row in enumerate(toy_rows(60, 1))]
    women = [row for row in rows if (row["label"], row["sex"]) == ("sick", "f")]
    rows = [row for row in rows if row not in women[3:]]
    for row in rows[::10]:
        row["sex"] = None
    data = {"train": write_rows(folder / "train.jsonl", rows), "unit": "person", "sensitive": ["sex"]}
    data["test"] = write_rows(folder / "test.jsonl", toy_rows(20, 2))
    return {"data": data, "output": str(folder / "runs"), **more}


def test_added_rows_keep_their_unit_and_test_rows_are_left_alone(tmp_path: Path) -> None:
    step = {"use": "balance", "by": ["label", "sex"], "how": "add", "max_factor": 100}
    run = execute(Stack.load(skewed(tmp_path, clean=step)))
    counts = Counter(zip(run.data["train"]["label"], run.data["train"]["sex"], strict=True))
    assert len({count for (_, sex), count in counts.items() if sex}) == 1
    units = dict(zip(run.data["train"]["row_id"], run.data["train"]["unit"], strict=True))
    added = [entry for entry in read_ledger(run.folder).to_pylist() if entry["action"] == "add"]
    assert added
    assert all(units[entry["row_id"]] == units[entry["parent"]] for entry in added)
    assert len(run.data["test"]) == 20
    assert run.metrics["run/clean/balance/added"].value == len(added)
    assert run.metrics["run/clean/balance/missing"].value == counts["sick", None] + counts["well", None] > 0
    assert "Balance by label and sex" in (run.folder / "report.html").read_text()


def weighed(run: Any) -> dict[tuple[str, str | None], float]:
    """The factor that training gives to each class and group."""
    found = {}
    for batch in run.batches(range(len(run.data["train"]))):
        for label, sex, factor in zip(batch.labels, batch.groups["sex"], run.calls.weigh(batch, run), strict=True):
            found[run.labels[label], run.group_values["sex"][sex] if sex >= 0 else None] = float(factor)
    return found


def test_training_weighs_the_rows_that_are_left_after_cleaning(tiny_bert: Path, tmp_path: Path) -> None:
    balance = {"use": "balance", "by": ["label", "sex"], "max_factor": 2.5}
    stack = skewed(tmp_path, clean=[balance, {"use": "length", "min_words": 4}], model={"base": str(tiny_bert)})
    stack |= {"tune": {"use": "lora", "rank": 2}, "train": {"max_steps": 2, "batch_size": 8}}
    (tmp_path / "prepared").mkdir()
    run = prepare_run(Stack.load(stack), tmp_path / "prepared")
    counts = Counter(zip(run.data["train"]["label"], run.data["train"]["sex"], strict=True))
    cells = sorted(cell for cell in counts if cell[1])
    expected = dict(zip(cells, water_level([counts[cell] for cell in cells], 2.5), strict=True))
    found = weighed(run)
    missing = {cell: found.pop(cell) for cell in list(found) if cell[1] is None}
    assert found == pytest.approx(expected, rel=1e-6)  # float32
    assert set(missing.values()) == {1.0}
    finished = execute(Stack.load(stack))
    assert finished.exit_code == 0
    assert finished.metrics["run/clean/balance/largest_factor"].value == pytest.approx(max(expected.values()))
    assert finished.metrics["run/clean/balance/effective_rows"].value < sum(counts[cell] for cell in cells)


@pytest.mark.parametrize("how", ["weights", "add"])
def test_a_private_run_names_it_outside_its_epsilon(how: str, tiny_bert: Path, tmp_path: Path) -> None:
    stack = skewed(tmp_path, clean={"use": "balance", "how": how}, model={"base": str(tiny_bert)})
    stack |= {"tune": {"use": "lora", "rank": 2}, "train": {"max_steps": 2, "batch_size": 8}}
    stack["privacy"] = {"use": "dp-sgd", "noise_multiplier": 1.0, "delta": 1e-3}
    loaded = Stack.load(stack)
    assert [p.key for p in loaded.steps if p.reads_private] == ["balance"]
    run = execute(loaded)
    assert run.exit_code == 0
    assert "clean.balance" in (run.folder / "report.html").read_text()


def test_what_cannot_be_balanced_is_refused(tiny_bert: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"clean\.balance acts during training, but no step trains"):
        Stack.load(skewed(tmp_path, clean="balance"))
    with pytest.raises(
        ConfigError, match=r"'colour' is neither the label nor a column of data.sensitive \(.*label, sex"
    ):
        execute(Stack.load(skewed(tmp_path, clean={"use": "balance", "by": ["colour"], "how": "add"})))
    with pytest.raises(ConfigError, match="stands there twice"):
        Stack.load(skewed(tmp_path, clean={"use": "balance", "by": ["sex", "sex"], "how": "add"}))
    tokens = skewed(tmp_path, clean="balance", model={"base": str(tiny_bert), "task": "token-classification"})
    with pytest.raises(ConfigError, match=r"clean\.balance serves text-classification"):
        Stack.load({**tokens, "tune": "lora"})
