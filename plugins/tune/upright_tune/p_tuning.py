"""P-tuning: virtual tokens that a small network computes (Liu et al., 2021, arXiv:2103.10385); the network is peft's."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field

from upright import Capability, Run, Step, hook


class PTuning(Step):
    """Train a network that makes the embeddings of virtual tokens in every text, and the head."""

    breaks: ClassVar[frozenset[Capability]] = frozenset({Capability.TEXT_ATTENTION, Capability.TRAINED_PARAMETERS})

    num_virtual_tokens: int = Field(20, ge=1, description="How many; the window for the text is so much shorter.")
    encoder_reparameterization_type: Literal["MLP", "LSTM"] = Field("MLP", description="The network.")
    encoder_hidden_size: int = Field(128, ge=1, description="Its width.")

    @hook
    def prepare(self, run: Run) -> None:
        from upright_tune.virtual_tokens import leave_room

        leave_room(self, run, self.num_virtual_tokens)

    @hook
    def tune(self, model: Any, run: Run) -> Any:
        import torch
        from peft import PromptEncoder, PromptEncoderConfig

        from upright_tune.virtual_tokens import put_in

        width = model.get_input_embeddings().weight.shape[1]
        config = PromptEncoderConfig(
            num_virtual_tokens=self.num_virtual_tokens,
            token_dim=width,
            num_transformer_submodules=1,
            encoder_reparameterization_type=self.encoder_reparameterization_type,
            encoder_hidden_size=self.encoder_hidden_size,
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(run.generator(self).initial_seed())
            encoder = PromptEncoder(config)
        return put_in(self, model, run, encoder.to(run.device), self.num_virtual_tokens)

    @hook
    def finalize(self, model: Any) -> Any:
        from upright_tune.virtual_tokens import fold

        fold(model)
        return model

    @hook(wrapper=True)
    def export(self, folder: Path, run: Run) -> Generator[None, str, str]:
        from upright_tune.virtual_tokens import write

        return (yield from write(folder, run))
