"""Fourier transform fine-tuning (Gao et al., 2024, arXiv:2405.03003)."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from upright import Run, Step, hook
from upright_tune.targets import LINEAR, linear_pattern, of_family
from upright_tune.through_peft import adapt, merged


class Fourierft(Step):
    """Train a few coefficients of each weight's change in the frequency domain, and the head."""

    n_frequency: int = Field(
        1000, ge=1, description="Trained coefficients of each layer; at most its number of weights."
    )
    scaling: float = Field(150.0, gt=0, description="Scale of the change.")
    target_modules: list[str] | None = Field(
        None, description="Names of the layers to adapt; default: every linear layer of the blocks."
    )
    layers_to_transform: list[int] | None = Field(
        None, min_length=1, description="Numbers of the blocks to adapt, from 0; default: all of them."
    )
    merge: bool = Field(False, description="Fold the change into the weights after training.")

    @hook
    def tune(self, model: Any, run: Run) -> Any:
        from peft import FourierFTConfig

        usual = of_family(LINEAR, model)
        pattern = linear_pattern(self, model, run, self.target_modules, usual, self.layers_to_transform)
        return adapt(
            self,
            model,
            run,
            lambda: FourierFTConfig(
                target_modules=pattern, n_frequency=self.n_frequency, scaling=self.scaling, random_loc_seed=run.seed
            ),
        )

    @hook
    def finalize(self, model: Any) -> Any:
        return merged(model) if self.merge else model
