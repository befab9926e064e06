"""Low-rank Kronecker product (Edalati et al., 2022, arXiv:2212.10650; LyCORIS, arXiv:2309.14859)."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import Field

from upright import Run, Step, hook
from upright_tune.targets import LINEAR, linear_pattern, of_family
from upright_tune.through_peft import adapt, merged


class Lokr(Step):
    """Train a Kronecker product of a small and a low-rank matrix beside each weight of the blocks, and the head."""

    refuses: ClassVar[dict[str, str]] = {
        "gpt2": "peft's LoKr has no rule for its Conv1D layers; use lora, ia3 or adapter"
    }

    rank: int = Field(8, ge=1, description="Rank of the larger factor (peft: r).")
    alpha: float = Field(8, gt=0, description="Scale of the update, divided by rank.")
    decompose_both: bool = Field(False, description="A low rank for the smaller factor too.")
    decompose_factor: int = Field(-1, description="Width of the smaller factor; -1: about the root of the layer's.")
    rank_dropout: float = Field(0.0, ge=0, lt=1, description="Dropout on the rank.")
    module_dropout: float = Field(0.0, ge=0, lt=1, description="Share of layers left as they are in training.")
    target_modules: list[str] | None = Field(
        None, description="Names of the layers to adapt; default: every linear layer of the blocks."
    )
    layers_to_transform: list[int] | None = Field(
        None, min_length=1, description="Numbers of the blocks to adapt, from 0; default: all of them."
    )
    merge: bool = Field(False, description="Fold the change into the weights after training.")

    @hook
    def tune(self, model: Any, run: Run) -> Any:
        from peft import LoKrConfig

        usual = of_family(LINEAR, model)
        pattern = linear_pattern(self, model, run, self.target_modules, usual, self.layers_to_transform)
        return adapt(
            self,
            model,
            run,
            lambda: LoKrConfig(
                target_modules=pattern,
                r=self.rank,
                alpha=self.alpha,
                decompose_both=self.decompose_both,
                decompose_factor=self.decompose_factor,
                rank_dropout=self.rank_dropout,
                module_dropout=self.module_dropout,
            ),
        )

    @hook
    def finalize(self, model: Any) -> Any:
        return merged(model) if self.merge else model
