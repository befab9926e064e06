"""Calibration of a prompt by texts without content (Zhao et al., 2021, arXiv:2102.09690).

With words of the domain: Fei et al. (2023, arXiv:2305.19148).
"""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from upright import Capability, Output, Section, Step, hook
from upright.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor

    from upright import Batch, Run


class Calibrate(Step):
    """Divide each label's probability by what it gets for texts without content, so that no label is favoured by the prompt.

    `contextual` asks with "N/A", "[MASK]" (where that is no mask of the model's) and an empty text; `domain-context` with
    words drawn at random from the training (else validation) texts. Place it after the steps that it corrects.
    """

    needs: ClassVar[frozenset[Capability]] = frozenset({Capability.CLASS_SCORES, Capability.UNTUNED})
    tasks: ClassVar[frozenset[str] | None] = frozenset({"text-classification"})

    method: Literal["contextual", "domain-context"] = Field("contextual", description="Which texts have no content.")
    content_free: list[str] = Field(["N/A", "[MASK]", ""], min_length=1, description="Those of `contextual`.")
    samples: int = Field(20, ge=1, description="How many texts `domain-context` draws.")

    @hook
    def prepare(self, run: Run) -> None:
        self._refuse_order(run)
        kept = run.keep(self, "log_prior", list)
        kept.clear()  # a resumed run measures again, without what it measured before
        kept += self._log_prior(run).tolist()

    @hook(wrapper=True)
    def forward(self, batch: Batch, run: Run) -> Generator[None, Output, Output]:
        import torch

        depth, kept = run.keep(self, "depth", lambda: [0]), run.keep(self, "log_prior", list)
        depth[0] += 1
        try:
            output = yield
        finally:
            depth[0] -= 1
        if depth[0] or not kept:  # a call inside a call is part of an answer that is corrected as a whole
            return output
        prior = torch.tensor(kept, device=output.logits.device)
        return Output(torch.log_softmax(output.logits.float(), -1) - prior, output.features)

    @hook
    def report(self, run: Run) -> Section:
        import math

        from upright.objects import Table, Text

        told = Text("What each label gets where the text has no content; decisions are by the ratio to it.")
        priors = run.keep(self, "log_prior", list)
        rows = [[label, math.exp(prior)] for label, prior in zip(run.labels, priors, strict=True)]
        return Section("Calibration of the prompt", [told, Table(["label", "probability without content"], rows)])

    def _log_prior(self, run: Run) -> Tensor:
        """Log of the mean probability of each label over the texts without content, ``[K]``."""
        import torch

        total = torch.zeros(len(run.labels), dtype=torch.float64)
        records = self._records(run)
        with torch.no_grad():
            for batch in run.batches_of(records):
                total += torch.softmax(run.forward(batch).logits.double(), -1).sum(0).cpu()
        return (total / len(records)).log().float()

    def _records(self, run: Run) -> list[dict[str, Any]]:
        import torch

        split = next(name for name in ("train", "validation", *run.data) if name in run.data)
        hidden = {"row_id", "unit", "label", *run.config.data.sensitive}
        columns = [name for name in run.data[split].column_names if name not in hidden]
        if self.method == "contextual":
            mask = run.tokenizer.mask_token  # a second mask would be asked for too
            texts = [text for text in self.content_free if mask is None or mask not in text]
            return [dict.fromkeys(columns, text) for text in texts or [""]]
        if split not in ("train", "validation"):
            placed = run.stack.placed(self)
            raise ConfigError(
                f"{placed.where}  {placed}: domain-context draws words from training or validation texts, and there are "
                "none; add data.validation or use `method: contextual`"
            )
        words = {name: [word for text in run.data[split][name] for word in str(text or "").split()] for name in columns}
        length = max(1, round(sum(map(len, words.values())) / max(1, len(run.data[split]) * len(columns))))
        generator = run.generator(self)

        def drawn(bank: list[str]) -> str:
            return " ".join(bank[n] for n in torch.randint(len(bank), (length,), generator=generator)) if bank else ""

        return [{name: drawn(bank) for name, bank in words.items()} for _ in range(self.samples)]

    def _refuse_order(self, run: Run) -> None:
        """What prompts must be prepared; what wraps ``forward`` before us would be corrected in its parts."""
        placed = run.stack.placed(self)
        place = run.stack.steps.index(placed)
        prompts = [p for p in run.stack.answering("prepare") if p.section == placed.section]
        later = next((p for p in prompts if run.stack.steps.index(p) > place), None)
        if later is not None:
            raise ConfigError(
                f"{placed.where}  {placed}: must come after {later} ({later.where}), which it corrects; move it"
            )
        for earlier in run.stack.steps[:place]:
            mark = getattr(getattr(type(earlier.step), "forward", None), "upright_impl", None)
            if mark is not None and mark.get("wrapper"):
                raise ConfigError(
                    f"{placed.where}  {placed}: must come before {earlier} ({earlier.where}), whose whole answer it corrects; "
                    "move it"
                )
