"""Low-rank adaptation (Hu et al., 2021, arXiv:2106.09685)."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from upright import Run, Step, hook
from upright.errors import ConfigError

TARGETS = {
    "bert": ["query", "key", "value", "dense"],
    "roberta": ["query", "key", "value", "dense"],
    "xlm-roberta": ["query", "key", "value", "dense"],
    "electra": ["query", "key", "value", "dense"],
    "distilbert": ["q_lin", "k_lin", "v_lin", "out_lin", "lin1", "lin2"],
    "deberta": ["in_proj", "dense"],
    "deberta-v2": ["query_proj", "key_proj", "value_proj", "dense"],
    "gpt2": ["c_attn", "c_proj", "c_fc"],
    "llama": ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
    "mistral": ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
    "qwen2": ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
    "qwen3": ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
    "t5": ["q", "k", "v", "o", "wi", "wi_0", "wi_1", "wo"],
}
"""Every linear layer of a block: that reaches full tuning where attention alone falls short (QLoRA, arXiv:2305.14314)."""


class Lora(Step):
    """Train two thin matrices beside each frozen weight of the blocks, and the head."""

    rank: int = Field(8, ge=1, description="Inner width of the two matrices (peft: r).")
    alpha: float = Field(16, gt=0, description="Scale of the update, divided by rank (peft: lora_alpha).")
    dropout: float = Field(0.0, ge=0, lt=1, description="Dropout on the adapter's input (peft: lora_dropout).")
    target_modules: list[str] | None = Field(
        None, description="Names of the layers to adapt; default: every linear layer of the blocks."
    )
    layers_to_transform: list[int] | None = Field(
        None, min_length=1, description="Numbers of the blocks to adapt, from 0; default: all of them."
    )
    use_rslora: bool = Field(False, description="Divide alpha by the root of rank (Kalajdzievski, 2023).")
    merge: bool = Field(False, description="Fold the matrices into the weights after training.")

    @hook
    def tune(self, model: Any, run: Run) -> Any:
        import torch
        from peft import LoraConfig, get_peft_model

        config = LoraConfig(
            r=self.rank,
            lora_alpha=self.alpha,
            lora_dropout=self.dropout,
            target_modules=self._targets(model, run),
            use_rslora=self.use_rslora,
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(run.generator(self).initial_seed())
            return get_peft_model(model, config)

    @hook
    def finalize(self, model: Any) -> Any:
        return model.merge_and_unload() if self.merge else model

    def _targets(self, model: Any, run: Run) -> str:
        """A pattern that meets layers inside the blocks only, so that a head called ``dense`` is left alone."""
        import re

        from upright_tune.blocks import find_blocks, linear_names

        where = run.stack.placed(self).where
        kind = getattr(model.config, "model_type", type(model).__name__)
        names = self.target_modules or TARGETS.get(kind)
        try:
            (path, blocks), there = find_blocks(model), linear_names(model)
        except ValueError as error:
            raise ConfigError(f"{where}  tune.lora: {error}; name its layers in target_modules") from error
        if names is None:
            raise ConfigError(
                f"{where}  tune.lora: {kind!r} is no known architecture; set target_modules to some of its linear "
                f"layers: {', '.join(there)}"
            )
        found = [name for name in names if name in there]
        if not found or (self.target_modules and len(found) < len(names)):
            odd = next(name for name in names if name not in there)
            raise ConfigError(
                f"{where}  tune.lora.target_modules: the model has no linear layer {odd!r}; it has {', '.join(there)}"
            )
        chosen = range(len(blocks)) if self.layers_to_transform is None else self.layers_to_transform
        if max(chosen) >= len(blocks) or min(chosen) < 0:
            raise ConfigError(f"{where}  tune.lora.layers_to_transform: the model has blocks 0 to {len(blocks) - 1}")
        numbers = "|".join(map(str, chosen))
        return rf"{re.escape(path)}\.(?:{numbers})\.(?:.*\.)?(?:{'|'.join(map(re.escape, found))})"
