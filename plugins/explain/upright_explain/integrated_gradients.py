"""Integrated gradients (Sundararajan, Taly and Yan, 2017, arXiv:1703.01365), by captum."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from upright import Attribution, Capability, Section, Step, hook
from upright.objects import Text
from upright_explain.attribution import attribution, drawn
from upright_explain.strongest import strongest

if TYPE_CHECKING:
    import torch
    from datasets import Dataset

    from upright import Batch, Run
    from upright.objects import Target

MAX_STEPS = 320
SMALL = 0.05
"""Logits. A score that differs less from the baseline's has nothing to be divided among tokens."""


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
        found: dict[int, Attribution] = {}
        for batch in target.batches(drawn(rows, self.samples, self, run)):
            found |= self._batch(target, batch, rows)
        return [found[row] for row in sorted(found)]

    def _batch(self, target: Target, batch: Batch, rows: Dataset) -> dict[int, Attribution]:
        """Each row's attribution; rows whose error is still too large go on with twice the steps."""
        import torch

        decided, tokens = target.decisions(batch), target.tokens(batch)
        open_rows = list(range(len(batch)))
        found: dict[int, Attribution] = {}
        steps = self.n_steps
        while open_rows:
            index = torch.tensor(open_rows, device=batch.rows.device)
            scores, errors = self._attribute(target, batch.take(index), decided[index], steps)
            still = []
            for place, number in enumerate(open_rows):
                if errors[place] > self.max_error and 2 * steps <= MAX_STEPS:
                    still.append(number)
                    continue
                row, given = int(batch.rows[number]), (decided[number], tokens[number], scores[place], errors[place])
                found[row] = attribution(target, rows, row, *given)
            open_rows, steps = still, 2 * steps
        return found

    def _attribute(
        self, target: Target, batch: Batch, decided: torch.Tensor, steps: int
    ) -> tuple[torch.Tensor, list[float]]:
        """Scores ``[R, T]`` (float64, CPU) and relative completeness errors ``[R]``."""
        import torch
        from captum.attr import IntegratedGradients as Captum

        def score(embeds: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
            return target.scores(embeds, batch.take(index), decided[index])

        embeds, blank = target.embed(batch), target.baseline(batch, self.baseline)
        index = torch.arange(len(batch), device=embeds.device)
        parts = Captum(score).attribute(
            embeds,
            baselines=blank,
            additional_forward_args=(index,),
            n_steps=steps,
            internal_batch_size=max(self.internal_batch_size, len(batch)),
        )
        scores = parts.detach().sum(-1).double().cpu()
        with torch.no_grad():
            whole = (score(embeds, index) - score(blank, index)).double().cpu()
        errors = (scores.sum(-1) - whole).abs() / whole.abs().clamp(min=SMALL)
        return scores, errors.tolist()

    @hook
    def report(self, run: Run) -> Section | None:
        found = run.attributions.get(run.key(self))
        if not found:
            return None
        errors = sorted(one.completeness_error or 0.0 for one in found)
        over = sum(error > self.max_error for error in errors)
        text = (
            f"{len(found)} rows. The parts of a row's score add up to the whole within "
            f"{errors[len(errors) // 2]:.2%} (median) and {errors[-1]:.2%} (worst); {over} rows are over "
            f"{self.max_error:.0%}. Baseline: {self.baseline}."
        )
        return Section("Integrated gradients", [Text(text), strongest(found)])
