"""Attention rollout (Abnar and Zuidema, 2020, arXiv:2005.00928)."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from upright import Attribution, Capability, Section, Step, hook
from upright.objects import Text
from upright_explain.attribution import Parts, attributions, drawn
from upright_explain.strongest import strongest

if TYPE_CHECKING:
    from datasets import Dataset
    from torch import Tensor

    from upright import Batch, Run
    from upright.objects import Target

CAVEAT = (
    "Attention is no explanation of the decision: with the head's weights drawn anew the picture stays the same, which "
    "fails the model-randomisation check (Adebayo et al., 2018; Jain and Wallace, 2019), and it is the same for every "
    "class. Do not defend a decision with it."
)


class Attention(Step):
    """Tell where the text is looked at: attention through all layers, from the positions that the score is read from.

    It fails the model-randomisation check (Adebayo et al., 2018, arXiv:1810.03292; Jain and Wallace, 2019,
    arXiv:1902.10186): with the head's weights drawn anew the picture stays the same. For comparison only. It is never
    negative and adds up to one.
    """

    needs: ClassVar[frozenset[Capability]] = frozenset(
        {Capability.CLASS_SCORES, Capability.INPUT_GRADIENTS, Capability.TEXT_ATTENTION}
    )
    tasks: ClassVar[frozenset[str] | None] = frozenset({"text-classification", "token-classification"})

    samples: int = Field(50, ge=1, description="Rows that are explained, drawn with the seed.")

    @hook
    def explain(self, target: Target, rows: Dataset, run: Run) -> list[Attribution]:
        return attributions(target, rows, drawn(rows, self.samples, self, run), lambda *given: _divide(target, *given))

    @hook
    def report(self, run: Run) -> Section | None:
        found = run.attributions.get(run.key(self))
        if not found:
            return None
        return Section("Attention", [Text(f"{len(found)} rows. {CAVEAT}"), strongest(found)])


def _divide(target: Target, batch: Batch, decided: Tensor) -> Parts:
    """Half of every layer's way goes through its attention, half through its residual connection."""
    import torch

    layers, read = target.attentions(batch, decided)
    rolled = torch.eye(layers.shape[-1], device=layers.device).expand(layers.shape[1:])
    for layer in layers:
        rolled = (rolled + layer @ rolled) / 2
    weights = read / read.sum(1, keepdim=True).clamp(min=1)
    return Parts((weights.unsqueeze(1) @ rolled).squeeze(1).double())
