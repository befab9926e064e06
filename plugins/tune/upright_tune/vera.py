"""Vector-based random matrix adaptation (Kopiczko et al., 2023, arXiv:2310.11454)."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from upright import Run, Step, hook
from upright_tune.targets import LINEAR, linear_pattern, of_family
from upright_tune.through_peft import adapt, merged


class Vera(Step):
    """Train two vectors around a pair of random matrices that all layers share, and the head."""

    rank: int = Field(256, ge=1, description="Inner width of the shared matrices (peft: r).")
    d_initial: float = Field(0.1, description="First value of the inner vector.")
    dropout: float = Field(0.0, ge=0, lt=1, description="Dropout on the adapter's input (peft: vera_dropout).")
    target_modules: list[str] | None = Field(
        None, description="Names of the layers to adapt; default: every linear layer of the blocks."
    )
    layers_to_transform: list[int] | None = Field(
        None, min_length=1, description="Numbers of the blocks to adapt, from 0; default: all of them."
    )
    merge: bool = Field(False, description="Fold the change into the weights after training.")

    @hook
    def tune(self, model: Any, run: Run) -> Any:
        from peft import VeraConfig

        usual = of_family(LINEAR, model)
        pattern = linear_pattern(self, model, run, self.target_modules, usual, self.layers_to_transform)
        return adapt(
            self,
            model,
            run,
            lambda: VeraConfig(
                target_modules=pattern,
                r=self.rank,
                d_initial=self.d_initial,
                vera_dropout=self.dropout,
                projection_prng_key=run.seed,
            ),
        )

    @hook
    def finalize(self, model: Any) -> Any:
        return merged(model) if self.merge else model
