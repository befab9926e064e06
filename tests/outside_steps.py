"""Steps as a third party would write them: through the public names alone. Tests place them into stacks by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar

from pydantic import Field

from upright import Batch, Capability, Output, Run, Stack, Step, Stop, hook
from upright.stack import Placed


def with_steps(stack: Stack, *steps: tuple[str, str, Step]) -> Stack:
    """The stack with (section, name, step) added at the end, checked as a file's would be."""
    placed = [Placed(section, name, name, step, f"test:{name}") for section, name, step in steps]
    grown = replace(stack, steps=[*stack.steps, *placed])
    grown.check()
    return grown


class TokenNoise(Step):
    """Repeat every row under its unit, with some tokens of the copy replaced."""

    share: float = Field(0.2, ge=0, le=1, description="Share of the copy's tokens that are replaced.")

    @hook
    def batch(self, batch: Batch, run: Run) -> Batch:
        import torch

        both = batch.take(torch.arange(len(batch), device=batch.rows.device).repeat(2))
        ids = both.inputs["input_ids"].clone()
        for place in range(len(batch), len(both)):
            # Keyed on the row: the copy does not depend on who else was sampled.
            generator = run.generator(self, row=int(both.rows[place]))
            chosen = torch.rand(ids.shape[1], generator=generator) < self.share
            chosen[0] = False
            chosen = chosen.to(ids.device) & both.inputs["attention_mask"][place].bool()
            ids[place] = torch.where(chosen, torch.full_like(ids[place], 5), ids[place])
        return replace(both, inputs={**both.inputs, "input_ids": ids})


class Ridge(Step):
    """An L2 pull on every trainable parameter; touches no record."""

    strength: float = Field(0.01, ge=0, description="Factor on half the squared norm.")

    @hook
    def penalty(self, model: Any, run: Run) -> Any:
        return self.strength / 2 * sum(p.square().sum() for p in model.parameters() if p.requires_grad)


class Plateau(Step):
    """Stop after some updates: early stopping from outside."""

    after: int = Field(3, ge=1, description="Updates before the stop.")

    @hook
    def watch(self, moment: str, run: Run) -> Stop | None:
        return Stop(f"{self.after} updates are enough") if moment == "updated" and run.update >= self.after else None


class Budget(Step):
    """AdaLoRA-like live state: an importance that every update moves and that the loss reads."""

    decay: float = Field(0.9, ge=0, le=1, description="Memory of the importance.")

    def _importance(self, run: Run) -> Any:
        import torch

        return run.keep(self, "importance", lambda: torch.zeros((), device=run.device))

    def _history(self, run: Run) -> list[float]:
        return run.keep(self, "history", list)

    @hook
    def watch(self, moment: str, run: Run) -> None:
        if moment == "updated":
            largest = max(p.grad.abs().max() for p in run.model.parameters() if p.grad is not None)
            self._importance(run).mul_(self.decay).add_((1 - self.decay) * largest)
            self._history(run).append(float(largest))

    @hook
    def penalty(self, model: Any, run: Run) -> Any:
        pull = sum(p.square().sum() for p in model.parameters() if p.requires_grad)
        return (self._importance(run) + 0.01 * len(self._history(run))) * 1e-3 * pull


class PairwiseMargin(Step):
    """A loss that couples the rows of a batch, and says so."""

    breaks = frozenset({Capability.INDEPENDENT_RECORDS})

    @hook
    def loss(self, batch: Batch, output: Output, run: Run) -> Any:
        return (output.logits - output.logits.mean(0, keepdim=True)).square().mean(1)


class SecretlyCoupled(Step):
    """The same loss without saying so."""

    @hook
    def loss(self, batch: Batch, output: Output, run: Run) -> Any:
        return (output.logits - output.logits.mean(0, keepdim=True)).square().mean(1)


class StopAt(Step):
    """End the run as a ctrl-C would, after ``at`` updates: the moment is the user's, not a setting of the stack."""

    at: ClassVar[int] = -1

    @hook
    def watch(self, moment: str, run: Run) -> None:
        if moment == "updated" and run.update == self.at:
            raise KeyboardInterrupt
