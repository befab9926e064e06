"""What a method may ask of a model, whatever wrappers surround it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch.nn import Module, Parameter


def exported_part(model: Module) -> Module:
    """The part that ``save_pretrained`` writes and ``model/`` loads as: without adapters and core's mean-pooling head.

    A method that wraps ``export`` names the modules of its own file as this part does.
    """
    from upright.engine.base import transformers_part

    part: Module = transformers_part(model)
    return part


def head_parameters(model: Module) -> list[tuple[str, Parameter]]:
    """Names and parameters that the task added to the base; none for a model that predicts tokens of its vocabulary."""
    from upright.engine import base

    return base.head_parameters(model)
