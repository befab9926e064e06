"""Mixout: weights go back to the base's at random while training (Lee et al., 2020, arXiv:1909.11299)."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import Field

from upright import Capability, Run, Step, hook
from upright.errors import ConfigError


class Mixout(Step):
    """In each pass, take a share of the trained linear weights from the base instead; place it after `full` or the like."""

    breaks: ClassVar[frozenset[Capability]] = frozenset({Capability.TRAINED_PARAMETERS})

    p: float = Field(0.1, ge=0, lt=1, description="The share.")

    @hook
    def tune(self, model: Any, run: Run) -> Any:
        from torch.nn.utils import parametrize

        from upright.models import head_parameters
        from upright_tune.blocks import is_linear

        head = {id(parameter) for _, parameter in head_parameters(model)}
        own = run.base_parameters - head
        layers = [m for m in model.modules() if is_linear(m) and m.weight.requires_grad and id(m.weight) in own]
        if not layers:
            placed = run.stack.placed(self)
            raise ConfigError(
                f"{placed.where}  {placed}: no linear layer of the base is trained, so there is nothing to mix; use it "
                "with `full` or `top-layers`"
            )
        for layer in layers:
            parametrize.register_parametrization(layer, "weight", _mixed(layer.weight, self.p))
        return model

    @hook
    def finalize(self, model: Any) -> Any:
        from torch.nn.utils import parametrize

        for module in model.modules():
            if parametrize.is_parametrized(module, "weight"):
                weight = module.parametrizations.weight.original.detach().clone()
                parametrize.remove_parametrizations(module, "weight", leave_parametrized=True)
                module.weight.data.copy_(weight)
        return model


def _mixed(weight: Any, p: float) -> Any:
    """``mask * base + (1 - mask) * weight``, corrected so that its expectation is ``weight``; plain in evaluation."""
    import torch

    class Mixed(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.base: torch.Tensor
            self.register_buffer("base", weight.detach().clone(), persistent=False)

        def forward(self, own: torch.Tensor) -> torch.Tensor:
            if not self.training:
                return own
            kept = torch.rand_like(own) >= p
            mixed: torch.Tensor = (torch.where(kept, own, self.base) - p * self.base) / (1 - p)
            return mixed

    return Mixed()
