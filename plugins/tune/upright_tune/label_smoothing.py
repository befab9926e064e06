"""Label smoothing (Szegedy et al., 2016, arXiv:1512.00567)."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from upright import Batch, Output, Run, Step, hook
from upright_tune.token_losses import per_record


class LabelSmoothing(Step):
    """Train towards targets that leave a little probability to the other classes (or tokens)."""

    label_smoothing_factor: float = Field(0.1, ge=0, lt=1, description="The share that is spread over all classes.")

    @hook
    def objective(self, batch: Batch, output: Output, run: Run) -> Any:
        from torch.nn.functional import cross_entropy

        def losses(logits: Any, labels: Any) -> Any:
            return cross_entropy(
                logits, labels, ignore_index=-100, reduction="none", label_smoothing=self.label_smoothing_factor
            )

        return per_record(batch, output, run, losses)
