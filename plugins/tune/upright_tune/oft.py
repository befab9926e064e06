"""Orthogonal fine-tuning (Qiu et al., 2023, arXiv:2306.07280)."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import Field

from upright import Run, Step, hook
from upright_tune.targets import LINEAR, linear_pattern, of_family
from upright_tune.through_peft import adapt, merged


class Oft(Step):
    """Turn each weight of the blocks by a trained block-diagonal rotation; train the head."""

    refuses: ClassVar[dict[str, str]] = {
        "gpt2": "peft's OFT has no rule for its Conv1D layers; use lora, ia3 or adapter"
    }

    oft_block_size: int = Field(8, ge=2, description="Width of a rotation's blocks; must divide the layers' width.")
    module_dropout: float = Field(0.0, ge=0, lt=1, description="Share of blocks left as they are in training.")
    coft: bool = Field(False, description="Keep the rotations near the identity.")
    eps: float = Field(6e-5, gt=0, description="How near, with coft.")
    block_share: bool = Field(False, description="One rotation for all blocks of a layer.")
    target_modules: list[str] | None = Field(
        None, description="Names of the layers to adapt; default: every linear layer of the blocks."
    )
    layers_to_transform: list[int] | None = Field(
        None, min_length=1, description="Numbers of the blocks to adapt, from 0; default: all of them."
    )
    merge: bool = Field(False, description="Fold the change into the weights after training.")

    @hook
    def tune(self, model: Any, run: Run) -> Any:
        from peft import OFTConfig

        usual = of_family(LINEAR, model)
        pattern = linear_pattern(self, model, run, self.target_modules, usual, self.layers_to_transform)
        return adapt(
            self,
            model,
            run,
            lambda: OFTConfig(
                target_modules=pattern,
                oft_block_size=self.oft_block_size,
                module_dropout=self.module_dropout,
                coft=self.coft,
                eps=self.eps,
                block_share=self.block_share,
            ),
        )

    @hook
    def finalize(self, model: Any) -> Any:
        return merged(model) if self.merge else model
