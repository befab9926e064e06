"""Tuning of the normalisation layers (Zhao et al., 2023, arXiv:2312.11420)."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from upright import Run, Step, hook
from upright.errors import ConfigError
from upright_tune.through_peft import adapt, merged


class LnTuning(Step):
    """Train the scales and shifts of the normalisation layers, and the head."""

    target_modules: list[str] | None = Field(
        None, min_length=1, description="Names of the layers; default: every normalisation layer of the base."
    )
    merge: bool = Field(False, description="Put the trained layers in the place of the old ones after training.")

    @hook
    def tune(self, model: Any, run: Run) -> Any:
        from peft import LNTuningConfig

        norms = [name for name, module in model.named_modules() if "norm" in type(module).__name__.lower()]
        placed = run.stack.placed(self)
        if not norms:
            raise ConfigError(f"{placed.where}  {placed}: {type(model).__name__} has no normalisation layer")
        for name in self.target_modules or []:
            if not any(norm == name or norm.endswith(f".{name}") for norm in norms):
                there = ", ".join(sorted({norm.rpartition(".")[2] for norm in norms}))
                raise ConfigError(
                    f"{placed.where}  {placed}.target_modules: the model has no normalisation layer {name!r}; it has {there}"
                )
        return adapt(self, model, run, lambda: LNTuningConfig(target_modules=self.target_modules or norms))

    @hook
    def finalize(self, model: Any) -> Any:
        return merged(model) if self.merge else model
