"""Influence against a float64 loop over records, with weights and learning rates that a witness wrote down."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from outside_steps import with_steps

from upright import Run, Stack, Step, hook
from upright.engine.execute import execute
from upright.errors import ConfigError
from upright.evidence.verify import verify
from upright_explain import copies, influence

UPDATES, EVERY, BODY, HEAD = 12, 2, 0.05, 0.02
TOLERANCE = 1e-4
"""Relative to the largest score: products of float32 gradients, against float64."""


class Witness(Step):
    """Write down the weights after each update."""

    @hook
    def watch(self, moment: str, run: Run) -> None:
        seen = run.keep(self, "seen", dict)
        if moment == "updated":
            seen[run.update] = {n: p.detach().clone() for n, p in run.model.named_parameters() if p.requires_grad}


Make = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def make(tiny_mean: Path, toy_files: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Make:
    def stack(**changes: Any) -> dict[str, Any]:
        return {
            "data": dict(toy_files),
            "model": {"base": str(tiny_mean)},
            "tune": {"use": "lora", "rank": 2},
            "train": {
                "max_steps": UPDATES,
                "batch_size": 8,
                "learning_rate": BODY,
                "head_learning_rate": HEAD,
                "warmup_ratio": 0,
                "eval_strategy": "steps",
                "eval_steps": EVERY,
                "load_best_model_at_end": False,
            },
            "explain": {"use": "influence", "samples": 3, "checkpoints": 2, "top": 48},
            "output": str(tmp_path_factory.mktemp("influence") / "runs"),
            **changes,
        }

    return stack


def executed(stack: dict[str, Any], **options: Any) -> Run:
    return execute(with_steps(Stack.load(stack), ("train", "witness", Witness())), **options)


@pytest.fixture(scope="module")
def run(make: Make) -> Run:
    return executed(make())


def loss(model: Any, run: Run, text: str, label: str) -> torch.Tensor:
    logits = model(**run.tokenizer(text, return_tensors="pt")).logits[0]
    return -torch.log_softmax(logits, 0)[run.labels.index(label)]


def expected(run: Run, head: bool) -> dict[tuple[str, str], float]:
    """(explained row, training row) -> influence, by the definition; of the head's parameters alone, or of all."""
    model = copy.deepcopy(run.model).double().eval()
    named = {name: p for name, p in model.named_parameters() if p.requires_grad}
    counts = (lambda name: "classifier" in name) if head else (lambda name: True)
    rates = {name: HEAD if "classifier" in name else BODY for name in named}
    updates = run.kept["influence/found"]["updates"]
    texts = {
        split: dict(zip(run.data[split]["row_id"], run.data[split]["text"], strict=True)) for split in ("train", "test")
    }
    labels = dict(zip(run.data["train"]["row_id"], run.data["train"]["label"], strict=True))
    decided = {row["row_id"]: row["decision"] for row in run.kept["influence/found"]["rows"]}
    total = {(one, other): 0.0 for one in decided for other in labels}
    for before, update in itertools.pairwise([0, *updates]):
        steps = sum(1 - n / UPDATES for n in range(before, update))  # the rate falls to 0 in a straight line
        with torch.no_grad():
            for name, p in named.items():
                p.copy_(run.kept["witness/seen"][update][name])
        gradients = [
            {key: torch.autograd.grad(loss(model, run, texts[split][key], of[key]), list(named.values())) for key in of}
            for split, of in (("test", decided), ("train", labels))
        ]
        for one, other in total:
            pairs = zip(named, gradients[0][one], gradients[1][other], strict=True)
            total[one, other] += steps * sum(rates[name] * float((a * b).sum()) for name, a, b in pairs if counts(name))
    return total


def told(run: Run) -> dict[tuple[str, str], float]:
    return {
        (row["row_id"], key): score
        for row in run.kept["influence/found"]["rows"]
        for side in ("for", "against")
        for key, _, score in row[side]
    }


def error(run: Run, head: bool = False) -> float:
    by_hand, found = expected(run, head), told(run)
    assert found.keys() == by_hand.keys()
    return max(abs(found[key] - by_hand[key]) for key in by_hand) / max(map(abs, by_hand.values()))


def test_influence_is_the_sum_over_checkpoints_of_rate_times_gradient_product(run: Run) -> None:
    assert run.exit_code == 0
    assert error(run) < TOLERANCE


def test_what_is_explained_is_the_decision(run: Run) -> None:
    texts = dict(zip(run.data["test"]["row_id"], run.data["test"]["text"], strict=True))
    for row in run.kept["influence/found"]["rows"]:
        logits = run.model(**run.tokenizer(texts[row["row_id"]], return_tensors="pt")).logits[0]
        assert run.labels[int(logits.argmax())] == row["decision"]


def test_the_model_is_left_as_training_left_it(run: Run) -> None:
    named = {name: p for name, p in run.model.named_parameters() if p.requires_grad}
    assert all(torch.equal(p.detach(), run.kept["witness/seen"][UPDATES][name]) for name, p in named.items())


def test_rows_are_named_by_id_and_label_and_never_by_text(run: Run) -> None:
    written = "".join(path.read_text() for path in (run.folder / "evidence").glob("*.json"))
    written += (run.folder / "steps" / "influence" / "influence.json").read_text()
    assert not any(text in written for split in ("train", "test") for text in run.data[split]["text"])


def test_figures_follow_from_the_file(run: Run) -> None:
    assert "run/explain/influence/identical_class" in run.metrics
    assert verify(run.folder).problems == []


def test_of_the_head_alone_it_is_the_heads_part(make: Make) -> None:
    run = executed(make(explain={"use": "influence", "samples": 3, "checkpoints": 2, "top": 48, "parameters": "head"}))
    assert error(run, head=True) < TOLERANCE
    assert error(run) > TOLERANCE


def test_a_resumed_run_names_the_same_rows(run: Run, make: Make) -> None:
    def stop(event: dict[str, Any]) -> None:
        if event["event"] == "update" and event["update"] == 7:
            raise KeyboardInterrupt

    stack = make()
    with pytest.raises(KeyboardInterrupt):
        executed(stack, listen=stop)
    resumed = executed(stack, resume=(Path(stack["output"]) / "run" / "latest").resolve())
    assert resumed.kept["influence/found"] == run.kept["influence/found"]


# --- wrong implementations ------------------------------------------------------------------------------------------


def one_rate_for_all(honest: Any) -> Any:
    return lambda run: dict.fromkeys(honest(run), run.optimizer.param_groups[0]["lr"])


def gone_with_its_rate(honest: Any) -> Any:
    def keep(found: Any, update: int, rates: Any, weights: Any, limit: int) -> None:
        found.append({"update": update, "rates": dict(rates), "weights": weights})
        del found[:-limit]

    return keep


def of_unit_length(honest: Any) -> Any:
    return lambda *given: torch.nn.functional.normalize(honest(*given), dim=0)


def of_the_first_parameter(honest: Any) -> Any:
    return lambda batch, parameters, run: honest(batch, parameters, run).index_fill(
        0, torch.arange(parameters[0].numel(), sum(p.numel() for p in parameters)), 0.0
    )


@pytest.mark.parametrize(
    ("name", "mutant"),
    [
        ("learning_rates", one_rate_for_all),
        ("keep_copy", gone_with_its_rate),
        ("gradient", of_unit_length),
        ("gradient", of_the_first_parameter),
    ],
)
def test_a_mutant_is_noticed(name: str, mutant: Any, make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(influence, name, mutant(getattr(influence, name)))
    assert error(executed(make())) > TOLERANCE


# --- which copies are kept ------------------------------------------------------------------------------------------


def kept(keep: Any, gaps: list[int], limit: int) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for gap in gaps:
        update = (found[-1]["update"] if found else 0) + gap
        keep(found, update, {"w": float(gap)}, {}, limit)
    return found


def stands_for_every_update(found: list[dict[str, Any]], gaps: list[int], limit: int) -> bool:
    """Each copy has the rates since the one before it, the last is the newest, and there are not more than asked for."""
    starts = [0, *(copy["update"] for copy in found)]
    lengths = [float(b - a) for a, b in itertools.pairwise(starts)]
    return len(found) <= limit and starts[-1] == sum(gaps) and [copy["rates"]["w"] for copy in found] == lengths


@given(st.lists(st.integers(1, 9), min_size=1, max_size=30), st.integers(1, 6))
def test_every_update_counts_in_the_copy_after_it(gaps: list[int], limit: int) -> None:
    assert stands_for_every_update(kept(copies.keep_copy, gaps, limit), gaps, limit)


@given(st.integers(1, 60), st.integers(2, 6))
def test_copies_are_spread_over_training(count: int, limit: int) -> None:
    """Of regular evaluations: no copy stands for more than four times the updates of another, the newest aside."""
    found = kept(copies.keep_copy, [1] * count, limit)
    lengths = [copy["rates"]["w"] for copy in found][:-1]
    assert not lengths or max(lengths) <= 4 * min(lengths)


def test_a_mutant_that_keeps_the_newest_copies_is_noticed() -> None:
    gaps = [1] * 9
    assert not stands_for_every_update(kept(gone_with_its_rate(None), gaps, 3), gaps, 3)


# --- what it cannot run with ----------------------------------------------------------------------------------------


def test_it_is_refused_beside_differential_privacy(make: Make) -> None:
    private = {"privacy": {"use": "dp-sgd", "noise_multiplier": 1.0, "delta": 1e-3}}
    with pytest.raises(ConfigError, match=r"explain\.influence cannot run with privacy\.dp-sgd"):
        Stack.load(make(**private))


def test_it_is_refused_beside_a_merged_adapter_before_training(make: Make) -> None:
    merging = make(tune={"use": "lora", "rank": 2, "merge": True})
    with pytest.raises(ConfigError, match="set merge: false there"):
        executed(merging)


def test_it_is_refused_beside_a_step_that_declares_to_replace_what_it_trains(make: Make) -> None:
    with pytest.raises(ConfigError, match=r"those of the finished model\", which tune\.p-tuning breaks"):
        Stack.load(make(tune="p-tuning"))


class Folds(Step):
    """Leaves other parameters than those that were trained, without a word."""

    @hook
    def finalize(self, model: Any) -> Any:
        next(parameter for parameter in model.parameters() if parameter.requires_grad).requires_grad_(False)
        return model


def test_where_a_step_replaced_what_it_trained_without_a_word_the_evidence_says_failed(make: Make) -> None:
    run = execute(with_steps(Stack.load(make()), ("train", "folds", Folds())))
    assert run.exit_code == 1
    assert "left other parameters than those that were trained" in (run.folder / "report.html").read_text()


@pytest.mark.parametrize(
    ("loaded", "updates", "rates"), [(2, [2], [1.0]), (3, [2, 3], [1.0, 2.0]), (4, [2, 4], [1.0, 4.0])]
)
def test_copies_of_updates_that_were_thrown_away_do_not_count(
    loaded: int, updates: list[int], rates: list[float]
) -> None:
    from upright_explain.copies import cut_copies

    copies = [{"update": n, "rates": {"w": rate}, "weights": {}} for n, rate in ((2, 1.0), (4, 4.0), (9, 5.0))]
    cut_copies(copies, loaded, {})
    assert [copy["update"] for copy in copies] == updates
    assert [copy["rates"]["w"] for copy in copies] == rates
