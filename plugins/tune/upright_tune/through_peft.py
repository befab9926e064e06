"""Adapters that peft implements, put into a run's model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from upright.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable

    from upright import Run, Step


def adapt(step: Step, model: Any, run: Run, make_config: Callable[[], Any]) -> Any:
    """peft's model around ``model``; what the adapter draws at random follows from the run's seed and the step.

    Raises ConfigError with the stack's line and peft's own reason where it cannot adapt this model this way.
    """
    import torch
    from peft import get_peft_model

    placed = run.stack.placed(step)
    if any(p.requires_grad for p in model.parameters()):
        raise ConfigError(
            f"{placed.where}  {placed}: peft would freeze what the step before it trains; remove one of the two"
        )
    devices = [run.device] if run.device.type == "cuda" else []
    try:
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(run.generator(step).initial_seed())
            return get_peft_model(model, make_config())
    except (
        ValueError,
        TypeError,
        NotImplementedError,
        RuntimeError,
        KeyError,
        AttributeError,
        AssertionError,
    ) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ConfigError(
            f"{placed.where}  {placed}: peft cannot put this into a {type(model).__name__} ({reason:.200}); change the "
            "settings or choose another method"
        ) from error


def refuse_adapted(step: Step, model: Any, run: Run) -> None:
    """Raise ConfigError for a model that holds an adapter of peft: its layers are no longer where they were."""
    if hasattr(model, "peft_config"):
        placed = run.stack.placed(step)
        raise ConfigError(f"{placed.where}  {placed}: cannot be put around an adapter of peft; remove one of the two")


def merged(model: Any) -> Any:
    """The plain model with the adapter folded into its weights."""
    return model.merge_and_unload()
