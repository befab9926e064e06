"""Reweighing: label and group made independent by weights (Kamiran and Calders, 2012, doi:10.1007/s10115-011-0463-8)."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from upright import Batch, Capability, Run, Step, hook
from upright_fairness import groups
from upright_fairness.groups import Groups


class Reweigh(Step):
    """Weigh each training row by what its group and label would be expected to hold together over what they hold."""

    needs = frozenset({Capability.TRAINING, Capability.CLASS_SCORES})
    breaks = frozenset({Capability.INDEPENDENT_RECORDS})  # a weight is a count over other records, without noise
    tasks = frozenset({"text-classification"})

    groups: list[Groups] = Field(
        min_length=1, max_length=1, description="One sensitive column or group spec (intersect several in it)."
    )

    @hook
    def prepare(self, run: Run) -> None:
        groups.check(self, self.groups, "train", run)

    @hook
    def weigh(self, batch: Batch, run: Run) -> Any:
        """P(group) P(label) / P(group, label), ``[R]``; 1 for a row whose group is missing."""
        import torch

        weights = run.keep(self, "weights", lambda: self._weights(run))
        codes = groups.batch_codes(self.groups[0], batch, run)
        known = (codes >= 0) & (batch.labels >= 0)
        return torch.where(
            known, weights[codes.clamp(min=0), batch.labels.clamp(min=0)], torch.ones_like(weights[0, 0])
        )

    def _weights(self, run: Run) -> Any:
        """``[G, K]`` from the training rows; 0 for a cell without rows."""
        import torch

        counts = torch.zeros(len(groups.values(self.groups[0], run)), len(run.labels), dtype=torch.float64)
        codes, labels = groups.train_rows(self.groups[0], run)
        known = (codes >= 0) & (labels >= 0)
        counts.index_put_((codes[known], labels[known]), torch.ones((), dtype=torch.float64), accumulate=True)
        expected = counts.sum(1, keepdim=True) * counts.sum(0, keepdim=True) / counts.sum().clamp(min=1)
        return torch.where(counts > 0, expected / counts.clamp(min=1), 0.0).float().to(run.device)
