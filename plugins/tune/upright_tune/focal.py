"""Focal loss (Lin et al., 2017, arXiv:1708.02002)."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from upright import Batch, Output, Run, Step, hook
from upright_tune.token_losses import per_record


class Focal(Step):
    """Weigh each decision's loss by how wrong it still is, so that many easy ones do not drown a few hard ones."""

    gamma: float = Field(2.0, ge=0, description="0 is plain cross-entropy.")

    @hook
    def objective(self, batch: Batch, output: Output, run: Run) -> Any:
        from torch.nn.functional import cross_entropy

        def losses(logits: Any, labels: Any) -> Any:
            plain = cross_entropy(logits, labels, ignore_index=-100, reduction="none")
            return (1 - (-plain).exp()).clamp(min=1e-12) ** self.gamma * plain  # a power's slope at 0 is not finite

        return per_record(batch, output, run, losses)
