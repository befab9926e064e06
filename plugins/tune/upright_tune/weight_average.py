"""Averages of the weights over training (Polyak and Juditsky, 1992; Izmailov et al., 2018, arXiv:1803.05407)."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from upright import Capability, Run, Step, hook
from upright.hooks import Moment


class WeightAverage(Step):
    """End with an average of the trained weights: an exponential one, or the mean of those after the last k evaluations."""

    needs = frozenset({Capability.TRAINING})

    kind: Literal["ema", "soup"] = Field("ema", description="ema: exponential, every update; soup: last evaluations.")
    decay: float = Field(0.99, gt=0, lt=1, description="Of the ema; early updates count by (1 + n) / (10 + n).")
    last: int = Field(3, ge=1, description="How many evaluations' weights the soup takes.")

    @hook
    def watch(self, moment: Moment, run: Run) -> None:
        import torch

        if moment == "started":
            run.keep(self, "weights", lambda: [] if self.kind == "soup" else [_trained(run)])
            return
        weights = run.keep(self, "weights", lambda: [])
        with torch.no_grad():
            if self.kind == "ema" and moment == "updated":
                share = 1 - min(self.decay, (1 + run.update) / (10 + run.update))
                for name, value in _trained(run).items():
                    weights[0][name] = weights[0][name].to(value.device).lerp(value, share)
            elif self.kind == "soup" and moment == "evaluated":
                weights.append(_trained(run))
                del weights[: -self.last]

    @hook(tryfirst=True)
    def finalize(self, model: Any, run: Run) -> Any:
        import torch

        weights = run.keep(self, "weights", lambda: [])
        if weights:
            with torch.no_grad():
                for name, parameter in model.named_parameters():
                    if parameter.requires_grad:
                        found = [one[name].to(parameter) for one in weights]
                        parameter.copy_(torch.stack(found).mean(0))
        return model


def _trained(run: Run) -> dict[str, Any]:
    """A copy of what training moves."""
    return {name: p.detach().clone() for name, p in run.model.named_parameters() if p.requires_grad}
