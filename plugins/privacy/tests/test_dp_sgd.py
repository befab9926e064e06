"""Differential privacy: per-record gradients, the accountant, the ledger, sampling and resuming."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from outside_steps import StopAt, with_steps

from conftest import write_rows
from upright import Stack, Step, hook
from upright.engine.batches import collate
from upright.engine.execute import execute, prepare_run
from upright.errors import ConfigError, IntegrityError, UprightError
from upright_privacy import clipping
from upright_privacy.accounting import combined, epsilon, noise_for
from upright_privacy.ledger import Ledger, draws, read_ledger
from upright_privacy.noise import gaussian
from upright_privacy.per_unit.contributions import Dense
from upright_privacy.per_unit.methods import Losses, per_row, trainable
from upright_privacy.per_unit.units import Units, units_of

PRIVATE = {"use": "dp-sgd", "noise_multiplier": 1.0, "delta": 1e-3}


def prepared(toy: dict[str, Any], folder: Path, **changes: Any) -> Any:
    (folder / "evidence").mkdir(parents=True)
    run = prepare_run(Stack.load({**toy, **changes}), folder)
    torch.manual_seed(1)
    with torch.no_grad():
        for p in run.model.parameters():
            if p.requires_grad:
                p.add_(torch.randn_like(p) * 0.1)
    return run


def dense(contributions: Any) -> dict[str, torch.Tensor]:
    """Each row's gradient of every parameter; a plain 0 of one that no loss depends on."""
    return {name: sum(part.dense() for part in parts) for name, parts in contributions.items()}


def one_by_one(run: Any, row: int) -> dict[str, torch.Tensor]:
    """One record's gradient by a plain backward pass of a float64 model."""
    model = run.model.double()
    batch = collate(run, [row], "train")
    model.zero_grad()
    logits = model(**batch.inputs).logits
    torch.nn.functional.cross_entropy(logits, batch.labels).backward()
    found = {
        f"model.{name}": p.grad.clone() if p.grad is not None else torch.zeros_like(p)
        for name, p in model.named_parameters()
        if p.requires_grad
    }
    model.float().zero_grad()
    return found


@pytest.mark.parametrize("base", ["tiny_bert", "tiny_mean"])
@pytest.mark.parametrize(
    "tune",
    [
        "head",
        "full",
        "bitfit",
        "ia3",
        {"use": "lora", "rank": 2},
        {"use": "top-layers", "layers": 1},
        {"use": "adapter", "bottleneck": 4},
        {"use": "soft-prompt", "num_virtual_tokens": 3},
        {"use": "prefix", "num_virtual_tokens": 3},
    ],
    ids=lambda tune: tune if isinstance(tune, str) else tune["use"],
)
@pytest.mark.parametrize("mode", ["direct", "functorch", "loop"])
def test_per_record_gradients_are_those_of_one_record_alone(
    toy: dict[str, Any], tmp_path: Path, base: str, tune: Any, mode: Any, request: pytest.FixtureRequest
) -> None:
    run = prepared(toy, tmp_path, model={"base": str(request.getfixturevalue(base))}, tune=tune)
    found = dense(per_row(Losses(run), collate(run, range(5), "train"), mode)[0])
    assert set(found) == set(trainable(Losses(run)))
    for row in range(5):
        expected = one_by_one(run, row)
        size = math.sqrt(sum(float(g.square().sum()) for g in expected.values()))
        for name, gradient in expected.items():
            mine = found[name][row].double() if isinstance(found[name], torch.Tensor) else torch.zeros(())
            assert float((mine.view(-1) - gradient.view(-1)).abs().max()) < 1e-5 * size  # float32


def test_language_models_are_clipped_per_record_too(tiny_llama: Path, tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text("the patient has fever\nrest\nsome pain today and very mild cough\n" * 12)
    toy = {
        "data": {"train": str(tmp_path / "t.txt")},
        "model": {"base": str(tiny_llama), "task": "text-generation"},
        "tune": {"use": "lora", "rank": 2},
        "output": str(tmp_path / "runs"),
    }
    run = prepared(toy, tmp_path / "run")
    batch = collate(run, range(4), "train")
    slow = dense(per_row(Losses(run), batch, "loop")[0])
    for name, fast in (
        (n, dense(per_row(Losses(run), batch, mode)[0])) for mode in ("direct", "functorch") for n in slow
    ):
        torch.testing.assert_close(fast[name].view_as(slow[name]), slow[name], rtol=1e-3, atol=1e-6)
    done = execute(Stack.load({**toy, "privacy": PRIVATE, "train": {"max_steps": 2, "batch_size": 6}}))
    assert done.metrics["run/privacy/dp-sgd/draws"].value == 2


def test_removing_a_unit_moves_the_clipped_sum_by_at_most_the_bound(toy: dict[str, Any], tmp_path: Path) -> None:
    run = prepared(toy, tmp_path)
    bound = 0.01
    batch = collate(run, [0, 1, 2, 3, 3, 3], "train")

    def clipped(rows: list[int]) -> torch.Tensor:
        [units] = units_of(Losses(run), [batch.take(torch.tensor(rows))], "direct")
        like = trainable(Losses(run))
        return torch.cat(
            [g.flatten() for g in units.weighted_sum(clipping.factors(units.norms(), bound), like).values()]
        )

    whole = clipped([0, 1, 2, 3, 4, 5])
    for left_out in ([1, 2, 3, 4, 5], [0, 1, 2]):
        assert float((whole - clipped(left_out)).norm()) <= bound * (1 + 1e-5)


def test_a_record_that_gives_nan_leaves_nothing() -> None:
    units = Units({"w": [Dense(torch.tensor([[1.0, 0.0], [float("nan"), 1.0], [float("inf"), 0.0]]))]}, {})
    scale = clipping.factors(units.norms(), 0.5)
    assert scale.tolist() == [0.5, 0.0, 0.0]
    assert units.weighted_sum(scale, {"w": torch.zeros(2)})["w"].tolist() == [0.5, 0.0]


# --- accounting -----------------------------------------------------------------------------------------------------


def gaussian_epsilon(sigma: float, delta: float) -> float:
    """The exact epsilon of one Gaussian release without sampling (Balle and Wang, 2018, theorem 8), by bisection."""
    from math import erf, exp, sqrt

    def phi(x: float) -> float:
        return 0.5 * (1 + erf(x / sqrt(2)))

    def loss(eps: float) -> float:
        return phi(0.5 / sigma - eps * sigma) - exp(eps) * phi(-0.5 / sigma - eps * sigma)

    low, high = 0.0, 60.0
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if loss(middle) > delta else (low, middle)
    return high


@pytest.mark.parametrize("sigma", [0.7, 1.0, 2.0, 5.0])
@pytest.mark.parametrize("count", [1, 4])
def test_epsilon_without_sampling_is_the_closed_form(sigma: float, count: int) -> None:
    """k releases with sigma are one with sigma / sqrt(k)."""
    expected = gaussian_epsilon(sigma / math.sqrt(count), 1e-5)
    found = epsilon([(sigma, 1.0)] * count, 1e-5)
    assert expected - 1e-3 <= found <= expected + 0.05  # PRV is an upper bound within its error of .01 a side
    assert epsilon([(sigma, 1.0)] * count, 1e-5, "rdp") >= found - 0.02


def test_two_releases_of_one_draw_are_one_release_of_the_joint_vector() -> None:
    assert gaussian_epsilon(combined(1.0, 1.0), 1e-5) == pytest.approx(gaussian_epsilon(1 / math.sqrt(2), 1e-5))
    assert combined(1.3, None) == 1.3
    joint = epsilon([(combined(1.0, 1.0), 0.0256)] * 195, 1e-5)
    separate = epsilon([(1.0, 0.0256)] * 390, 1e-5)
    assert joint > 5 > separate, "mutant: two entries a draw under-report (5.6 against 3.2)"


def test_figures_of_the_facts() -> None:
    assert epsilon([(1.0, 0.0256)] * 195, 1e-5) == pytest.approx(2.369, abs=0.01)
    assert epsilon([(1.0, 0.0256)] * 195, 1e-5, "rdp") == pytest.approx(2.761, abs=0.01)
    assert epsilon([], 1e-5) == 0.0


@pytest.mark.parametrize("target", [1.0, 8.0])
def test_the_noise_that_is_found_keeps_the_budget_and_wastes_little(target: float) -> None:
    found = epsilon([(noise_for(target, 1e-5, 0.05, 100), 0.05)] * 100, 1e-5)
    assert target - 0.05 <= found <= target


def test_noise_has_its_scale_and_never_repeats() -> None:
    torch.manual_seed(0)
    first = gaussian(torch.Size([200_000]), 3.0, torch.device("cpu"))
    torch.manual_seed(0)
    second = gaussian(torch.Size([200_000]), 3.0, torch.device("cpu"))
    assert not torch.equal(first, second), "the public seed must not lead to it"
    assert float(first.std()) == pytest.approx(3.0, rel=0.02)  # standard error of a standard deviation: .16 %


# --- the ledger and the run -----------------------------------------------------------------------------------------


def test_the_ledger_is_on_the_disk_before_the_draw_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    honest = os.fsync
    monkeypatch.setattr(os, "fsync", lambda handle: (synced.append(handle), honest(handle))[1])
    ledger = Ledger(tmp_path / "accountant.jsonl")
    for update in range(3):
        ledger.charge(update=update, noise_multiplier=1.0, sample_rate=0.1, attempt=1)
        assert len(synced) == update + 1
        assert len(read_ledger(tmp_path / "accountant.jsonl")) == update + 1
    assert draws(ledger.entries) == [(1.0, 0.1)] * 3
    again = Ledger(tmp_path / "accountant.jsonl")
    again.load_state_dict({"entries": 2})
    with pytest.raises(IntegrityError, match="holds 3 draws where"):
        again.load_state_dict({"entries": 4})


@pytest.mark.parametrize("damage", ["drop", "change", "cut"])
def test_a_ledger_that_was_changed_is_refused_with_its_line(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "accountant.jsonl"
    ledger = Ledger(path)
    for update in range(4):
        ledger.charge(update=update, noise_multiplier=1.0, sample_rate=0.1, attempt=1)
    lines = path.read_text().splitlines()
    if damage == "drop":
        lines.pop(1)
    elif damage == "change":
        lines[1] = lines[1].replace("1.0", "9.0")
    else:
        lines[3] = lines[3][:10]
    path.write_text("\n".join(lines) + "\n")
    with pytest.raises(IntegrityError, match=r"accountant\.jsonl:\d"):
        read_ledger(path)


def private(toy: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {**toy, "privacy": {**PRIVATE, **changes}}


def test_a_private_run_is_charged_for_every_draw_and_never_repeats_itself(toy: dict[str, Any]) -> None:
    first, second = execute(Stack.load(private(toy))), execute(Stack.load(private(toy)))
    weights = [torch.cat([p.flatten() for p in run.model.parameters() if p.requires_grad]) for run in (first, second)]
    assert not torch.equal(*weights), "sampling and noise come from the operating system"
    entries = read_ledger(first.folder / "steps" / "dp-sgd" / "accountant.jsonl")
    assert len(entries) == first.update == 4
    assert first.metrics["run/privacy/dp-sgd/epsilon"].value == pytest.approx(epsilon([(1.0, 8 / 48)] * 4, 1e-3))


def test_poisson_sampling_draws_each_unit_alike_and_alone(toy: dict[str, Any], tmp_path: Path) -> None:
    run = prepared(private(toy), tmp_path)
    step = run.stack.steps[-1].step
    run.updates = 10**6
    step._state(run).update(sample_rate=8 / 48, noise_multiplier=1.0, attempt=1, mode="loop")
    drawn = np.zeros((400, 48))
    for update in range(400):
        drawn[update, step.sample(update, run)] = 1
    assert drawn.mean() == pytest.approx(8 / 48, abs=4 * math.sqrt(8 / 48 * 40 / 48 / 400 / 48))
    sizes = drawn.sum(1)
    # a fixed batch size (the mutant: shuffled batches) would have no variance; Poisson sampling has 48 q (1 - q) = 6.7
    assert 4.5 < sizes.var() < 9.5
    assert np.abs(np.corrcoef(drawn.T)[np.triu_indices(48, 1)]).mean() < 0.1


def test_a_resumed_private_run_draws_fresh_noise_and_is_charged(toy: dict[str, Any], tmp_path: Path) -> None:
    toy["train"] |= {"max_steps": 6, "save_steps": 2}
    stack = private(toy)
    StopAt.at = 3
    with pytest.raises(KeyboardInterrupt):
        execute(with_steps(Stack.load(stack), ("train", "stop", StopAt())))
    folder = (tmp_path / "runs" / "toy" / "latest").resolve()
    StopAt.at = -1
    run = execute(with_steps(Stack.load(stack), ("train", "stop", StopAt())), resume=folder)
    entries = read_ledger(folder / "steps" / "dp-sgd" / "accountant.jsonl")
    assert [entry["update"] for entry in entries] == [0, 1, 2, 2, 3, 4, 5]
    assert [entry["attempt"] for entry in entries] == [1, 1, 1, 2, 2, 2, 2]
    assert run.metrics["run/privacy/dp-sgd/draws"].value == 7
    assert run.metrics["run/privacy/dp-sgd/epsilon"].value > epsilon([(1.0, 8 / 48)] * 6, 1e-3)


def test_a_spent_budget_stops_a_resumed_run(toy: dict[str, Any], tmp_path: Path) -> None:
    toy["train"] |= {"max_steps": 6, "save_steps": 2}
    stack = {**toy, "privacy": {"use": "dp-sgd", "epsilon": 5.0, "delta": 1e-3}}
    StopAt.at = 3
    with pytest.raises(KeyboardInterrupt):
        execute(with_steps(Stack.load(stack), ("train", "stop", StopAt())))
    StopAt.at = -1
    folder = (tmp_path / "runs" / "toy" / "latest").resolve()
    run = execute(with_steps(Stack.load(stack), ("train", "stop", StopAt())), resume=folder)
    assert run.metrics["run/privacy/dp-sgd/epsilon"].value <= 5.0
    assert run.update == 5
    assert json.loads((folder / "evidence" / "training.json").read_text())["stopped"] == "the privacy budget is spent"


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"epsilon": 1.0}, "either epsilon or noise_multiplier"),
        ({"noise_multiplier": None}, "either epsilon or noise_multiplier"),
        ({"delta": 0.0}, "delta"),
        ({"delta": 0.5}, "not below 1 / 48 training units"),
        ({"noise_multiplier": None, "epsilon": 1e-6, "delta": 1e-6}, "no noise reaches epsilon"),
    ],
)
def test_budgets_that_say_nothing_are_refused(toy: dict[str, Any], changes: dict[str, Any], told: str) -> None:
    with pytest.raises((ConfigError, UprightError), match=told):
        execute(Stack.load(private(toy, **changes)))


def test_a_batch_over_all_units_is_refused(toy: dict[str, Any]) -> None:
    toy["train"]["batch_size"] = 500
    with pytest.raises(ConfigError, match="batch_size is over the 48 training units"):
        execute(Stack.load(private(toy)))


class Hidden(torch.autograd.Function):
    """A product that no rule can see and vmap cannot enter."""

    @staticmethod
    def forward(ctx: Any, values: torch.Tensor, gain: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(values, gain)
        return values * gain

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:  # type: ignore[override]
        values, gain = ctx.saved_tensors
        return gradient * gain, (gradient * values).sum()


class Gained(torch.nn.Module):
    """A model whose logits are scaled where nobody looks."""

    def __init__(self, inner: torch.nn.Module) -> None:
        super().__init__()
        self.inner = inner
        self.config = inner.config
        self.gain = torch.nn.Parameter(torch.ones(()))

    def forward(self, **inputs: Any) -> Any:
        output = self.inner(**inputs)
        output["logits"] = Hidden.apply(output.logits, self.gain)
        return output

    def save_pretrained(self, folder: Any) -> None:
        self.inner.save_pretrained(folder)


def gained(toy: dict[str, Any], mode: str) -> Stack:
    class Wrapped(Step):
        @hook
        def tune(self, model: Any) -> Any:
            return Gained(model)

    stack = Stack.load({**toy, "tune": "head", "privacy": {**PRIVATE, "grad_sample_mode": mode}})
    return with_steps(stack, ("tune", "wrapped", Wrapped()))


def test_what_no_rule_and_no_vmap_can_do_is_done_one_unit_at_a_time_and_says_so(toy: dict[str, Any]) -> None:
    told: list[dict[str, Any]] = []
    execute(gained(toy, "auto"), listen=told.append)
    [message] = [
        e["message"] for e in told if e["event"] == "warning" and "one unit is taken at a time" in e["message"]
    ]
    assert "gain meets the rows where no rule can see it" in message


@pytest.mark.parametrize("mode", ["direct", "functorch"])
def test_a_method_that_is_asked_for_and_cannot_is_refused(toy: dict[str, Any], mode: str) -> None:
    with pytest.raises(UprightError, match=f"{mode}.*; use grad_sample_mode: auto"):
        execute(gained(toy, mode))


def test_adaptive_clipping_follows_the_quantile_and_its_count_is_charged(toy: dict[str, Any]) -> None:
    changes = {"clipping": "adaptive", "max_grad_norm": 1e-3, "unclipped_num_std": 0.5, "clipbound_learning_rate": 1.0}
    run = execute(Stack.load(private(toy, **changes)))
    step = run.stack.steps[-1].step
    assert step._state(run)["max_grad_norm"] > 1e-3, "almost every unit is over so low a norm"
    [entry, *_] = read_ledger(run.folder / "steps" / "dp-sgd" / "accountant.jsonl")
    assert entry["noise_multiplier"] == pytest.approx((1.0**-2 + 1.0**-2) ** -0.5)  # twice .5 for the count


def test_rows_of_one_patient_are_one_unit_in_the_draws_and_in_the_report(toy: dict[str, Any], tmp_path: Path) -> None:
    rows = [{"text": f"fever rash {n}", "label": ["sick", "well"][n % 2], "who": n // 3} for n in range(90)]
    data = {"train": write_rows(tmp_path / "t.jsonl", rows), "validation": write_rows(tmp_path / "v.jsonl", rows[:9])}
    stack = {**toy, "data": {**data, "unit": "who"}, "train": {"epochs": 2, "batch_size": 5}, "privacy": PRIVATE}
    run = execute(Stack.load(stack))
    assert run.updates == 2 * 30 / 5
    entries = read_ledger(run.folder / "steps" / "dp-sgd" / "accountant.jsonl")
    assert {entry["sample_rate"] for entry in entries} == {5 / 30}
    assert "all training rows of one who" in (run.folder / "report.html").read_text()
    (step,) = (placed.step for placed in run.stack.steps if placed.key == "dp-sgd")
    for update in range(20):
        drawn = step.sample(update, run)
        assert len(drawn) == 3 * len({row // 3 for row in drawn}), "all of a patient's rows or none"


@pytest.mark.parametrize(("noise", "warned"), [(10.0, True), (1.0, False)])
def test_noise_that_drowns_the_signal_is_warned_of_before_training(
    toy: dict[str, Any], noise: float, warned: bool
) -> None:
    train = {"max_steps": 2, "batch_size": 4}
    stack = {**toy, "tune": "head", "train": train, "privacy": {**PRIVATE, "noise_multiplier": noise}}
    told = Stack.load(stack).plan()["announced"]
    messages = [event["message"] for event in told if event["event"] == "warning"]
    assert any("times as long as any gradient" in message for message in messages) is warned


def test_the_report_names_what_is_outside_epsilon_with_its_line(toy: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "stack.yaml"
    lines = [
        f"{key}: {json.dumps(value)}" for key, value in {**toy, "clean": ["exact-dup"], "privacy": PRIVATE}.items()
    ]
    path.write_text("\n".join(lines) + "\n")
    run = execute(Stack.load(path))
    text = (run.folder / "evidence" / "privacy.json").read_text()
    cleaned = 1 + next(n for n, line in enumerate(lines) if line.startswith("clean:"))
    assert f"stack.yaml:{cleaned}:" in text
    assert "what clean.exact-dup saw of the training rows" in text
    assert "which iterate was best on validation" in text
