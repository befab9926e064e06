"""Integrated gradients (Sundararajan, Taly and Yan, 2017, arXiv:1703.01365), by captum."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from upright import Attribution, Capability, Section, Step, hook
from upright.objects import Text
from upright_explain.attribution import Parts, attributions, drawn
from upright_explain.completeness import relative_errors, told, whole
from upright_explain.strongest import strongest

if TYPE_CHECKING:
    from datasets import Dataset
    from torch import Tensor

    from upright import Batch, Run
    from upright.objects import Target

MAX_STEPS = 320


class IntegratedGradients(Step):
    """Divide the score of the decided class, less its score without content, among the tokens.

    The number of steps is doubled until the parts add up to the whole within `max_error`; the error that is left is
    reported with every row.
    """

    needs: ClassVar[frozenset[Capability]] = frozenset({Capability.CLASS_SCORES, Capability.INPUT_GRADIENTS})
    tasks: ClassVar[frozenset[str] | None] = frozenset({"text-classification", "token-classification"})

    samples: int = Field(50, ge=1, description="Rows that are explained, drawn with the seed.")
    n_steps: int = Field(20, ge=2, le=MAX_STEPS, description="Points of the path to begin with, as in captum.")
    max_error: float = Field(0.05, gt=0, description="Largest relative completeness error.")
    baseline: Literal["pad", "mask", "zero"] = Field("pad", description="What stands for no content.")
    internal_batch_size: int = Field(64, ge=1, description="Points of paths per forward pass, as in captum.")

    @hook
    def explain(self, target: Target, rows: Dataset, run: Run) -> list[Attribution]:
        wanted = drawn(rows, self.samples, self, run)
        return attributions(target, rows, wanted, lambda batch, decided: self._divide(target, batch, decided))

    def _divide(self, target: Target, batch: Batch, decided: Tensor) -> Parts:
        """Rows whose error is still too large go on with twice the steps."""
        import torch

        embeds, blank = target.embed(batch), target.baseline(batch, self.baseline)
        total = whole(target, batch, decided, embeds, blank)
        scores = torch.zeros(embeds.shape[:2], dtype=torch.float64)
        errors = torch.full_like(total, torch.inf)
        steps, rest = self.n_steps, torch.arange(len(batch))
        while len(rest) and steps <= MAX_STEPS:
            scores[rest] = self._integrate(target, batch, decided, embeds, blank, rest.to(embeds.device), steps)
            errors[rest] = relative_errors(scores[rest], total[rest])
            steps, rest = 2 * steps, rest[errors[rest] > self.max_error]
        return Parts(scores, errors)

    def _integrate(
        self, target: Target, batch: Batch, decided: Tensor, embeds: Tensor, blank: Tensor, rows: Tensor, steps: int
    ) -> Tensor:
        """The parts ``[n, T]`` (float64, CPU) of the ``n`` rows of the batch at ``rows``."""
        from captum.attr import IntegratedGradients as Captum

        parts = Captum(lambda points, at: target.scores(points, batch.take(at), decided[at])).attribute(
            embeds[rows],
            baselines=blank[rows],
            additional_forward_args=(rows,),
            n_steps=steps,
            internal_batch_size=max(self.internal_batch_size, len(rows)),
        )
        summed: Tensor = parts.detach().sum(-1).double().cpu()
        return summed

    @hook
    def report(self, run: Run) -> Section | None:
        found = run.attributions.get(run.key(self))
        if not found:
            return None
        over = sum((one.completeness_error or 0.0) > self.max_error for one in found)
        text = (
            f"{len(found)} rows. {told(found)}; {over} rows are over {self.max_error:.0%}. Baseline: {self.baseline}."
        )
        return Section("Integrated gradients", [Text(text), strongest(found)])
