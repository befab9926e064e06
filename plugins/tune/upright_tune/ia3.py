"""Infused adapter by inhibiting and amplifying inner activations (Liu et al., 2022, arXiv:2205.05638)."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from upright import Run, Step, hook
from upright_tune.targets import KEYS_AND_VALUES, linear_pattern, of_family, sublayer_outputs
from upright_tune.through_peft import adapt, merged


class Ia3(Step):
    """Train one factor for each key, value and inner feed-forward unit, and the head. Wants a high learning rate."""

    target_modules: list[str] | None = Field(
        None, description="Layers whose outputs are scaled; default: keys, values and the feed-forward's last layer."
    )
    feedforward_modules: list[str] = Field(
        default_factory=list, description="Those of target_modules whose inputs are scaled instead."
    )
    merge: bool = Field(False, description="Fold the factors into the weights after training.")

    @hook
    def tune(self, model: Any, run: Run) -> Any:
        from peft import IA3Config

        outputs = sublayer_outputs(model)
        if self.target_modules or outputs is None:
            pattern = linear_pattern(self, model, run, self.target_modules, None)
            feedforward: Any = list(self.feedforward_modules)
        else:
            names = "|".join(map(_escaped, outputs[1]))
            pattern = f"(?:{linear_pattern(self, model, run, None, of_family(KEYS_AND_VALUES, model))})|(?:{names})"
            feedforward = outputs[1]
        return adapt(self, model, run, lambda: IA3Config(target_modules=pattern, feedforward_modules=feedforward))

    @hook
    def finalize(self, model: Any) -> Any:
        return merged(model) if self.merge else model


def _escaped(name: str) -> str:
    return name.replace(".", r"\.")
