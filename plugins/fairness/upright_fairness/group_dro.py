"""Group distributionally robust optimisation (Sagawa et al., 2020, arXiv:1911.08731, algorithm 1)."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from upright import Batch, Capability, Output, Run, Step, hook
from upright_fairness import groups
from upright_fairness.groups import Groups

FLOOR = 0.01
"""Smallest share of an update's rows that a group is taken to have."""


class GroupDro(Step):
    """Weigh groups by their loss, so that the worst one is what is minimised; reads released sums alone."""

    needs = frozenset({Capability.TRAINING, Capability.CLASS_SCORES})
    tasks = frozenset({"text-classification"})

    groups: list[Groups] = Field(
        min_length=1, max_length=1, description="One sensitive column or group spec (intersect several in it)."
    )
    step_size: float = Field(0.05, gt=0, description="How fast the groups' weights follow their losses.")
    max_loss: float = Field(
        4.0, gt=0, description="Larger losses of a row count as this one (bounds what is released)."
    )

    @hook
    def prepare(self, run: Run) -> None:
        groups.check(self, self.groups, "train", run)

    @hook
    def weigh(self, batch: Batch, run: Run) -> Any:
        """The group's weight over its share of the rows, ``[R]``; 1 for a row whose group is missing."""
        import torch

        codes = groups.batch_codes(self.groups[0], batch, run)
        weights, share = self._kept(run, "weights"), self._kept(run, "share")
        factor = (weights / share.clamp(min=FLOOR))[codes.clamp(min=0)]
        return torch.where(codes >= 0, factor, torch.ones_like(factor))

    @hook
    def statistics(self, batch: Batch, output: Output, run: Run) -> dict[str, Any]:
        """Each row's group and its loss there; norm at most 1."""
        import torch

        codes = groups.batch_codes(self.groups[0], batch, run)
        size = len(groups.values(self.groups[0], run))
        cells = (codes.unsqueeze(1) == torch.arange(size, device=codes.device)).float()
        losses = torch.nn.functional.cross_entropy(output.logits.float(), batch.labels, reduction="none")
        losses = losses.clamp(max=self.max_loss).unsqueeze(1) / self.max_loss
        return {"losses": torch.cat([cells, cells * losses], dim=1) * 2**-0.5}

    @hook
    def watch(self, moment: str, run: Run) -> None:
        if moment != "updated" or run.key(self) not in run.groups:
            return
        import torch

        with torch.no_grad():
            rows, losses = (run.groups[run.key(self)]["losses"] * 2**0.5).clamp(min=0).chunk(2)
            total = rows.sum().clamp(min=1e-6)
            mean = (losses / rows.clamp(min=FLOOR * float(total))).clamp(max=1) * self.max_loss
            share = self._kept(run, "share")
            share.mul_(0.95).add_(0.05 * rows / total)
            weights = self._kept(run, "weights")
            weights.mul_(torch.exp(self.step_size * mean))
            weights.div_(weights.sum())

    def _kept(self, run: Run, name: str) -> Any:
        import torch

        size = len(groups.values(self.groups[0], run))
        return run.keep(self, name, lambda: torch.full((size,), 1 / size, device=run.device))
