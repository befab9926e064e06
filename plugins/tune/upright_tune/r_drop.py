"""R-Drop: two passes with different dropout are made to agree (Liang et al., 2021, arXiv:2106.14448)."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from upright import Batch, Capability, Output, Run, Step, hook


class RDrop(Step):
    """Read each row twice with different dropout and add the divergence of the two predictions to its loss."""

    needs = frozenset({Capability.TRAINING})
    breaks = frozenset({Capability.INDEPENDENT_RECORDS})  # a row needs its double beside it

    alpha: float = Field(1.0, ge=0, description="Weight of the divergence.")

    @hook
    def batch(self, batch: Batch) -> Batch:
        import torch

        places = torch.arange(len(batch), device=batch.rows.device)
        return batch.take(torch.cat([places, places]))

    @hook
    def loss(self, batch: Batch, output: Output, run: Run) -> Any:
        """alpha / 2 times the mean of the two divergences, on both of a pair: core divides by the number of repeats."""
        import torch

        half = len(batch) // 2
        doubled = len(batch) == 2 * half and torch.equal(batch.rows[:half], batch.rows[half:])
        if not half or not doubled:
            return output.logits.new_zeros(len(batch), dtype=torch.float32)
        logs = torch.log_softmax(output.logits.float(), dim=-1)
        one, other = logs[:half], logs[half:]
        divergence = ((one.exp() - other.exp()) * (one - other)).sum(-1) / 2
        if divergence.dim() == 2:
            scored = (batch.labels[:half] != -100).float()
            divergence = (divergence * scored).sum(1) / scored.sum(1).clamp(min=1)
        return (self.alpha / 2 * divergence).repeat(2)
