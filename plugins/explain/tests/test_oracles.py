"""Each explainer against its definition (`attribution_oracles`) and against captum asked directly; float64."""

from __future__ import annotations

from collections.abc import Callable
from itertools import permutations
from typing import Any

import attribution_oracles as oracles
import numpy as np
import pytest
import torch
from explained_runs import explain, texts
from outside_steps import with_steps

from upright import Attribution, Run
from upright.engine.target import CoreTarget
from upright_explain import shapley
from upright_explain.gradient_shap import GradientShap
from upright_explain.input_x_gradient import InputXGradient
from upright_explain.integrated_gradients import IntegratedGradients
from upright_explain.occlusion import Occlusion
from upright_explain.shapley import Shapley

ALL_ORDERS = 24
DRAWN, JOINED, CONTENT = Shapley._orders, shapley._joined, shapley.content
CASES = [("mean", "text-classification"), ("bert", "token-classification")]


def apart(run: Run, found: list[Attribution], oracle: Callable[..., np.ndarray]) -> float:
    """The largest difference to the oracle, as a share of the largest score."""
    expected = {one.row_id: oracle(score, embeds, blank) for one, score, embeds, blank in texts(run, found)}
    largest = max(float(np.abs(parts).max()) for parts in expected.values())
    return max(float(np.abs(one.scores - expected[one.row_id]).max()) for one in found) / largest


# --- occlusion -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("base", "task"), CASES)
def test_occlusion_is_what_the_score_loses(runs: Callable[..., Run], base: str, task: str) -> None:
    run = runs(base, task)
    found = explain(run, Occlusion)
    assert len(found) == 4
    assert apart(run, found, oracles.without_each) < 1e-9  # float64, the same sums in batches of other sizes
    assert apart(run, found, lambda *text: oracles.by_captum("FeatureAblation", *text)) < 1e-9


# --- shapley ---------------------------------------------------------------------------------------------------------


def all_orders(self: Shapley, tokens: int, row: int, run: Run) -> torch.Tensor:
    """Every order of four tokens or fewer, as often as it takes to make 24."""
    if tokens > 4:
        return DRAWN(self, tokens, row, run)
    orders = list(permutations(range(tokens)))
    return torch.tensor(orders * (ALL_ORDERS // len(orders))).view(ALL_ORDERS, tokens)


def short(found: list[Attribution]) -> list[Attribution]:
    """Rows of at most four tokens: 24 orders are all there are."""
    few = [one for one in found if sum(end > start for start, end in one.offsets) <= 4]
    assert few
    return few


@pytest.mark.parametrize(("base", "task"), CASES)
def test_shapley_over_all_orders_is_the_formula_over_all_subsets(
    runs: Callable[..., Run], base: str, task: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Shapley, "_orders", all_orders)
    run = runs(base, task)
    found = short(explain(run, Shapley))
    assert apart(run, found, oracles.shapley_values) < 1e-9
    assert apart(run, found, lambda *text: oracles.by_captum("ShapleyValues", *text)) < 1e-6  # it sums in float32


def joined_late(orders: torch.Tensor, players: torch.Tensor) -> torch.Tensor:
    """Every token joins a moment too late."""
    kept = JOINED(orders, players)
    return torch.cat([kept[:2], kept[2:].roll(1, 0)])


def always_there(embeds: torch.Tensor, blank: torch.Tensor) -> torch.Tensor:
    """The last token is never taken away."""
    players = CONTENT(embeds, blank)
    players[:, -2] = False
    return players


@pytest.mark.parametrize(("name", "mutant"), [("_joined", joined_late), ("content", always_there)])
def test_mutants_of_shapley_are_noticed(
    runs: Callable[..., Run], monkeypatch: pytest.MonkeyPatch, name: str, mutant: Any
) -> None:
    monkeypatch.setattr(f"upright_explain.shapley.{name}", mutant)
    run = runs("mean")
    assert shares_beyond(run, explain(run, Shapley), oracles.shapley_values) > 0.1


def shares_beyond(run: Run, found: list[Attribution], oracle: Callable[..., np.ndarray]) -> float:
    """The share of tokens that are further from the oracle than four standard errors."""
    beyond: list[bool] = []
    for one, *text in texts(run, found):
        assert one.standard_errors is not None
        allowed = 4 * one.standard_errors + 1e-9
        beyond += list(np.abs(one.scores - oracle(*text)) > allowed)
    return float(np.mean(beyond))


def test_sampled_shapley_is_as_near_as_its_standard_errors_say(runs: Callable[..., Run]) -> None:
    run = runs("mean")
    assert shares_beyond(run, explain(run, Shapley), oracles.shapley_values) == 0
    assert max(one.completeness_error or 0.0 for one in explain(run, Shapley)) < 1e-9


# --- gradients -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("base", "task"), CASES)
def test_integrated_gradients_are_the_integral_and_captums(runs: Callable[..., Run], base: str, task: str) -> None:
    run = runs(base, task)
    found = explain(run, IntegratedGradients)
    assert apart(run, found, oracles.path_integral) < 0.01  # max_error is 0.001; the oracle's midpoints are off by less
    by_captum = lambda *text: oracles.by_captum("IntegratedGradients", *text, n_steps=320)  # noqa: E731
    assert apart(run, found, by_captum) < 0.01


def seed() -> None:
    """captum draws from the global streams."""
    torch.manual_seed(0)
    np.random.seed(0)


def test_gradient_shap_is_as_near_to_the_integral_as_its_standard_errors_say(runs: Callable[..., Run]) -> None:
    run = runs("mean")
    found = explain(run, GradientShap)
    assert shares_beyond(run, found, oracles.path_integral) == 0

    def theirs(*text: Any) -> np.ndarray:
        seed()
        return oracles.by_captum("GradientShap", *text, n_samples=4000)

    assert apart(run, found, theirs) < 0.1  # two means over 400 and 4,000 random points
    for one in found:
        one.scores = 1.5 * one.scores
    assert shares_beyond(run, found, oracles.path_integral) > 0.2


def test_noise_is_part_of_gradient_shap(runs: Callable[..., Run]) -> None:
    run = runs("mean")
    step, target = GradientShap(n_samples=2000, stdevs=0.5), CoreTarget(run, "test")
    usual, run.stack = run.stack, with_steps(run.stack, ("explain", "noisy", step))
    noisy = step.explain(target, run.data["test"], run)
    run.stack = usual

    def expected(*text: Any) -> np.ndarray:
        return oracles.expected_gradients(*text, stdevs=0.5)

    # two means over thousands of draws; the mutant is the same without noise
    assert apart(run, noisy, expected) < apart(run, explain(run, GradientShap), expected) / 2


@pytest.mark.parametrize(("base", "task"), CASES)
def test_input_x_gradient_is_the_slope(runs: Callable[..., Run], base: str, task: str) -> None:
    run = runs(base, task)
    found = explain(run, InputXGradient)
    assert (
        apart(run, found, lambda score, embeds, blank: oracles.times_slope(score, embeds)) < 1e-5
    )  # of order step ** 2
    assert apart(run, found, lambda *text: oracles.by_captum("InputXGradient", *text)) < 1e-9
    for one in found:
        one.scores = 2 * one.scores
    assert apart(run, found, lambda score, embeds, blank: oracles.times_slope(score, embeds)) > 0.5
