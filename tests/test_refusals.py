"""What cannot be run correctly is refused, in one sentence that names both sides and where they stand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from outside_steps import PairwiseMargin, SecretlyCoupled, with_steps

from upright import Run, Stack, Step, hook
from upright.engine.execute import execute
from upright.errors import ConfigError, UprightError

PRIVATE = {"use": "dp-sgd", "noise_multiplier": 1.0, "delta": 1e-3}


@pytest.fixture
def settings(tiny_mean: Path, toy_files: dict[str, str], tmp_path: Path) -> dict[str, Any]:
    return {
        "name": "refused",
        "data": toy_files,
        "model": {"base": str(tiny_mean), "task": "text-classification"},
        "tune": [{"use": "lora", "rank": 2}],
        "train": {"max_steps": 2, "batch_size": 8},
        "output": str(tmp_path / "runs"),
    }


def one_sentence(error: pytest.ExceptionInfo[UprightError], *parts: str) -> None:
    text = str(error.value)
    assert "\n" not in text, text
    for part in parts:
        assert part in text, text


def test_a_coupled_loss_with_dp_sgd_names_both(settings: dict[str, Any]) -> None:
    stack = Stack.load({**settings, "privacy": PRIVATE})
    with pytest.raises(ConfigError) as error:
        with_steps(stack, ("train", "margin", PairwiseMargin()))
    one_sentence(error, "privacy.dp-sgd", "train.margin", "test:margin")


def test_a_coupled_loss_that_keeps_quiet_is_found_by_the_probe(settings: dict[str, Any]) -> None:
    stack = with_steps(Stack.load({**settings, "privacy": PRIVATE}), ("train", "margin", SecretlyCoupled()))
    with pytest.raises(UprightError) as error:
        execute(stack)
    one_sentence(error, "privacy.dp-sgd", "train.margin", "test:margin")


def test_without_privacy_a_coupled_loss_runs(settings: dict[str, Any]) -> None:
    run = execute(with_steps(Stack.load(settings), ("train", "margin", PairwiseMargin())))
    assert run.exit_code == 0


class Frozen(Step):
    """A tuner that trains nothing."""

    @hook
    def tune(self, model: Any, run: Run) -> Any:
        return model


def test_a_training_without_a_trainable_parameter_names_the_step(
    settings: dict[str, Any], tiny_llama: Path, tmp_path: Path
) -> None:
    (tmp_path / "train.txt").write_text("one two three\n" * 40)
    changed = {
        **settings,
        "data": {"train": str(tmp_path / "train.txt")},
        "model": {"base": str(tiny_llama), "task": "text-generation"},
    }
    del changed["tune"], changed["train"]
    stack = with_steps(Stack.load(changed), ("tune", "frozen", Frozen()))
    with pytest.raises(UprightError) as error:
        execute(stack)
    one_sentence(error, "tune.frozen", "test:frozen", "no parameter is trainable")


class Detached(Step):
    """A tuner whose new weights the forward pass never meets."""

    @hook
    def tune(self, model: Any, run: Run) -> Any:
        from torch import nn

        model.forgotten = nn.Linear(3, 3)
        return model


def test_an_adapter_that_the_loss_does_not_reach_names_step_and_parameter(settings: dict[str, Any]) -> None:
    del settings["tune"], settings["train"]
    with pytest.raises(UprightError) as error:
        execute(with_steps(Stack.load(settings), ("tune", "detached", Detached())))
    one_sentence(error, "tune.detached", "forgotten.weight")


@pytest.mark.parametrize("column", ["text", "label"])
def test_a_model_column_that_is_sensitive_names_both_lines(
    settings: dict[str, Any], tmp_path: Path, column: str
) -> None:
    path = tmp_path / "stack.yaml"
    path.write_text(
        "data:\n"
        f"  train: {settings['data']['train']}\n"
        f"  columns: {{text: text, label: label}}\n"
        f"  sensitive: [{column}]\n"
        f"model: {{base: {settings['model']['base']}}}\n"
        "tune: {use: head}\n"
    )
    with pytest.raises(ConfigError) as error:
        Stack.load(path)
    one_sentence(error, "stack.yaml:4:", "stack.yaml:3:", "sensitive")


class Cycling(Step):
    """A sampler."""

    @hook
    def sample(self, update: int, run: Run) -> list[int]:
        return [update]


def test_two_samplers_name_each_other(settings: dict[str, Any]) -> None:
    stack = Stack.load({**settings, "privacy": PRIVATE})
    with pytest.raises(ConfigError) as error:
        with_steps(stack, ("train", "cycling", Cycling()))
    one_sentence(error, "privacy.dp-sgd", "train.cycling", "`sample`", "test:cycling")


def test_training_settings_without_a_tuner_are_refused(settings: dict[str, Any]) -> None:
    del settings["tune"]
    with pytest.raises(ConfigError) as error:
        Stack.load(settings)
    assert "no step trains" in str(error.value)


class TokenMean(Step):
    """A loss hook that returns a batch mean."""

    @hook
    def loss(self, batch: Any, output: Any, run: Run) -> Any:
        return output.logits.mean().reshape(1, 1).expand(len(batch), 1)


def test_a_loss_that_is_no_number_per_row_is_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(UprightError) as error:
        execute(with_steps(Stack.load(settings), ("train", "mean", TokenMean())))
    one_sentence(error, "one number per row")
