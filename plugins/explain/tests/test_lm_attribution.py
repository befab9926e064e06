"""Attributions of answers against log-probabilities in float64, every subset of tokens asked of the model itself."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_stacks import prepared

from conftest import write_rows
from upright import Run, Stack
from upright.engine.execute import execute
from upright.engine.target import CoreTarget
from upright.errors import ConfigError
from upright.evidence.verify import verify
from upright_explain import answers, lm_attribution
from upright_explain.lm_attribution import LmAttribution

TOLERANCE = 1e-4
"""Nats: float32 logits of two layers and a log-softmax over a hundred tokens, against float64."""
PROMPTS = ["patient has fever", "the rash", "walk and rest", "some pain today", "very mild cough"]
SAMPLES, NEAR = 60, 0.25
"""Nats: the mean of 60 drawn orders, of six that there are, misses that of all by a fraction of their spread of one or so."""
Make = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def wide_llama(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With weights ten times as large, so that what a word does depends on the words beside it."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = tmp_path_factory.mktemp("wide-llama")
    model = AutoModelForCausalLM.from_pretrained(tiny_llama)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(10.0 if parameter.dim() > 1 else 1.0)
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(tiny_llama).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def make(wide_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Make:
    def stack(**changes: Any) -> dict[str, Any]:
        folder = tmp_path_factory.mktemp("answers")
        rows = [{"prompt": prompt, "completion": "fever and pain"} for prompt in PROMPTS] * 4
        return {
            "data": {split: write_rows(folder / f"{split}.jsonl", rows) for split in ("train", "validation", "test")},
            "model": {"base": str(wide_llama), "task": "text-generation", "max_length": 32},
            "tune": {"use": "lora", "rank": 2},
            "train": {"max_steps": 6, "batch_size": 8, "learning_rate": 0.05},
            "explain": {"use": "lm-attribution", "samples": 6, "max_new_tokens": 4},
            "output": str(folder / "runs"),
            **changes,
        }

    return stack


@pytest.fixture(scope="module")
def run(make: Make) -> Run:
    return execute(Stack.load(make()))


def asked(run: Run, **settings: Any) -> list[Any]:
    """What the step says with these settings."""
    placed = run.stack.steps[-1]
    before = placed.step
    object.__setattr__(placed, "step", LmAttribution(**{"samples": 6, "max_new_tokens": 4, **settings}))
    try:
        return placed.step.explain(CoreTarget(run, "test"), run.data["test"], run)
    finally:
        object.__setattr__(placed, "step", before)


class Oracle:
    """A float64 twin of the run's model: what it writes, and how likely that is after any prompt."""

    def __init__(self, run: Run) -> None:
        self.model = copy.deepcopy(run.model).double().eval()
        self.tokenizer, self.run = run.tokenizer, run

    def prompt(self, row_id: str) -> list[int]:
        rows = self.run.data["test"]
        ids = self.tokenizer(dict(zip(rows["row_id"], rows["prompt"], strict=True))[row_id])["input_ids"]
        return ids[:-1] if ids[-1] == self.tokenizer.eos_token_id else ids

    def logits(self, ids: list[int]) -> torch.Tensor:
        with torch.no_grad():
            return self.model(input_ids=torch.tensor([ids]), attention_mask=torch.ones(1, len(ids)).long()).logits[0]

    def answer(self, prompt: list[int], count: int = 4) -> list[int]:
        found: list[int] = []
        while len(found) < count and self.tokenizer.eos_token_id not in found:
            found.append(int(self.logits([*prompt, *found])[-1].argmax()))
        return found

    def likely(self, prompt: list[int], answer: list[int]) -> float:
        logs = torch.log_softmax(self.logits([*prompt, *answer]), -1)
        return sum(float(logs[len(prompt) - 1 + n, token]) for n, token in enumerate(answer))

    def without(self, prompt: list[int], gone: set[int]) -> list[int]:
        return [self.tokenizer.pad_token_id if n in gone else token for n, token in enumerate(prompt)]

    def words(self, prompt: list[int]) -> list[int]:
        return [n for n, token in enumerate(prompt) if token not in self.tokenizer.all_special_ids]

    def ablation(self, prompt: list[int], answer: list[int]) -> np.ndarray:
        scores = np.zeros(len(prompt))
        for n in self.words(prompt):
            scores[n] = self.likely(prompt, answer) - self.likely(self.without(prompt, {n}), answer)
        return scores

    def shapley(self, prompt: list[int], answer: list[int]) -> np.ndarray:
        """Over all orders; only for a few words."""
        words, scores = self.words(prompt), np.zeros(len(prompt))
        assert len(words) < 5
        orders = list(permutations(words))
        for order in orders:
            gone, before = set(words), self.likely(self.without(prompt, set(words)), answer)
            for n in order:
                gone = gone - {n}
                after = self.likely(self.without(prompt, gone), answer)
                scores[n] += (after - before) / len(orders)
                before = after
        return scores


def error(run: Run, by: str, **settings: Any) -> float:
    """The largest difference from the oracle over the explained prompts of few words."""
    oracle, apart = Oracle(run), []
    for one in asked(run, **settings):
        prompt = oracle.prompt(one.row_id)
        expected = getattr(oracle, by)(prompt, oracle.answer(prompt))
        apart.append(np.abs(one.scores - expected).max())
    assert len(apart) > 2
    return float(max(apart))


def test_a_tokens_score_is_what_the_answer_loses_without_it(run: Run) -> None:
    assert run.exit_code == 0
    assert error(run, "ablation") < TOLERANCE


def test_sampled_orders_come_near_to_all_orders_and_add_up(run: Run) -> None:
    assert error(run, "shapley", method="shapley_value_sampling", n_samples=SAMPLES) < NEAR
    assert error(run, "shapley", method="feature_ablation") > NEAR  # so near is near enough to tell the two apart
    adds_up(run, TOLERANCE, method="shapley_value_sampling", n_samples=3)


def test_integrated_gradients_add_up(run: Run) -> None:
    # weights this large make the path steep: 100 points leave 0.1 nats, 1,000 less than a fifth of that
    adds_up(run, 0.02, method="layer_integrated_gradients", n_steps=1000)


def adds_up(run: Run, tolerance: float, **settings: Any) -> None:
    oracle = Oracle(run)
    explained = asked(run, **settings)
    assert explained
    for one in explained:
        prompt = oracle.prompt(one.row_id)
        answer = oracle.answer(prompt)
        blank = oracle.without(prompt, set(oracle.words(prompt)))
        whole = oracle.likely(prompt, answer) - oracle.likely(blank, answer)
        assert abs(one.scores.sum() - whole) <= tolerance * max(1.0, abs(whole))


def test_tokens_are_those_of_the_prompt_with_their_places(run: Run) -> None:
    prompts = dict(zip(run.data["test"]["row_id"], run.data["test"]["prompt"], strict=True))
    for one in run.attributions["lm-attribution"]:
        told = [(token, start, end) for token, (start, end) in zip(one.tokens, one.offsets, strict=True) if end > start]
        assert all(prompts[one.row_id][start:end] == token.removeprefix("##") for token, start, end in told)
        assert "".join(token.removeprefix("##") for token, _, _ in told) == prompts[one.row_id].replace(" ", "")


def test_a_prompt_that_lost_its_beginning_keeps_the_places_of_its_end(make: Make, tmp_path: Path) -> None:
    rows = [{"prompt": "the patient has some very mild pain today", "completion": "rest and walk"}] * 8
    stack = make(
        data={split: write_rows(tmp_path / f"{split}.jsonl", rows) for split in ("train", "validation", "test")}
    )
    stack["model"]["max_length"] = 7
    run = prepared(stack, tmp_path / "run")
    target = CoreTarget(run, "test")
    [batch] = target.batches([0])
    text = f"{rows[0]['prompt']} {rows[0]['completion']}"
    found = [(token, text[start:end]) for token, start, end in target.tokens(batch)[0]]
    assert found == [(w, w) for w in ("mild", "pain", "today", "rest", "and", "walk")] + [("[SEP]", "")]
    assert run.tokenizer.convert_ids_to_tokens(batch.inputs["input_ids"][0]) == [token for token, _ in found]


def test_the_answer_is_the_models_own(run: Run) -> None:
    oracle = Oracle(run)
    for one in run.attributions["lm-attribution"]:
        answer = oracle.answer(oracle.prompt(one.row_id))
        assert one.target == run.tokenizer.decode(answer, skip_special_tokens=True)


def test_figures_follow_from_the_file(run: Run) -> None:
    lines = json.loads((run.folder / "steps" / "lm-attribution" / "lm-attribution.json").read_text())
    told = run.metrics["run/explain/lm-attribution/prompt_effect"]
    assert told.value == pytest.approx(np.mean([line["whole"] for line in lines]))
    assert verify(run.folder).problems == []


@pytest.mark.parametrize("tune", ["full", "soft-prompt", "ia3"])
def test_whatever_surrounds_the_model_the_explanation_is_of_its_answer(make: Make, tune: str) -> None:
    settings = {"soft-prompt": {"num_virtual_tokens": 2}}.get(tune, {})
    run = execute(Stack.load(make(tune={"use": tune, **settings})))
    assert run.exit_code == 0
    assert error(run, "ablation") < TOLERANCE
    adds_up_by_itself(run)


def adds_up_by_itself(run: Run) -> None:
    """Of sampled orders, by the step's own words."""
    run.kept.pop("lm-attribution/rows", None)
    asked(run, method="shapley_value_sampling", n_samples=2)
    assert all(abs(line["parts"] - line["whole"]) < 1e-3 for line in run.kept["lm-attribution/rows"])


def test_an_answer_is_shown_as_the_pii_step_leaves_it(make: Make, tmp_path: Path) -> None:
    run = prepared(make(privacy="pii"), tmp_path / "run")
    shown = answers.masked("mail jane@example.org", run.data["test"].select([0]), "test", run)
    assert shown == "mail <EMAIL>"


def test_without_prompts_it_is_refused(make: Make, tmp_path: Path) -> None:
    rows = [{"text": prompt} for prompt in PROMPTS * 4]
    stack = make(data={"train": write_rows(tmp_path / "t.jsonl", rows), "test": write_rows(tmp_path / "e.jsonl", rows)})
    with pytest.raises(ConfigError, match="the data has none"):
        execute(Stack.load(stack))


# --- wrong implementations ------------------------------------------------------------------------------------------


def of_the_first_token(honest: Any) -> Any:
    """The answer's first token alone is explained."""
    return lambda self, model, prompt, answer, row, run: honest(self, model, prompt, answer[:1], row, run)


def the_completion_of_the_data(honest: Any) -> Any:
    return lambda model, prompt, count, run: run.tokenizer("fever and pain", return_tensors="pt")["input_ids"][0, 1:]


def unknown(honest: Any) -> Any:
    """Another token stands for no word."""
    return lambda run: run.tokenizer.unk_token_id


@pytest.mark.parametrize(
    ("home", "name", "mutant"),
    [
        (LmAttribution, "_attribute", of_the_first_token),
        (lm_attribution, "greedy", the_completion_of_the_data),
        (lm_attribution, "blank_of", unknown),
    ],
)
def test_a_mutant_is_noticed(home: Any, name: str, mutant: Any, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(home, name, mutant(getattr(home, name)))
    assert error(run, "ablation") > TOLERANCE
