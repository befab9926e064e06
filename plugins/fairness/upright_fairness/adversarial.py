"""An adversary that reads the group from the logits, with reversed gradients (Zhang et al., 2018, arXiv:1801.07593).

Gradient reversal: Ganin et al., 2016, arXiv:1505.07818. Given the label too, it works towards equalized odds.
"""

from __future__ import annotations

from typing import Any

from pydantic import Field

from upright import Batch, Capability, Output, Run, Step, hook
from upright_fairness import groups
from upright_fairness.groups import Groups


class Adversarial(Step):
    """Train a helper to tell the group from the logits, and the model to leave it nothing to tell."""

    needs = frozenset({Capability.TRAINING, Capability.CLASS_SCORES})
    tasks = frozenset({"text-classification"})

    groups: list[Groups] = Field(
        min_length=1, max_length=1, description="One sensitive column or group spec (intersect several in it)."
    )
    strength: float = Field(0.5, gt=0, description="Factor on the gradient that the model gets, reversed.")
    given_label: bool = Field(
        True, description="The adversary sees the label: equalized odds; else demographic parity."
    )
    width: int = Field(16, ge=1, description="Hidden units of the adversary.")

    @hook
    def prepare(self, run: Run) -> None:
        groups.check(self, self.groups, "train", run)

    @hook
    def modules(self, run: Run) -> dict[str, Any]:
        """The adversary: trained and checkpointed beside the model, in no exported file."""
        from torch import nn

        inputs = len(run.labels) * (2 if self.given_label else 1)
        size = len(groups.values(self.groups[0], run))
        return {"adversary": nn.Sequential(nn.Linear(inputs, self.width), nn.Tanh(), nn.Linear(self.width, size))}

    @hook
    def loss(self, batch: Batch, output: Output, run: Run) -> Any:
        """The adversary's cross-entropy, ``[R]``; 0 for a row whose group is missing."""
        import torch

        logits = output.logits.float()
        # the logits' own value, with the gradient times -strength
        seen = (1 + self.strength) * logits.detach() - self.strength * logits
        if self.given_label:
            told = batch.labels.unsqueeze(1) == torch.arange(len(run.labels), device=logits.device)
            seen = torch.cat([seen, told.float()], dim=1)
        codes = groups.batch_codes(self.groups[0], batch, run)
        guessed = run.modules[f"{run.key(self)}/adversary"](seen)
        losses = torch.nn.functional.cross_entropy(guessed, codes.clamp(min=0), reduction="none")
        return losses * (codes >= 0).float()
