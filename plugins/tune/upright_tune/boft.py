"""Butterfly orthogonal fine-tuning (Liu et al., 2023, arXiv:2311.06243)."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import Field

from upright import Run, Step, hook
from upright_tune.targets import LINEAR, linear_pattern, of_family
from upright_tune.through_peft import adapt, merged


class Boft(Step):
    """Turn each weight of the blocks by a product of sparse trained rotations; train the head."""

    refuses: ClassVar[dict[str, str]] = {
        "gpt2": "peft's BOFT has no rule for its Conv1D layers; use lora, ia3 or adapter"
    }

    boft_block_size: int = Field(4, ge=2, description="Width of a rotation's blocks; must divide the layers' width.")
    boft_n_butterfly_factor: int = Field(1, ge=1, description="Number of sparse factors.")
    boft_dropout: float = Field(0.0, ge=0, lt=1, description="Share of blocks left as they are in training.")
    target_modules: list[str] | None = Field(
        None, description="Names of the layers to adapt; default: every linear layer of the blocks."
    )
    layers_to_transform: list[int] | None = Field(
        None, min_length=1, description="Numbers of the blocks to adapt, from 0; default: all of them."
    )
    merge: bool = Field(False, description="Fold the change into the weights after training.")

    @hook
    def tune(self, model: Any, run: Run) -> Any:
        from peft import BOFTConfig

        usual = of_family(LINEAR, model)
        pattern = linear_pattern(self, model, run, self.target_modules, usual, self.layers_to_transform)
        return adapt(
            self,
            model,
            run,
            lambda: BOFTConfig(
                target_modules=pattern,
                boft_block_size=self.boft_block_size,
                boft_n_butterfly_factor=self.boft_n_butterfly_factor,
                boft_dropout=self.boft_dropout,
            ),
        )

    @hook
    def finalize(self, model: Any) -> Any:
        return merged(model) if self.merge else model
