"""Rows with other words, and what the head reads of rows: the same path as the run's own predictions."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from upright import Run, Stack
from upright.engine import features as engine
from upright.engine.base import unwrapped
from upright.engine.execute import execute
from upright.errors import ConfigError

HEADS = {"bert": "classifier", "gpt2": "score", "llama": "score", "mean": "classifier", "virtual": "score"}
VIRTUAL = {"use": "soft-prompt", "num_virtual_tokens": 4}


@pytest.fixture(scope="module")
def runs(
    tiny: Callable[[str], Path], tiny_mean: Path, toy_files: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Run]:
    """A finished run of each kind of head."""
    made: dict[str, Run] = {}

    def run(kind: str) -> Run:
        if kind not in made:
            made[kind] = execute(
                Stack.load(
                    {
                        "data": {**toy_files, "sensitive": ["sex"]},
                        "model": {
                            "base": str(tiny_mean if kind == "mean" else tiny("gpt2" if kind == "virtual" else kind)),
                            "task": "text-classification",
                        },
                        "prompt": {"use": "template", "text": "note: {text}"},
                        "tune": VIRTUAL if kind == "virtual" else {"use": "lora", "rank": 2},
                        "train": {"max_steps": 2, "batch_size": 8, "learning_rate": 0.01},
                        "output": str(tmp_path_factory.mktemp(kind)),
                    }
                )
            )
        return made[kind]

    return run


def test_a_splits_rows_are_decided_as_in_the_split(runs: Callable[[str], Run]) -> None:
    run = runs("bert")
    before, recorded = set(run.encoded), run.predictions("test")
    again = run.predict(run.data["test"])
    assert again.table.equals(recorded.table)
    assert set(run.encoded) == before  # what was asked for is let go again
    places = [5, 2, 11]
    some = run.predict(run.data["test"].select(places))
    assert some.table["row_id"].to_pylist() == [recorded.table["row_id"].to_pylist()[n] for n in places]
    np.testing.assert_allclose(some.numpy("scores"), recorded.numpy("scores")[places], atol=1e-6)  # other padding


def test_other_words_are_read_through_the_prompts(runs: Callable[[str], Run]) -> None:
    run = runs("bert")
    rows = run.data["test"].map(lambda row: {"text": "fever " + row["text"]})
    batch = next(run.batches_of([{"text": rows[0]["text"]}]))
    scores = torch.softmax(run.forward(batch).logits.double(), -1)[0].tolist()
    np.testing.assert_allclose(run.predict(rows).numpy("scores")[0], scores, atol=1e-6)
    assert (run.predict(rows).numpy("scores") != run.predictions("test").numpy("scores")).any()


def from_features(run: Run, kind: str) -> np.ndarray:
    """Scores that the head's one linear layer gives of the features, in float64."""
    head: Any = getattr(unwrapped(run.model), HEADS[kind])
    weight = head.weight.detach().double().numpy()
    logits = run.features(run.data["test"]).astype(np.float64) @ weight.T
    if head.bias is not None:
        logits += head.bias.detach().double().numpy()
    return torch.softmax(torch.from_numpy(logits), -1).numpy()


@pytest.mark.parametrize("kind", HEADS)
def test_decisions_follow_from_the_features_by_the_head(kind: str, runs: Callable[[str], Run]) -> None:
    run = runs(kind)
    np.testing.assert_allclose(from_features(run, kind), run.predictions("test").numpy("scores"), atol=1e-6)  # float32


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_mutant_that_asks_at_the_first_token_is_noticed(
    kind: str, runs: Callable[[str], Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "_of_row", lambda states, batch: states[:, 0])
    scores = from_features(runs(kind), kind)
    assert np.abs(scores - runs(kind).predictions("test").numpy("scores")).max() > 1e-4


def test_a_model_without_a_head_has_no_features(runs: Callable[[str], Run], monkeypatch: pytest.MonkeyPatch) -> None:
    run = runs("bert")
    monkeypatch.setattr(run, "model", run.load_as("AutoModelForMaskedLM").eval())
    with pytest.raises(ConfigError, match="no head reads one vector of each row"):
        run.features(run.data["test"])
