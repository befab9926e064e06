"""What an attribution owes by its definition: linear models, tokens without effect, parts that add up."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import attribution_oracles as oracles
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from outside_steps import with_steps

from conftest import write_rows
from upright import Attribution, Run, Stack, Step, hook
from upright.engine.execute import prepare_run
from upright.engine.target import CoreTarget

DIVIDING = ("integrated-gradients", "occlusion", "shapley", "gradient-shap", "input-x-gradient")
COMPLETE = ("integrated-gradients", "shapley", "gradient-shap")
SETTINGS: dict[str, dict[str, Any]] = {
    "integrated-gradients": {"n_steps": 2},
    "shapley": {"n_samples": 4},
    "gradient-shap": {"n_samples": 8},
}
TEXTS = ["fever has rest", "some cough today and pain", "walk", "rash again the smile", "rest rest note very mild has"]


class Made(Step):
    """Answer with a model of the oracles in the place of the base."""

    kind: str

    @hook
    def model(self, run: Run) -> Any:
        from upright.engine.base import load_model

        load_model(run)
        torch.manual_seed(run.seed)
        return getattr(oracles, self.kind)(len(run.tokenizer))


@pytest.fixture(scope="module")
def made(tiny_mean: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Run]:
    """``made("Linear", seed)``: an untrained run of that model, all explainers in its stack."""
    folder = tmp_path_factory.mktemp("axioms")
    rows = [{"text": text, "label": ("sick", "well")[n % 2]} for n, text in enumerate(TEXTS)]
    data = {split: write_rows(folder / f"{split}.jsonl", rows) for split in ("train", "validation", "test")}

    def make(kind: str, seed: int = 0, tune: Any = "full") -> Run:
        stack = Stack.load(
            {
                "seed": seed,
                "data": data,
                "model": {"base": str(tiny_mean)},
                "tune": tune,
                "train": {"max_steps": 1},
                "explain": [{"use": name, **SETTINGS.get(name, {})} for name in DIVIDING],
                "output": str(folder / "runs"),
            }
        )
        stack = stack if kind == "bert" else with_steps(stack, ("model", "made", Made(kind=kind)))
        home = folder / f"{kind}-{seed}-{len(list(folder.iterdir()))}"
        home.mkdir()
        return prepare_run(stack, home)

    return make


def ask(run: Run, name: str) -> list[Attribution]:
    """What the run's explainer of that name says of its test rows."""
    step: Any = next(placed.step for placed in run.stack.steps if placed.key == name)
    return step.explain(CoreTarget(run, "test"), run.data["test"], run)  # type: ignore[no-any-return]


def embeddings(run: Run, one: Attribution) -> tuple[torch.Tensor, torch.Tensor]:
    """The row's embeddings with and without content, from the model's own table, ``[T, D]``."""
    tokenizer, table = run.tokenizer, run.model.get_input_embeddings()
    ids = tokenizer.convert_tokens_to_ids(one.tokens)
    bare = [number if number in tokenizer.all_special_ids else tokenizer.pad_token_id for number in ids]
    with torch.no_grad():
        return table(torch.tensor(ids)), table(torch.tensor(bare))


# --- linear models ---------------------------------------------------------------------------------------------------


def linear_error(run: Run, found: list[Attribution], *, from_zero: bool) -> float:
    """How far scores are from weight x way, the only answer on a linear model."""
    worst = 0.0
    for one in found:
        full, blank = embeddings(run, one)
        weight = run.model.weight[: len(full), :, run.labels.index(one.target)]
        expected = ((full if from_zero else full - blank) * weight).sum(1).detach().numpy()
        worst = max(worst, float(np.abs(one.scores - expected).max()))
    return worst


@pytest.mark.parametrize("name", DIVIDING)
def test_a_linear_model_is_divided_exactly(made: Callable[..., Run], name: str) -> None:
    run = made("Linear")
    # float32 sums of 8 x 7 products of order one: 1e-5 is the bound that was asked for
    assert linear_error(run, ask(run, name), from_zero=name == "input-x-gradient") < 1e-5


@pytest.mark.parametrize("name", DIVIDING)
@pytest.mark.parametrize("mutant", [np.abs, np.negative, lambda scores: scores - scores.mean(), np.roll])
def test_mutants_are_noticed_by_a_linear_model(made: Callable[..., Run], name: str, mutant: Any) -> None:
    run = made("Linear")
    found = ask(run, name)
    for one in found:
        one.scores = mutant(one.scores, 1) if mutant is np.roll else mutant(one.scores)
    assert linear_error(run, found, from_zero=name == "input-x-gradient") > 1e-3


# --- tokens without effect -------------------------------------------------------------------------------------------


def of_inert(run: Run, found: list[Attribution]) -> float:
    """The largest score of a token that has no effect on the model."""
    word = run.tokenizer.convert_ids_to_tokens(oracles.Deaf.INERT)
    scores = [abs(score) for one in found for token, score in zip(one.tokens, one.scores, strict=True) if token == word]
    assert len(scores) >= 1
    return float(max(scores))


@pytest.mark.parametrize("name", DIVIDING)
def test_an_inert_token_gets_nothing(made: Callable[..., Run], name: str) -> None:
    run = made("Deaf")
    found = ask(run, name)
    assert of_inert(run, found) < 1e-6
    assert max(np.abs(one.scores).max() for one in found) > 0.1


def spread_evenly(one: Attribution, whole: float) -> np.ndarray:
    """Complete, and wrong: what is missing goes to every token alike."""
    return one.scores + (whole - one.scores.sum()) / len(one.scores)


def smoothed(one: Attribution, whole: float) -> np.ndarray:
    """A token's neighbours get a part of its score."""
    return np.convolve(one.scores, [0.25, 0.5, 0.25], mode="same")


@pytest.mark.parametrize("mutant", [spread_evenly, smoothed])
def test_mutants_are_noticed_by_an_inert_token(made: Callable[..., Run], mutant: Any) -> None:
    run = made("Deaf")
    found = ask(run, "input-x-gradient")
    for one in found:
        one.scores = mutant(one, 1.0)
    assert of_inert(run, found) > 1e-4


def test_special_tokens_get_nothing(made: Callable[..., Run]) -> None:
    run = made("bert")
    for name in ("integrated-gradients", "occlusion", "shapley", "gradient-shap"):
        for one in ask(run, name):
            special = [start == end for start, end in one.offsets]
            assert np.abs(one.scores[special]).max() == 0


# --- parts that add up -----------------------------------------------------------------------------------------------


def incompleteness(run: Run, found: list[Attribution]) -> list[tuple[float, float]]:
    """For each row, how far its parts are from the whole and how far it says that they are, both as shares."""
    told = []
    table = run.model.get_input_embeddings()
    for one in found:
        ends = []
        for embeds in embeddings(run, one):
            handle = table.register_forward_hook(lambda module, given, output, embeds=embeds: embeds[None])
            ids = torch.tensor([run.tokenizer.convert_tokens_to_ids(one.tokens)])
            inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "token_type_ids": torch.zeros_like(ids)}
            with torch.no_grad():
                ends.append(float(run.model(**inputs).logits[0, run.labels.index(one.target)]))
            handle.remove()
        whole = ends[0] - ends[1]
        told.append((abs(one.scores.sum() - whole) / max(abs(whole), 0.05), one.completeness_error or 0.0))
    return told


def shaken(run: Run, seed: int, size: float) -> Run:
    """The run with random weights of that size."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in run.model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * size)
    return run


@pytest.fixture(scope="module")
def random_model(made: Callable[..., Run]) -> Run:
    return made("bert")


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 10_000), size=st.floats(0.1, 0.6))
def test_parts_add_up_on_random_models_as_they_are_told_to(random_model: Run, seed: int, size: float) -> None:
    run = shaken(random_model, seed, size)
    for name in COMPLETE:
        for apart, told in incompleteness(run, ask(run, name)):
            assert apart == pytest.approx(told, abs=1e-3)  # float32 scores of order one, relative to .05 at least
            assert told < {"shapley": 1e-3, "integrated-gradients": 0.05}.get(name, np.inf)


def test_steps_that_do_not_double_are_noticed(random_model: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("upright_explain.integrated_gradients.MAX_STEPS", 2)
    run = shaken(random_model, 3, 0.5)
    assert max(told for _, told in incompleteness(run, ask(run, "integrated-gradients"))) > 0.05


# --- the same model in another form ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", DIVIDING)
def test_adapter_and_merged_model_are_explained_alike(made: Callable[..., Run], name: str) -> None:
    from peft import PeftModel

    run = made("bert", tune={"use": "lora", "rank": 2})
    assert isinstance(run.model, PeftModel)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():  # an adapter begins as nothing
        for key, parameter in run.model.named_parameters():
            if "lora_B" in key or "classifier" in key:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.5)
    apart = [one.scores for one in ask(run, name)]
    with CoreTarget(run, "test").plain():
        without = [one.scores for one in ask(run, name)]
    run.model = run.model.merge_and_unload()
    merged = [one.scores for one in ask(run, name)]
    largest = max(float(np.abs(scores).max()) for scores in apart)
    differ = [
        max(float(np.abs(a - b).max()) for a, b in zip(apart, others, strict=True)) for others in (merged, without)
    ]
    assert differ[0] < 1e-4 * largest  # a merged product of float32 matrices is rounded once more
    assert differ[1] > 1e-2 * largest  # the adapter has an effect: a mutant that leaves it off is noticed
