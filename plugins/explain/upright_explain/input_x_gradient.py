"""Input times gradient (Shrikumar et al., 2016, arXiv:1605.01713), by captum."""

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
    "The gradient at the text itself says how the score changes there, not what it rests on: the tokens named here matter "
    "to the decision little more than random ones (docs/results.md), and the product with the input can hide what a model "
    "has learnt (Adebayo et al., 2018). Do not defend a decision with it."
)


class InputXGradient(Step):
    """Multiply each token's embedding by the gradient of the decided class's score. One forward and one backward pass.

    It fails the check for faithfulness: the tokens that it names matter to the decision little more than random ones, and
    the product with the input can hide what a model has learnt (Adebayo et al., 2018, arXiv:1810.03292). For comparison
    only.
    """

    needs: ClassVar[frozenset[Capability]] = frozenset({Capability.CLASS_SCORES, Capability.INPUT_GRADIENTS})
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
        return Section("Input x gradient", [Text(f"{len(found)} rows. {CAVEAT}"), strongest(found)])


def _divide(target: Target, batch: Batch, decided: Tensor) -> Parts:
    from captum.attr import InputXGradient as Captum

    embeds = target.embed(batch)
    parts = Captum(lambda given: target.scores(given, batch, decided)).attribute(embeds.requires_grad_(True))
    return Parts(parts.detach().sum(-1).double())
