"""Per-unit gradients of plain torch modules against a float64 loop over single rows that knows nothing of Upright."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from upright import Batch
from upright_privacy import clipping
from upright_privacy.per_unit.contributions import Dense, Product, squared_norms
from upright_privacy.per_unit.methods import per_row, trainable
from upright_privacy.per_unit.tape import Unserved
from upright_privacy.per_unit.units import units_of

WORDS = 11


class Body(nn.Module):
    """Every way in which a weight meets rows: tables (one shared with the output), norms, prompts, products, a rotation."""

    def __init__(self, width: int, positions: int, classes: int) -> None:
        super().__init__()
        self.words = nn.Embedding(WORDS, width, padding_idx=0)
        self.places = nn.Embedding(32, width)
        self.prompt = nn.Parameter(torch.randn(2, width))
        self.norm = nn.LayerNorm(width)
        self.shared = nn.Linear(width, width)
        self.gain = nn.Parameter(torch.randn(width))
        self.scale = nn.Parameter(torch.randn(()))
        self.rotation = nn.Parameter(torch.randn(width, width) * 0.1)
        self.mix = nn.Parameter(torch.randn(2, width // 2, width // 2))
        self.conv = nn.Parameter(torch.randn(width, width))
        self.shift = nn.Parameter(torch.randn(width))
        self.head = nn.Linear(width, classes)
        self.table = nn.Parameter(torch.randn(positions, positions))

    def forward(self, read: Tensor) -> Tensor:
        rows, length = read.shape
        hidden = self.words(read) + self.places(torch.arange(length).unsqueeze(0))
        hidden = torch.cat([self.prompt.expand(rows, -1, -1), hidden], dim=1)
        hidden = self.norm(hidden) * (self.gain * self.scale.exp())
        hidden = torch.tanh(self.shared(torch.relu(self.shared(hidden))))  # one layer twice
        skew = self.rotation - self.rotation.T
        hidden = hidden @ torch.linalg.solve(
            torch.eye(len(skew), dtype=skew.dtype) + skew, torch.eye(len(skew), dtype=skew.dtype) - skew
        )
        halves = hidden.view(rows, hidden.shape[1], 2, -1)
        hidden = hidden + torch.einsum("rtgk,gkl->rtgl", halves, self.mix).flatten(2)
        flat = torch.addmm(self.shift, hidden.reshape(-1, hidden.shape[-1]), self.conv)
        hidden = flat.view(hidden.shape) + hidden
        scores = hidden @ hidden.transpose(1, 2) + self.table[: hidden.shape[1], : hidden.shape[1]]
        hidden = scores.softmax(-1) @ hidden
        vocabulary = hidden[:, -1] @ self.words.weight.T  # tied
        return torch.cat([self.head(hidden.mean(1)), vocabulary], dim=1)


class Losses(nn.Module):
    """A loss of each row; what `per_row` asks of a run."""

    def __init__(self, body: nn.Module, recompute: bool = False) -> None:
        super().__init__()
        self.body, self.recompute = body, recompute

    def forward(self, batch: Batch) -> tuple[Tensor, dict[str, dict[str, Tensor]]]:
        read = batch.inputs["input_ids"]
        if self.recompute:
            first = torch.zeros((), requires_grad=True)  # reentrant checkpoints need an input with a gradient
            logits = checkpoint(lambda x, _: self.body(x), read, first, use_reentrant=True)
        else:
            logits = self.body(read)
        return F.cross_entropy(logits, batch.labels, reduction="none"), {"s": {"n": logits.detach()[:, :2]}}


def made(seed: int, rows: int, length: int, width: int = 4, units: Any = None) -> tuple[nn.Module, Batch]:
    torch.manual_seed(seed)
    body = Body(width, 64, 3).double()
    read = torch.randint(0, WORDS, (rows, length))
    numbers = torch.arange(rows)
    unit = numbers if units is None else torch.tensor(units)
    return body, Batch({"input_ids": read}, torch.randint(0, 3 + WORDS, (rows,)), numbers, unit)


def by_hand(body: nn.Module, batch: Batch, rows: list[int]) -> dict[str, Tensor]:
    """The gradient of the summed loss of some rows, each alone, by a plain backward pass."""
    total: dict[str, Tensor] = {}
    for row in rows:
        body.zero_grad()
        F.cross_entropy(body(batch.inputs["input_ids"][[row]]), batch.labels[[row]]).backward()
        for name, p in body.named_parameters():
            own = torch.zeros_like(p) if p.grad is None else p.grad.clone()
            total[name] = total[name] + own if name in total else own
    body.zero_grad()
    return total


def dense(contributions: Any) -> dict[str, Tensor]:
    return {name.removeprefix("body."): sum(p.dense() for p in parts) for name, parts in contributions.items()}


def error(body: nn.Module, batch: Batch, found: dict[str, Tensor]) -> float:
    """Largest difference of any row's gradient relative to its norm."""
    worst = 0.0
    for row in range(len(batch)):
        expected = by_hand(body, batch, [row])
        size = math.sqrt(sum(float(g.square().sum()) for g in expected.values()))
        for name, gradient in expected.items():
            worst = max(worst, float((found[name][row].reshape(-1) - gradient.reshape(-1)).abs().max()) / size)
    return worst


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**16), rows=st.integers(1, 6), length=st.integers(1, 7), recompute=st.booleans())
def test_rules_give_each_rows_gradient(seed: int, rows: int, length: int, recompute: bool) -> None:
    """Also where the number of rows is that of positions, and where parts of the forward pass run again."""
    body, batch = made(seed, rows, length)
    served: dict[str, set[str]] = {}
    found = dense(per_row(Losses(body, recompute), batch, "direct", served)[0])
    assert error(body, batch, found) < 1e-10  # float64 sums in another order
    assert {name.removeprefix("body.") for name in served} == {name for name, _ in body.named_parameters()}


@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 2**16),
    units=st.lists(st.integers(0, 3), min_size=1, max_size=6),
    bound=st.sampled_from([1e-3, 1.0, 1e3]),
    cut=st.integers(1, 6),
)
def test_the_clipped_sum_of_units_is_the_loops(seed: int, units: list[int], bound: float, cut: int) -> None:
    """Units of several rows, in one micro-batch or in several, none, some or all of them clipped."""
    body, batch = made(seed, len(units), 5, units=units)
    rows = torch.arange(len(units))
    parts = [batch.take(rows[start : start + cut]) for start in range(0, len(units), cut)]
    losses = Losses(body)
    for mode in ("direct", "loop"):
        found: dict[str, Tensor] = {}
        for some in units_of(losses, parts, mode):  # type: ignore[arg-type]
            scale = clipping.factors(some.norms(), bound)
            for name, part in some.weighted_sum(scale, trainable(losses)).items():
                found[name] = found[name] + part if name in found else part
        expected = {name: torch.zeros_like(p) for name, p in body.named_parameters()}
        for unit in set(units):
            own = by_hand(body, batch, [row for row, whose in enumerate(units) if whose == unit])
            norm = math.sqrt(sum(float(g.square().sum()) for g in own.values()))
            for name, gradient in own.items():
                expected[name] += gradient * min(1.0, bound / norm)
        size = math.sqrt(sum(float(g.square().sum()) for g in expected.values()))
        for name, gradient in expected.items():
            assert float((found[f"body.{name}"] - gradient).abs().max()) < 1e-10 * size


@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 2**16), scale=st.sampled_from([1.0, 1e-6, 1e6]), dtype=st.sampled_from(["float32", "float64"])
)
def test_taking_a_unit_out_moves_the_sum_by_at_most_the_bound(seed: int, scale: float, dtype: str) -> None:
    """The longest, the shortest, a duplicated and a huge one, and one of several rows: C (1 + 1e-6)."""
    units = [0, 1, 2, 2, 2, 3, 4, 4]
    body, batch = made(seed, len(units), 6, units=units)
    batch.inputs["input_ids"][0, 1:] = 0
    batch.inputs["input_ids"][7], batch.labels[7] = batch.inputs["input_ids"][6], batch.labels[6]
    with torch.no_grad():
        body.gain.mul_(scale)  # type: ignore[union-attr]
    body = body.to(getattr(torch, dtype))
    losses, bound = Losses(body), 0.5

    def clipped(kept: list[int]) -> Tensor:
        [some] = units_of(losses, [batch.take(torch.tensor(kept))], "direct")
        sums = some.weighted_sum(clipping.factors(some.norms(), bound), trainable(losses))
        return torch.cat([sums[name].flatten().double() for name in trainable(losses)])

    everything = list(range(len(units)))
    whole = clipped(everything)
    for unit in range(5):
        moved = float((whole - clipped([row for row in everything if units[row] != unit])).norm())
        rounding = 1e-6 if dtype == "float64" else 1e-5  # the two sums are rounded apart, beside the clipping
        assert moved <= bound * (1 + rounding)


def test_one_clipped_unit_never_exceeds_the_bound() -> None:
    """In float32, by itself: nothing but the clipping is rounded."""
    for seed in range(20):
        body, batch = made(seed, 3, 6, width=8)
        body = body.float()
        [some] = units_of(Losses(body), [batch], "direct")
        factors = clipping.factors(some.norms(), 1e-2)
        for row in range(3):
            alone = torch.zeros(3, dtype=torch.float64)
            alone[row] = factors[row]
            sums = some.weighted_sum(alone, trainable(Losses(body)))
            norm = math.sqrt(sum(float(g.double().square().sum()) for g in sums.values()))
            assert norm <= 1e-2 * (1 + 1e-6)


def test_a_repeated_row_counts_once() -> None:
    body, batch = made(3, 4, 5)
    twice = batch.take(torch.tensor([0, 1, 1, 1, 2, 3]))
    [some] = units_of(Losses(body), [twice], "direct")
    found = {name: sum(part.dense() for part in parts) for name, parts in some.contributions.items()}
    assert error(body, batch, {name.removeprefix("body."): rows for name, rows in found.items()}) < 1e-10
    plain = per_row(Losses(body), batch, "direct")[1]["s"]["n"]
    torch.testing.assert_close(some.statistics["s"]["n"], plain)


# --- what is kept as two factors ------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**16),
    shape=st.tuples(st.integers(1, 4), st.integers(1, 5), st.integers(1, 40), st.integers(1, 40)),
    kinds=st.lists(st.sampled_from(["dense", "product", "table"]), min_size=1, max_size=3),
)
def test_norms_and_sums_by_factors_are_those_of_the_whole_gradient(
    seed: int, shape: tuple[int, int, int, int], kinds: list[str]
) -> None:
    torch.manual_seed(seed)
    rows, positions, m, n = shape
    parts: list[Any] = []
    for kind in kinds:
        right = torch.randn(rows, positions, n, dtype=torch.float64)
        if kind == "dense":
            parts.append(Dense(torch.randn(rows, m, n, dtype=torch.float64)))
        elif kind == "product":
            parts.append(Product(torch.randn(rows, positions, m, dtype=torch.float64), right, m))
        else:
            parts.append(Product(torch.randint(0, m, (rows, positions)), right, m))
    total = torch.zeros(rows, m, n, dtype=torch.float64)
    for part in parts:
        for row in range(rows):
            if isinstance(part, Dense):
                total[row] += part.rows[row]
                continue
            for t in range(positions):
                if part.left.dim() == 2:
                    total[row, part.left[row, t]] += part.right[row, t]
                else:
                    total[row] += torch.outer(part.left[row, t], part.right[row, t])
    torch.testing.assert_close(squared_norms(parts), total.square().sum((1, 2)), rtol=1e-10, atol=1e-10)
    factors = torch.rand(rows, dtype=torch.float64)
    found = sum(part.weighted(factors) for part in parts)
    torch.testing.assert_close(found, torch.einsum("r,rmn->mn", factors, total), rtol=1e-10, atol=1e-10)


def test_factors_whose_products_cancel_do_not_hide_a_norm() -> None:
    """In float32 the inner products of a thousand positions would leave nothing of a difference of 1e-4."""
    torch.manual_seed(0)
    left, right = torch.randn(1, 8, 300), torch.randn(1, 8, 300)
    pair = Product(torch.cat([left, left], 1), torch.cat([right, -right * (1 + 1e-4)], 1), 300)
    exact = pair.left.double().transpose(1, 2) @ pair.right.double()
    assert float(squared_norms([pair]) / exact.square().sum()) == pytest.approx(1, rel=1e-6)
    single = (pair.left @ pair.left.mT) * (pair.right @ pair.right.mT)
    assert abs(float(single.sum() / exact.square().sum()) - 1) > 1e-4, "mutant: float32 inner products are noticed"


# --- mutants and refusals -------------------------------------------------------------------------------------------


def test_mutant_rules_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    from upright_privacy.per_unit.rules import linear, normalization

    body, batch = made(1, 3, 4)

    def mean_over_positions(gradient: Tensor, rows: int, input: Tensor, weight: Tensor, bias: Any = None) -> Any:
        honest = of_linear(gradient, rows, input, weight, bias)
        return {"weight": honest["weight"], "bias": lambda: Dense(honest["bias"]().dense() / gradient.shape[1])}

    def without_normalizing(
        gradient: Tensor, rows: int, input: Tensor, shape: Any, weight: Any, bias: Any, eps: Any
    ) -> Any:
        return {
            "weight": lambda: Dense((gradient * input.detach()).sum(1)),
            "bias": lambda: Dense(gradient.sum(1)),
        }

    of_linear = linear.rows_of
    for module, mutant in ((linear, mean_over_positions), (normalization, without_normalizing)):
        with monkeypatch.context() as patch:
            patch.setattr(module, "rows_of", mutant)
            assert error(body, batch, dense(per_row(Losses(body), batch, "direct")[0])) > 1e-3


class Odd(nn.Module):
    """One odd thing, by name, with a trainable weight."""

    def __init__(self, what: str) -> None:
        super().__init__()
        self.what = what
        self.words = nn.Embedding(WORDS, 4).requires_grad_(False)
        self.gain = nn.Parameter(torch.randn(4, 4))

    def forward(self, read: Tensor) -> Tensor:
        hidden = self.words(read)
        if self.what == "rows last":
            hidden = (hidden.transpose(0, 1) @ self.gain).transpose(0, 1)
        elif self.what == "in place":
            hidden = hidden.clone()
            hidden.add_(self.gain[0])
        elif self.what == "chosen":
            hidden = hidden + (hidden[read[:, 0] > 3] @ self.gain).sum()
        elif self.what == "first dimension":
            hidden = torch.cat([hidden, (self.gain[:1] * torch.ones(1, read.shape[1], 4))], dim=0)[: len(read)]
        return hidden.mean(1)


@pytest.mark.parametrize("what", ["rows last", "in place", "chosen", "first dimension"])
def test_what_takes_the_rows_out_of_their_place_is_refused(what: str) -> None:
    torch.manual_seed(0)
    batch = Batch(
        {"input_ids": torch.randint(0, WORDS, (4, 4))}, torch.randint(0, 4, (4,)), torch.arange(4), torch.arange(4)
    )
    with pytest.raises(Unserved):
        per_row(Losses(Odd(what)), batch, "direct")


class Curved(torch.autograd.Function):
    """A kernel of one's own."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, gain: Tensor) -> Tensor:
        ctx.save_for_backward(values, gain)
        return values * gain**3

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        values, gain = ctx.saved_tensors
        return gradient * gain**3, (gradient * values * 3 * gain**2).sum((0, 1))


class OwnKernel(nn.Module):
    """A plugin author's layer, and its rule."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.rand(4, dtype=torch.float64) + 1)

    def forward(self, values: Tensor) -> Tensor:
        return Curved.apply(values, self.gain)

    def per_row_gradients(self, values: Tensor, gradient: Tensor) -> dict[str, Tensor]:
        return {"gain": (gradient * values * 3 * self.gain**2).sum(1)}


def test_a_layer_brings_its_own_rule() -> None:
    torch.manual_seed(0)
    body = nn.Sequential(nn.Embedding(WORDS, 4, dtype=torch.float64), OwnKernel(), nn.Linear(4, 4, dtype=torch.float64))

    class Mean(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = body

        def forward(self, read: Tensor) -> Tensor:
            return self.body(read).mean(1)

    model = Mean()
    batch = Batch(
        {"input_ids": torch.randint(0, WORDS, (3, 5))}, torch.randint(0, 4, (3,)), torch.arange(3), torch.arange(3)
    )
    served: dict[str, set[str]] = {}
    found = per_row(Losses(model), batch, "direct", served)[0]
    named = {name.removeprefix("body."): sum(p.dense() for p in parts) for name, parts in found.items()}
    assert error(model, batch, named) < 1e-10
    assert served["body.body.1.gain"] == {"OwnKernel's own"}
    body[1].per_row_gradients = None  # type: ignore[assignment]
    with pytest.raises(Unserved, match="gain meets the rows where no rule can see it"):
        per_row(Losses(model), batch, "direct")


def test_automatic_clipping_bounds_every_unit() -> None:
    norms = torch.tensor([0.0, 1e-3, 1.0, 1e6, float("nan"), float("inf")], dtype=torch.float64)
    scaled = clipping.factors(norms, 2.0, "automatic")
    assert scaled[4:].tolist() == [0.0, 0.0]
    assert float((scaled[:4] * norms[:4]).max()) <= 2.0
    assert float(scaled[2]) == pytest.approx(2.0 / 1.01)


def test_a_batch_is_left_as_it_was() -> None:
    """No ordinary gradient stays behind, and nothing of the batch changes."""
    body, batch = made(0, 3, 4)
    before = dataclasses.replace(batch)
    per_row(Losses(body), batch, "direct")
    assert all(p.grad is None for p in body.parameters())
    assert before == batch
