"""Prompt tuning: trained embeddings before the text (Lester et al., 2021, arXiv:2104.08691)."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field

from upright import Capability, Run, Step, hook


class SoftPrompt(Step):
    """Train the embeddings of some virtual tokens in every text, and the head. Wants a high learning rate."""

    breaks: ClassVar[frozenset[Capability]] = frozenset({Capability.TEXT_ATTENTION})

    num_virtual_tokens: int = Field(20, ge=1, description="How many; the window for the text is so much shorter.")
    prompt_tuning_init_text: str | None = Field(
        None, description="A text whose embeddings they begin with, repeated as needed; default: random words'."
    )

    @hook
    def prepare(self, run: Run) -> None:
        from upright_tune.virtual_tokens import leave_room

        leave_room(self, run, self.num_virtual_tokens)

    @hook
    def tune(self, model: Any, run: Run) -> Any:
        import torch

        from upright_tune.virtual_tokens import put_in

        words = model.get_input_embeddings().weight.detach()
        if self.prompt_tuning_init_text is not None:
            ids = run.tokenizer(self.prompt_tuning_init_text, add_special_tokens=False)["input_ids"] or [0]
            numbers = torch.tensor([ids[n % len(ids)] for n in range(self.num_virtual_tokens)])
        else:
            numbers = torch.randint(len(words), (self.num_virtual_tokens,), generator=run.generator(self))
        table = torch.nn.Embedding.from_pretrained(words[numbers.to(words.device)].clone(), freeze=False)
        return put_in(self, model, run, table, self.num_virtual_tokens)

    @hook(wrapper=True)
    def export(self, folder: Path, run: Run) -> Generator[None, str, str]:
        from upright_tune.virtual_tokens import write

        return (yield from write(folder, run))
