"""Prefix tuning: trained keys and values before those of the text (Li and Liang, 2021, arXiv:2101.00190).

In every layer and every attention, without a shift of positions, as in P-tuning v2 (Liu et al., 2021, arXiv:2110.07602).
"""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field

from upright import Capability, Run, Step, hook

REASON = "its attention is not one of transformers' interface, where prefixes go in; use soft-prompt or lora"


class Prefix(Step):
    """Train keys and values that every token can attend to, in each layer, and the head. Wants a high learning rate."""

    breaks: ClassVar[frozenset[Capability]] = frozenset({Capability.TEXT_ATTENTION})
    refuses: ClassVar[dict[str, str]] = {"deberta": REASON, "deberta-v2": REASON}

    num_virtual_tokens: int = Field(20, ge=1, description="How many keys and values in each attention.")
    prefix_projection: bool = Field(False, description="Compute them by a small network while training.")
    encoder_hidden_size: int = Field(64, ge=1, description="Width of that network.")

    @hook
    def tune(self, model: Any, run: Run) -> Any:
        from upright_tune.prefixed_attention import put_in

        width = self.encoder_hidden_size if self.prefix_projection else None
        return put_in(self, model, run, self.num_virtual_tokens, width)

    @hook
    def finalize(self, model: Any) -> Any:
        from upright_tune.prefixed_attention import fold

        fold(model)
        return model

    @hook(wrapper=True)
    def export(self, folder: Path, run: Run) -> Generator[None, str, str]:
        from upright_tune.prefixed_attention import write

        return (yield from write(folder, run))
