"""Several templates, one answer: the mean of their probabilities (Schick and Schütze, 2021, arXiv:2001.07676, section 3.3)."""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import AfterValidator, Field

from upright import Capability, Output, Section, Step, hook
from upright_prompt.cut_texts import cut_section
from upright_prompt.rendering import readable, refuse_unknown_tokens, render

if TYPE_CHECKING:
    from upright import Batch, Run


class Ensemble(Step):
    """Ask with each template and take the mean of the labels' probabilities. Attributions explain the first template."""

    needs: ClassVar[frozenset[Capability]] = frozenset({Capability.CLASS_SCORES, Capability.UNTUNED})
    tasks: ClassVar[frozenset[str] | None] = frozenset({"text-classification"})

    templates: list[Annotated[str, AfterValidator(readable)]] = Field(
        min_length=2, description="Templates, each as the setting `text` of `template`."
    )

    @hook
    def prompt(self, record: dict[str, Any], run: Run) -> dict[str, Any]:
        template = self.templates[self._current(run)[0]]
        refuse_unknown_tokens(self, run, template)
        return render(self, template, record, run)

    @hook(wrapper=True)
    def forward(self, batch: Batch, run: Run) -> Generator[None, Output, Output]:
        import torch

        output = yield
        current = self._current(run)
        if current[0] or torch.is_grad_enabled():
            return output
        records = run.records(batch)
        total = torch.softmax(output.logits.double(), -1)
        try:
            for number in range(1, len(self.templates)):
                current[0] = number
                for part in run.batches_of(records):
                    total[part.rows] += torch.softmax(run.forward(part).logits.double(), -1)
        finally:
            current[0] = 0
        return Output((total / len(self.templates)).log().float())

    @hook
    def report(self, run: Run) -> Section | None:
        return cut_section(self, run)

    def _current(self, run: Run) -> list[int]:
        """The number of the template that is asked with, in a list of one."""
        return run.keep(self, "current", lambda: [0])
