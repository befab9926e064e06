"""Logit pairing against a loop over single records and their variants, in float64; and record by record under privacy."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from conftest import write_rows
from upright import Batch, Output, Run, Stack
from upright.engine.execute import execute, prepare_run
from upright.engine.probe import probe
from upright.errors import ConfigError
from upright_fairness.counterfactual_pairing import CounterfactualPairing
from upright_fairness.terms import GENDER, read_terms
from upright_privacy.per_unit import methods
from upright_privacy.per_unit.methods import Losses, per_row, trainable

STRENGTH = 0.7
STEP = {
    "use": "counterfactual-pairing",
    "strength": STRENGTH,
    "terms": [["fever", "walk"], ["pain", "smile"], ["rash", "diet"]],
}
SENTENCES = [
    ("patient has fever and the pain", "patient has walk and the smile"),
    ("some rest today", None),
    ("Smile and Walk again", "Pain and Fever again"),
    ("rest and sleep and some very mild note", None),
    ("patient has some RASH", "patient has some DIET"),
]
CLOSE = 1e-4
"""Relative: float32 against float64, over two layers of sums of some ten terms."""


@pytest.fixture
def told(toy: dict[str, Any], tiny_mean: Path, tmp_path: Path) -> dict[str, Any]:
    """A mean over tokens, for the tiny model's first token hardly tells one word from another."""
    rows = [
        {"text": f"{text} {n}", "label": ["sick", "well"][n % 5 % 2], "sex": "fm"[n % 2]}
        for n, (text, _) in enumerate(SENTENCES * 5)
    ]
    toy["data"] |= {"train": write_rows(tmp_path / "told.jsonl", rows)}
    toy["model"]["base"], toy["tune"] = str(tiny_mean), "full"
    return toy


def prepared(settings: dict[str, Any], folder: Path, *fairness: dict[str, Any]) -> Run:
    (folder / "evidence").mkdir(parents=True)
    run = prepare_run(Stack.load({**settings, "fairness": list(fairness)}), folder)
    probe(run)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in run.model.parameters():
            if p.requires_grad:  # as it is made, the tiny model hardly tells one word from another
                p.add_(torch.randn(p.shape, generator=generator) * 0.2)
    run.model.eval()
    return run


def by_hand(run: Run, rows: list[int]) -> Iterator[tuple[torch.Tensor, list[torch.Tensor]]]:
    """Each record's loss and gradient by the definition: its own cross-entropy and the distance to its variant."""
    model = copy.deepcopy(run.model).double().eval()
    parameters = [p for p in model.parameters() if p.requires_grad]
    for row in rows:
        text, variant = SENTENCES[row % 5]
        label = run.labels.index(run.data["train"][row]["label"])
        assert run.data["train"][row]["text"] == f"{text} {row}"
        logits = model(**run.tokenizer(f"{text} {row}", return_tensors="pt")).logits[0]
        loss = -torch.log_softmax(logits, 0)[label]
        if variant is not None:
            other = model(**run.tokenizer(f"{variant} {row}", return_tensors="pt")).logits[0]
            # of two classes: how far the difference of the two logits moves
            loss = loss + STRENGTH * ((logits[1] - logits[0]) - (other[1] - other[0])).abs()
        yield loss.detach(), list(torch.autograd.grad(loss, parameters))


def error(run: Run, rows: list[int]) -> float:
    """How far the update's loss is from the mean of the records' own, relative."""
    run.calls.gradients(rows, run)
    expected = torch.stack([loss for loss, _ in by_hand(run, rows)]).mean()
    assert run.train_loss is not None
    return float((run.train_loss - expected).abs() / expected)


def test_the_loss_is_that_of_each_record_and_its_distance_to_its_variant(told: dict[str, Any], tmp_path: Path) -> None:
    run = prepared(told, tmp_path / "run", STEP)
    rows = list(range(10))
    assert error(run, rows) < CLOSE
    gradient = [p.grad.double() for p in run.model.parameters() if p.requires_grad and p.grad is not None]
    expected = [torch.stack(parts).mean(0) for parts in zip(*(g for _, g in by_hand(run, rows)), strict=True)]
    apart = sum((a - b).square().sum() for a, b in zip(gradient, expected, strict=True))
    assert float((apart / sum(b.square().sum() for b in expected)).sqrt()) < CLOSE


HONEST = {"loss": CounterfactualPairing.loss, "weigh": CounterfactualPairing.weigh}


def learns_from_variants(self: Any, batch: Batch, run: Run) -> None:
    """A mutant: the variant's label counts as well."""
    return


def pairs_neighbours(self: Any, batch: Batch, output: Output, run: Run) -> Any:
    """A mutant: the distance to the next row of the batch."""
    return (output.logits - output.logits.roll(1, 0)).abs().sum(1)


def one_sided(self: Any, batch: Batch, output: Output, run: Run) -> Any:
    """A mutant: the distance counts at the record alone, so the mean over its copies halves it."""
    found = HONEST["loss"](self, batch, output, run)
    return None if found is None else found * (1 - batch.groups[run.key(self)])


@pytest.mark.parametrize(
    ("name", "mutant"), [("weigh", learns_from_variants), ("loss", pairs_neighbours), ("loss", one_sided)]
)
def test_mutants_are_noticed(
    name: str, mutant: Any, told: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mutant.upright_impl = HONEST[name].upright_impl
    monkeypatch.setattr(CounterfactualPairing, name, mutant)
    run = prepared(told, tmp_path / "run", STEP)
    assert error(run, list(range(10))) > 10 * CLOSE


def apart(run: Run, mode: Any) -> float:
    """How far per-record gradients are from those by hand, relative to the longest."""
    rows = list(range(10))
    [batch] = run.batches(rows)
    assert len(batch) == 16
    names = list(trainable(Losses(run)))
    far, long = [], []
    found = per_row(Losses(run), batch, mode)[0]
    dense = {name: sum(part.dense() for part in found[name]) for name in names}
    for row, (_, gradient) in zip(rows, by_hand(run, rows), strict=True):
        mine = [torch.as_tensor(dense[name])[batch.rows == row].sum(0).double() for name in names]
        squares = sum((a.view_as(b) - b).square().sum() for a, b in zip(mine, gradient, strict=True))
        far.append(squares.sqrt())
        long.append(torch.stack([g.square().sum() for g in gradient]).sum().sqrt())
    return float(torch.stack(far).max() / torch.stack(long).max())


@pytest.mark.parametrize("mode", ["direct", "functorch", "loop"])
def test_a_private_record_is_itself_and_its_variant(mode: Any, told: dict[str, Any], tmp_path: Path) -> None:
    told["train"]["micro_batch_size"] = 16
    assert apart(prepared(told, tmp_path / "run", STEP), mode) < CLOSE


@pytest.mark.parametrize("mode", ["functorch", "loop"])
def test_mutant_that_tears_copies_apart_is_noticed(
    mode: Any, told: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told["train"]["micro_batch_size"] = 16
    monkeypatch.setattr(methods, "_copies", lambda batch: [torch.arange(len(batch)).unsqueeze(1)])
    assert not apart(prepared(told, tmp_path / "run", STEP), mode) <= 10 * CLOSE  # it is NaN


def test_it_runs_under_dp_sgd(told: dict[str, Any]) -> None:
    told["privacy"] = {"use": "dp-sgd", "noise_multiplier": 1.0, "delta": 1e-3}
    run = execute(Stack.load({**told, "fairness": STEP}))
    assert run.exit_code == 0
    assert run.stack.steps[-2].step.report(run) is None, "how many rows hold a term is withheld"


def test_both_texts_of_a_pair_are_swapped(told: dict[str, Any], tmp_path: Path) -> None:
    step = CounterfactualPairing(terms=[("king", "queen")])
    pairs = [["king", "queen"]]
    run = SimpleNamespace(keep=lambda *_: pairs)
    found = step._variant({"text": "A King", "text_pair": "no queen", "label": "x"}, run)
    assert found == ({"text": "A Queen", "text_pair": "no king", "label": "x"}, 2)


def test_training_draws_the_variants_together(told: dict[str, Any], tmp_path: Path) -> None:
    """Where the terms alone tell the class, a twin with next to no strength learns to go by them."""
    rows = [
        {"text": text, "label": label, "sex": "f"}
        for pair in SENTENCES * 8
        if pair[1]
        for text, label in zip(pair, ("sick", "well"), strict=True)
    ]
    told["data"] |= {"train": write_rows(tmp_path / "by_terms.jsonl", rows), "validation": None}
    told["train"] = {"max_steps": 60, "batch_size": 12, "learning_rate": 0.01, "eval_strategy": "no"}
    distances = []
    for strength in (1e-6, 2.0):
        run = execute(Stack.load({**told, "fairness": {**STEP, "strength": strength}}))
        step = run.stack.steps[-1].step
        with torch.no_grad():
            [batch] = run.batches(range(6))
            distances.append(float(step.loss(batch, run.forward(batch), run).mean()) / strength)
    assert distances[1] < 0.2 * distances[0]


def test_lists_are_read_or_refused(told: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "own.tsv"
    path.write_text("fever\tcough\n")
    run = prepared(told, tmp_path / "run", {**STEP, "terms": str(path)})
    assert run.kept["counterfactual-pairing/terms"] == [["fever", "cough"]]
    assert run.stack.steps[-1].step.report(run).blocks[0].text.startswith("5 of 25")
    assert len(read_terms(GENDER)) > 50
    path.write_text("fever\n")
    with pytest.raises(ConfigError, match=r"fairness\.counterfactual-pairing\.terms: .*own\.tsv:1: 'fever' is no pair"):
        prepared(told, tmp_path / "again", {**STEP, "terms": str(path)})


def test_a_record_and_its_variant_count_once_in_what_a_constraint_reads(told: dict[str, Any], tmp_path: Path) -> None:
    odds = {"use": "constraint", "groups": ["sex"]}
    run = prepared(told, tmp_path / "run", STEP, odds)
    released = run.calls.gradients(list(range(10)), run)["constraint"]["cells"] / run.stack.steps[-1].step._scale(run)
    assert float(released.chunk(2)[0].sum()) == pytest.approx(10, rel=1e-5)


def test_another_step_that_compares_copies_is_refused(told: dict[str, Any], tmp_path: Path) -> None:
    told["train"]["steps"] = ["r-drop"]
    with pytest.raises(
        ConfigError, match=r"counterfactual-pairing and train\.r-drop .* both compare .*; remove one of them"
    ):
        prepared(told, tmp_path / "run", STEP)
