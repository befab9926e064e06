"""Occlusion: the score less the score without the token (Zeiler and Fergus, 2014, arXiv:1311.2901)."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from upright import Attribution, Capability, Section, Step, hook
from upright.objects import Text
from upright_explain.attribution import Parts, attributions, drawn
from upright_explain.coalitions import Coalitions, coalition_scores, content
from upright_explain.strongest import strongest

if TYPE_CHECKING:
    from datasets import Dataset
    from torch import Tensor

    from upright import Batch, Run
    from upright.objects import Target


class Occlusion(Step):
    """Give each token what the score of the decided class loses when the baseline stands in the token's place.

    Needs no gradients: the explainer for quantised models. One forward pass for each token, many at once. What tokens say
    together counts for each of them or for none, so that parts need not add up to the whole.
    """

    needs: ClassVar[frozenset[Capability]] = frozenset({Capability.CLASS_SCORES})
    tasks: ClassVar[frozenset[str] | None] = frozenset({"text-classification", "token-classification"})

    samples: int = Field(50, ge=1, description="Rows that are explained, drawn with the seed.")
    baseline: Literal["pad", "mask", "zero"] = Field("pad", description="What stands in a token's place.")
    internal_batch_size: int = Field(64, ge=1, description="Texts per forward pass.")

    @hook
    def explain(self, target: Target, rows: Dataset, run: Run) -> list[Attribution]:
        wanted = drawn(rows, self.samples, self, run)
        return attributions(target, rows, wanted, lambda batch, decided: self._divide(target, batch, decided))

    def _divide(self, target: Target, batch: Batch, decided: Tensor) -> Parts:
        import torch

        embeds, blank = target.embed(batch), target.baseline(batch, self.baseline)
        rows = torch.arange(len(batch), device=embeds.device)
        places, tokens = content(embeds, blank).nonzero(as_tuple=True)
        every = torch.ones(embeds.shape[:2], dtype=torch.bool, device=embeds.device)
        kept = every[places].scatter(1, tokens.unsqueeze(1), False)
        texts = Coalitions(torch.cat([rows, places]), torch.cat([every, kept]))
        found = coalition_scores(target, batch, decided, embeds, blank, texts, self.internal_batch_size)
        scores = torch.zeros(embeds.shape[:2], dtype=torch.float64, device=embeds.device)
        scores[places, tokens] = found[places] - found[len(rows) :]
        return Parts(scores)

    @hook
    def report(self, run: Run) -> Section | None:
        found = run.attributions.get(run.key(self))
        if not found:
            return None
        text = (
            f"{len(found)} rows. A token's part is what the score loses without it (baseline: {self.baseline}); the parts "
            "need not add up to the whole."
        )
        return Section("Occlusion", [Text(text), strongest(found)])
