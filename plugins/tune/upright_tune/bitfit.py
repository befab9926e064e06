"""BitFit: only the biases are trained (Ben Zaken et al., 2021, arXiv:2106.10199)."""

from __future__ import annotations

from typing import Any

from upright import Run, Step, hook
from upright.errors import ConfigError


class Bitfit(Step):
    """Train the biases of the base, and the head. The result is a plain model."""

    @hook
    def tune(self, model: Any, run: Run) -> Any:
        biases = [p for name, p in model.named_parameters() if name.rpartition(".")[2] == "bias"]
        if not biases:
            placed = run.stack.placed(self)
            raise ConfigError(
                f"{placed.where}  {placed}: {type(model).__name__} has no biases; use lora, ia3 or adapter"
            )
        for bias in biases:
            bias.requires_grad_(True)
        return model
