"""Gradient SHAP: expected gradients (Erion et al., 2021, arXiv:1906.10670; captum's GradientShap).

Not by captum: its draws come from numpy's global stream, it mixes the baselines of a batch's rows, and it tells no
standard error.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from upright import Attribution, Capability, Section, Step, hook
from upright.objects import Text
from upright_explain.attribution import Parts, attributions, drawn
from upright_explain.completeness import relative_errors, told, whole
from upright_explain.strongest import strongest

if TYPE_CHECKING:
    import torch
    from datasets import Dataset
    from torch import Tensor

    from upright import Batch, Run
    from upright.objects import Target


class GradientShap(Step):
    """Multiply a token's way from the baseline by the mean gradient at random points of the way, noise added.

    What the parts lack to the whole is an error of sampling; it is told with every row, and the standard error with every
    part. `integrated-gradients` is exacter at the same cost where `stdevs` is 0.
    """

    needs: ClassVar[frozenset[Capability]] = frozenset({Capability.CLASS_SCORES, Capability.INPUT_GRADIENTS})
    tasks: ClassVar[frozenset[str] | None] = frozenset({"text-classification", "token-classification"})

    samples: int = Field(50, ge=1, description="Rows that are explained, drawn with the seed.")
    n_samples: int = Field(50, ge=2, description="Random points for each row, as in captum.")
    stdevs: float = Field(0.0, ge=0, description="Standard deviation of the noise on embeddings, as in captum.")
    baseline: Literal["pad", "mask", "zero"] = Field("pad", description="What stands for no content.")
    internal_batch_size: int = Field(64, ge=1, description="Points per forward pass.")

    @hook
    def explain(self, target: Target, rows: Dataset, run: Run) -> list[Attribution]:
        wanted = drawn(rows, self.samples, self, run)
        return attributions(target, rows, wanted, lambda batch, decided: self._divide(target, batch, decided, run))

    def _divide(self, target: Target, batch: Batch, decided: Tensor, run: Run) -> Parts:
        import torch

        embeds, blank = target.embed(batch), target.baseline(batch, self.baseline)
        shares = []
        for place, row in enumerate(batch.rows.tolist()):
            noisy, points = self._drawn(embeds[place], blank[place], run.generator(self, row))
            found = []
            for start in range(0, self.n_samples, self.internal_batch_size):
                some = points[start : start + self.internal_batch_size].requires_grad_(True)
                at = torch.full((len(some),), place, device=some.device)
                score = target.scores(some, batch.take(at), decided[at]).sum()
                found.append(torch.autograd.grad(score, some)[0])
            shares.append(((noisy - blank[place]) * torch.cat(found)).sum(-1).double())
        each = torch.stack(shares).cpu()
        scores = each.mean(1)
        errors = relative_errors(scores, whole(target, batch, decided, embeds, blank))
        return Parts(scores, errors, each.std(1) / self.n_samples**0.5)

    def _drawn(self, embeds: Tensor, blank: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """The row's embeddings ``[S, T, D]`` with noise on what is content, and a point of the way to each."""
        import torch

        shape = (self.n_samples, *embeds.shape)
        noise = self.stdevs * torch.randn(shape, generator=generator).to(embeds)
        noisy = torch.where((embeds != blank).any(-1, keepdim=True), embeds + noise, embeds)
        along = torch.rand((self.n_samples, 1, 1), generator=generator).to(embeds)
        return noisy, blank + along * (noisy - blank)

    @hook
    def report(self, run: Run) -> Section | None:
        found = run.attributions.get(run.key(self))
        if not found:
            return None
        text = f"{len(found)} rows, {self.n_samples} points of each. {told(found)}. Baseline: {self.baseline}."
        return Section("Gradient SHAP", [Text(text), strongest(found)])
