"""Any other adapter of peft, by its name there (Mangrulkar et al., 2022, https://github.com/huggingface/peft)."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from upright import Run, Step, hook
from upright.errors import ConfigError
from upright_tune.targets import LINEAR, linear_pattern, of_family
from upright_tune.through_peft import adapt, merged


class Peft(Step):
    """Put an adapter of peft into the blocks: `method: hra`, and its own settings under `config`."""

    method: str = Field(description="Name of the method in peft (its PeftType), such as hra, c3a, bone or randlora.")
    config: dict[str, Any] = Field(default_factory=dict, description="Settings of its config class, by peft's names.")
    merge: bool = Field(False, description="Fold the adapter into the weights after training.")

    @hook
    def tune(self, model: Any, run: Run) -> Any:
        from peft import PeftType
        from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING, PEFT_TYPE_TO_TUNER_MAPPING

        placed = run.stack.placed(self)
        known = {
            str(kind.value).lower().replace("_", "-"): kind for kind in PeftType if kind in PEFT_TYPE_TO_TUNER_MAPPING
        }
        named = self.method.lower().replace("_", "-")
        prompts = ("prompt-tuning", "multitask-prompt-tuning", "p-tuning", "prefix-tuning", "cpt", "cartridge")
        usable = sorted(set(known) - set(prompts) - {"xlora", "poly", "adaption-prompt"})
        if named not in usable:
            hint = "use `soft-prompt`, `prefix` or `p-tuning`" if named in prompts else f"there are {', '.join(usable)}"
            raise ConfigError(
                f"{placed.where}  {placed}.method: {self.method!r} is no adapter of peft that fits here; {hint}"
            )
        kind: Any = PEFT_TYPE_TO_CONFIG_MAPPING[known[named]]
        given = dict(self.config)
        if "target_modules" not in given and "target_modules" in kind.__dataclass_fields__:
            given["target_modules"] = linear_pattern(self, model, run, None, of_family(LINEAR, model))
        return adapt(self, model, run, lambda: kind(**given))

    @hook
    def finalize(self, model: Any) -> Any:
        return merged(model) if self.merge else model
