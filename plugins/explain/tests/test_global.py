"""Means of attributions by class and group against plain counting."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as options
from hypothesis import strategies as st
from scipy.stats import ttest_1samp

from upright import Attribution, Run, Stack
from upright.engine.execute import execute
from upright.errors import ConfigError
from upright.evidence.verify import verify
from upright_explain import global_tokens
from upright_explain.global_tokens import Global

LEAST = 3


def stack(base: Path, files: dict[str, Any], folder: Path, explain: Any) -> dict[str, Any]:
    return {
        "data": {**files, "sensitive": ["sex"]},
        "model": {"base": str(base)},
        "tune": {"use": "lora", "rank": 2},
        "train": {"max_steps": 4, "batch_size": 8, "learning_rate": 0.01},
        "explain": explain,
        "output": str(folder / "runs"),
    }


@pytest.fixture(scope="module")
def run(tiny_mean: Path, toy_files: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Run:
    steps = ["integrated-gradients", {"use": "global", "min_rows": LEAST, "shown": 1000}]
    return execute(Stack.load(stack(tiny_mean, toy_files, tmp_path_factory.mktemp("global"), steps)))


Told = dict[str, tuple[float, float, float, int]]


def by_hand(run: Run, explained: list[Attribution]) -> Told:
    """figure -> mean, interval and rows, of all cells at once."""
    sex = dict(zip(run.data["test"]["row_id"], run.data["test"]["sex"], strict=True))
    cells: dict[str, list[float]] = defaultdict(list)
    for one in explained:
        seen = [n for n, (start, end) in enumerate(one.offsets) if start != end]
        for token in sorted({one.tokens[n] for n in seen}):
            score = float(np.mean([one.scores[n] for n in seen if one.tokens[n] == token]))
            cells[f"class/{one.target}/{token}"].append(score)
            if sex[one.row_id] is not None:
                cells[f"sex/{one.target}, {sex[one.row_id]}/{token}"].append(score)
    enough = {key: scores for key, scores in cells.items() if len(scores) >= LEAST}
    found = {}
    for key, scores in enough.items():
        low, high = ttest_1samp(scores, 0).confidence_interval(1 - 0.05 / len(enough))
        found[key] = (float(np.mean(scores)), float(low), float(high), len(scores))
    return found


def told(run: Run, explained: list[Attribution], **settings: Any) -> Told:
    """What the step says of these attributions."""
    placed, before = run.stack.steps[-1], run.attributions["integrated-gradients"]
    step = placed.step.model_copy(update=settings)
    first = placed.step
    object.__setattr__(placed, "step", step)
    run.attributions["integrated-gradients"] = explained
    try:
        found = step._found(run.data["test"], run)
    finally:
        object.__setattr__(placed, "step", first)
        run.attributions["integrated-gradients"] = before
    return {key: (m.value, m.low, m.high, m.n) for key, _, m in step._told(json.loads(json.dumps(found)))}


def same(one: Told, other: Told) -> bool:
    return one.keys() == other.keys() and all(one[key] == pytest.approx(other[key], rel=1e-6, abs=1e-9) for key in one)


def test_figures_are_means_over_rows_by_class_and_group(run: Run) -> None:
    assert run.exit_code == 0
    explained = run.attributions["integrated-gradients"]
    prefix = "run/explain/global/"
    figures = {
        k.removeprefix(prefix): (m.value, m.low, m.high, m.n) for k, m in run.metrics.items() if k.startswith(prefix)
    }
    assert figures
    assert same(figures, by_hand(run, explained))
    assert verify(run.folder).problems == []


def drawn(run: Run, seed: int, rows: int) -> list[Attribution]:
    """Attributions drawn at random: few tokens, so that they meet; some twice in a row, some special."""
    chance = np.random.default_rng(seed)
    found = []
    for row_id in run.data["test"]["row_id"][:rows]:
        count = int(chance.integers(1, 8))
        tokens = [str(token) for token in chance.choice(["a", "b", "c", "d/e"], count)]
        offsets = [(n, n + int(chance.integers(0, 4) > 0)) for n in range(count)]
        found.append(Attribution(row_id, str(chance.choice(run.labels)), tokens, offsets, chance.normal(size=count)))
    return found


def plain(found: Told) -> Told:
    return {key.replace("d/e", "d∕e"): value for key, value in found.items()}


@given(seed=st.integers(0, 2**32 - 1), rows=st.integers(1, 24))
@options(max_examples=40, deadline=None)
def test_of_any_attributions_too(run: Run, seed: int, rows: int) -> None:
    explained = drawn(run, seed, rows)
    assert same(told(run, explained), plain(by_hand(run, explained)))


def test_a_token_of_few_rows_is_in_no_figure_and_no_file(run: Run) -> None:
    counts: dict[str, set[str]] = defaultdict(set)
    for one in run.attributions["integrated-gradients"]:
        for token in one.tokens:
            counts[token].add(one.row_id)
    rare = {token for token, rows in counts.items() if len(rows) < LEAST}
    assert rare
    written = (run.folder / "steps" / "global" / "global.json").read_text()
    section = json.dumps(json.loads((run.folder / "evidence" / "explain.json").read_text())["steps"]["global"])
    assert not any(f'"{token}"' in text for token in rare for text in (written, section))


def test_only_the_strongest_are_shown(run: Run) -> None:
    explained = drawn(run, 1, 24)
    every, few = told(run, explained), told(run, explained, shown=1)
    assert len(few) == len({key.rpartition("/")[0] for key in every})
    for key, value in few.items():
        rivals = [other for name, other in every.items() if name.rpartition("/")[0] == key.rpartition("/")[0]]
        assert abs(value[0]) == max(abs(other[0]) for other in rivals)
        assert value == every[key]  # the interval holds for those that are not shown as well


@pytest.mark.parametrize(
    ("explain", "problem"),
    [
        ("global", "there is no explainer before it"),
        (["global", "integrated-gradients"], "there is no explainer before it"),
        (["integrated-gradients", {"use": "global", "of": "occlusion"}], "'occlusion' is no explainer before it"),
    ],
)
def test_without_an_explainer_before_it_it_is_refused(
    explain: Any, problem: str, tiny_mean: Path, toy_files: dict[str, Any], tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=problem):
        execute(Stack.load(stack(tiny_mean, toy_files, tmp_path, explain)))


# --- wrong implementations ------------------------------------------------------------------------------------------


def every_place_counts(honest: Any) -> Any:
    """Sums over a token's places instead of their mean."""

    def of_row(one: Attribution) -> dict[str, float]:
        found: dict[str, float] = defaultdict(float)
        for token, (start, end), score in zip(one.tokens, one.offsets, one.scores, strict=True):
            if end > start:
                found[token] += float(score)
        return found

    return of_row


def special_ones_too(honest: Any) -> Any:
    def of_row(one: Attribution) -> dict[str, float]:
        whole = Attribution(one.row_id, one.target, one.tokens, [(0, 1)] * len(one.tokens), one.scores)
        found: dict[str, float] = honest(whole)
        return found

    return of_row


def one_by_one(honest: Any) -> Any:
    return lambda scores, among: honest(scores)


@pytest.mark.parametrize(
    ("name", "mutant"), [("_of_row", every_place_counts), ("_of_row", special_ones_too), ("mean", one_by_one)]
)
def test_a_mutant_is_noticed(name: str, mutant: Any, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(global_tokens, name, mutant(getattr(global_tokens, name)))
    explained = drawn(run, 2, 24)
    assert not same(told(run, explained), plain(by_hand(run, explained)))


def test_a_mutant_that_shows_rare_tokens_is_noticed(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Global, "_enough", lambda self, cells: cells)
    explained = drawn(run, 2, 12)
    assert not same(told(run, explained), plain(by_hand(run, explained)))
