"""The learning-rate range test (Smith, 2017, arXiv:1506.01186)."""

from __future__ import annotations

import itertools
import math
from collections.abc import Generator
from typing import TYPE_CHECKING, Any

from pydantic import Field, model_validator

from upright import Capability, Run, Section, Step, hook
from upright.errors import UprightError

if TYPE_CHECKING:
    from torch.optim import Optimizer


class LrFinder(Step):
    """Before training, raise the rate from update to update and keep the one at which the loss fell fastest.

    Weights and optimizer are put back after the test. Other rates, such as the head's, keep their ratio to the found one.
    """

    needs = frozenset({Capability.TRAINING, Capability.OPEN_TRAINING})

    start: float = Field(1e-6, gt=0, description="The lowest rate of the test.")
    end: float = Field(1.0, gt=0, description="The highest.")
    updates: int = Field(60, ge=10, description="How many updates the test takes.")

    @model_validator(mode="after")
    def _rises(self) -> LrFinder:
        if self.start >= self.end:
            raise ValueError(f"start ({self.start:g}) must be below end ({self.end:g})")
        return self

    @hook(wrapper=True)
    def optimizer(self, run: Run) -> Generator[None, Optimizer, Optimizer]:
        optimizer = yield
        found = run.keep(self, "found", dict)
        if not found:
            found.update(_test(run, optimizer, self.start, self.end, self.updates))
        scale = found["learning_rate"] / optimizer.param_groups[0]["lr"]
        for group in optimizer.param_groups:
            group["lr"] *= scale
        return optimizer

    @hook
    def report(self, run: Run) -> Section:
        from upright.objects import Table, Text

        found = run.keep(self, "found", dict)
        curve = found["curve"][:: max(1, len(found["curve"]) // 12)]
        text = (
            f"The loss fell fastest at a learning rate of {found['learning_rate']:.2g}, which the run was trained with."
        )
        return Section("Learning-rate range test", [Text(text), Table(["learning rate", "loss, smoothed"], curve)])


def _test(run: Run, optimizer: Optimizer, start: float, end: float, updates: int) -> dict[str, Any]:
    """Found rate, and the curve of (rate, smoothed loss). Raises UprightError where the loss never falls."""
    import torch

    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    before = [p.detach().clone() for p in parameters]
    rates = [group["lr"] for group in optimizer.param_groups]
    curve: list[tuple[float, float]] = []
    average = 0.0
    run.model.train()
    for number in range(updates):
        rate = start * (end / start) ** (number / (updates - 1))
        for group, usual in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * usual / rates[0]
        optimizer.zero_grad(set_to_none=True)
        run.calls.gradients(run.calls.sample(number, run), run)
        loss = float(run.train_loss) if run.train_loss is not None else math.nan
        average = 0.8 * average + 0.2 * loss
        smooth = average / (1 - 0.8 ** (number + 1))
        if not math.isfinite(loss) or (curve and smooth > 4 * min(value for _, value in curve)):
            break
        curve.append((rate, smooth))
        torch.nn.utils.clip_grad_norm_(parameters, run.config.train.max_grad_norm or math.inf)
        optimizer.step()
    with torch.no_grad():
        for parameter, value in zip(parameters, before, strict=True):
            parameter.copy_(value)
    optimizer.state.clear()
    optimizer.zero_grad(set_to_none=True)
    for group, usual in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = usual
    falls = [(b - a, rate) for (_, a), (rate, b) in itertools.pairwise(curve)]
    if not falls or min(falls)[0] >= 0:
        raise UprightError("lr-finder: the loss never fell between its start and end; widen the range or lower start")
    return {"learning_rate": min(falls)[1], "curve": [list(point) for point in curve]}
