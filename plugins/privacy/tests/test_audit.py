"""The audit: its bounds against mechanisms whose privacy is known, its canaries in real runs, its attack."""

from __future__ import annotations

import base64
import json
import math
import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from outside_steps import StopAt, with_steps
from scipy.optimize import linprog
from scipy.stats import binom, norm
from tiny_stacks import lines_stack, words_stack

from conftest import ROOT, toy_rows, write_rows
from upright import Decisions, Metric, Run, Stack, Step, hook
from upright.calls import Calls
from upright.engine.batches import collate
from upright.engine.execute import execute, prepare_run
from upright.errors import ConfigError, UprightError
from upright.evidence.ledger import read_ledger
from upright.evidence.verify import verify
from upright_privacy import guessing, membership, one_run
from upright_privacy.accounting import epsilon
from upright_privacy.per_unit.methods import Losses
from upright_privacy.per_unit.units import units_of

PRIVATE = {"use": "dp-sgd", "noise_multiplier": 2.0, "delta": 1e-5}
AUDITED = {"privacy": [PRIVATE, {"use": "audit", "canaries": 30, "attack_rows": 10}]}
ERROR = 0.05


def most(chance: float, times: int) -> float:
    """What a frequency of ``times`` trials stays under in 999 of 1,000 tests, where its expectation is ``chance``."""
    return float(binom.isf(1e-3, times, chance)) / times


# --- the bound of Steinke et al. --------------------------------------------------------------------------------------


def randomized_response(generator: Any, count: int, eps: float, leak: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Coins, and scores of a mechanism that is exactly (eps, leak)-private: with the chance ``leak`` it gives all away."""
    coins = generator.random(count) < 0.5
    true = generator.random(count) < 1 / (1 + math.exp(-eps))
    if generator.random() < leak:
        true[:] = True
    return np.where(coins == true, 1.0, -1.0) * generator.random(count), coins


def test_the_figure_of_the_paper() -> None:
    """Appendix D: 1,000 canaries, 75 of 100 guesses right, delta 1e-4."""
    assert one_run.lower_bound(1000, 100, 75, 1e-4, 0.05) == pytest.approx(0.673, abs=5e-4)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_the_p_value_is_the_worst_case_over_all_that_delta_may_give_away(data: Any) -> None:
    """Oracle: the linear program over the distribution of F, coins given away, of mean at most 2 m delta."""
    count = data.draw(st.integers(1, 30))
    guesses = data.draw(st.integers(1, count))
    correct = data.draw(st.integers(0, guesses))
    eps, delta = data.draw(st.floats(0, 4)), data.draw(st.floats(0, 0.1))
    away = np.arange(guesses + 1)
    wins = binom.sf(correct - away - 1, guesses, 1 / (1 + math.exp(-eps)))
    solved = linprog(-wins, A_ub=[away], b_ub=[2 * count * delta], A_eq=[np.ones(guesses + 1)], b_eq=[1])
    found = one_run.p_value(count, guesses, correct, eps, delta)
    assert found >= -solved.fun - 1e-9
    if 2 * count * delta <= 1:  # a mean below the best single number: the closed form is the optimum
        assert found == pytest.approx(-solved.fun, abs=1e-7)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 200), st.data())
def test_the_bound_rises_with_right_guesses_and_falls_with_delta_and_confidence(count: int, data: Any) -> None:
    guesses = data.draw(st.integers(1, count))
    correct = data.draw(st.integers(0, guesses - 1))
    here = one_run.lower_bound(count, guesses, correct, 1e-5, 0.05)
    assert 0 <= here <= one_run.lower_bound(count, guesses, correct + 1, 1e-5, 0.05) + 1e-5
    assert one_run.lower_bound(count, guesses, correct, 1e-3, 0.05) <= here + 1e-5
    assert one_run.lower_bound(count, guesses, correct, 1e-5, 0.01) <= here + 1e-5
    assert here == 0 or one_run.p_value(count, guesses, correct, here, 1e-5) <= 0.05


@pytest.mark.parametrize("eps", [0.0, 0.5, 1.0, 3.0])
def test_the_bound_holds_for_randomized_response_and_comes_near_it(eps: float) -> None:
    generator = np.random.default_rng(1)
    found = [one_run.best_lower_bound(*randomized_response(generator, 200, eps), 0.0, ERROR) for _ in range(500)]
    assert np.mean(np.array(found) > eps) <= most(ERROR, 500)
    if eps:
        assert one_run.best_lower_bound(*randomized_response(generator, 20_000, eps), 0.0, ERROR) > 0.9 * eps


def test_the_bound_holds_where_delta_gives_everything_away() -> None:
    generator = np.random.default_rng(2)
    games = [randomized_response(generator, 50, 1.0, leak=0.08) for _ in range(1000)]
    right = [one_run.right(scores, coins, 50) for scores, coins in games]
    sound = np.mean([one_run.lower_bound(50, 50, v, 0.08, ERROR) > 1.0 for v in right])
    mutant = np.mean([one_run.lower_bound(50, 50, v, 0.0, ERROR) > 1.0 for v in right])
    assert sound <= most(ERROR, 1000)
    assert mutant > most(ERROR, 1000), "mutant: without the term of delta it accuses too often"


def test_the_best_number_of_guesses_is_corrected_for() -> None:
    generator = np.random.default_rng(3)
    games = [(generator.random(200), generator.random(200) < 0.5) for _ in range(1500)]  # scores that know nothing
    sound = np.mean([one_run.best_lower_bound(*game, 0.0, ERROR) > 0 for game in games])
    mutant = np.mean(
        [
            max(one_run.lower_bound(200, n, one_run.right(*game, n), 0.0, ERROR) for n in one_run.guesses(200)) > 0
            for game in games
        ]
    )
    assert sound <= most(ERROR, 1500)
    assert mutant > most(ERROR, 1500), "mutant: the best of five without correction accuses too often"


def test_no_audit_shows_more_than_its_largest_bound() -> None:
    coins = np.arange(100) % 2 == 0
    assert one_run.best_lower_bound(coins.astype(float), coins, 1e-5, ERROR) <= one_run.largest_bound(100, 1e-5, ERROR)
    assert one_run.largest_bound(50, 1e-5, ERROR) < one_run.largest_bound(500, 1e-5, ERROR)


# --- what the ledger's noise allows -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("sigma", "draws"), [(1.0, 1), (5.0, 20), (2.0, 9)])
def test_the_share_that_can_be_guessed_is_the_closed_form_without_sampling(sigma: float, draws: int) -> None:
    """Phi(sqrt(T) / (2 sigma)), the best test between two Gaussians."""
    exact = norm.cdf(math.sqrt(draws) / (2 * sigma))
    assert exact <= guessing.most_right([(sigma, 1.0)] * draws) <= exact + 0.005  # half the accountant's error


def mechanism(generator: Any, coins: np.ndarray, draws: list[tuple[float, float]], fault: float = 1.0) -> np.ndarray:
    """Scores from Poisson-sampled Gaussian releases whose noise is ``fault`` times what the ledger says."""
    total = np.zeros(len(coins))
    for sigma, rate in draws:
        there = coins & (generator.random(len(coins)) < rate)
        value = there + sigma * fault * generator.standard_normal(len(coins))
        total += guessing.evidence(value / (sigma * fault), sigma, rate)  # in units of the noise that is there
    return total


@pytest.mark.parametrize("draws", [[(1.0, 0.1)] * 80, [(0.7, 0.05)] * 160, [(1.0, 0.5)] * 4 + [(3.0, 0.9)] * 9])
def test_no_more_is_guessed_than_the_ledger_allows_and_hardly_less(draws: list[tuple[float, float]]) -> None:
    generator = np.random.default_rng(4)
    coins = generator.random(60_000) < 0.5
    share = one_run.right(mechanism(generator, coins, draws), coins, len(coins)) / len(coins)
    allowed = guessing.most_right(draws)
    assert allowed - 0.015 < share < allowed + 0.006  # three standard errors of the share; the accountant's own .005
    assert guessing.share_guessed(draws, 1.0, 0) == pytest.approx(share, abs=0.015)
    by_sum = norm.cdf(sum(rate for _, rate in draws) / math.sqrt(sum(sigma**2 for sigma, _ in draws)) / 2)
    if max(rate for _, rate in draws) < 0.5:
        assert share > by_sum + 0.01, "mutant: what the sum of the releases allows is less, and would accuse the honest"


def test_the_epsilon_that_explains_a_share_is_that_of_its_noise() -> None:
    draws, half = [(1.0, 0.1)] * 40, [(0.5, 0.1)] * 40
    found = guessing.epsilon_that_allows(guessing.most_right(half), draws, 1e-5)
    assert 0.95 * epsilon(half, 1e-5) < found <= epsilon(half, 1e-5)  # the noise is matched within 2 %
    assert guessing.epsilon_that_allows(0.5, draws, 1e-5) == 0.0
    assert guessing.epsilon_that_allows(guessing.most_right(draws) - 0.01, draws, 1e-5) < epsilon(draws, 1e-5)


def test_half_the_noise_is_noticed_and_an_honest_mechanism_is_not_accused() -> None:
    draws, count, times = [(3.0, 0.5)] * 12, 300, 300
    generator = np.random.default_rng(5)
    allowed = guessing.most_right(draws)

    def accused(fault: float) -> float:
        found = []
        for _ in range(times):
            coins = generator.random(count) < 0.5
            right = one_run.right(mechanism(generator, coins, draws, fault), coins, count)
            found.append(binom.sf(right - 1, count, allowed) < ERROR / 2)
        return float(np.mean(found))

    share = guessing.share_guessed(draws, 0.5, 0)
    assert accused(1.0) <= most(ERROR / 2, times)
    assert accused(0.5) >= 0.75
    assert accused(0.5) == pytest.approx(guessing.power(count, allowed, share, ERROR / 2), abs=0.08)
    assert binom.sf(int(count * share) - 1, count, guessing.most_right(draws[:1])) < 1e-6, "one draw allows far less"


@given(st.integers(1, 300), st.floats(0.5, 0.95))
@settings(max_examples=60, deadline=None)
def test_power_against_the_honest_mechanism_is_no_more_than_the_error(count: int, allowed: float) -> None:
    assert guessing.power(count, allowed, allowed, 0.025) < 0.025
    assert guessing.power(count, allowed, 1.0, 0.025) in (0.0, 1.0)


# --- canaries in a run ------------------------------------------------------------------------------------------------


def test_an_audited_run_says_what_was_shown(toy: dict[str, Any]) -> None:
    run = execute(Stack.load({**toy, **AUDITED}))
    coins = json.loads((run.folder / "steps/audit/coins.json").read_text())
    told = [e for e in read_ledger(run.folder).to_pylist() if e["cleaner"].startswith("audit@")]
    assert [(e["action"], e["reason"], e["parent"]) for e in told] == [("add", "canary", None)] * sum(coins)
    assert len(run.data["train"]) == 48 + sum(coins)
    assert len(set(run.data["train"]["unit"][:])) == 48 + sum(coins), "each canary is a unit of its own"
    assert run.data["train"]["sex"][48:] == [None] * sum(coins)
    figures = {key.split("/")[-1]: metric.value for key, metric in run.metrics.items() if "/audit/" in key}
    assert figures["epsilon_lower"] <= figures["epsilon_lower_largest"]
    assert 0 <= figures["guessed_right"] <= 1
    [verdict] = run.verdicts
    assert verdict.judgement != "met", "thirty canaries have no power"
    sections = json.loads((run.folder / "evidence/privacy.json").read_text())["steps"]["audit"]["sections"]
    assert [section["title"] for section in sections] == ["Privacy audit by canaries", "Membership attack"]
    assert "not covered by epsilon" in sections[1]["blocks"][-1]["text"]
    private = json.loads((run.folder / "evidence/privacy.json").read_text())["steps"]["dp-sgd"]["sections"][0]
    outside = [what for what, _ in private["blocks"][-1]["rows"]]
    assert "what privacy.audit saw of the training rows" in outside, "the attack reads training rows outside epsilon"
    assert verify(run.folder).problems == []
    assert not list((run.folder / "model").rglob("*canar*"))
    (run.folder / "steps/audit/scores.json").write_text(json.dumps([float(coin) for coin in coins]))
    assert any("epsilon_lower" in problem for problem in verify(run.folder).problems), "forged scores are noticed"


def loaded(stack: dict[str, Any], folder: Path) -> Run:
    (folder / "evidence").mkdir(parents=True)
    return prepare_run(Stack.load(stack), folder)


@pytest.mark.parametrize("mode", ["direct", "functorch", "loop"])
def test_a_canarys_gradient_is_its_own_coordinate_and_the_model_learns_nothing(
    toy: dict[str, Any], tmp_path: Path, mode: Any
) -> None:
    run = loaded({**toy, **AUDITED}, tmp_path / "run")
    coins = json.loads((run.folder / "steps/audit/coins.json").read_text())
    rows = [0, 1, 48, 49]
    [units] = units_of(Losses(run), [collate(run, rows, "train")], mode) if mode != "loop" else [None]
    if units is None:
        return _looped(run, rows, coins)
    own = {name: sum(part.dense() for part in parts) for name, parts in units.contributions.items() if parts}
    _check_coordinates(own, coins)
    return None


def _looped(run: Run, rows: list[int], coins: list[bool]) -> None:
    units = list(units_of(Losses(run), [collate(run, rows, "train")], "loop"))
    names = units[0].contributions
    _check_coordinates(
        {name: torch.cat([sum(p.dense() for p in one.contributions[name]) for one in units]) for name in names}, coins
    )


def _check_coordinates(own: dict[str, torch.Tensor], coins: list[bool]) -> None:
    vector = own.pop("helpers.audit/canaries.weight").reshape(4, -1)
    lines = [line for line, coin in enumerate(coins, 1) if coin][:2]
    assert vector[:2].abs().max() == 0
    assert [one.nonzero().flatten().tolist() for one in vector[2:]] == [[lines[0]], [lines[1]]]
    assert float(vector.max()) >= 1e6, "far over any clipping norm"
    assert all(float(rows[2:].abs().max()) == 0 for rows in own.values())
    assert any(float(rows[:2].abs().max()) > 0 for rows in own.values())


def test_coins_are_tossed_once_and_survive_a_resume(toy: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    toy |= AUDITED | {"train": {"max_steps": 4, "batch_size": 8, "eval_strategy": "steps", "eval_steps": 1}}
    monkeypatch.setattr(StopAt, "at", 2)
    stopped = with_steps(Stack.load(toy), ("train", "stop", StopAt()))
    with pytest.raises(KeyboardInterrupt):
        execute(stopped)
    monkeypatch.setattr(StopAt, "at", -1)
    [folder] = [path for path in (Path(toy["output"]) / "toy").iterdir() if not path.is_symlink()]
    coins = (folder / "steps/audit/coins.json").read_text()
    run = execute(stopped, resume=folder)
    assert (folder / "steps/audit/coins.json").read_text() == coins
    assert len(run.data["train"]) == 48 + sum(json.loads(coins))
    assert len(np.unique(json.loads((folder / "steps/audit/scores.json").read_text()))) == 30, (
        "scores were kept as well"
    )


@pytest.mark.parametrize("task", ["words", "lines"])
def test_other_tasks_are_audited_too(task: str, tiny_bert: Path, tiny_llama: Path, tmp_path: Path) -> None:
    stack = words_stack(tiny_bert, tmp_path) if task == "words" else lines_stack(tiny_llama, tmp_path)
    run = execute(Stack.load({**stack, **AUDITED}))
    scores = np.array(json.loads((run.folder / "steps/audit/scores.json").read_text()))
    assert np.isfinite(scores).all()
    assert np.ptp(scores) > 0
    assert verify(run.folder).problems == []


def test_users_are_units_and_so_are_canaries(toy: dict[str, Any], tmp_path: Path) -> None:
    rows = [{**row, "patient": f"p{n // 2}"} for n, row in enumerate(toy_rows(40, 1))]
    toy["data"] = {"train": write_rows(tmp_path / "t.jsonl", rows), "unit": "patient"}
    run = execute(Stack.load({**toy, **AUDITED}))
    train = run.data["train"]
    made_up = [text == "a canary in a coal mine" for text in train["text"][:]]
    real = {unit for unit, made in zip(train["unit"][:], made_up, strict=True) if not made}
    canaries = [unit for unit, made in zip(train["unit"][:], made_up, strict=True) if made]
    assert len(canaries) == len(set(canaries)) == sum(json.loads((run.folder / "steps/audit/coins.json").read_text()))
    assert len(real) < len(made_up) - len(canaries), "two rows make a user"
    assert not set(canaries) & real
    assert not set(canaries) & set(run.data["validation"]["unit"][:])


def test_what_cannot_be_audited_is_refused(toy: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"privacy\.audit\.canaries: there is no private mechanism"):
        execute(Stack.load({**toy, "privacy": "audit"}))
    with pytest.raises(ConfigError, match="nothing to do"):
        Stack.load({**toy, "privacy": {"use": "audit", "canaries": 0, "attack_rows": 0}})


def test_without_its_files_nothing_is_shown(toy: dict[str, Any]) -> None:
    run = execute(Stack.load({**toy, **AUDITED}))
    (run.folder / "steps/audit/coins.json").write_text("[tr")
    assert any("coins.json: cannot be read" in problem for problem in verify(run.folder).problems)
    (run.folder / "steps/audit/coins.json").write_text("[true]")
    assert any("a coin and a score" in problem for problem in verify(run.folder).problems)


def test_without_noise_the_claim_is_refuted_and_the_gate_blocks(
    toy: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tenth of the noise that the ledger states, so that every seed shows it."""
    from upright_privacy import noise

    gaussian = noise.gaussian
    monkeypatch.setattr(noise, "gaussian", lambda shape, scale, device: gaussian(shape, scale / 10, device))
    toy["train"] = {"max_steps": 8, "batch_size": 50}
    toy["privacy"] = [
        {"use": "dp-sgd", "noise_multiplier": 3.0, "delta": 1e-5},
        {"use": "audit", "canaries": 120, "attack_rows": 0, "on_fail": "block"},
    ]
    run = execute(Stack.load(toy))
    [verdict] = run.verdicts
    assert (verdict.judgement, run.exit_code) == ("violated", 4)
    assert (
        run.metrics["run/privacy/audit/epsilon_lower_gaussian"].value > run.metrics["run/privacy/dp-sgd/epsilon"].value
    )
    assert run.metrics["run/privacy/audit/epsilon_lower"].value > 0.8
    assert run.metrics["run/privacy/audit/p_value"].value < 1e-6
    assert verify(run.folder).problems == []


@pytest.mark.parametrize(
    ("figures", "judgement"),
    [
        ({"epsilon_lower": 8.1, "p_value": 0.5, "power": 1.0}, "violated"),
        ({"epsilon_lower": 0.0, "p_value": 0.02, "power": 0.1}, "violated"),
        ({"epsilon_lower": 0.0, "p_value": 0.03, "power": 0.9}, "met"),
        ({"epsilon_lower": 8.0, "p_value": 0.5, "power": 0.79}, "insufficient evidence"),
    ],
)
def test_the_verdict_follows_from_the_figures(
    figures: dict[str, float], judgement: str, toy: dict[str, Any], tmp_path: Path
) -> None:
    stack = Stack.load({**toy, **AUDITED})
    run = Run(stack, tmp_path, Calls([placed.step for placed in stack.steps]))
    told = {f"run/privacy/audit/{key}": value for key, value in figures.items()}
    told |= {"run/privacy/dp-sgd/epsilon": 8.0, "run/privacy/audit/epsilon_lower_gaussian": 9.0}
    [verdict] = run.calls.judge({key: Metric(value) for key, value in told.items()}, run)
    assert verdict.judgement == judgement
    assert "8" in verdict.sentence


def test_it_goes_with_released_statistics_and_adaptive_clipping(toy: dict[str, Any]) -> None:
    toy["fairness"] = {"use": "equalized-odds", "groups": ["sex"]}
    toy["privacy"] = [{**PRIVATE, "clipping": "adaptive"}, {"use": "audit", "canaries": 20, "attack_rows": 20}]
    run = execute(Stack.load(toy))
    assert run.exit_code == 0
    assert run.metrics["run/privacy/audit/attack_auc"].n == 20
    assert Stack.load(toy).plan()["rows"]["train"] >= 48


@pytest.mark.slow
def test_planted_faults_are_noticed_in_whole_runs(tmp_path: Path) -> None:
    bench = runpy.run_path(str(ROOT / "tests" / "benchmarks" / "audit.py"))
    asked = bench["stack"](tmp_path)
    found = {
        fault: [bench["audited"](asked, fault, seed).verdicts[0].judgement for seed in range(4)]
        for fault in bench["FAULTS"]
    }
    # An honest run is accused with a chance of .05 at the most, a broken one noticed with about .95.
    assert found.pop("none").count("violated") <= 2
    assert all(judged.count("violated") >= 2 for judged in found.values())


def test_a_sealed_run_is_verified_with_its_key(toy: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UPRIGHT_KEY", base64.b64encode(bytes(range(32))).decode())
    run = execute(Stack.load({**toy, "privacy": [*AUDITED["privacy"], "encrypt"]}))
    found = verify(run.folder)
    assert found.problems == []
    assert "run/privacy/audit/power" in found.attested
    assert json.loads((run.folder / "metrics.json").read_text())["run/privacy/audit/epsilon_lower"]["from"] == "ledger"


class Tidies(Step):
    """Drop every canary, as a cleaner of duplicates would."""

    @hook
    def clean(self, rows: Any, split: str, run: Run) -> Decisions:
        decisions = Decisions()
        for row in rows:
            if row["text"] == "a canary in a coal mine":
                decisions.add(row["row_id"], "drop", "odd")
        return decisions


def test_a_cleaner_that_takes_the_canaries_away_is_told_so(toy: dict[str, Any]) -> None:
    stack = with_steps(Stack.load({**toy, **AUDITED}), ("zeal", "tidies", Tidies()))
    with pytest.raises(UprightError, match=r"privacy\.audit: a cleaner changed or dropped rows of the audit"):
        execute(stack)


# --- rows that derive from no record ----------------------------------------------------------------------------------


class Adds(Step):
    """Add one row without a parent."""

    values: dict[str, Any]

    @hook
    def clean(self, rows: Any, split: str, run: Run) -> Decisions:
        decisions = Decisions()
        if split == "train":
            decisions.add(None, "add", "made-up", values=self.values)
        return decisions


def test_a_row_without_a_parent_needs_every_column(toy: dict[str, Any]) -> None:
    run = execute(with_steps(Stack.load(toy), ("clean", "adds", Adds(values={"text": "made up", "label": "sick"}))))
    assert run.data["train"][48]["sex"] is None
    assert run.data["train"][48]["unit"] not in run.data["train"]["unit"][:48]
    for values, problem in (
        ({"text": "made up"}, "a row without a parent needs a value for 'label'"),
        ({"text": "made up", "label": "sick", "unit": 0}, "'unit' is no column"),
    ):
        stack = with_steps(Stack.load(toy), ("clean", "adds", Adds(values=values)))
        with pytest.raises(UprightError, match=problem):
            execute(stack)


# --- the membership attack --------------------------------------------------------------------------------------------


@given(st.lists(st.integers(0, 5), min_size=1, max_size=12), st.lists(st.integers(0, 5), min_size=1, max_size=12))
@settings(max_examples=80, deadline=None)
def test_auc_is_the_share_of_pairs(members: list[int], others: list[int]) -> None:
    pairs = [(m > o) + (m == o) / 2 for m in members for o in others]
    assert membership.auc(np.array(members), np.array(others)) == pytest.approx(np.mean(pairs))


def test_the_true_positive_rate_keeps_the_false_positive_rate() -> None:
    generator = np.random.default_rng(0)
    members, others = generator.standard_normal(5000) + 1, generator.standard_normal(5000)
    expected = 1 - norm.cdf(norm.isf(0.01) - 1)
    assert membership.true_positive_rate(members, others, 0.01) == pytest.approx(
        expected, abs=0.03
    )  # 3 standard errors
    assert membership.true_positive_rate(np.ones(10), np.ones(200), 0.01) == 0.0


def test_calibration_sees_members_that_the_loss_alone_hides() -> None:
    generator = np.random.default_rng(1)
    hard, other_hard = generator.standard_normal((400, 1)) * 3, generator.standard_normal((400, 1)) * 3
    members = hard[:, 0] + generator.standard_normal(400) + 1
    others = other_hard[:, 0] + generator.standard_normal(400)
    plain = membership.auc(members, others)
    scores = membership.calibrated(members, others, hard, other_hard, 0)
    assert membership.auc(*scores) > plain + 0.08
    assert membership.auc(*scores) == pytest.approx(norm.cdf(1 / math.sqrt(2)), abs=0.05)  # 2.5 standard errors
    nobody = membership.calibrated(others[:200], others[200:], other_hard[:200], other_hard[200:], 0)
    found = membership.estimate("auc", *nobody, 0)
    assert found.low < 0.5 < found.high


def test_a_model_that_learned_by_heart_gives_its_training_rows_away(toy: dict[str, Any], tmp_path: Path) -> None:
    """Labels that follow from nothing can only be learned by heart; no mechanism, so no canaries."""
    rows = [{**row, "label": ("sick", "well")[n % 2]} for n, row in enumerate(toy_rows(120, 3))]
    toy["data"] = {
        split: write_rows(tmp_path / f"{split}.jsonl", part)
        for split, part in {"train": rows[:40], "validation": rows[40:60], "test": rows[60:]}.items()
    }
    toy |= {"tune": "full", "train": {"max_steps": 120, "batch_size": 20, "learning_rate": 0.01, "eval_strategy": "no"}}
    run = execute(Stack.load({**toy, "privacy": {"use": "audit", "canaries": 0}}))
    auc = run.metrics["run/privacy/audit/attack_auc"]
    assert auc.low is not None
    assert auc.low > 0.6
    assert run.verdicts == []
    assert len(run.data["train"]) == 40
    page = (run.folder / "report.html").read_text()
    assert "Membership attack" in page
    assert "not covered by epsilon" not in page
    assert verify(run.folder).problems == []
