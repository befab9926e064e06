"""The steps that act during training: a loop by hand gives their terms, nothing of a group is needed or shipped after it."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

from conftest import WORDS, write_rows
from upright import Batch, Output, Stack
from upright.engine.evaluate import predict
from upright.engine.execute import execute, prepare_run
from upright.errors import ConfigError
from upright_fairness import lagrangian
from upright_fairness.constraint import CONDITIONS

BOUNDS = {"bounded_group_loss": {"bound": 0.3}, "worst_group_floor": {"bound": 0.8}}


def prepared(toy: dict[str, Any], folder: Path, fairness: Any) -> Any:
    (folder / "evidence").mkdir(parents=True)
    return prepare_run(Stack.load({**toy, "fairness": fairness}), folder)


@pytest.fixture
def three(toy: dict[str, Any], tmp_path: Path) -> dict[str, Any]:
    """A task of three classes and six crossed groups, some missing."""
    chance = random.Random(5)
    rows = []
    for n in range(90):
        label = chance.choice(["a", "b", "c"])
        race = chance.choice(["x", "y", "z", None])
        rows.append(
            {"text": f"{chance.choice(WORDS['other'])} {n}", "label": label, "sex": chance.choice("fm"), "race": race}
        )
    toy["data"] = {name: write_rows(tmp_path / f"{name}.jsonl", rows) for name in ("train", "validation", "test")}
    toy["data"]["sensitive"] = ["sex", "race"]
    return toy


@pytest.mark.parametrize("kind", CONDITIONS)
def test_cells_and_losses_are_those_of_a_loop(kind: str, three: dict[str, Any], tmp_path: Path) -> None:
    crossed = {"columns": ["sex", "race"]}
    run = prepared(
        three, tmp_path / "run", {"use": "constraint", "groups": [crossed], "constraint": kind, **BOUNDS.get(kind, {})}
    )
    step = run.stack.steps[-1].step
    chance = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 3, (40,), generator=chance)
    sex, race = torch.randint(-1, 2, (40,), generator=chance), torch.randint(-1, 3, (40,), generator=chance)
    logits = torch.randn(40, 3, generator=chance)
    rows = torch.arange(40)
    batch, output = Batch({}, labels, rows, rows, {"sex": sex, "race": race}), Output(logits)
    coefficients = step._kept(run, "coefficients")
    coefficients.copy_(torch.randn(coefficients.shape, generator=chance))
    classes = [1] if kind in BOUNDS else [0, 1, 2]
    width = len(coefficients)
    expected, counts, hits = torch.zeros(40), torch.zeros(width), torch.zeros(width)
    for row in range(40):
        scores = [float(x) for x in torch.softmax(logits[row].double(), 0)]
        place = 0
        for number in classes:
            for condition in CONDITIONS[kind]:
                for one in range(6):
                    inside = int(sex[row]) >= 0 and int(race[row]) >= 0 and int(sex[row]) * 3 + int(race[row]) == one
                    if condition != "all":
                        inside = inside and (int(labels[row]) == number) == (condition == "positive")
                    if inside:
                        value = 1 - scores[int(labels[row])] if kind in BOUNDS else scores[number]
                        wrong = float(int(logits[row].argmax()) != int(labels[row]))
                        hard = wrong if kind in BOUNDS else float(int(logits[row].argmax()) == number)
                        expected[row] += float(coefficients[place]) * value
                        counts[place] += 1
                        hits[place] += value if kind == "bounded_group_loss" else hard
                    place += 1
    torch.testing.assert_close(step.loss(batch, output, run), expected, rtol=1e-5, atol=1e-5)  # float32 sums
    released = step.statistics(batch, output, run)["cells"]
    assert float(released.norm(dim=1).max()) <= 1 + 1e-6
    torch.testing.assert_close(released.sum(0) / step._scale(run), torch.cat([counts, hits]), rtol=1e-5, atol=1e-5)


def test_equalized_odds_by_name_is_the_same_constraint(toy: dict[str, Any], tmp_path: Path) -> None:
    kept = []
    for number, use in enumerate(("equalized-odds", "constraint")):
        settings = {"use": use, "name": "odds", "groups": ["sex"], "dual_learning_rate": 1.0}
        run = execute(Stack.load({**toy, "fairness": settings, "output": str(tmp_path / str(number))}))
        kept.append((run.kept["odds/multipliers"], predict(run, "test").numpy("scores")))
    torch.testing.assert_close(kept[0][0], kept[1][0], rtol=0, atol=0)
    assert (kept[0][1] == kept[1][1]).all()
    assert float(kept[0][0].abs().max()) > 0


def test_multipliers_push_a_rate_that_is_too_high_down() -> None:
    class Settings:
        max_gap, damping, dual_learning_rate, max_multiplier = 0.0, 0.0, 1.0, 2.0

    rows, hits = torch.tensor([50.0, 50.0]), torch.tensor([40.0, 10.0])
    multipliers, coefficients = torch.zeros(2), torch.zeros(2)
    lagrangian.follow_common(rows, hits, multipliers, coefficients, Settings)
    assert multipliers[0] > 0 > multipliers[1]
    assert coefficients[0] > 0 > coefficients[1]
    multipliers, coefficients = torch.zeros(2), torch.zeros(2)
    lagrangian.follow_bound(rows, hits, multipliers, coefficients, Settings, 0.3)
    assert multipliers[0] > 0 == multipliers[1], "a group within its bound is left alone"


@pytest.mark.parametrize(
    "use",
    ["constraint", "equalized-odds", "group-dro", "reweigh", "adversarial", "erase", "balanced-batches", "thresholds"],
)
def test_decisions_need_no_group_and_the_model_ships_none(use: str, toy: dict[str, Any], tmp_path: Path) -> None:
    run = execute(Stack.load({**toy, "fairness": {"use": use, "groups": ["sex"]}}))
    twin = execute(Stack.load({**toy, "output": str(tmp_path / "twin")}))
    shapes = []
    for folder in (run.folder, twin.folder):
        found = {}
        for path in sorted((folder / "model").rglob("*.safetensors")):
            with safe_open(path, "pt") as tensors:
                found |= {f"{path.name}/{key}": tensors.get_slice(key).get_shape() for key in tensors.keys()}  # noqa: SIM118
        shapes.append(found)
    assert shapes[0] == shapes[1]
    before = predict(run, "test").numpy("decision")
    run.encoded["test"].groups["sex"].fill_(-1)
    assert (predict(run, "test").numpy("decision") == before).all()


def test_reweighing_makes_label_and_group_independent(toy: dict[str, Any], tmp_path: Path) -> None:
    run = prepared(toy, tmp_path / "run", {"use": "reweigh", "groups": ["sex"]})
    step, train = run.stack.steps[-1].step, run.data["train"]
    pairs = list(zip(train["sex"][:], train["label"][:], strict=True))
    for batch in run.batches(range(len(train)), augment=False):
        for row, weight in zip(batch.rows.tolist(), step.weigh(batch, run).tolist(), strict=True):
            sex, label = pairs[row]
            of_sex, of_label = sum(s == sex for s, _ in pairs), sum(x == label for _, x in pairs)
            assert weight == pytest.approx(of_sex * of_label / len(pairs) / pairs.count((sex, label)), rel=1e-5)


def test_group_dro_favours_the_group_of_the_larger_loss(toy: dict[str, Any], tmp_path: Path) -> None:
    run = prepared(toy, tmp_path / "run", {"use": "group-dro", "groups": ["sex"]})
    step = run.stack.steps[-1].step
    labels, rows = torch.zeros(4, dtype=torch.long), torch.arange(4)
    batch = Batch({}, labels, rows, rows, {"sex": torch.tensor([0, 0, 1, 1])})
    logits = torch.tensor([[2.0, 0.0], [2.0, 0.0], [0.0, 2.0], [0.0, 2.0]])
    run.groups = {"group-dro": {"losses": step.statistics(batch, Output(logits), run)["losses"].sum(0)}}
    step.watch("updated", run)
    weights = step.weigh(batch, run)
    assert weights[2] > 1 > weights[0]
    losses = torch.nn.functional.cross_entropy(logits, labels, reduction="none")
    expected = torch.softmax(
        step.step_size * torch.stack([losses[:2].mean(), losses[2:].mean()]), 0
    )  # from equal weights
    torch.testing.assert_close(step._kept(run, "weights"), expected)


@pytest.mark.parametrize("use", ["constraint", "group-dro", "adversarial", "thresholds", "multiclass-offsets"])
def test_what_couples_no_records_goes_with_dp_sgd(use: str, toy: dict[str, Any]) -> None:
    toy["privacy"] = {"use": "dp-sgd", "noise_multiplier": 1.0, "delta": 1e-3}
    assert execute(Stack.load({**toy, "fairness": {"use": use, "groups": ["sex"]}})).exit_code == 0


def test_what_does_not_go_together_is_refused(toy: dict[str, Any]) -> None:
    private = {**toy, "privacy": {"use": "dp-sgd", "noise_multiplier": 1.0, "delta": 1e-3}}
    with pytest.raises(ConfigError, match=r"privacy\.dp-sgd cannot run with fairness\.reweigh"):
        Stack.load({**private, "fairness": {"use": "reweigh", "groups": ["sex"]}})
    with pytest.raises(ConfigError, match="bound goes with"):
        Stack.load({**toy, "fairness": {"use": "constraint", "groups": ["sex"], "constraint": "worst_group_floor"}})
    spec = {"columns": ["sex"], "use": ["audit"]}
    with pytest.raises(ConfigError, match="may be used for audit, not for train"):
        execute(Stack.load({**toy, "fairness": {"use": "constraint", "groups": [spec]}}))


def test_mutant_dual_without_a_common_rate_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A dual that pulls every rate to zero, not to the common one, would lower the lower group's too."""

    def to_zero(rows: Any, hits: Any, multipliers: Any, coefficients: Any, step: Any) -> None:
        multipliers.add_(step.dual_learning_rate * hits / rows)
        coefficients.copy_(multipliers)

    monkeypatch.setattr(lagrangian, "follow_common", to_zero)
    with pytest.raises(AssertionError):
        test_multipliers_push_a_rate_that_is_too_high_down()


def test_the_adversary_learns_and_the_model_gets_its_gradient_reversed(toy: dict[str, Any], tmp_path: Path) -> None:
    run = prepared(toy, tmp_path / "run", {"use": "adversarial", "groups": ["sex"], "strength": 0.5})
    step, rows = run.stack.steps[-1].step, torch.arange(6)
    batch = Batch({}, rows % 2, rows, rows, {"sex": torch.tensor([0, 1, 1, 0, -1, 1])})
    logits = torch.randn(6, 2, requires_grad=True)
    losses = step.loss(batch, Output(logits), run)
    assert losses[4] == 0 < losses[0]
    (found,) = torch.autograd.grad(losses.sum(), logits)
    seen = torch.cat([logits, torch.nn.functional.one_hot(rows % 2, 2).float()], dim=1)
    guessed = run.modules["adversarial/adversary"](seen)
    known = batch.groups["sex"] >= 0
    plain = torch.nn.functional.cross_entropy(guessed[known], batch.groups["sex"][known], reduction="sum")
    (expected,) = torch.autograd.grad(plain, logits)
    torch.testing.assert_close(found, -0.5 * expected)
